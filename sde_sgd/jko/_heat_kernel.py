"""The heat kernel of D on a grid, K_s = e^{sL} with L = div(D∇·) as `FokkerPlanck` builds it, applied in logarithms.

K_s is symmetric, keeps constants and mass, and its entries are > 0; −4s log K_s(x, y) tends to the square of the
distance of x and y in the metric D⁻¹ as s → 0 (Varadhan). For any g

    K_s e^v = e^g e^{s L_g} e^{v − g},    L_g = e^{−g} L e^g,

whose rates are those of L times e^{g(y) − g(x)}. With g ≥ v the least function that changes by at most _SLOPE from a
cell to the next along each axis, nothing over- or underflows, and as all terms of uniformisation,
e^{sL_g} = Σ_k Pois(k; Λs)(1 + L_g/Λ)^k, are > 0, every value is right relative to itself, thousands of nats below the
top; only where v falls more than 600 nats below g, it is lifted to that.
Source: Varadhan (1967), Comm. Pure Appl. Math. 20; for uniformisation see `fokker_planck._exact`.
"""

import math
from typing import Any

import numpy as np
from scipy.special import gammaln

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.fokker_planck._exact import Uniformisation, _powers
from sde_sgd.grid import Grid

_SLOPE = 2.0  # nats per cell: the number of products grows with its exponential
_DROP = 4.0  # nats along the longest edge
_LOWEST = -600.0  # v − g: beyond is near the end of float64
_GROWTH = 600.0  # nats by which the powers of 1 + L_g/Λ may grow
_CUT = 1e-14  # of a value: where the sum ends
_CHUNK = 16  # products between two looks at that
_MOST_WORK = 1e9  # products times cells of one application: about five seconds, and a step takes a hundred


class _Diffusion:
    """dx = div D dt + √2 dW_D, whose density obeys ∂ρ = div(D∇ρ): a process with the D of another and nothing else."""

    temperature = 1.0

    def __init__(self, process: Any):
        self.variables, self.dim, self.domain = process.variables, process.dim, process.domain
        self.diffusion, self.drift = process.diffusion, process.diffusion_divergence
        self.diffusion_divergence, self.settings = process.diffusion_divergence, process.settings

    @staticmethod
    def equilibrium_potential(x: np.ndarray) -> np.ndarray:
        """0: the density spreads evenly."""
        return np.zeros(np.shape(x)[:-1])


class HeatKernel:
    """v ↦ log K_s e^v, arrays in C order of the cells."""

    def __init__(self, process: Any, grid: Grid):
        self._grid = grid
        fp = FokkerPlanck(_Diffusion(process), grid)
        self.added = float(fp.attrs["added_diffusion_max"])
        self._edges = fp.edges
        self._uniform = Uniformisation(fp.edges, _CUT, 1.0)
        self._slope = min(_SLOPE, _DROP / int(np.abs(fp.edges.offsets).sum(axis=1).max()))
        self.spacing = math.sqrt(2.0 * grid.dim / self._uniform.rate)  # of the cells in the metric, where it is least

    def products(self, time: float) -> float:
        """Λs, the products one application takes at least; ValueError where they would take too long."""
        mean = self._uniform.rate * time
        if mean * self._grid.size > _MOST_WORK:
            raise ValueError(
                f"the heat kernel for tau and regularisation spreads over so many cells that each use takes {mean:.3g} "
                f"products on {self._grid.size} cells; take fewer cells, or a smaller tau or regularisation"
            )
        return mean

    def log(self, v: np.ndarray, time: float) -> np.ndarray:
        """log K_s e^v for s = `time`."""
        mean = self.products(time)
        done = 0.0
        while done < 1.0:
            g = self._envelope(v)
            ratio = np.exp(g[self._edges.tail] - g[self._edges.head])
            forward, backward = self._uniform._forward * ratio, self._uniform._backward / ratio
            growth = float((self._edges.gather(backward, forward) + self._uniform._stay).max())
            part = min(1.0 - done, max(1.0 / mean, _longest(growth) / mean))
            v = g + np.log(self._piece(np.exp(np.maximum(v - g, _LOWEST)), forward, backward, part * mean, growth))
            done = 1.0 if part >= 1.0 - done else done + part
        return v

    def dirichlet(self, u: np.ndarray, density: np.ndarray) -> float:
        """∫ρ∇uᵀD∇u, from differences along edges."""
        tail, head = self._edges.tail, self._edges.head
        middle = 0.5 * (density[tail] + density[head])
        return float((self._edges.conductance * middle * (u[tail] - u[head]) ** 2).sum() * self._grid.cell_volume)

    def _piece(
        self, x: np.ndarray, forward: np.ndarray, backward: np.ndarray, mean: float, growth: float
    ) -> np.ndarray:
        last = _last(mean * growth)
        k = np.arange(last + _CHUNK + 1)
        weights = np.exp(k * math.log(mean) - mean - gammaln(k + 1.0))
        out, y, edges = weights[0] * x, np.empty_like(x), self._edges
        for begin in range(0, last, _CHUNK):
            _powers(
                edges.tail, edges.head, forward, backward, self._uniform._stay, x, y, out, weights, 0, begin, _CHUNK
            )
            if begin + _CHUNK > mean and (weights[begin + _CHUNK] * x <= _CUT * out).all():
                break
        return out

    def _envelope(self, v: np.ndarray) -> np.ndarray:
        """The least g ≥ v that changes by at most `_slope` from a cell to the next along each axis."""
        g = v.reshape(self._grid.shape)
        for axis, (cells, periodic) in enumerate(zip(self._grid.shape, self._grid.periodic)):
            turns = 2 if periodic else 1
            g = np.concatenate([g] * turns, axis=axis) if periodic else g
            ramp = self._slope * np.arange(turns * cells).reshape([-1 if a == axis else 1 for a in range(g.ndim)])
            rising = np.maximum.accumulate(g + ramp, axis=axis) - ramp
            falling = np.flip(np.maximum.accumulate(np.flip(g - ramp, axis), axis=axis), axis) + ramp
            if periodic:  # each end is reached from the copy on its other side
                rising, falling = np.split(rising, 2, axis)[1], np.split(falling, 2, axis)[0]
            g = np.maximum(rising, falling)
        return g.ravel()


def _last(mean: float) -> int:
    """The term beyond which a Poisson sum of this mean has less than 1e-15 of it."""
    return int(mean + 8.0 * math.sqrt(mean)) + 24


def _longest(growth: float) -> float:
    """The largest mean whose last power of a matrix with these row sums stays within _GROWTH."""
    if growth <= 1.0 + 1e-9:
        return math.inf
    terms = _GROWTH / math.log(growth) - 24.0 - _CHUNK
    return max(0.0, (math.sqrt(terms + 16.0) - 4.0) ** 2 / growth) if terms > 0.0 else 0.0
