"""Drift and diffusion matrix of a trajectory, from the conditional moments of its increments."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples
from sde_sgd.grid import Grid
from sde_sgd.process import Process
from sde_sgd.results import provenance

from ._linear_estimate import estimate_linear
from ._local_linear import LocalLinear, Scatter
from ._neighbourhoods import Cells, Kernels, Neighbourhoods
from ._residual_tests import Memory, agreement, memory_attributes
from ._trajectory import Piece, Trajectory, read

_POINTS_AT_ONCE = 2**13  # D of a finite sum takes memory for every sample


def estimate_drift_diffusion(
    trajectory: Any,
    grid: Grid | Any = None,
    *,
    kind: str = "auto",
    interval: float | None = None,
    every: int | None = None,
    order: int | None = None,
    bandwidth: Any = None,
    fewest: int = 200,
    temperature: float | None = None,
    expected: Process | None = None,
    epoch_steps: int | None = None,
    level: float = 0.01,
) -> xr.Dataset:
    r"""b(x) = lim E[Δx | x]/τ and T D(x) = lim Cov[Δx | x]/2τ from the increments Δx over the saved interval τ.

    For a recursion such as SGD the limit is one step: E[Δx | x] = −η∇f and Cov[Δx | x] = (η²/b) D hold exactly, so that
    states saved at every step need no correction. For samples of a continuous path both moments are off by O(τ),

        E[Δx]/τ = b + (τ/2) 𝓛b + O(τ²),   Cov[Δx]/2τ = A + (τ/2)(JA + AJᵀ + 𝓛A) + O(τ²),   A = TD,  J = ∂b,

    𝓛 the generator; moments over τ and 2τ, extrapolated to 0 (or to one step, where a recursion was saved at every
    k-th), leave O(τ²). Each is fitted by a straight line in x within a cell and given at its centre: off by
    O(spacing²), at the edge of the data too.

    Parameters
    ----------
    trajectory : a result of `sgd` or `simulate` with save_every, or an array (chains, time, d), which may be a memmap:
        it is read in pieces.
    grid : a `Grid` of one to three variables; or points (m, d), with a `bandwidth` (one number, or one per variable):
        weights 1 − |x − point|²/bandwidth² within it; or None for a linear drift and constant noise (below). Increments
        along axes that are periodic in the grid wrap; without a grid nothing does.
    kind : "recursion" or "diffusion", as above; "auto" takes the first for `sgd` and Euler–Maruyama, the second for
        other schemes, whose own step should then be much shorter than τ.
    interval, every : with an array, τ, and how many steps of a recursion it has.
    order : 1, no extrapolation, or 2; by default 1 where that is exact, else 2.
    fewest : increments a cell or point must have, otherwise it is NaN.
    temperature : gives D instead of T·D; by default that of the run, if it has one.
    expected : a `Process` to compare with.
    epoch_steps : steps of an epoch beginning with the first state; by default that of the run.
    level : probability of a false alarm of the tests of memory, together.

    Returns
    -------
    `drift` (…, component), `diffusion` (…, component, component_2), or `noise` = T·D without a temperature, each with
    its standard error `<name>_error`, and the number of increments `samples`. Where two lags are used,
    `<name>_correction` is what extrapolation added; relatively, about its square is left.
    With `expected`: `expected_<name>` at the centre, and `<name>_z`, the differences in standard errors, where the
    expected field has gone through the same fit, so that the width of a cell does not count; attrs `<name>_chi2`,
    over all places, each less by what its own uncertain errors add to it, `_chi2_mean` (what it would be on average),
    `_p`, and `agreement`.

    With grid=None: `drift` at the mean `centre` of the states, `jacobian` J, and `diffusion`: the exact inversion of
    x' = c + e^{Jτ}(x − c) + noise (for a recursion of (1 + ηJ)^k), of no order in τ.

    Errors are sums of squared martingale differences, hence right for one long chain as for many. attrs["verdict"]
    says whether the residuals remember: score tests of neighbouring residuals (momentum: positive), of those of an
    epoch (reshuffling: they cancel), and by cells (Chapman–Kolmogorov), with `lag1_correlation`, `<test>_z` or
    `_chi2`, `<test>_p`. Where one gives alarm, no b(x) and D(x) describe the trajectory.

    Raises `TooFewSamples` where no cell has `fewest`; ValueError for bad arguments, for the Leimkuhler–Matthews scheme,
    whose states are no Markov chain, and for unequal intervals. Not within an increment of a reflecting wall, and not
    for τ so long that a state is forgotten: extrapolation is of no use when τ·(rate of relaxation) is near 1.

    Siegert, Friedrich & Peinke (1998); Gottschall & Peinke (2008), finite τ; Fan & Gijbels (1996), local lines.
    """
    if expected is not None:
        _checks.instance("expected", expected, Process, "make one with sgd_process(…) or at_temperature(T)")
    level = _checks.positive("level", level)
    if level >= 1:
        raise ValueError(f"level must be a probability below 1, got {level:g}")
    fewest = _checks.whole("fewest", fewest, 2)
    states = read(
        trajectory,
        interval=interval,
        kind=kind,
        every=every,
        variables=None if expected is None else expected.variables,
    )
    exact = states.interval == states.unit
    order = (1 if exact else 2) if order is None else _checks.whole("order", order, 1, 2)
    temperature = _temperature(states, temperature)
    epoch = _epoch(states, epoch_steps)
    if expected is not None and tuple(expected.variables) != states.variables:
        raise ValueError(
            f"expected has the variables {', '.join(expected.variables)}, the trajectory {', '.join(states.variables)}"
        )
    if expected is not None:
        _check_seams(expected, grid)
    settings = {
        **states.attrs, "kind": "recursion" if states.unit else "diffusion", "interval": states.interval,
        "order": order, "fewest": fewest, "level": level, "chains": states.shape[0], "states": states.shape[1],
    }  # fmt: skip
    settings.pop("temperature", None)
    if temperature is not None:
        settings["temperature"] = temperature
    if grid is None:
        if bandwidth is not None:
            raise ValueError("bandwidth goes with points; leave it out for a linear drift")
        settings.pop("order")
        result = estimate_linear(states, fewest, temperature, expected, epoch, level)
    else:
        near, states = _neighbourhoods(grid, bandwidth, states)
        fields = _Estimate(states, near, fewest, order, expected, epoch)
        result = _dataset(fields, grid, states, temperature, level)
    return result.assign_attrs(settings | result.attrs | provenance(settings))


def _check_seams(expected: Process, grid: Any) -> None:
    """A periodic axis must wrap where increments are taken."""
    wraps = grid.periodic if isinstance(grid, Grid) else (False,) * expected.dim
    for name, periodic, wrapped in zip(expected.variables, expected.domain.periodic, wraps):
        if periodic != wrapped:
            raise ValueError(
                f"{name} is {'' if periodic else 'not '}periodic in the expected process, but not so here; take a Grid "
                f"with boundary={'periodic' if periodic else 'reflecting'} for it"
            )


def _temperature(states: Trajectory, given: float | None) -> float | None:
    if given is not None:
        return _checks.positive("temperature", given, "leave it out for T·D")
    known = states.attrs.get("temperature")
    return float(known) if isinstance(known, float) else None


def _epoch(states: Trajectory, given: int | None) -> int:
    """Steps of an epoch, 0 where epochs cannot be seen."""
    if given is not None:
        given = _checks.whole("epoch_steps", given, 2, remedy="one step has nothing to cancel with")
        if not states.unit or states.every > 1:
            raise ValueError("epoch_steps needs every step of a recursion, saved with save_every=1")
        return given
    known = int(states.attrs.get("epoch_steps", 0))
    return known if states.every == 1 and known > 1 else 0


def _neighbourhoods(grid: Any, bandwidth: Any, states: Trajectory) -> tuple[Neighbourhoods, Trajectory]:
    if isinstance(grid, Grid):
        if bandwidth is not None:
            raise ValueError("bandwidth goes with points; the cells of a grid have their own width")
        if grid.dim != states.dim:
            raise ValueError(
                f"the grid has {grid.dim} axes, the trajectory the variables {', '.join(states.variables)}; choose "
                "with run[['x']], knowing that a part of the variables is no Markov process"
            )
        period = np.where(grid.periodic, np.array(grid.upper) - np.array(grid.lower), np.inf)
        return Cells(grid), replace(states, period=period if any(grid.periodic) else None)
    points = _checks.finite_array("grid", grid)
    if points.ndim != 2 or points.shape[1] != states.dim or not len(points):
        raise ValueError(f"grid must be a Grid, points of shape (m, {states.dim}), or None, got shape {points.shape}")
    if bandwidth is None:
        raise ValueError("points need a bandwidth: states within it count, nearer ones more")
    widths = _checks.finite_array("bandwidth", bandwidth)
    if widths.shape not in ((), (states.dim,)) or not (widths > 0).all():
        raise ValueError(f"bandwidth must be one number > 0, or {states.dim} of them, got {bandwidth!r}")
    return Kernels(points, np.broadcast_to(widths, (states.dim,))), states


def _in_parts(function: Callable, x: np.ndarray) -> np.ndarray:
    """function(x) of states (S, d), a few at a time."""
    parts = [function(x[first : first + _POINTS_AT_ONCE]) for first in range(0, len(x), _POINTS_AT_ONCE)]
    return np.concatenate(parts)


class _Estimate:
    """Four passes over the trajectory: neighbourhoods, drift, noise with the drift's errors, errors of the noise.

    With the lags' weights a₁, a₂ the target of the drift is y = a₁Δ₁/τ + a₂Δ₂/2τ, Δ_k the increment over k intervals,
    and that of A = TD is q = (a₁v₁v₁ᵀ + a₂v₂v₂ᵀ/2)/2τ with v_k = Δ_k − kτ b̂(x). For extrapolation to the time u (0, or
    one step) a₁ = 2 − u/τ and a₂ = u/τ − 1.
    """

    def __init__(self, states: Trajectory, near: Neighbourhoods, fewest: int, order: int, expected, epoch: int):
        self.states, self.near, self.expected, d = states, near, expected, states.dim
        self.upper = np.triu_indices(d)
        self.tau, share = states.interval, states.unit / states.interval
        self.a = (2.0 - share, share - 1.0) if order == 2 else (1.0, 0.0)
        self.lags = 2 if self.a[1] else 1
        self.multiple = epoch or 1
        self.smoother = LocalLinear(near, (piece.x0 for piece in self._pieces()), fewest)
        if not self.smoother.usable.any():
            raise TooFewSamples(
                f"no cell or point has {fewest} increments that span all directions, the most is "
                f"{self.smoother.count.max()}: a longer trajectory, wider cells or bandwidth, or a lower fewest"
            )
        places, pairs = len(near.centre), len(self.upper[0])
        self.scatter = Scatter(places, d, expected is not None), Scatter(places, pairs, expected is not None)
        self.memory = Memory(self.smoother, d, epoch, states.first_step) if states.shape[1] - self.lags > 1 else None
        self._fit_drift()
        self._fit_noise()
        if self.memory is not None:
            self.memory.settle()
        self._errors()

    def _pieces(self):
        return self.states.pieces(self.lags, self.multiple)

    def _drift_target(self, piece: Piece) -> np.ndarray:
        one = piece.increments[0] / self.tau
        if self.lags == 1:
            return one
        return self.a[0] * one + self.a[1] * (piece.increments[0] + piece.increments[1]) / (2 * self.tau)

    def _noise_target(self, piece: Piece, drift: np.ndarray) -> np.ndarray:
        v = piece.increments[0] - self.tau * drift
        target = self.a[0] * self._square(v)
        if self.lags == 2:
            v = v + piece.increments[1] - self.tau * drift
            target += self.a[1] / 2 * self._square(v)
        return target

    def _square(self, v: np.ndarray) -> np.ndarray:
        """Upper triangle of vvᵀ/2τ."""
        return v[:, self.upper[0]] * v[:, self.upper[1]] / (2 * self.tau)

    def _fit_drift(self) -> None:
        smoother, d = self.smoother, self.states.dim
        sums = [smoother.sums(d) for _ in range(3)]
        for piece in self._pieces():
            pairs = self.near.pairs(piece.x0)
            smoother.add(sums[0], pairs, piece.increments[0] / self.tau)
            if self.lags == 2:
                smoother.add(sums[1], pairs, self._drift_target(piece))
            if self.expected is not None:
                smoother.add(sums[2], pairs, _in_parts(self.expected.drift, piece.x0))
        self.one_drift = smoother.solve(sums[0])  # over one interval
        self.drift = smoother.solve(sums[1]) if self.lags == 2 else self.one_drift
        self.expected_drift = smoother.solve(sums[2])

    def _fit_noise(self) -> None:
        smoother = self.smoother
        sums = [smoother.sums(len(self.upper[0])) for _ in range(3)]
        for piece in self._pieces():
            pairs, own = self.near.pairs(piece.x0), self.near.own(piece.x0)
            drift, one_drift = smoother.at(self.drift, own), smoother.at(self.one_drift, own)
            smoother.add(sums[0], pairs, self._square(piece.increments[0] - self.tau * one_drift))
            if self.lags == 2:
                smoother.add(sums[1], pairs, self._noise_target(piece, drift))
            if self.expected is not None:
                # what a straight line misses of the drift counts as noise, in the estimate too
                missed = _in_parts(self.expected.drift, piece.x0) - smoother.at(self.expected_drift, own)
                share = self.a[0] + 2 * self.a[1]
                exact = _in_parts(self.expected_noise_at, piece.x0)
                smoother.add(sums[2], pairs, exact + share * self._square(self.tau * missed))
            self._scatter_drift(piece, pairs, own, drift)
            if self.memory is not None:
                self.memory.gather(piece, pairs, self._residual(piece.increments[0], own))
        self.one_noise = smoother.solve(sums[0])
        self.noise = smoother.solve(sums[1]) if self.lags == 2 else self.one_noise
        if self.lags == 1:
            self.noise = self.noise * smoother.inflation[:, None, None]
        self.expected_noise = smoother.solve(sums[2])

    def expected_noise_at(self, x: np.ndarray) -> np.ndarray:
        """The upper triangle of T·D of what is expected, (…, k)."""
        return self.expected.constant_temperature * self.expected.diffusion(x)[..., self.upper[0], self.upper[1]]

    def _residual(self, increment: np.ndarray, own: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Δ − E[Δ | x] over one interval, 0 where there is no fit."""
        rest = increment - self.tau * self.smoother.at(self.one_drift, own)
        return np.where(self.smoother.known(own)[:, None], rest, 0.0)

    def _scatter_drift(self, piece: Piece, pairs, own, drift: np.ndarray) -> None:
        innovation = self._drift_target(piece) - drift
        later = None
        if self.lags == 2:
            later = self.a[1] / (2 * self.tau) * self._residual(piece.increments[1], self.near.own(piece.x1))
            innovation = innovation - later
        self.scatter[0].add(pairs, self.smoother.influence(pairs), piece.length, innovation, later)

    def _errors(self) -> None:
        smoother = self.smoother
        for piece in self._pieces():
            pairs, own = self.near.pairs(piece.x0), self.near.own(piece.x0)
            drift = smoother.at(self.drift, own)
            innovation = self._noise_target(piece, drift) - smoother.at(self.noise, own)
            later = None
            if self.lags == 2:
                next_own = self.near.own(piece.x1)
                last = self._residual(piece.increments[1], next_own)
                v = piece.increments[0] + piece.increments[1] - 2 * self.tau * drift
                # what the last interval adds to v vᵀ beyond its mean, given all before
                new = self._square(v) - self._square(v - last) - smoother.at(self.one_noise, next_own)
                later = self.a[1] / 2 * np.where(smoother.known(next_own)[:, None], new, 0.0)
                innovation = innovation - later
            self.scatter[1].add(pairs, smoother.influence(pairs), piece.length, innovation, later)
            if self.memory is not None:
                self.memory.score(piece, own, self._residual(piece.increments[0], own))


def _dataset(fields: _Estimate, grid: Any, states: Trajectory, temperature: float | None, level: float) -> xr.Dataset:
    smoother, upper, d = fields.smoother, fields.upper, states.dim
    usable = smoother.usable
    symmetric = np.empty((d, d), np.int64)
    symmetric[upper] = symmetric[upper[::-1]] = np.arange(len(upper[0]))
    if isinstance(grid, Grid):
        dims, shape = list(states.variables), grid.shape
        coords: dict[str, Any] = dict(zip(dims, grid.axes))
    else:
        dims, shape = ["point"], (len(fields.near.centre),)
        coords = {name: ("point", fields.near.centre[:, i]) for i, name in enumerate(states.variables)}
    coords |= {"component": list(states.variables), "component_2": list(states.variables)}
    held = np.where(usable, 1.0, np.nan)

    def vector(values: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [*dims, "component"], (values * held[:, None]).reshape(*shape, d)

    def matrix(values: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [*dims, "component", "component_2"], (values * held[:, None])[:, symmetric].reshape(*shape, d, d)

    name, unit = ("noise", 1.0) if temperature is None else ("diffusion", temperature)
    inflation = smoother.inflation[:, None]
    errors = [np.sqrt(scatter.variance * inflation) for scatter in fields.scatter]
    found: dict[str, Any] = {
        "drift": vector(fields.drift[:, 0]),
        "drift_error": vector(errors[0]),
        name: matrix(fields.noise[:, 0] / unit),
        f"{name}_error": matrix(errors[1] / unit),
        "samples": (dims, smoother.count.reshape(shape)),
    }
    if fields.lags == 2:
        found["drift_correction"] = vector((fields.drift - fields.one_drift)[:, 0])
        found[f"{name}_correction"] = matrix((fields.noise - fields.one_noise)[:, 0] / unit)
    attrs: dict[str, Any] = {}
    if fields.expected is not None:
        centre = fields.near.centre
        found["expected_drift"] = vector(_in_parts(fields.expected.drift, centre))
        found[f"expected_{name}"] = matrix(_in_parts(fields.expected_noise_at, centre) / unit)
        gaps = fields.drift - fields.expected_drift, fields.noise - fields.expected_noise
        both = zip(("drift", name), (vector, matrix), fields.scatter, errors, gaps)
        for which, shaped, scatter, error, gap in both:
            found[f"{which}_z"] = shaped(gap[:, 0] / np.where(error > 0, error, np.inf))
            outcome = scatter.chi_squared(gap[:, 0] / np.sqrt(inflation), usable)
            attrs |= dict(zip((f"{which}_chi2", f"{which}_chi2_mean", f"{which}_p"), outcome))
        attrs["agreement"] = agreement(attrs, ("drift", name), level)
    return xr.Dataset(found, coords, {**attrs, **memory_attributes(fields.memory, level)})
