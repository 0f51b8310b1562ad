"""Tails that float64 cannot hold, continued in the logarithm."""

import numpy as np
from scipy import ndimage

_INWARD = 4.0  # cells between the points from which a tail goes on


def continued(log_density: np.ndarray, empty: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """In empty cells log ρ goes on from the nearest of the others as a concave parabola, falling.

    It follows what is found on the straight line from there inwards. A level floor would end tails in a kink: the step
    from it folds, for mass that is below 1e-300.
    """
    if not empty.any():
        return log_density
    distance, nearest = ndimage.distance_transform_edt(empty, sampling=spacing, return_indices=True)
    h = spacing[:, None]
    at, away = np.argwhere(empty).T, distance[empty]
    near = nearest[:, empty]
    inward = (near - at) * h / away
    length = _INWARD * spacing.max()
    one, two = (
        ndimage.map_coordinates(log_density, near + k * length * inward / h, order=3, mode="nearest") for k in (1, 2)
    )
    edge = log_density[tuple(near)]
    slope = np.maximum(4.0 * one - two - 3.0 * edge, 0.0) / (2.0 * length)
    bend = np.minimum(edge - 2.0 * one + two, 0.0) / length**2
    found = log_density.copy()
    found[empty] = np.minimum(edge - slope * away + 0.5 * bend * away**2, log_density[empty].max())
    return found
