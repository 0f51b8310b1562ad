"""Newton's method for a path of least action: across the path, with the points kept about equally far apart."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded, eig_banded

from ._action import Limit, Segments, action, density, lengths, unit

_UNEVEN = 1.5  # longest over shortest segment at which the points are spread anew
_SLOPE = 1e-4  # Armijo: the least share of the fall that the gradient promises
_MOST_DAMPING = 1e8


@dataclass
class Minimum:
    """A polygon, what half the Newton decrement says its action is too high, and the steps taken."""

    points: np.ndarray
    excess: float
    iterations: int
    converged: bool


def minimise(limit: Limit, x: np.ndarray, tolerance: float, iterations: int) -> Minimum:
    """The polygon with the ends of x whose action is a minimum, to `tolerance` of ½∫|b||dx|.

    Each step solves H y = −g for displacements y across the path (in the metric D⁻¹), H the second derivative, a band
    matrix. Where H is not positive its part in ∂²/∂Δ² is raised, which tends to a gradient flow preconditioned by the
    second derivative along the path; the step is halved until the action falls enough (Armijo). Where g = 0 and H is
    not positive, as on a line of symmetry that the best path leaves, the path is bent along H's lowest eigenvector.
    """
    x = spread(limit, x, len(x))
    if limit.dim == 1:
        return Minimum(x, 0.0, 0, True)
    damping, excess, polished = 0.0, np.inf, False
    for step in range(iterations):
        base = lengths(limit, x)
        gaps = np.diff(base)
        if gaps.max() > _UNEVEN * gaps.min():
            x = spread(limit, x, len(x))
        segments = Segments(limit, x)
        across = _normals(limit, x)
        slope = np.einsum("nij,ni->nj", across, segments.gradient())
        second = segments.second()
        while True:
            try:
                factor = cholesky_banded(_band(across, second, damping), lower=True)
                break
            except LinAlgError:
                damping = max(4.0 * damping, 0.01)
                if damping > _MOST_DAMPING:
                    return Minimum(x, excess, step, False)
        move = -cho_solve_banded((factor, True), slope.ravel()).reshape(slope.shape)
        fall = -float((slope * move).sum())
        excess = 0.5 * fall * (1.0 + damping)
        scale = _scale(limit, x)
        if excess <= tolerance * scale:
            bent = _bend(limit, x, across, second, tolerance * scale) if damping > 0.0 else None
            if bent is None and polished:
                return Minimum(x, excess, step, True)
            x, polished, damping = spread(limit, x if bent is None else bent, len(x)), bent is None, 0.0
            continue
        shift = np.zeros_like(x)
        shift[1:-1] = np.einsum("nij,nj->ni", across, move)
        before = action(limit, x)
        share = min(1.0, 0.3 * base[-1] / _longest(limit, x, shift))
        while True:
            after = action(limit, x + share * shift)
            if after <= before - _SLOPE * share * fall or share * fall < 1e-15 * scale:
                break
            share *= 0.5
        x = x + share * shift
        damping = (0.25 * damping if damping > 1e-3 else 0.0) if share > 0.5 else 2.0 * damping
    return Minimum(x, excess, iterations, False)


def _bend(limit: Limit, x: np.ndarray, across: np.ndarray, second: tuple, least: float) -> np.ndarray | None:
    """x moved along the direction of most negative curvature to a lower action, or None where there is none."""
    value, vector = eig_banded(_band(across, second, 0.0), lower=True, select="i", select_range=(0, 0))
    if value[0] >= 0.0:
        return None
    shift = np.zeros_like(x)
    shift[1:-1] = np.einsum("nij,nj->ni", across, vector[:, 0].reshape(len(x) - 2, -1))
    size, before = 0.1 * lengths(limit, x)[-1] / _longest(limit, x, shift), action(limit, x)
    for _ in range(12):
        after, bent = min(((action(limit, y), k) for k, y in enumerate((x + size * shift, x - size * shift))))
        if before - after > least:
            return x + (size if bent == 0 else -size) * shift
        size *= 0.5
    return None


def spread(limit: Limit, x: np.ndarray, count: int) -> np.ndarray:
    """`count` points along x at equal distances in the metric D⁻¹, by monotone cubics (no overshoot at a kink)."""
    for _ in range(3):
        s = lengths(limit, x)
        keep = np.concatenate([[True], np.diff(s) > 0.0])
        if keep.sum() < 2:
            raise ValueError(f"the path has no length: it starts and ends at {tuple(x[0].tolist())}")
        y = PchipInterpolator(s[keep], x[keep])(np.linspace(0.0, s[-1], count))
        y[0], y[-1] = x[0], x[-1]
        x = y
    return x


def _scale(limit: Limit, x: np.ndarray) -> float:
    _, length, speed = density(limit, 0.5 * (x[1:] + x[:-1]), np.diff(x, axis=0))
    return float(0.5 * (length * speed).sum())


def _longest(limit: Limit, x: np.ndarray, shift: np.ndarray) -> float:
    return max(float(unit(limit.metric(x[1:-1]), shift[1:-1])[1].max()), 1e-300)


def _normals(limit: Limit, x: np.ndarray) -> np.ndarray:
    """At every inner point d − 1 directions, orthonormal in D⁻¹ and to the path: (n − 1, d, d − 1)."""
    d = limit.dim
    root = np.linalg.cholesky(limit.diffusion(x[1:-1]))  # D = LLᵀ, so that columns of L are orthonormal in D⁻¹
    ahead = np.linalg.solve(root, (x[2:] - x[:-2])[..., None])[..., 0]
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    mirror = ahead.copy()  # Householder: I − 2vvᵀ/vᵀv sends the tangent to ∓e_1, its other columns are normal to it
    mirror[:, 0] += np.where(ahead[:, 0] >= 0.0, 1.0, -1.0)
    mirror /= np.linalg.norm(mirror, axis=-1, keepdims=True)
    full = np.eye(d) - 2.0 * mirror[:, :, None] * mirror[:, None, :]
    return root @ full[:, :, 1:]


def _band(across: np.ndarray, second: tuple[np.ndarray, np.ndarray, np.ndarray], damping: float) -> np.ndarray:
    """The second derivative by displacements across the path, lower band form of SciPy."""
    by_middle, mixed, by_step = second
    by_step = (1.0 + damping) * by_step
    cross = 0.5 * (mixed + np.swapaxes(mixed, -1, -2))
    left, right = 0.25 * by_middle - cross + by_step, 0.25 * by_middle + cross + by_step
    link = 0.25 * by_middle + 0.5 * (mixed - np.swapaxes(mixed, -1, -2)) - by_step
    n, _, k = across.shape
    own = np.einsum("nia,nij,njb->nab", across, right[:-1] + left[1:], across)
    next_ = np.einsum("nia,nij,njb->nab", across[:-1], link[1:-1], across[1:])  # rows of point i, columns of i + 1
    band = np.zeros((2 * k, n * k))
    for a in range(k):
        for b in range(a + 1):
            band[a - b, b::k] = own[:, a, b]
        for b in range(k):
            band[k + b - a, a::k][: n - 1] = next_[:, a, b]
    return band
