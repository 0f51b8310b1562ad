"""The quasi-potential on a grid: what a path must pay to get from an attractor to a point."""

import itertools
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.fokker_planck import _inputs
from sde_sgd.grid import Grid

from . import _olim, _olim_start

_CHUNK = 1 << 16  # points evaluated at once
_NODE_BYTES, _FINE_BYTES = 220, (24, 72)  # per node; per point of the fine grid with constant D, with D(x)
_SINGULAR = 1e-12  # eigenvalue of D, relative to its largest entry
_LONGEST = 24  # lines in cells, unless longer ones are asked for: the time is as their square, in 3-D their cube
_POINTS = 200  # of an orbit
_TURN = 1.0  # change of b along a line, relative to b at its middle, from which its ends are used too
INTERPOLATIONS = ("quadratic", "linear")


def quasipotential(
    process: Any,
    grid: Grid,
    attractor: Any,
    *,
    update_radius: int | None = None,
    interpolation: str = "quadratic",
    estimate_error: bool = False,
) -> xr.Dataset:
    r"""V(x) = inf ¼∫|ẋ − b|²_{D⁻¹} dt over paths from an attractor to x, by an ordered line integral method.

        V = inf ½∫(|b|_A |φ'|_A − bᵀAφ') ds, A = D⁻¹    over curves φ,    (D∇V)·∇V + b·∇V = 0,
        Φ_T = −T log ρ → V as T → 0,    rate of exit ~ e^{−V/T}.

    Parameters
    ----------
    process : Process in one to three variables. Its temperature is not used: b is taken at T = 0, which differs only
        where the circulation contains T (as in `Landscape.manufactured`: then without T div(D + Q)).
    grid : V is known at the centres of its cells. Whatever its walls, V ends where it would need paths beyond them.
    attractor : a point (d,), moved to the fixed point within a cell of it; a limit cycle as an array (n, d) of points
        in order, or with such `.points`; or a list of attractors. It must attract.
    update_radius : longest line, in cells. None is 1.25 n^{1/3}, n the cells of the longest axis, at least 4, or more
        where the drift turns: 1.5 |b + D∇V|/|D∇V|, the largest around the points given, but at most 24.
    interpolation : "quadratic" of V between nodes, by ∇V; or "linear", the method as published.
    estimate_error : solve on half the cells per axis too, and return the difference.

    Returns
    -------
    Dataset over the grid with
        quasipotential    V, its minimum 0 (min_i W_i + V_i); NaN where the box does not hold it
        gradient          ∇V, last dimension `component`: the momentum of the path of least action that ends there
        velocity          ẋ = b + 2D∇V of that path
        nearest           the attractor i with V = W_i + V_i, −1 where V is NaN
        from_attractor    V_i, first dimension `attractor`
        barrier           V_i(x_j) over `attractor` and `attractor_to`: the height of the lowest pass between
        weight            W_i, the rarity of attractor i: ρ ~ e^{−W_i/T} there
        wall              V_i at the wall that ended the march from i; ∞ where none did
        location          of the attractor (a point of a cycle), last dimension `component`
        orbit             200 points along a cycle, the same one for a point, before last dimension `along`
        error             with `estimate_error`: |V − V on half the cells|

    W_i is the least Σ V_m(x_n) over all trees of edges m → n that lead to i (Freidlin & Wentzell, chapter 6).

    Method: nodes are accepted in the order of V; each takes the least of V at the front plus the action of a straight
    line from it, by the midpoint rule (Simpson's where b changes along the line by more than itself). Start: the exact
    V of the linearised drift, 1.5 cells around.

    Raises ValueError for an attractor that is none, for D that is not positive definite, for a drift without a limit
    T → 0, for a box whose wall is reached before the other attractors, and for what memory does not hold.

    When not to use it: at a given T > 0 take `decompose`; for one path in many variables a minimum action method. An
    attractor you leave out is not looked for: beyond the pass to it V is what it is from those given.

    Sources: Dahiya & Cameron (2018), J. Sci. Comput. 75, arXiv:1706.07509; Yang, Potter & Cameron (2019), J. Comput.
    Phys. 379, arXiv:1808.00562; gradients at the nodes as in Paskal & Cameron (2022), J. Sci. Comput. 91.
    """
    _inputs.check_process(process)
    _checks.instance("grid", grid, Grid)
    _inputs.check_domain(process, grid)
    interpolation = _checks.choice("interpolation", interpolation, INTERPOLATIONS)
    if update_radius is not None:
        update_radius = _checks.whole("update_radius", update_radius, 2, 1000)
    if not isinstance(estimate_error, bool | np.bool_):
        raise ValueError(f"estimate_error must be True or False, got {estimate_error!r}")
    given = _olim_start.attractors(attractor, grid.dim)
    constant = getattr(process.landscape, "constant_diffusion", lambda: None)()
    needed = grid.size * (_NODE_BYTES + 8 * len(given) * (grid.dim + 1))
    needed += grid.size * 2**grid.dim * _FINE_BYTES[constant is None]
    _inputs.check_memory(needed, "the quasi-potential", grid.shape)

    marches = _Marches(process, grid, interpolation == "quadratic")
    starts = [_olim_start.start(x, marches.drift, marches.diffusion, grid, marches.period) for x in given]
    for (i, one), (j, other) in itertools.combinations(enumerate(starts), 2):
        if (one.inside & other.inside).any():
            raise ValueError(f"attractors {i} and {j} share cells: leave one out if they are the same, or refine")
    radius = update_radius
    if radius is None:
        radius = max(4, round(1.25 * max(grid.shape) ** (1 / 3)), *(round(1.5 * s.rotation) for s in starts))
        radius = min(radius, _LONGEST)
    found = [marches.run(s, radius) for s in starts]
    values, slopes, walls = (np.array(part) for part in zip(*found))
    barrier = np.array([[_reach(v[s.inside]) for s in starts] for v in values])
    np.fill_diagonal(barrier, 0.0)
    if np.isnan(barrier).any():
        i, j = np.argwhere(np.isnan(barrier))[0]
        raise ValueError(
            f"paths from attractor {i} reach a wall of the grid (V = {walls[i]:.6g}) before attractor {j}; use a "
            "larger box, or solve for the attractors one by one"
        )
    weight = stationary_weights(barrier)
    total = weight[:, None] + np.where(np.isnan(values), np.inf, values)
    nearest = total.argmin(0)
    lowest = total.min(0)
    hidden = ~(lowest <= (weight + walls).min())
    column = np.arange(grid.size)
    names = tuple(process.variables)
    options = {"update_radius": radius, "interpolation": interpolation, "spacing": grid.spacing.tolist()}
    attrs = {**process.settings, "drift_temperature": 0.0, **options, "method": "ordered line integrals, midpoint"}
    attrs |= {"boundary": " ".join(grid.boundary), "cells_accepted": [int(np.isfinite(v).sum()) for v in values]}
    slope = np.where(hidden[:, None], np.nan, slopes[nearest, column])

    def field(flat: np.ndarray, name: str, component: bool = False) -> xr.DataArray:
        return grid.data_array(flat, names, name, attrs, component=component)

    nodes = grid.centers().reshape(-1, grid.dim)
    velocity = marches.drift(nodes) + 2 * (marches.diffusion(nodes) @ slope[..., None])[..., 0]
    each = [field(v, "from_attractor") for v in values]
    orbits = [s.curve[np.linspace(0, len(s.curve), _POINTS, endpoint=False).astype(int)] for s in starts]
    orbits = [np.where(grid.periodic, grid.lower + (o - grid.lower) % marches.period, o) for o in orbits]
    result = xr.Dataset(
        {
            "quasipotential": field(np.where(hidden, np.nan, lowest), "quasipotential"),
            "gradient": field(slope, "gradient", True),
            "velocity": field(velocity, "velocity", True),
            "nearest": field(np.where(hidden, -1, nearest), "nearest"),
            "from_attractor": xr.concat(each, "attractor"),
            "barrier": (("attractor", "attractor_to"), barrier),
            "weight": ("attractor", weight),
            "wall": ("attractor", walls),
            "location": (("attractor", "component"), np.array([o[0] for o in orbits])),
            "orbit": (("attractor", "along", "component"), np.array(orbits)),
        },
        attrs=attrs,
    )
    if estimate_error:
        half = Grid(grid.lower, grid.upper, tuple(max(3, n // 2) for n in grid.shape), boundary=grid.boundary)
        options = {"update_radius": update_radius, "interpolation": interpolation}
        coarse = quasipotential(process, half, attractor, **options).quasipotential
        result["error"] = np.abs(result.quasipotential - coarse.interp({n: result[n] for n in names}))
    return result


def stationary_weights(barrier: np.ndarray) -> np.ndarray:
    """W_i = min over trees leading to i of Σ barrier(m → n), its minimum 0, from the costs (n, n) of a Markov chain.

    States are eliminated one by one as by Grassmann, Taksar & Heyman (1985), with (min, +) for (+, ×): their formulas
    hold no difference, so that each has the limit T log(·) as T → 0.
    """
    cost, count = barrier.copy(), len(barrier)
    for k in range(count - 1, 0, -1):
        cost[:k, k] -= cost[k, :k].min()
        cost[:k, :k] = np.minimum(cost[:k, :k], cost[:k, k, None] + cost[None, k, :k])
    weight = np.zeros(count)
    for k in range(1, count):
        weight[k] = (weight[:k] + cost[:k, k]).min()
    return weight - weight.min()


def _reach(values: np.ndarray) -> float:
    """The least of V_i beside another attractor, to which all of them lead at no cost; NaN where none was reached."""
    return float(np.nanmin(values)) if np.isfinite(values).any() else np.nan


class _Marches:
    """Drift and metric of a process on the grid twice as fine, in cells, and marches over it."""

    def __init__(self, process, grid: Grid, quadratic: bool):
        self.grid, dim = grid, grid.dim
        self.period = np.where(grid.periodic, np.array(grid.upper) - np.array(grid.lower), np.inf)
        evaluator = process.evaluator()
        self.drift = lambda x: _limit(lambda p: evaluator.drift(p, 0.0), x)
        self.diffusion = lambda x: _definite(process.diffusion, x)
        h = grid.spacing
        counts = [2 * n if wraps else 2 * n - 1 for n, wraps in zip(grid.shape, grid.periodic)]
        axes = [a[0] + 0.5 * step * np.arange(n) for a, step, n in zip(grid.axes, h, counts)]
        size = int(np.prod(counts))
        constant = getattr(process.landscape, "constant_diffusion", lambda: None)()
        self.b, self.a = np.zeros((size, 3)), np.zeros((1 if constant is not None else size, 6))
        pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
        for k, (i, j) in enumerate(pairs):
            self.a[:, k] = float(i == j)  # axes there are not
        for first in range(0, size, _CHUNK):
            rows = slice(first, min(first + _CHUNK, size))
            index = np.unravel_index(np.arange(rows.start, rows.stop), counts)
            x = np.stack([axis[i] for axis, i in zip(axes, index)], -1)
            self.b[rows, :dim] = self.drift(x) / h
            if constant is None or first == 0:
                metric = np.linalg.inv(self.diffusion(x if constant is None else x[:1])) * h * h[:, None]
                for k, (i, j) in enumerate(pairs):
                    if j < dim:
                        self.a[rows if constant is None else slice(1), k] = metric[:, i, j]
        self.axes = np.array([[*grid.shape, *(1,) * (3 - dim)], [*grid.periodic, *(False,) * (3 - dim)]])
        self.rule = np.array([float(quadratic), _TURN])

    def run(self, start: _olim_start.Start, radius: int):
        """V and ∇V at every node, NaN where it is not known, and V at the wall."""
        reach = [range(-radius, radius + 1) if a < self.grid.dim else (0,) for a in range(3)]
        offsets = np.array(list(itertools.product(*reach)))
        square, most = (offsets**2).sum(-1), np.abs(offsets).max(-1)
        ball = np.ascontiguousarray(offsets[(most > 0) & ((square <= radius**2) | (most == 1))])
        neighbours = np.ascontiguousarray(offsets[most == 1])
        size, starts = self.grid.size, np.flatnonzero(start.inside)
        u, p = np.where(start.inside, start.value, np.inf), np.zeros((size, 3))
        p[:, : self.grid.dim] = start.slope * self.grid.spacing
        state = np.where(start.inside, _olim.FRONT, _olim.FAR).astype(np.int8)
        best, nearest = np.full(size, np.inf), np.zeros(size, np.int32)
        foot, weight = np.zeros((size, 3, 3), np.int16), np.zeros((size, 4))
        heap, where = np.empty(size, np.int64), np.zeros(size, np.int64)
        wall = _olim.march(
            starts, ball, neighbours, state, u, p, best, nearest, foot, weight, heap, where,
            self.b, self.a, self.axes, self.rule, np.zeros((6, 12, 3)), np.zeros((6, 3), np.int64),
        )  # fmt: skip
        known = (state >= _olim.FRONT) & (u <= wall)
        gradient = np.where(known[:, None], p[:, : self.grid.dim] / self.grid.spacing, np.nan)
        return np.where(known, u, np.nan), gradient, wall


def _limit(drift, x: np.ndarray) -> np.ndarray:
    """b as T → 0 at points (..., d); ValueError where it has no limit."""
    flat = x.reshape(-1, x.shape[-1])
    try:
        return _inputs.at_points(drift, "the drift at T = 0", flat, (x.shape[-1],)).reshape(x.shape)
    except ValueError as fault:
        raise ValueError(
            f"{fault}. Where the circulation has no limit as T → 0 there is no quasi-potential; for the drift frozen "
            "at some T make a Process of expressions that do not contain T"
        ) from fault


def _definite(diffusion, x: np.ndarray) -> np.ndarray:
    """D at points (..., d); ValueError where it is not positive definite."""
    d = x.shape[-1]
    flat = x.reshape(-1, d)
    matrix = _inputs.at_points(diffusion, "diffusion", flat, (d, d))
    least = np.linalg.eigvalsh(matrix)[:, 0]
    bad = ~(least > _SINGULAR * np.abs(matrix).max((1, 2)))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"diffusion must be positive definite, but its smallest eigenvalue is {least[i]:.6g} at "
            f"{tuple(flat[i].tolist())}: without noise in some direction the action is infinite; choose another box"
        )
    return matrix.reshape(*x.shape, d)
