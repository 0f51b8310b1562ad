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
    period: np.ndarray,
    extra: dict[str, Callable],
) -> xr.Dataset:
    """Zeros of `field` (..., d) → (..., d) in the box, with the eigenvalues of `jacobian` and their kind."""
    lower, upper = box
    dim = len(variables)
    if dim not in STARTS:
        raise ValueError(f"a lattice search needs 1 to 3 variables, got {dim}; start a Newton iteration of your own")
    axes = [np.linspace(a, b, STARTS[dim]) for a, b in zip(lower, upper)]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    size = float(np.linalg.norm(upper - lower))
    with np.errstate(all="ignore"):
        x, last_move = _newton(field, jacobian, x, 1e-14 * size)
    # The distance to the root is what Newton's last step says, whatever the units of the field.
    good = (last_move <= 1e-7 * size) & ((x >= lower) & (x <= upper)).all(-1)
    roots = _merge(x[good], last_move[good], 1e-5 * size, period)
    data: dict = {name: ("point", roots[:, i]) for i, name in enumerate(variables)}
    data |= {name: ("point", function(roots)) for name, function in extra.items()}
    found = [_classify(jacobian, root, 1e-4 * size, symmetric) for root in roots]
    values = np.array([v for v, _ in found]).reshape(len(roots), dim)
    data["eigenvalue"] = (("point", "mode"), values if len(roots) else np.empty((0, dim)))
    data["kind"] = ("point", np.array([kind for _, kind in found], dtype=np.str_))
    order = np.argsort(data["loss"][1], kind="stable") if "loss" in data else slice(None)
    return xr.Dataset(data).isel(point=order)


def _newton(field: Callable, jacobian: Callable, x: np.ndarray, enough: float) -> tuple[np.ndarray, np.ndarray]:
    """Damped Newton from every point at once; the points and the length of each one's last full step."""
    x, last = x.copy(), np.full(len(x), np.inf)
    live = np.arange(len(x))
    for _ in range(ITERATIONS):
        value, slope = field(x[live]), jacobian(x[live])
        finite = np.isfinite(slope).all((-1, -2)) & np.isfinite(value).all(-1)
        live, value, slope = live[finite], value[finite], slope[finite]
        if not len(live):
            break
        move = -(np.linalg.pinv(slope, rcond=1e-15) @ value[..., None])[..., 0]
        size, factor = np.linalg.norm(value, axis=-1), np.ones(len(live))
        # Where the Jacobian is singular the step may be 0 while the field is not: no root is near.
        unsolved = np.linalg.norm(value + (slope @ move[..., None])[..., 0], axis=-1) > 0.5 * size
        last[live] = np.where(unsolved, np.inf, np.linalg.norm(move, axis=-1))
        for _ in range(12):  # halve the step until |field| falls (Armijo)
            worse = ~(np.linalg.norm(field(x[live] + factor[:, None] * move), axis=-1) <= (1 - 1e-4 * factor) * size)
            if not worse.any():
                break
            factor[worse] /= 2
        x[live] += np.where(worse, 0.0, factor)[:, None] * move
        live = live[~worse & (last[live] > enough)]
    return x, last


def _merge(x: np.ndarray, error: np.ndarray, radius: float, period: np.ndarray) -> np.ndarray:
    """One representative, the most exact, of roots within `radius` of each other, seams of periodic axes included."""
    roots: list[np.ndarray] = []
    for point in x[np.argsort(error, kind="stable")]:
        gaps = [np.abs(point - root) for root in roots]
        if all(np.linalg.norm(np.minimum(gap, np.abs(period - gap))) > radius for gap in gaps):
            roots.append(point)
    return np.array(roots).reshape(-1, x.shape[-1])


def _classify(jacobian: Callable, root: np.ndarray, reach: float, symmetric: bool) -> tuple[np.ndarray, str]:
    """Eigenvalues, ascending, and the kind of a root.

    It is degenerate where the smallest eigenvalue is less than what it changes within `reach` along its own
    direction: then its sign says nothing, as at the inflection of x³ or the flat bottom of x⁴.
    """
    slope = jacobian(root)
    values, vectors = np.linalg.eigh(slope) if symmetric else np.linalg.eig(slope)
    real = values.real if symmetric else -values.real
    least = int(np.abs(real).argmin())
    along = vectors[:, least].real
    along = along / max(float(np.linalg.norm(along)), 1e-300)
    around = [along @ jacobian(root + sign * reach * along) @ along for sign in (-1, 1)]
    if max(abs(float(b - along @ slope @ along)) for b in around) >= abs(real[least]):
        kind = "degenerate"
    else:
        low, mixed, high = ("minimum", "saddle", "maximum") if symmetric else ("stable", "saddle", "unstable")
        kind = low if (real > 0).all() else high if (real < 0).all() else mixed
    return np.sort(values), kind
