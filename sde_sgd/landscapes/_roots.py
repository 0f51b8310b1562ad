"""All zeros of a smooth field in a box: Newton from a lattice of starts, merged and classified."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

STARTS = {1: 201, 2: 33, 3: 13}  # lattice points per axis
ITERATIONS = 60


def stationary_points(
    field: Callable,
    jacobian: Callable,
    box: tuple[np.ndarray, np.ndarray],
    variables: Sequence[str],
    *,
    symmetric: bool,
    extra: dict[str, Callable],
) -> xr.Dataset:
    """Zeros of `field` (..., d) → (..., d) in the box, with the eigenvalues of `jacobian`.

    Newton's step is halved until |field| falls (Armijo), so that it converges from afar and never diverges.
    """
    lower, upper = box
    dim = len(variables)
    if dim not in STARTS:
        raise ValueError(f"a lattice search needs 1 to 3 variables, got {dim}; start a Newton iteration of your own")
    axes = [np.linspace(a, b, STARTS[dim]) for a, b in zip(lower, upper)]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    with np.errstate(all="ignore"):
        x = _newton(field, jacobian, x)
        value = np.linalg.norm(field(x), axis=-1)
        scale = np.linalg.norm(jacobian(x), axis=(-2, -1)) * np.linalg.norm(upper - lower)
    good = np.isfinite(value) & (value <= 1e-10 * np.maximum(scale, 1e-300))
    good &= ((x >= lower) & (x <= upper)).all(-1)
    roots = _merge(x[good], value[good], 1e-6 * float(np.linalg.norm(upper - lower)))
    spectra = jacobian(roots)
    values = np.linalg.eigvalsh(spectra) if symmetric else np.sort(np.linalg.eigvals(spectra), axis=-1)
    data: dict = {name: ("point", roots[:, i]) for i, name in enumerate(variables)}
    data |= {name: ("point", function(roots)) for name, function in extra.items()}
    data["eigenvalue"] = (("point", "mode"), values.reshape(len(roots), dim))
    data["kind"] = ("point", np.array([_kind(v, symmetric) for v in values], dtype=object).astype(str))
    order = np.argsort(data["loss"][1], kind="stable") if "loss" in data else slice(None)
    return xr.Dataset(data).isel(point=order)


def _newton(field: Callable, jacobian: Callable, x: np.ndarray) -> np.ndarray:
    for _ in range(ITERATIONS):
        value, slope = field(x), jacobian(x)
        size = np.linalg.norm(value, axis=-1)
        # Least squares through a shifted normal matrix: defined where the Jacobian is singular too.
        normal = np.swapaxes(slope, -1, -2) @ slope
        shift = 1e-14 * np.trace(normal, axis1=-2, axis2=-1)[..., None, None] + 1e-300
        right = np.swapaxes(slope, -1, -2) @ value[..., None]
        live = np.isfinite(normal).all((-1, -2)) & np.isfinite(right).all((-1, -2))
        move = np.zeros_like(x)
        move[live] = -np.linalg.solve(normal[live] + shift[live] * np.eye(x.shape[-1]), right[live])[..., 0]
        factor = np.ones(len(x))
        for _ in range(12):
            worse = ~(np.linalg.norm(field(x + factor[:, None] * move), axis=-1) <= (1 - 1e-4 * factor) * size)
            if not worse.any():
                break
            factor[worse] /= 2
        x = x + np.where(worse, 0.0, factor)[:, None] * move
    return x


def _merge(x: np.ndarray, value: np.ndarray, radius: float) -> np.ndarray:
    roots: list[np.ndarray] = []
    for point in x[np.argsort(value, kind="stable")]:
        if all(np.linalg.norm(point - root) > radius for root in roots):
            roots.append(point)
    return np.array(roots).reshape(-1, x.shape[-1])


def _kind(values: np.ndarray, symmetric: bool) -> str:
    real = values.real if symmetric else -values.real
    if np.abs(real).min() <= 1e-8 * np.abs(values).max():
        return "degenerate"
    low, mixed, high = ("minimum", "saddle", "maximum") if symmetric else ("stable", "saddle", "unstable")
    return low if (real > 0).all() else high if (real < 0).all() else mixed
