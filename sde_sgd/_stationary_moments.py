r"""Second moments of linear SGD in the eigenvectors of H, per unit of the gradient noise D_ij of each pair.

With z = (x, v), one step in direction i is z' = M_i z + n ε_i. A table of moments has shape (2, d, 2, d), entry
[a, i, b, j] being E[z^a_i z^b_j]/D_ij: the noise enters each pair of directions through its own D_ij alone.
"""

from dataclasses import dataclass

import numpy as np

from sde_sgd import _memory


@dataclass(frozen=True)
class Recursion:
    """v' = μv + g, x' = x − η(αg + γv), g = hx + ε: α = 1, γ = μ (heavy ball), or α = 1 + μ, γ = μ² (Nesterov)."""

    rates: np.ndarray
    learning_rate: float
    momentum: float
    nesterov: bool

    @property
    def alpha(self) -> float:
        return 1.0 + self.momentum if self.nesterov else 1.0

    @property
    def gamma(self) -> float:
        return self.momentum**2 if self.nesterov else self.momentum

    @property
    def limit(self) -> float:
        """The bound on ηh: 2(1 + μ), for Nesterov 2(1 + μ)/(1 + 2μ)."""
        return 2 * (1 + self.momentum) / (1 + 2 * self.momentum * self.nesterov)

    @property
    def kick(self) -> np.ndarray:
        """n (2,)."""
        return np.array([-self.learning_rate * self.alpha, 1.0])

    def matrices(self) -> np.ndarray:
        """M (2, 2, d)."""
        h, eta = self.rates, self.learning_rate
        one = np.ones_like(h)
        return np.array([[1 - eta * self.alpha * h, -eta * self.gamma * one], [h, self.momentum * one]])

    def power(self, steps: int) -> np.ndarray:
        """M^steps (2, 2, d)."""
        return _turn(np.linalg.matrix_power(_unturn(self.matrices()), steps))

    def white(self) -> np.ndarray:
        """The moments where every step has fresh noise: Σ = MΣMᵀ + nnᵀ for each pair, in closed form.

        No two nearly equal numbers are subtracted, so that flat directions keep their digits.
        """
        eta, mu = self.learning_rate, self.momentum
        hi, hj = self.rates[:, None], self.rates[None, :]
        total, product, gap = hi + hj, hi * hj, (hi - hj) ** 2
        friction = (1 - mu) ** 2 * (1 + mu) * total
        if not self.nesterov:
            # at μ = 0: 1/(h_i + h_j − η h_i h_j)
            below = friction + eta * (mu * gap - (1 - mu) ** 2 * product)
            xx = eta * (1 - mu**2) / below
            xv = -eta * (hi - mu * hj) / below
            vv = (1 - mu) * total / below
        else:
            look = 1 + mu - mu**2
            below = friction + eta * (mu * look * gap + (1 - mu) * (6 * mu**2 + 3 * mu - 1) * product)
            below = below + eta**2 * product * mu * ((3 * mu**2 - 1) * total - eta * product * mu * (1 + 2 * mu))
            ahead = eta * product * mu * (1 + 2 * mu)
            xx = eta * (1 - mu**2 + eta * mu * look * total + eta * mu * ahead) / below
            xv = -eta * (ahead + hi * look - hj * mu**2) / below
            vv = ((1 - mu) * total + 2 * eta * mu * product) / below
        return np.array([[xx, xv], [xv.T, vv]]).transpose(0, 2, 1, 3)


class Epoch:
    """The recursion under epoch reshuffling: moments at each phase, and what the noise remembers within an epoch.

    A permutation of N samples in batches of b_s has Cov(ε_s, ε_t) = D (N δ_st/b_s − 1)/(N − 1), since the offsets of
    all samples add up to 0; epochs are independent.
    """

    def __init__(self, recursion: Recursion, samples: int, batch_size: int):
        self.recursion, self.samples = recursion, samples
        self.steps = n = -(-samples // batch_size)
        d = len(recursion.rates)
        _memory.refuse_beyond(64.0 * (n + 1) * d, "the tables of one epoch", "take fewer directions or larger batches")
        self.shares = np.full(n, batch_size / samples)
        self.shares[-1] = 1 - (n - 1) * batch_size / samples
        self.powers = np.empty((n + 1, 2, 2, d))
        self.powers[0] = np.eye(2)[:, :, None]
        step = recursion.matrices()
        for t in range(n):
            self.powers[t + 1] = np.einsum("abi,bci->aci", step, self.powers[t])
        self.kicks = np.einsum("tabi,b->tai", self.powers[:-1], recursion.kick)  # M^t n
        self.sums = np.concatenate([np.zeros((1, 2, d)), self.kicks.cumsum(0)])  # Σ_{s<t} M^s n
        self.start = self._boundary()

    def _boundary(self) -> np.ndarray:
        """Σ₀ at the boundary of epochs: Σ₀ = M^nΣ₀M^nᵀ + the noise of one epoch, centred before it is squared."""
        weights = self.shares[:, None, None]
        responses = self.kicks[::-1] / weights
        responses = responses - self.sums[-1]
        moments = _outer(weights * responses, responses) / (self.samples - 1)
        power = self.powers[-1]
        while np.abs(power).max() > 1e-20:
            moments = moments + _advance(power, moments, power)
            power = np.einsum("abi,bci->aci", power, power)
        return moments

    def at(self, phase: int) -> np.ndarray:
        """The moments after `phase` steps of an epoch."""
        if phase == 0:
            return self.start
        kicks, sums = self.kicks[:phase], self.sums[phase : phase + 1]
        fresh = (_outer(kicks / self.shares[0], kicks) - _outer(sums, sums)) / (self.samples - 1)
        return _advance(self.powers[phase], self.start, self.powers[phase]) + fresh

    def average(self) -> np.ndarray:
        """The mean of the moments over the phases of an epoch."""
        n = self.steps
        later = np.arange(n - 1, -1, -1)[:, None, None] / n  # the share of phases that a kick of age t is part of
        sums = self.sums[:n]
        fresh = (_outer(self.kicks * later / self.shares[0], self.kicks) - _outer(sums, sums) / n) / (self.samples - 1)
        total = np.empty_like(self.start)
        for a in range(2):
            for b in range(2):
                total[a, :, b] = sum(
                    (self.powers[:n, a, c].T @ self.powers[:n, b, e]) / n * self.start[c, :, e]
                    for c in range(2)
                    for e in range(2)
                )
        return total + fresh

    def memory(self, lag: int) -> np.ndarray:
        """What the mean of E[x_{t+lag} x_tᵀ] over t has beyond M^lag: the rest of an epoch undoes its beginning."""
        n = self.steps
        phase = np.arange(n)
        inside = np.minimum(lag, n - phase)  # steps until the lag or the epoch ends
        base = max(lag - n, 0)
        carried = np.einsum("tabi,tbi->tai", self.powers[lag - inside - base], self.sums[inside])
        carried = np.einsum("bi,tbi->ti", self.recursion.power(base)[0], carried)
        return -(carried.T @ self.sums[:n, 0]) / (n * (self.samples - 1))

    def noise_with_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Means over t of E[z_t ε_t] and E[z_t ε_{t+1}] per D_ii, each (2, d)."""
        scale = -1.0 / (self.steps * (self.samples - 1))
        return scale * self.sums[: self.steps].sum(0), scale * self.sums[: self.steps - 1].sum(0)


def carried(power: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The positions' part of M^k Σ, (d, d)."""
    return power[0, 0][:, None] * moments[0, :, 0] + power[0, 1][:, None] * moments[1, :, 0]


def _advance(left: np.ndarray, moments: np.ndarray, right: np.ndarray) -> np.ndarray:
    """L_i Σ_ij R_jᵀ for every pair."""
    half = np.einsum("aci,ciej->aiej", left, moments)
    return np.einsum("aiej,bej->aibj", half, right)


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Σ_t left[t, a, i] right[t, b, j] as (2, d, 2, d)."""
    d = left.shape[2]
    return (left.reshape(len(left), 2 * d).T @ right.reshape(len(right), 2 * d)).reshape(2, d, 2, d)


def _turn(matrices: np.ndarray) -> np.ndarray:
    return np.moveaxis(matrices, 0, -1)


def _unturn(matrices: np.ndarray) -> np.ndarray:
    return np.moveaxis(matrices, -1, 0)
