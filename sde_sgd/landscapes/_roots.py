"""All zeros of a smooth field in a box: Newton from a lattice of starts, merged and classified."""

import itertools
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
    starts: np.ndarray | None = None,
) -> xr.Dataset:
    """Zeros of `field` (..., d) → (..., d) in the box, with the eigenvalues of `jacobian` and their kind.

    Newton starts from the points `starts` (n, d); None is a lattice, for up to three variables.
    """
    lower, upper = box
    dim = len(variables)
    if starts is not None:
        x = starts
    elif dim in STARTS:
        axes = [np.linspace(a, b, STARTS[dim]) for a, b in zip(lower, upper)]
        x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    else:
        raise ValueError(f"a lattice search needs 1 to 3 variables, got {dim}; start a Newton iteration of your own")
    size = float(np.linalg.norm(upper - lower))
    with np.errstate(all="ignore"):
        x, last_move = _newton(field, jacobian, x, 1e-14 * size)
    # What leaves through a periodic side comes back through the other; a root on a side may be found just outside.
    wraps = np.isfinite(period)
    with np.errstate(invalid="ignore"):
        x = np.where(wraps, lower + np.mod(x - lower, np.where(wraps, period, 1.0)), x)
    x = np.where(np.abs(x - np.clip(x, lower, upper)) <= 1e-12 * size, np.clip(x, lower, upper), x)
    # The distance to the root is what Newton's last step says, whatever the units of the field.
    good = (last_move <= 1e-7 * size) & ((x >= lower) & (x <= upper)).all(-1)
    roots = _merge(x[good], last_move[good], 1e-5 * size, period)
    roots = roots[_smooth(field, roots, size)]
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


def _smooth(field: Callable, roots: np.ndarray, size: float) -> np.ndarray:
    """True where the field falls towards the root from every side, as it does at a zero of a smooth one.

    Along a single line it may vanish at a point where it is infinite otherwise: the gradient of x²/(x² + y²) at 0.
    """
    sides = np.array([s for s in itertools.product((-1.0, 0.0, 1.0), repeat=roots.shape[-1]) if any(s)])
    with np.errstate(all="ignore"):
        near, far = (np.linalg.norm(field(roots[:, None] + reach * size * sides), axis=-1) for reach in (1e-7, 1e-6))
    near, far = np.where(np.isnan(near), 0.0, near), np.where(np.isnan(far), 0.0, far)  # undefined on that side
    return near.max(-1, initial=0.0) <= 2.0 * far.max(-1, initial=0.0)


def _classify(jacobian: Callable, root: np.ndarray, reach: float, symmetric: bool) -> tuple[np.ndarray, str]:
    """Eigenvalues, ascending, and the kind of a root.

    It is degenerate where the smallest eigenvalue is less than what it changes within `reach` along its own
    direction, or than the rounding of the largest: then its sign says nothing, as at the inflection of x³, the flat
    bottom of x⁴, or anywhere on a curve of zeros.
    """
    slope = jacobian(root)
    values, vectors = np.linalg.eigh(slope) if symmetric else np.linalg.eig(slope)
    real = values.real if symmetric else -values.real
    least = int(np.abs(real).argmin())
    along = vectors[:, least].real
    along = along / max(float(np.linalg.norm(along)), 1e-300)
    around = [along @ jacobian(root + sign * reach * along) @ along for sign in (-1, 1)]
    change = max(abs(float(b - along @ slope @ along)) for b in around)
    if max(change, 1e-14 * float(np.abs(values).max())) >= abs(real[least]):
        kind = "degenerate"
    else:
        low, mixed, high = ("minimum", "saddle", "maximum") if symmetric else ("stable", "saddle", "unstable")
        kind = low if (real > 0).all() else high if (real < 0).all() else mixed
    return np.sort(values), kind
