"""When paths first enter a region, without stopping them there."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr

from sde_sgd import _checks
from sde_sgd._region import Region
from sde_sgd.errors import TooFewSamples

from ._frame import Part, indent, lane_loop
from ._observable import Setting

_FUNCTIONS = re.compile(r"\b_(exp|log|tanh|sin|cos|sinh|cosh|tan)\(")


@dataclass(frozen=True)
class FirstPassage:
    r"""Observable: τ = min{t_n : x(t_n) ∈ region} of each path, which goes on.

    Parameters
    ----------
    region : inequalities such as "x > 0 and x**2 + y**2 < 1" over the variables, or a boolean DataArray over them.
    times : where the survival curve is wanted, increasing, within the run; or how many equal times from 0 to the end.
    per_path : True adds `first_passage` (path) as well, inf for paths that never arrived.

    Adds to the result `passage_time`, the mean of min(τ, t_end), with `passage_time_error`, its standard error over
    paths; `survival` (survival_time) = P(τ > t) with `survival_error` = √(S(1 − S)/paths); `censored`, how many
    paths never arrived. Where `censored` > 0, `passage_time` is a lower bound of E[τ].

    Raises ValueError for a region given as a function, which the kernel cannot call, and for times beyond the run;
    `TooFewSamples` for a single path. States are looked at after every step, so that τ is late by O(√h): `exit_times`
    corrects this, stops paths that are done and is what mean exit times should be taken from. Paths inside at the
    start have τ = 0.
    """

    region: Any
    times: int | Sequence[float] = 65
    per_path: bool = False

    def __post_init__(self):
        if np.ndim(self.times) == 0:
            count = _checks.whole("times", self.times, 2, None, "or give the times themselves")
            object.__setattr__(self, "times", count)
        else:
            times = _checks.finite_array("times", self.times)
            if times.ndim != 1 or not times.size or (np.diff(times) <= 0).any() or times[0] < 0:
                raise ValueError(f"times must be >= 0 and increase, got {self.times!r}")
            object.__setattr__(self, "times", tuple(times.tolist()))
        if not isinstance(self.per_path, bool):
            raise ValueError(f"per_path must be True or False, got {self.per_path!r}")

    def tally(self, setting: Setting) -> "_PassageTally":
        """The first passages at work in a run."""
        return _PassageTally(self, setting)

    def halved(self) -> "FirstPassage":
        raise ValueError(
            "step_bias knows no order for a FirstPassage, whose times are late by O(√h); compare two steps, or take "
            "exit_times"
        )


class _PassageTally:
    """Per path: 1 + the number of steps to the first state inside, 0 as long as there is none."""

    def __init__(self, passage: FirstPassage, setting: Setting):
        domain = setting.domain
        self._passage, self._setting = passage, setting
        region = Region.of(passage.region, domain.variables, domain=domain, what="region")
        if region.function is not None:
            raise ValueError(
                f"the region {region.describe()!r} is a Python function, which a kernel cannot call; give "
                "inequalities or a boolean DataArray"
            )
        if setting.paths < 2:
            raise TooFewSamples("the error of a passage time needs at least 2 paths, got 1")
        end = float(setting.times(setting.steps))
        asked = passage.times
        self._times = np.linspace(0.0, end, asked) if isinstance(asked, int) else np.array(asked)
        if self._times[-1] > end * (1 + 1e-12):
            raise ValueError(f"times reach {self._times[-1]:g}, the run ends at {end:g}; run longer or ask for less")
        self._region = region
        # how many steps are done at each time: a passage at step n is before it if n is not greater
        late = self._times * (1 + 1e-12)
        if isinstance(setting.clock, np.ndarray):
            every = setting.times(np.arange(setting.steps + 1))
            self._steps = np.searchsorted(every, late, side="right") - 1
        else:
            self._steps = np.floor(late / float(setting.times(1))).astype(np.int64)
        self.part = self._kernel_part(setting.name, region)
        self.arrays: list[np.ndarray] = [
            np.zeros(len(self._times), np.int64), np.zeros(1, np.int64), np.zeros(2),
            *([np.full(setting.paths, np.inf)] if passage.per_path else []),
        ]  # fmt: skip

    @staticmethod
    def _kernel_part(name: str, region: Region) -> Part:
        symbols: dict[sp.Symbol, sp.Symbol] = {}
        values: list[float] = []
        for symbol, canonical in region.names().items():
            if str(canonical).startswith("p"):
                symbols[symbol] = sp.Symbol(f"{name}_p{len(values)}", real=True)
                values.append(region.parameters[str(symbol)])
            else:
                symbols[symbol] = sp.Symbol(f"{name}_{canonical}", real=True)
        mask = {} if region.mask is None else region.mask.arguments(f"{name}_f")
        inside = region.lane_inside(symbols, output=f"{name}_inside", prefix=f"{name}_f")
        # in float64 whatever the kernel's type is, so that membership is that of Region.contains
        look = [f"{name}_x{i} = np.float64(X{i}[j])" for i in range(len(region.variables))]
        look += [_FUNCTIONS.sub(r"math.\1(", line) for line in inside]
        row = f"{name}_passed"
        return Part(
            sums=(row,),
            arguments=(f"{name}_parameters", *mask),
            values=(np.array([*values, 0.0]), *mask.values()),
            setup=[f"{name}_p{k} = {name}_parameters[{k}]" for k in range(len(values))],
            step=["if count == 1:", *indent(lane_loop([*look, f"{row}[j] = np.float64({name}_inside)"]))],
            after=[
                f"{name}_now = np.float64(count + 1)",
                *lane_loop([*look, f"{row}[j] = {name}_now if {name}_inside & ({row}[j] == 0.0) else {row}[j]"]),
            ],
        )

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        before, missing, moments = self.arrays[:3]
        arrived, steps = sums[0] > 0, sums[0].astype(np.int64) - 1
        order = np.sort(steps[arrived])
        before += np.searchsorted(order, self._steps, side="right")
        missing += np.count_nonzero(~arrived)
        times = self._setting.times(np.where(arrived, steps, self._setting.steps))
        for k, values in enumerate((times, times**2)):
            moments[k] = np.bincount(np.zeros(len(values) + 1, np.int64), np.append(moments[k], values))[0]
        if self._passage.per_path:
            self.arrays[3][places] = np.where(arrived, times, np.inf)

    def count(self, counts: np.ndarray) -> None:
        """It counts nothing."""

    def dataset(self) -> xr.Dataset:
        before, missing, (first, second) = self.arrays[:3]
        paths = self._setting.paths
        alive = 1.0 - before / paths
        variance = max(second - first**2 / paths, 0.0) / (paths - 1)
        attrs = {"region": self._region.describe()}
        arrays: dict[str, Any] = {
            "passage_time": ((), first / paths, attrs),
            "passage_time_error": ((), math.sqrt(variance / paths), attrs),
            "survival": ("survival_time", alive, attrs),
            "survival_error": ("survival_time", np.sqrt(alive * (1 - alive) / paths), attrs),
            "censored": ((), int(missing[0]), attrs),
        }
        if self._passage.per_path:
            arrays["first_passage"] = (self._setting.member, self.arrays[3], attrs)
        return xr.Dataset(arrays, coords={"survival_time": self._times})
