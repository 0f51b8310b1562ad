"""Covariance between states a fixed time apart, accumulated while paths run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples

from ._frame import LANES, Part, indent, lane_loop
from ._observable import (
    Blocks,
    Estimate,
    Setting,
    check_run,
    check_sampling,
    estimated,
    half,
    sampled,
    sampling_arguments,
    sampling_attributes,
)

_UNROLLED = 4  # variables up to which the kernel's text names every product


@dataclass(frozen=True)
class LagCovariance:
    r"""Observable: C(lag) = E[(x(t + lag) − m)(x(t) − m)ᵀ], m = E[x], over time and paths.

    After `burn_in` steps every `every`-th state is looked at, and `lags` = (l₁ < l₂ < …) are multiples of `every`
    steps, 0 allowed. Paths are split into `blocks` contiguous groups, whose scatter is the standard error.
    Adds to the result `lag_covariance` and `lag_covariance_error` (lag, variable, variable_2), the first variable at
    the later time, and the coordinate `lag_time` where all steps are equal.

    For a linear process C(t) = e^{−Ft} S. C(t) = C(t)ᵀ for every t where detailed balance holds, and
    (C(t) − C(t)ᵀ)/t → −2TQ as t → 0 where it does not: this antisymmetric part shows a current that no
    autocorrelation shows.

    Cost: d² products per lag and sample; per path (l_max + d·lags + lags + 1)·d float64 numbers, so take `every`
    large for long lags. Raises `TooFewSamples` for a run shorter than burn_in + (l_max + 1)·every. Not for periodic
    variables, and not before the process is stationary. Risken (1989), §7.
    """

    lags: Sequence[int]
    burn_in: int = 0
    every: int = 1
    blocks: int = 16

    def __post_init__(self):
        check_sampling(self)
        if isinstance(self.lags, str) or not hasattr(self.lags, "__iter__"):
            raise ValueError(f"lags must be a sequence of whole numbers >= 0, got {self.lags!r}")
        lags = tuple(_checks.whole("a lag", lag, 0) for lag in self.lags)
        if not lags or any(b <= a for a, b in itertools.pairwise(lags)):
            raise ValueError(f"lags must increase, and one is needed at least, got {lags}")
        object.__setattr__(self, "lags", lags)

    def tally(self, setting: Setting) -> "_LagTally":
        """The lag covariance at work in a run."""
        return _LagTally(self, setting)

    def halved(self) -> "LagCovariance":
        """The same lags in time at steps twice as long."""
        burn_in = half("burn_in", self.burn_in)
        if self.every % 2 and not any(lag % 2 for lag in self.lags):
            return replace(self, burn_in=burn_in, lags=[lag // 2 for lag in self.lags])
        return replace(self, burn_in=burn_in, every=half("every", self.every, " (or every lag)"))


class _LagTally:
    """Per path: Σ x over the samples, Σ x over the first l of them, Σ x_{n+l} x_nᵀ, and the last l_max samples."""

    def __init__(self, observable: LagCovariance, setting: Setting):
        self._observable, self._setting = observable, setting
        self._samples = check_run(observable, setting.paths, setting.steps)
        self._lags = np.array(observable.lags)
        longest = int(self._lags[-1])
        if longest >= self._samples:
            raise TooFewSamples(
                f"no pair of states is {longest} samples apart: a run of {setting.steps} steps has {self._samples}; "
                "run longer, or take shorter lags"
            )
        self._origin = np.array(setting.start[0], float)
        name, d, lags = setting.name, len(self._origin), len(self._lags)
        self._ring = max(longest, 1)
        arguments, values = sampling_arguments(name, observable)
        self.part = Part(
            tables=(
                (f"{name}_sum", d),
                (f"{name}_head", d * lags),
                (f"{name}_product", d * d * lags),
                (f"{name}_past", d * self._ring),
            ),
            arguments=(*arguments, f"{name}_origin", f"{name}_lags"),
            values=(*values, self._origin, self._lags),
            setup=[f"{name}_now = np.empty(({d}, {LANES}))"],
            after=sampled(name, self._lines(name, d)),
        )
        # per lag: Σ x_{n+l} x_nᵀ, Σ x_n and Σ x_{n+l} over the pairs; and Σ x over all samples
        self._blocks = Blocks(observable.blocks, setting.paths, d + lags * (d * d + 2 * d))
        self.arrays = [self._blocks.sums]

    def _lines(self, name: str, d: int) -> list[str]:
        now, head, product, past = (f"{name}_now", f"{name}_head", f"{name}_product", f"{name}_past")
        ring = self._ring
        if d <= _UNROLLED:
            add = lane_loop(
                [
                    *(f"{name}_v{l} = tally[at_{past} + slot + {l}, j]" for l in range(d)),
                    *(
                        f"tally[at_{product} + lag * {d * d} + {i * d + l}, j] += {now}[{i}, j] * {name}_v{l}"
                        for i in range(d)
                        for l in range(d)
                    ),
                ]
            )
        else:
            add = [
                f"for i in range({d}):",
                f"    for l in range({d}):",
                f"        place = at_{product} + lag * {d * d} + i * {d} + l",
                *indent(lane_loop([f"tally[place, j] += {now}[i, j] * tally[at_{past} + slot + l, j]"]), 2),
            ]
        at_zero = [
            f"for i in range({d}):",
            f"    for l in range({d}):",
            *indent(
                lane_loop([f"tally[at_{product} + lag * {d * d} + i * {d} + l, j] += {now}[i, j] * {now}[l, j]"]), 2
            ),
        ]
        each = f"for i in range({d}):"
        return [
            f"sample = (count - {name}_burn_in) // {name}_every - 1",
            each,
            *indent(lane_loop([f"{now}[i, j] = work[i, j] - {name}_origin[i]"])),
            f"for lag in range({name}_lags.shape[0]):",
            *indent(
                [
                    f"back = {name}_lags[lag]",
                    "if sample == back:",
                    f"    {each}",
                    *indent(lane_loop([f"tally[at_{head} + lag * {d} + i, j] = tally[at_{name}_sum + i, j]"]), 2),
                    "if back == 0:",
                    *indent(at_zero),
                    "elif sample >= back:",
                    f"    slot = (sample - back) % {ring} * {d}",
                    *indent(add),
                ]
            ),
            f"slot = sample % {ring} * {d}",
            each,
            *indent(
                lane_loop(
                    [
                        f"tally[at_{name}_sum + i, j] += {now}[i, j]",
                        f"tally[at_{past} + slot + i, j] = {now}[i, j]",
                    ]
                )
            ),
        ]

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        d, lags, paths = len(self._origin), len(self._lags), sums.shape[1]
        total, head, product, past = np.split(sums, np.cumsum([d, d * lags, d * d * lags]))
        past = past.reshape(self._ring, d, paths)
        # the pairs of a lag begin at all samples but the last l, and end at all but the first l
        ends = total - head.reshape(lags, d, paths)
        begins = np.empty_like(ends)
        rest, last = total.copy(), 0
        for k, lag in enumerate(self._lags):
            for n in range(last, lag):
                rest -= past[(self._samples - 1 - n) % self._ring]
            begins[k], last = rest, lag
        self._blocks.add(np.concatenate([total, product, *begins, *ends]), places)

    def count(self, counts: np.ndarray) -> None:
        """It counts nothing."""

    def estimates(self) -> dict[str, Estimate]:
        """The lag covariances, with the blocks' own."""
        d, lags, sizes = len(self._origin), len(self._lags), self._blocks.sizes
        total, product, begins, ends = np.split(self._blocks.sums, np.cumsum([d, d * d * lags, d * lags]))
        mean = total.sum(1) / (self._samples * sizes.sum())
        product = product.reshape(lags, d, d, -1)
        begins, ends = begins.reshape(lags, d, -1), ends.reshape(lags, d, -1)
        pairs = (self._samples - self._lags)[:, None] * sizes
        m = mean[:, None]
        centred = product - m[:, None] * begins[:, None] - ends[:, :, None] * m
        centred += (m[:, None] * m)[None] * pairs[:, None, None]
        value = centred.sum(-1) / pairs.sum(-1)[:, None, None]
        blocks = np.moveaxis(centred / pairs[:, None, None], -1, 0)
        return {"lag_covariance": Estimate(("lag", "variable", "variable_2"), value, blocks, "weak_order")}

    def dataset(self) -> xr.Dataset:
        names, observable, clock = list(self._setting.domain.variables), self._observable, self._setting.clock
        coords = {"lag": self._lags, "variable": names, "variable_2": names}
        if clock is not None and np.ndim(clock) == 0:
            coords["lag_time"] = ("lag", self._lags * observable.every * clock)
        return estimated(self.estimates(), coords, sampling_attributes(observable, self._samples * self._setting.paths))
