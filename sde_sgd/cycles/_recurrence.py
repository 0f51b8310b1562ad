"""Guesses for closed orbits: trajectories forward and backward in time that come back to where they were.

Everything is in units of the box.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from ._field import Field
from ._fixed_points import FixedPoint
from ._flow import Ensemble

TOLERANCE = 1e-7
MARGIN = 1.0  # box widths a trajectory may leave the box by, on every side, before it is given up
CAPTURE = 1e-5  # of the box: this near a fixed point that attracts, a trajectory has ended


@dataclass
class Guess:
    """Points (n, d), times of return (n,), directions of time, widths of the loops, gaps over those, and steps."""

    x: np.ndarray
    period: np.ndarray
    sign: np.ndarray
    extent: np.ndarray
    gap: np.ndarray
    steps: np.ndarray
    trajectory: np.ndarray


def starts(v: Field, number: int, points: list[FixedPoint], origin: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Sobol points of the box, and four beside every fixed point, where a small cycle would begin."""
    sobol = qmc.Sobol(v.dim, seed=0).random_base2(int(np.ceil(np.log2(number))))[:number]
    turn = np.random.default_rng(0)
    near = []
    for point in points:
        for reach in (1e-3, 1e-2, 3e-2, 1e-1):
            away = turn.normal(size=v.dim)
            near.append((point.position - origin) / width + reach * away / np.linalg.norm(away))
    return np.concatenate([sobol, np.array(near).reshape(-1, v.dim)])


class Trajectories:
    """Trajectories of v from starts (n, d), both ways in time, with every step they took."""

    def __init__(self, v: Field, x: np.ndarray, rest: np.ndarray, attracts: np.ndarray, steps: int):
        """`rest` (k, d): the fixed points; `attracts` (k, 2): whether forward, backward trajectories end there."""
        self.v, self.rest, self.attracts = v, rest, attracts
        sign = np.repeat([1.0, -1.0], len(x))
        x = np.concatenate([x, x])
        self.run = Ensemble(v.value, x, np.full(v.dim, 0.1), TOLERANCE, sign)
        self.t = np.zeros((len(x), steps + 1))
        self.x = np.full((len(x), steps + 1, v.dim), np.nan)
        self.f = np.full((len(x), steps + 1, v.dim), np.nan)
        self.x[:, 0], self.f[:, 0] = self.run.x, self.run.f
        self.count = np.zeros(len(x), int)
        self.live = self.run.ok.copy()
        self.slowest = 1e-10 * float(np.max(np.linalg.norm(self.run.f[self.live], axis=-1), initial=0.0))

    def advance(self, steps: int) -> None:
        """So many trial steps of all trajectories that are still under way."""
        for _ in range(steps):
            live = np.flatnonzero(self.live)
            if not len(live):
                return
            done = live[self.run.take(live)]
            self.count[done] += 1
            k = self.count[done]
            self.t[done, k], self.x[done, k], self.f[done, k] = self.run.t[done], self.run.x[done], self.run.f[done]
            self.live &= self.run.ok & (self.count < self.t.shape[1] - 1)
            self.live[done] &= self.v.inside(self.run.x[done], MARGIN)
            self.live[done] &= np.linalg.norm(self.run.f[done], axis=-1) > self.slowest  # at rest, for all we can see
            if len(self.rest):
                away = self.v.gap(self.run.x[done, None] - self.rest)
                close = np.linalg.norm(away, axis=-1) < CAPTURE
                way = (self.run.sign[done] < 0).astype(int)
                self.live[done] &= ~(close & self.attracts[:, way].T).any(-1)

    def guesses(self, which: np.ndarray, most: float) -> Guess:
        """The last return of each trajectory `which` to where it is, of those with a gap below `most` of the loop."""
        found = [g for g in map(self._last_return, which) if g is not None and g[4] <= most]
        x, period, sign, extent, gap, steps, trajectory = zip(*found) if found else ([],) * 7
        return Guess(
            np.array(x).reshape(-1, self.v.dim),
            np.array(period, float),
            np.array(sign, float),
            np.array(extent, float),
            np.array(gap, float),
            np.array(steps, int),
            np.array(trajectory, int),
        )

    def _last_return(self, i: int) -> tuple | None:
        """Crossings of the plane across the velocity at the end, backward along the trajectory, in the same sense.

        Of the last eight loops the shortest is taken whose gap is no more than thrice the smallest: an orbit that
        winds twice before it closes is not taken for one that nearly closes.
        """
        n = self.count[i]
        if n < 8:
            return None
        t, x, f = self.t[i, : n + 1], self.x[i, : n + 1], self.f[i, : n + 1]
        if not np.linalg.norm(f[-1]) > 0:
            return None
        end, normal = x[-1], f[-1] / np.linalg.norm(f[-1])
        away = self.v.gap(x - end)
        height = away @ normal
        # On a periodic axis the difference jumps by a period half a turn away; that is no crossing.
        near = np.abs(np.diff(height)) < 0.5
        up = np.flatnonzero((height[:-1] < 0) & (height[1:] >= 0) & near)
        up = up[up < n - 1][::-1][:8]
        if not len(up):
            return None
        gaps, times, widths = [], [], []
        for k in up:
            h, s = t[k + 1] - t[k], -height[k] / (height[k + 1] - height[k])
            for _ in range(6):  # Newton for the crossing of the Hermite cubic
                point, slope = _hermite(away[k], away[k + 1], f[k], f[k + 1], h, s)
                s = float(np.clip(s - (point @ normal) / (slope @ normal or 1.0), 0.0, 1.0))
            gaps.append(np.linalg.norm(_hermite(away[k], away[k + 1], f[k], f[k + 1], h, s)[0]))
            times.append(t[-1] - t[k] - s * h)
            widths.append(np.linalg.norm(self.v.gap(x[k + 1 :] - end), axis=-1).max())
        relative = np.array(gaps) / np.maximum(widths, 1e-300)
        k = int(np.flatnonzero(relative <= max(3 * relative.min(), 1e-3))[0])
        if widths[k] < 1e-5:
            return None
        return end, times[k], self.run.sign[i], widths[k], relative[k], n - up[k], i


def _hermite(a: np.ndarray, b: np.ndarray, fa: np.ndarray, fb: np.ndarray, h: float, s: float) -> tuple:
    """Value and derivative in s of the cubic with values a, b and rates fa, fb over a step h."""
    value = (
        (1 + 2 * s) * (1 - s) ** 2 * a + s * (1 - s) ** 2 * h * fa + s * s * (3 - 2 * s) * b + s * s * (s - 1) * h * fb
    )
    slope = 6 * s * (1 - s) * (b - a) + (1 - s) * (1 - 3 * s) * h * fa + s * (3 * s - 2) * h * fb
    return value, slope
