"""Eigenvalues and modes of a generator, however far apart they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as la
import scipy.sparse.linalg as sla
import xarray as xr
from threadpoolctl import threadpool_limits

from sde_sgd import _checks, _memory
from sde_sgd.errors import NotConverged

from ._tails import apply, continued, in_tail
from ._weighted import Resolvent, Space

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_SEEN = 1e-6  # share of an operator's largest eigenvalue that is still accurate to ten digits
_DENSE = 60  # cells, up to which the whole operator is written down
_LOOK = 1e-9  # relative error of the eigenvalues of a look for more
_SEED = 20180201  # of the first vector of every iteration
_BYTES = 256.0  # per cell and mode: four vectors, a copy of them, and the space of the iteration
_LEVELS = 60  # shifts tried before giving up
_SAME = 1e-9  # relative difference of eigenvalues that count as equal


def spectrum(self: "FokkerPlanck", k: int) -> xr.Dataset:
    r"""The k eigenvalues of −L of smallest modulus with their modes: −L r = λ r, −Lᵀ u = λ u.

    A density evolves as ρ(t) = Σ c e^{−λt} r with c = Σ u ρ(0)·cell_volume. The result has, over `mode` by rising |λ|,
    `eigenvalue` λ (1/time; λ₀ = 0 unless walls absorb); `right` r (mode, *variables), densities, r₀ = ρ_ss; `left` u,
    functions, u₀ = 1, with E_ss|u|² = 1 and Σ u_m r_n·cell_volume = δ_mn (no complex conjugate); `residual`, the
    relative residual of the eigenvalue in L²(ρ_ss), and `condition` ‖u‖‖r‖ ≥ 1, so that λ is off by about
    residual·condition relative to itself. Gaps of e^{−100} have as many digits as any, because L is never
    subtracted from: the operator iterated is its group inverse by `Elimination`. Where eigenvalues span more than
    six decades, further levels are taken at shifts σ between them, (σ − L)⁻¹ with what is known projected out.

    Under detailed balance all is real and orthogonal. Otherwise values are complex, and a pair of conjugates is kept
    whole, +Im first: there may be k + 1 modes. The sign of a mode is that which makes √ρ_ss·u positive at
    the first cell (C order) where it has half its largest modulus; inside the space of an equal eigenvalue the basis
    is arbitrary. Where nothing ever goes u and r follow from their equations and the rest, to about 1e-6 relative
    to themselves; the rest has errors of rounding in L²(ρ_ss). The iteration starts from a fixed vector: the same
    call gives the same result on one machine. After each level another iteration, orthogonal to all modes found,
    looks for one that was missed (such as a multiple eigenvalue); `attrs["next_modulus"]` is the modulus of the next
    eigenvalue, which is not part of the result. With absorbing walls E_ss is under the steady state of the same edges
    without their leak.

    Raises ValueError if k is not from 1 to the number of cells, the chain is not irreducible, memory is short, or the
    iteration does not converge. Rates below 1e-300, relaxations that float64 cannot time, are refused:
    `transitions` and `mean_exit_time` have them as logarithms.
    Sources: Meyer (1975) for the group inverse; Lehoucq, Sorensen & Yang (1998), ARPACK.
    """
    k = _checks.whole("k", k, 1, self.grid.size, "a grid has one eigenvalue per cell")
    _memory.refuse_beyond(
        _BYTES * (k + 10) * self.grid.size,
        f"{k} modes of {self.grid.size} cells",
        "ask for fewer modes, or use fewer cells",
    )
    space = Space.of(self)
    modes, following, shifts = _slowest(space, k - int(space.conserves))
    if space.conserves:
        one, pi = np.ones((space.pi.size, 1)), space.pi[:, None]
        steady = float(self.log_steady_state().attrs["residual"])
        modes = _Modes(np.zeros(1), one, pi, one, pi, np.array([steady]), np.ones(1)).joined(modes)
    left, right = modes.left, modes.right / self.grid.cell_volume
    names = tuple(self.process.variables)
    arrays = {
        name: (("mode", *names), np.ascontiguousarray(values.T).reshape(-1, *self.grid.shape))
        for name, values in (("right", right), ("left", left))
    }
    attrs = {
        **self.attrs,
        "next_modulus": following,
        "symmetric": int(space.symmetric),
        "shifts": shifts,
    }
    numbers = {"eigenvalue": modes.rate, "residual": modes.residual, "condition": modes.condition}
    data: dict[str, Any] = {name: ("mode", values) for name, values in numbers.items()} | arrays
    coords = {"mode": np.arange(modes.rate.size), **dict(zip(names, self.grid.axes))}
    return xr.Dataset(data, coords, attrs)


@dataclass(frozen=True)
class _Modes:
    """Eigenvalues of −L with their vectors as columns: x, y in the weighted coordinates, yᵀx = 1; left, right plain."""

    rate: np.ndarray
    x: np.ndarray
    y: np.ndarray
    left: np.ndarray
    right: np.ndarray
    residual: np.ndarray
    condition: np.ndarray

    @classmethod
    def none(cls, space: Space) -> "_Modes":
        kind = float if space.symmetric else complex
        column = np.empty((space.pi.size, 0), kind)
        return cls(np.empty(0, kind), column, column, column, column, np.empty(0), np.empty(0))

    def joined(self, more: "_Modes") -> "_Modes":
        """Both, by rising modulus; a pair of conjugates stays together, +Im first."""
        both = _Modes(*(np.concatenate([getattr(self, f.name), getattr(more, f.name)], -1) for f in fields(self)))
        first = np.flatnonzero(both.rate.imag >= 0.0)
        first = first[np.argsort(np.abs(both.rate[first]), kind="stable")]
        return both.take(_with_conjugates(both.rate, first))

    def real_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Real matrices X, Y with XYᵀ the projection on these modes: a pair of conjugates gives 2 Re(x yᵀ)."""
        real, first = self.rate.imag == 0.0, self.rate.imag > 0.0
        sides = []
        for vectors, sign in ((self.x, 1.0), (self.y, -1.0)):
            pairs = math.sqrt(2.0) * vectors[:, first]
            sides.append(np.hstack([vectors[:, real].real, pairs.real, sign * pairs.imag]))
        return sides[0], sides[1]

    def take(self, which: np.ndarray) -> "_Modes":
        return _Modes(*(getattr(self, f.name)[..., which] for f in fields(self)))


def _slowest(space: Space, wanted: int) -> tuple[_Modes, float, list[float]]:
    """The `wanted` modes of smallest modulus besides the steady state, the next modulus, and the shifts used."""
    found = _Modes.none(space)
    rank = space.pi.size - int(space.conserves)
    fastest = 2.0 * space.fastest
    low, high, shift, shifts = 0.0, fastest, 0.0, []
    following = math.inf
    while True:
        shifts.append(shift)
        before = found.rate.size
        found, following, too_high = _level(space, shift, found, wanted, rank)
        length = wanted + int(0 < wanted <= found.rate.size and found.rate[wanted - 1].imag > 0.0)
        if found.rate.size > length:
            following = float(np.abs(found.rate[length]))
        if found.rate.size >= length and (math.isfinite(following) or found.rate.size == rank):
            return found.take(np.arange(length)), following, shifts
        if found.rate.size > before:
            low, high = float(np.abs(found.rate[-1])), fastest
        elif too_high:
            high = shift
        else:
            low = max(low, shift)
        if len(shifts) > _LEVELS:
            raise ValueError(
                f"after {_LEVELS} shifts only {found.rate.size} eigenvalues are told apart, and k asks for {wanted} "
                "and the next; ask for fewer modes"
            )
        first_guess = 1e-4 * fastest
        shift = first_guess if len(shifts) == 1 and low < first_guess else math.sqrt(low * high)


def _level(space: Space, shift: float, found: _Modes, wanted: int, rank: int) -> tuple[_Modes, float, bool]:
    """All modes that one shift shows; the next modulus; and if it shows none, whether the shift is too high."""
    resolvent = space.resolvent(shift)
    before, following, too_high = found.rate.size, math.inf, False
    ask = wanted - before + 2
    while found.rate.size < rank:
        new = _leading(resolvent, shift, found, min(ask, rank - found.rate.size))
        too_high = bool(shift) and float(np.abs(new.rate).min()) < _SEEN * shift
        if too_high:
            break
        new = new.take(_seen(new.rate, shift, found))
        if found.rate.size > before:  # only what the passes before have missed
            new = new.take(_below(new.rate, found))
        if not new.rate.size:
            break
        # tails only of what may be in the result
        last = np.sort(np.abs(np.append(found.rate, new.rate)))[: wanted + 1].max()
        returned = np.abs(new.rate) <= last * (1.0 + _SAME)
        new = _with_tails(resolvent, shift, new.take(returned)).joined(new.take(~returned))
        found, ask = found.joined(new), 2
        rate = _next_rates(resolvent, shift, found, min(ask, rank - found.rate.size))
        rate = rate[_seen(rate, shift, found)]
        following = float(np.abs(rate).min(initial=math.inf))
        if not _below(rate, found).any():
            break
    return found, following, too_high


def _seen(rate: np.ndarray, shift: float, found: _Modes) -> np.ndarray:
    """Which rates an operator at this shift, or without one, resolves, with none missing below them."""
    if not rate.size:
        return np.zeros(0, bool)
    size = 1.0 / np.abs(rate + shift)
    good = size >= _SEEN / (shift or np.abs(np.append(found.rate, rate)).min())
    reach = (1.0 / size[good]).max(initial=0.0) - shift  # a disk about −σ is complete, and one about 0 is wanted
    return good & (np.abs(rate) <= reach * (1.0 + _SAME))


def _below(rate: np.ndarray, found: _Modes) -> np.ndarray:
    return np.abs(rate) < np.abs(found.rate[-1]) * (1.0 - _SAME)


def _deflated(resolvent: Resolvent, found: _Modes) -> tuple[Callable, Callable]:
    """A resolvent on functions and on probabilities, `found` projected out."""
    known_x, known_y = found.real_pair()

    def functions(v: np.ndarray) -> np.ndarray:
        v = v.ravel() - known_x @ (v.ravel() @ known_y)
        image = resolvent.functions(v)
        return image - known_x @ (image @ known_y)

    def probabilities(v: np.ndarray) -> np.ndarray:
        v = v.ravel() - known_y @ (v.ravel() @ known_x)
        image = resolvent.probabilities(v)
        return image - known_y @ (image @ known_x)

    return functions, probabilities


def _next_rates(resolvent: Resolvent, shift: float, found: _Modes, count: int) -> np.ndarray:
    """What comes after `found`, or was missed: a look that needs no vectors and fewer digits."""
    if count == 0:
        return np.empty(0)
    functions, _ = _deflated(resolvent, found)
    return 1.0 / _iterate(functions, resolvent.space.pi.size, count, resolvent.space.symmetric, _LOOK)[0] - shift


def _leading(resolvent: Resolvent, shift: float, found: _Modes, count: int) -> _Modes:
    """The `count` largest eigenvalues (one more where that cuts a pair) of a resolvent, `found` projected out."""
    functions, probabilities = _deflated(resolvent, found)
    space = resolvent.space
    mu, x = _iterate(functions, space.pi.size, count, space.symmetric)
    if space.symmetric:
        y = x.copy()
    else:
        nu, y = _iterate(probabilities, space.pi.size, count, False)
        mu, x, y = _matched(mu, x, nu, y)
    x = _oriented(x)
    y = y @ la.inv(y.T @ x).T  # a cluster's basis is fixed by that of x
    image = np.stack([apply(functions, column) for column in x.T], axis=1)
    first, mu = mu, np.einsum("ni,ni->i", y, image)
    residual = la.norm(image / mu - x, axis=0)
    rate = 1.0 / mu - shift
    # rounding in complex arithmetic undone: real is real, and pairs are exactly conjugate
    real, second = np.flatnonzero(first.imag == 0.0), np.flatnonzero(first.imag > 0.0)
    for array in (rate, x, y, residual):
        array[..., real] = array[..., real].real
        array[..., second] = array[..., second - 1].conj()
    condition = la.norm(x, axis=0) * la.norm(y, axis=0)
    return _Modes(rate, x, y, x, y, residual * np.abs((rate + shift) / rate), condition)


def _with_tails(resolvent: Resolvent, shift: float, modes: _Modes) -> _Modes:
    """`left` = x/√π and `right` = √π·y, right relative to themselves also where the iteration leaves rounding."""
    space, rate = resolvent.space, modes.rate + shift
    left = continued(resolvent.plain_functions, space, rate, modes.x)
    # under detailed balance p/π is the function itself
    ratio = left if space.symmetric else continued(resolvent.ratios, space, rate, modes.y)
    root = space.root[:, None]
    right = np.where(in_tail(space, modes.y), root * (root * ratio), root * modes.y)
    return replace(modes, left=left, right=right)


def _iterate(
    operator: Callable, n: int, count: int, symmetric: bool, error: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of −L's inverse in falling modulus, conjugates together, and unit eigenvectors."""
    if n <= _DENSE or count + 3 >= n:
        matrix = np.stack([operator(column) for column in np.eye(n)], axis=1)
        mu, x = la.eigh(0.5 * (matrix + matrix.T)) if symmetric else la.eig(matrix)
    else:
        start = np.random.default_rng(_SEED).normal(size=n)
        linear = sla.LinearOperator((n, n), matvec=operator, dtype=float)
        try:
            with threadpool_limits(1, user_api="blas"):  # vectors this short only wait for the other threads
                if symmetric:
                    mu, x = sla.eigsh(linear, count, v0=start, ncv=min(n, 2 * count + 20), tol=error)
                else:
                    mu, x = sla.eigs(linear, count + 1, v0=start, ncv=min(n, 2 * count + 22), tol=error)
        except sla.ArpackError as fault:
            raise NotConverged(f"the eigenvalues did not converge ({fault}); ask for fewer modes") from None
    if symmetric:
        order = np.argsort(-np.abs(mu), kind="stable")[:count]
        return mu[order], x[:, order]
    # 1/mu = λ + σ has the other sign of its imaginary part
    first = np.flatnonzero(mu.imag <= 0.0)
    order = _with_conjugates(mu, first[np.argsort(-np.abs(mu[first]), kind="stable")])
    length = count + 1 if order.size > count and mu[order[count - 1]].imag < 0.0 else count
    return mu[order[:length]], x[:, order[:length]]


def _with_conjugates(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Indices in the order of `first`, each complex one followed by its conjugate; those without one are left out."""
    others = np.setdiff1d(np.arange(values.size), first)
    order: list[int] = []
    for i in first:
        if values[i].imag == 0.0:
            order.append(int(i))
            continue
        distance = np.abs(values[others] - values[i].conj())
        if distance.size and distance.min() <= _SAME * abs(values[i]):
            nearest = int(np.argmin(distance))
            order += [int(i), int(others[nearest])]
            others = np.delete(others, nearest)
    return np.array(order, int)


def _matched(mu: np.ndarray, x: np.ndarray, nu: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues that both iterations have found, with both vectors."""
    free = list(range(nu.size))
    pairs: list[tuple[int, int]] = []
    for i, value in enumerate(mu):
        nearest = min(free, key=lambda j: abs(nu[j] - value), default=None)
        if nearest is None or abs(nu[nearest] - value) > 1e-6 * abs(value):
            break
        free.remove(nearest)
        pairs.append((i, nearest))
    if pairs and mu[pairs[-1][0]].imag < 0.0 and len(pairs) < mu.size:
        pairs.pop()  # its conjugate is beyond the end
    if not pairs:
        raise NotConverged("left and right eigenvalues did not converge to the same; ask for another number of modes")
    a, b = (list(side) for side in zip(*pairs))
    return mu[a], x[:, a], y[:, b]


def _oriented(x: np.ndarray) -> np.ndarray:
    """Unit columns, positive at the first cell that has half the largest modulus."""
    x = x / la.norm(x, axis=0)
    size = np.abs(x)
    first = np.argmax(size >= 0.5 * size.max(axis=0), axis=0)
    pivot = x[first, np.arange(x.shape[1])]
    return x * (np.abs(pivot) / pivot)
