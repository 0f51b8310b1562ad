"""Mean and covariance matrix accumulated while paths run."""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from ._frame import Part, indent, lane_loop
from ._observable import (
    Blocks,
    Estimate,
    Setting,
    check_run,
    check_sampling,
    estimated,
    half,
    half_every,
    sampled,
    sampling_arguments,
    sampling_attributes,
)

_UNROLLED = 4  # variables up to which the kernel's text names every product


@dataclass(frozen=True)
class Moments:
    r"""Observable: m = E[x] and S = E[(x − m)(x − m)ᵀ] over time and paths.

    After `burn_in` steps every `every`-th state of every path is summed, in float64 about the start of the first
    path. Paths are split into `blocks` contiguous groups; groups are independent, so that their scatter is an honest
    standard error however correlated one path is.
    Adds to the result `mean` (variable), `covariance` (variable, variable_2), each with its standard error
    `mean_error`, `covariance_error`, and `effective_samples` (variable) = S_ii/mean_error_i²: how many independent
    draws would give the same error of the mean, which is itself known to √(2/(blocks − 1)), 37 % for 16 blocks.

    Cost: d(d + 3)/2 additions and float64 numbers per path. Raises `TooFewSamples` for fewer paths than blocks or a
    run shorter than burn_in + every. Not for periodic variables, whose mean depends on where the period is cut, nor
    for heavy tails without a variance; a start thousands of standard deviations away costs digits of S. A path that
    an absorbing wall stopped goes on being counted where it stopped.
    """

    burn_in: int = 0
    every: int = 1
    blocks: int = 16

    def __post_init__(self):
        check_sampling(self)

    def tally(self, setting: Setting) -> "_MomentsTally":
        """The moments at work in a run."""
        return _MomentsTally(self, setting)

    def halved(self) -> "Moments":
        """The same at steps twice as long."""
        return replace(self, burn_in=half("burn_in", self.burn_in), every=half_every(self.every))


class _MomentsTally:
    def __init__(self, moments: Moments, setting: Setting):
        self._moments, self._setting = moments, setting
        self._samples = check_run(moments, setting.paths, setting.steps)
        self._origin = np.array(setting.start[0], float)
        name, d = setting.name, len(self._origin)
        self._pairs = [(i, j) for i in range(d) for j in range(i + 1)]
        arguments, values = sampling_arguments(name, moments)
        self.part = Part(
            tables=((f"{name}_sum", d + len(self._pairs)),),
            arguments=(*arguments, f"{name}_origin"),
            values=(*values, self._origin),
            after=sampled(name, self._lines(name, d)),
        )
        self._blocks = Blocks(moments.blocks, setting.paths, d + len(self._pairs))
        self.arrays = [self._blocks.sums]

    def _lines(self, name: str, d: int) -> list[str]:
        row = f"tally[at_{name}_sum"
        if d <= _UNROLLED:
            lines = [f"{name}_u{i} = X{i}[j] - {name}_origin[{i}]" for i in range(d)]
            lines += [f"{row} + {i}, j] += {name}_u{i}" for i in range(d)]
            return lane_loop(
                [*lines, *(f"{row} + {d + k}, j] += {name}_u{i} * {name}_u{l}" for k, (i, l) in enumerate(self._pairs))]
            )
        return [
            f"place = {d}",
            f"for i in range({d}):",
            *indent(
                [
                    f"a = {name}_origin[i]",
                    *lane_loop([f"{row} + i, j] += work[i, j] - a"]),
                    "for l in range(i + 1):",
                    *indent(
                        [
                            f"c = {name}_origin[l]",
                            *lane_loop([f"{row} + place, j] += (work[i, j] - a) * (work[l, j] - c)"]),
                            "place += 1",
                        ]
                    ),
                ]
            ),
        ]

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        self._blocks.add(sums, places)

    def count(self, counts: np.ndarray) -> None:
        """It counts nothing."""

    def estimates(self) -> dict[str, Estimate]:
        """mean and covariance, with the blocks' own."""
        d, size = len(self._origin), self._blocks.sizes * self._samples
        sums = self._blocks.sums
        first = np.zeros((d, sums.shape[1]))
        second = np.zeros((d, d, sums.shape[1]))
        first[:] = sums[:d]
        for k, (i, j) in enumerate(self._pairs):
            second[i, j] = second[j, i] = sums[d + k]
        mean, means = first.sum(1) / size.sum(), first / size
        gap = means - mean[:, None]  # E_b[(x − m)(x − m)ᵀ] = E_b[(x − m_b)(x − m_b)ᵀ] + (m_b − m)(m_b − m)ᵀ
        within = second / size - means[:, None] * means
        spread = within + gap[:, None] * gap
        return {
            "mean": Estimate(("variable",), self._origin + mean, (self._origin[:, None] + means).T),
            "covariance": Estimate(
                ("variable", "variable_2"), (spread * size).sum(-1) / size.sum(), np.moveaxis(spread, -1, 0)
            ),
        }

    def dataset(self) -> xr.Dataset:
        estimates, names = self.estimates(), list(self._setting.domain.variables)
        attrs = sampling_attributes(self._moments, self._samples * self._setting.paths)
        result = estimated(estimates, {"variable": names, "variable_2": names}, attrs)
        error = estimates["mean"].error
        variance = np.diag(estimates["covariance"].value)
        effective = np.where(error == 0, np.inf, variance / np.where(error == 0, 1.0, error) ** 2)
        return result.assign(effective_samples=("variable", effective, attrs))
