"""Densities from counts: a linear map from counts in fine cells to a smooth density at a grid's centres."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse

from sde_sgd import _memory
from sde_sgd.grid import Grid

from ._blocks import correlation_time

_REACH, _WIDE_REACH = 6.0, 4.0  # standard deviations of the kernels that are kept; the rest is 2e-9, 6e-5 of them
_WIDER = 2.0  # the second smoothing, in units of the first: 3 in a histogram


@dataclass(frozen=True)
class Smoother:
    """Counts in fine cells → a density (not normalised) at the cell centres of `grid`.

    `bandwidth` None: the histogram; the fine cells are the grid's. Otherwise a Gaussian of standard deviation h_i
    along axis i, applied to counts in an odd number of fine cells, no wider than h_i, per cell; a fine cell is itself
    a kernel of variance δ²/12, which is taken off, so that the variance is h_i² exactly.
    `open_sides` (dim, 2): sides of the box beyond which samples lie. There fine cells go on as far as the kernel
    reaches; at any other side that is not periodic the density is mirrored, as at a wall.
    """

    grid: Grid
    bandwidth: tuple[float, ...] | None
    open_sides: tuple[tuple[bool, bool], ...]

    def __post_init__(self) -> None:
        cells = math.prod(self.shape)
        remedy = "take a smaller box, or a wider bandwidth"
        _memory.refuse_beyond(6 * 8.0 * cells, f"a kernel on {cells:.3g} fine cells", remedy)

    @cached_property
    def split(self) -> tuple[int, ...]:
        """Fine cells per cell, odd, so that a centre is a centre."""
        if self.bandwidth is None:
            return (1,) * self.grid.dim
        ratios = [math.ceil(s / h - 1e-9) for s, h in zip(self.grid.spacing, self.bandwidth)]
        return tuple(int(r + 1 - r % 2) for r in ratios)

    @cached_property
    def width(self) -> np.ndarray:
        """Width of a fine cell."""
        return self.grid.spacing / self.split

    @cached_property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Fine cells beyond each side."""
        reach = [1] * self.grid.dim
        if self.bandwidth is not None:
            reach = [math.ceil(max(_REACH, _WIDER * _WIDE_REACH) * h / w) for h, w in zip(self.bandwidth, self.width)]
        return tuple((r * low, r * high) for r, (low, high) in zip(reach, self.open_sides))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(n * s + sum(m) for n, s, m in zip(self.grid.shape, self.split, self.margins))

    def cells(self, z: np.ndarray) -> np.ndarray:
        """The fine cell of each point (n, dim), −1 where it has none."""
        flat, inside = np.zeros(len(z), np.int64), np.ones(len(z), bool)
        for axis, (n, (before, after)) in enumerate(zip(self.shape, self.margins)):
            place = np.floor((z[:, axis] - self.grid.lower[axis]) / self.width[axis]) + before
            i = np.clip(place, -1, n).astype(np.int64)
            if not after:  # a point on the upper wall belongs to the last cell, as in numpy.histogram
                i[(i == n) & (z[:, axis] <= self.grid.upper[axis])] = n - 1
            inside &= (i >= 0) & (i < n)
            flat = flat * n + i
        return np.where(inside, flat, -1)

    def fine(self, counts: np.ndarray) -> np.ndarray:
        """Smoothed counts (*shape) on the fine cells."""
        return self._apply(counts[None], [np.arange(n) for n in self.shape], False)[0]

    def __call__(self, counts: np.ndarray, wide: bool = False) -> np.ndarray:
        """Smoothed counts at the centres of the grid, (draws, cells) from (draws, *shape).

        `wide` triples the box or doubles h.
        """
        middle = [
            before + s // 2 + s * np.arange(n) for n, s, (before, _) in zip(self.grid.shape, self.split, self.margins)
        ]
        return self._apply(counts, middle, wide).reshape(len(counts), -1)

    def _apply(self, counts: np.ndarray, at: list[np.ndarray], wide: bool) -> np.ndarray:
        for axis, places in enumerate(at):
            fields = np.moveaxis(counts, axis + 1, 0)
            smooth = self._operator(axis, places, wide) @ fields.reshape(len(fields), -1)
            counts = np.moveaxis(smooth.reshape(len(places), *fields.shape[1:]), 0, axis + 1)
        return counts

    def _operator(self, axis: int, places: np.ndarray, wide: bool) -> scipy.sparse.csr_array:
        """The kernel around each of the places along an axis: it goes round a periodic one, is mirrored at an end."""
        cells = self.shape[axis]
        if self.bandwidth is None:
            weights = np.ones(3 if wide else 1)
        else:
            h = self.bandwidth[axis] * (_WIDER if wide else 1.0) / self.width[axis]
            variance, reach = h * h - 1 / 12, math.ceil((_WIDE_REACH if wide else _REACH) * h)
            weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
        weights /= weights.sum()
        to = places[:, None] + np.arange(len(weights)) - len(weights) // 2
        if self.grid.periodic[axis]:
            to = to % cells
        else:
            to = to % (2 * cells)
            to = np.minimum(to, 2 * cells - 1 - to)
        rows = np.repeat(np.arange(len(places)), len(weights))
        data = np.tile(weights, (len(places), 1))
        if self.bandwidth is None and wide and not self.grid.periodic[axis]:
            # at an end the mirror image would count the slope: the parabola through three cells goes on beyond it
            for row, end, inward in ((0, 0, 1), (-1, cells - 1, -1)):
                if places[row] == end:
                    to[row], data[row] = end + inward * np.arange(3), np.array([4, -2, 1]) / 3
        data = data.ravel()
        return scipy.sparse.coo_array((data, (rows, to.ravel())), shape=(len(places), cells)).tocsr()

    def bias_factor(self) -> np.ndarray:
        """What Φ(wide) − Φ is to be multiplied with to give the bias of Φ, per cell.

        A bias ∝ h² is 9 times as large with a box three times as wide (1/8), 4 times with a kernel twice as wide
        (1/3); within 3h of a mirrored wall the kernel's bias is ∝ h, 2 times as large (1).
        """
        if self.bandwidth is None:
            return np.full(self.grid.size, 1 / 8)
        near = np.zeros(self.grid.shape, bool)
        for axis, (h, x) in enumerate(zip(self.bandwidth, self.grid.axes)):
            low, high = self.open_sides[axis]
            at_wall = ((x - self.grid.lower[axis] < 3 * h) & (not low)) | (
                (self.grid.upper[axis] - x < 3 * h) & (not high)
            )
            if not self.grid.periodic[axis]:
                near |= at_wall.reshape([-1 if a == axis else 1 for a in range(self.grid.dim)])
        return np.where(near.ravel(), 1 / (_WIDER - 1), 1 / (_WIDER**2 - 1))


def normal_reference(dim: int, samples: float) -> float:
    """h/σ that minimises the mean integrated squared error for a Gaussian: (4/((d+2) n))^{1/(d+4)}."""
    return (4 / ((dim + 2) * samples)) ** (1 / (dim + 4))


def choose_bandwidth(
    z: np.ndarray, lengths: np.ndarray, grid: Grid, open_sides: tuple[tuple[bool, bool], ...]
) -> tuple[tuple[float, ...], float]:
    """h_i = ℓ_i (4/((d+2) n_h))^{1/(d+4)}, and n_h.

    ℓ_i = [E (∂_i log ρ)²]^{−½}, the scale of the density along axis i: σ of a Gaussian given the other variables,
    the width of one well of several. It is found with h by iteration: smoothing a Gaussian adds h² to its ℓ².
    n_h: the effective samples of e^{ix_i/h_i}, the least over the axes. Modes of that wave length are what the kernel
    lets through last, so they, and not the slowest hops between wells, say how noisy it is at its own scale.
    """
    dim, total = grid.dim, len(z)
    quartiles = np.quantile(z, [0.25, 0.75], axis=0)
    scale = z.std(axis=0)
    iqr = (quartiles[1] - quartiles[0]) / 1.349
    scale = np.where(iqr > 0, np.minimum(scale, iqr), scale)
    samples, h = float(total), np.zeros(dim)
    for _ in range(8):
        last, h = h, scale * normal_reference(dim, samples)
        if (np.abs(h - last) < 0.03 * h).all():
            break
        times = [correlation_time(np.array(wave(x / b)), lengths) for x, b in zip(z.T, h) for wave in (np.cos, np.sin)]
        samples = total / max(1.0, *times)
        smoother = Smoother(grid, tuple(h), open_sides)
        cells = smoother.cells(z)
        counts = np.bincount(cells[cells >= 0], minlength=math.prod(smoother.shape)).reshape(smoother.shape)
        density = smoother.fine(counts.astype(float))
        # independent samples under the kernel, (4π)^{d/2} h₁…h_d of density; where few are, slopes are noise
        seen = density * samples / total * np.prod(2 * math.sqrt(math.pi) * h / smoother.width) >= 10
        if not seen.any():
            break
        for axis in range(dim):
            slope = np.gradient(density, smoother.width[axis], axis=axis)[seen] / density[seen]
            information = np.average(slope**2, weights=density[seen])
            scale[axis] = math.sqrt(max(1 / information - h[axis] ** 2, h[axis] ** 2 / 4)) if information else np.inf
            span = grid.upper[axis] - grid.lower[axis]
            scale[axis] = min(scale[axis], span / math.sqrt(12))  # that of no structure at all
    return tuple(float(v) for v in h), samples
