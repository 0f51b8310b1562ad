"""e^{tL}ρ without steps: uniformisation, which is positive to the last digit, and Krylov, which is independent of it.

Uniformisation: with Λ ≥ every rate of leaving a cell, P = 1 + L/Λ is the matrix of a Markov chain, and

    e^{tL}ρ = Σ_k Pois(k; Λt) P^k ρ,

a sum of non-negative terms. Krylov: e^{tL}ρ ≈ ‖ρ‖ V e^{tH} e_1 on the space of ρ, Lρ, …, L^{m−1}ρ, in substeps whose
error is estimated from H bordered by two more rows.
Sources: Jensen (1953) and Grassmann (1977) for uniformisation; Fox & Glynn (1988), Commun. ACM 31, for the weights;
Saad (1992), SIAM J. Numer. Anal. 29, and Sidje (1998), Expokit, for Krylov.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numba as nb
import numpy as np
import scipy.linalg as la

from sde_sgd.errors import NotConverged

from ._edges import Edges

if TYPE_CHECKING:
    from ._steps import Ledger

_TINY = 1e-290  # as in `_sweeps`
_CHUNK = 256  # products between two chances to interrupt
_MOST_WORK = 3e11  # products times edges: about ten minutes
_SPACE = 40  # dimension of the Krylov space
_ROUNDING = 2e-16  # of one substep, relative to the mass


def poisson_weights(mean: float, error: float) -> tuple[int, np.ndarray]:
    """(first k, weights): Poisson probabilities of the given mean, cut where both tails together are below `error`.

    By ratios from the mode outwards, so that each is right relative to itself and none overflows, and normalised:
    the sum is 1, and a mass is kept. Right of k the tail is at most w_k/(1 − mean/(k+1)), left of it w_k/(1 − k/mean).
    """
    mode = math.floor(mean)
    width = int(10.0 * math.sqrt(mean + 1.0)) + 60
    up = np.cumprod(mean / np.arange(mode + 1, mode + 1 + 2 * width))
    down = np.cumprod(np.arange(mode, max(0, mode - 2 * width), -1) / mean) if mode > 0 else np.empty(0)
    total = 1.0 + up.sum() + down.sum()
    k = np.arange(mode + 1, mode + 1 + up.size)
    beyond = up / (1.0 - mean / (k + 1.0)) <= 0.5 * error * total
    right = int(np.argmax(beyond)) + 1
    k = np.arange(mode - 1, mode - 1 - down.size, -1)
    below = down / (1.0 - k / mean) <= 0.5 * error * total
    left = int(np.argmax(below)) + 1 if below.any() else down.size
    weights = np.concatenate([down[:left][::-1], [1.0], up[:right]])
    return mode - left, weights / weights.sum()


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _powers(tail, head, forward, backward, stay, x, y, out, weights, first, k, count):
    """`count` products x ← Px, each added to `out` by its weight from the `first` on; x enters as P^k ρ."""
    for _ in range(count):
        for c in range(x.size):
            y[c] = stay[c] * x[c]
        for e in range(tail.size):
            t, h = tail[e], head[e]
            y[h] += forward[e] * x[t]
            y[t] += backward[e] * x[h]
        k += 1
        w = weights[k - first] if k >= first else 0.0
        for c in range(x.size):
            v = 0.0 if y[c] < _TINY else y[c]  # NaN stays, and is found
            x[c] = v
            out[c] += w * v


class Uniformisation:
    """Carries a density of the given mass by Σ_k Pois(k; Λt)P^k; `error` is that of truncation, per unit of mass and
    stretch between two times."""

    def __init__(self, edges: Edges, error: float, mass: float) -> None:
        forward, backward = edges.rates()
        out = edges.gather(forward, backward) + edges.leak
        self.rate = float(out.max())
        if not 0.0 < self.rate < math.inf:
            raise ValueError(f"the fastest rate is {self.rate}, beyond float64; change units or refine less")
        self._error, self._mass = error, mass
        self._edges = edges
        self._forward, self._backward = forward / self.rate, backward / self.rate
        # from the rounded fractions, so that what leaves and what stays add up to 1 in the last digit
        gone = edges.gather(self._forward, self._backward) + edges.leak / self.rate
        self._stay = np.maximum(1.0 - gone, 0.0)

    def refuse_beyond(self, end: float) -> None:
        """ValueError, with the count, where the products up to time `end` would take hours."""
        products = self.rate * end
        if products * self._edges.tail.size > _MOST_WORK:
            raise ValueError(
                f"scheme='exact' needs Λt = {products:.3g} products with the generator, over {self._edges.tail.size} "
                f"edges each, and at most {_MOST_WORK / self._edges.tail.size:.3g} are allowed; use "
                "scheme='implicit_euler' or scheme='splitting', fewer cells, or an earlier time"
            )

    def advance(self, rho: np.ndarray, carried: np.ndarray, start: float, end: float, ledger: "Ledger", tick) -> None:
        mean = self.rate * (end - start)
        first, weights = poisson_weights(mean, self._error)
        last = first + weights.size - 1
        x, y = rho[:-1].copy(), np.empty(rho.size - 1)
        out = x * weights[0] if first == 0 else np.zeros_like(x)
        edges = self._edges
        for k in range(0, last, _CHUNK):
            count = min(_CHUNK, last - k)
            _powers(
                edges.tail, edges.head, self._forward, self._backward, self._stay, x, y, out, weights, first, k, count
            )
            tick(start + (end - start) * (k + count) / last)
        rho[:-1] = out
        ledger.steps += last
        ledger.error_sum += self._error * self._mass
        ledger.error_estimate = ledger.error_sum


class Krylov:
    """Carries a density by Arnoldi approximations of e^{τL}, the substeps τ chosen by their estimated errors.

    Not positive in general; `error` bounds, as an estimate, the L1 error of all substeps up to `end`.
    """

    def __init__(
        self, product: Callable[[np.ndarray], np.ndarray], norm: float, error: float, end: float, volume: float
    ):
        self._product, self._norm = product, norm
        self._error, self._end, self._volume = error, end, volume

    def advance(self, rho: np.ndarray, carried: np.ndarray, start: float, end: float, ledger: "Ledger", tick) -> None:
        t, x = start, rho[:-1].copy()
        tau = ledger.next_step or _SPACE / (4.0 * self._norm)
        while t < end:
            basis, hessenberg, happy = self._arnoldi(x)
            power, rounding = 1.0 / hessenberg.shape[1], _ROUNDING * float(np.abs(x).sum()) * self._volume
            while True:
                tau = min(tau, end - t)
                y, error = self._small(x, basis, hessenberg, happy, tau)
                allowed = max(self._error * tau / self._end, rounding)
                grown = 2.0 if error == 0.0 else 0.9 * (allowed / error) ** power
                if error <= allowed:
                    break
                tau *= max(0.2, grown)
                ledger.rejected_steps += 1
            x, t = y, end if tau >= end - t else t + tau
            ledger.steps += 1
            ledger.largest_step = max(ledger.largest_step, tau)
            ledger.error_sum += error + rounding
            ledger.error_estimate = ledger.error_sum
            tick(t)
            tau *= min(2.0, max(0.5, grown))
            ledger.next_step = tau
        rho[:-1] = x
        ledger.most_negative = min(ledger.most_negative, float(x.min()))
        slack = ledger.error_sum + 1e-14 * float(np.abs(x).sum()) * self._volume
        if -x.min() * self._volume > slack:
            raise NotConverged(
                f"scheme='krylov' gave {x.min():.3g} at t = {end:g}, more negative than its error estimate {slack:.3g} "
                "explains; use scheme='exact'"
            )

    def _arnoldi(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        m = min(_SPACE, x.size)
        basis, h = np.zeros((m + 1, x.size)), np.zeros((m + 1, m))
        basis[0] = x / np.linalg.norm(x)
        for j in range(m):
            w = self._product(basis[j])
            for _ in range(2):  # twice is enough (Parlett) to keep the basis orthogonal
                projection = basis[: j + 1] @ w
                h[: j + 1, j] += projection
                w = w - projection @ basis[: j + 1]
            size = np.linalg.norm(w)
            if size <= 1e-15 * self._norm:
                return basis[: j + 1], h[: j + 1, : j + 1], True
            h[j + 1, j] = size
            basis[j + 1] = w / size
        return basis, h, False

    def _small(self, x, basis, hessenberg, happy, tau) -> tuple[np.ndarray, float]:
        """e^{τL}x and its estimated L1 error, from the exponential of the bordered Hessenberg matrix."""
        beta = float(np.linalg.norm(x))
        if happy:  # the space is invariant
            return beta * la.expm(tau * hessenberg)[:, 0] @ basis, 0.0
        m = hessenberg.shape[1]
        bordered = np.zeros((m + 2, m + 2))
        bordered[: m + 1, :m] = hessenberg
        bordered[m + 1, m] = 1.0
        column = la.expm(tau * bordered)[:, 0]
        # corrected scheme of Saad: the component along the next basis vector belongs to the result
        y = beta * column[: m + 1] @ basis
        sizes = np.abs(basis[m]).sum(), np.abs(self._product(basis[m])).sum()
        first, second = (beta * self._volume * float(abs(column[m + i]) * sizes[i]) for i in range(2))
        if first > 10.0 * second:
            return y, second
        return y, first * second / (first - second) if first > second else first
