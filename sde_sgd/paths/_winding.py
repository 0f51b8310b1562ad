"""How far paths turn about a point, or around a periodic axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples

from ._frame import Part, indent, lane_loop
from ._observable import Blocks, Estimate, Setting, half

_BLOCKS = 16  # of paths, for the bias of the step; the error itself is over single paths


@dataclass(frozen=True)
class Winding:
    r"""Observable: the total angle Θ that each path turns, and the mean angular velocity E[Θ]/t.

    For two `variables`, Θ is the angle the polygon of states turns about `center`, counter-clockwise from the first
    variable to the second: the crossings of the half line from the centre along the negative first axis are counted
    with their signs, Θ = 2π·(crossings) + angle(end) − angle(start), which is exact. For one periodic variable, Θ is
    2π times the number of periods travelled.

    Steps up to `burn_in` are left out. Adds to the result `angular_velocity` (radians per unit of time) and
    `angular_velocity_error`, the standard error over paths, which are independent; with `per_path` also `winding`
    (path), Θ/2π in turns.

    Raises ValueError for other variables, `TooFewSamples` for a single path. In a steady state the mean angular
    velocity is 0 where detailed balance holds. A step must turn by less than π, so that no polygon of a path that
    comes close to the centre is right; where paths reach it, the angular velocity has heavy tails (Spitzer 1958).
    """

    variables: str | Sequence[str] = ("x", "y")
    center: Sequence[float] = (0.0, 0.0)
    burn_in: int = 0
    per_path: bool = False

    def __post_init__(self):
        names = (self.variables,) if isinstance(self.variables, str) else tuple(self.variables)
        if len(names) not in (1, 2) or not all(isinstance(v, str) for v in names) or len(set(names)) < len(names):
            raise ValueError(f"winding is that of one periodic variable or of two different ones, got {names}")
        object.__setattr__(self, "variables", names)
        center = _checks.finite_array("center", self.center, (2,))
        object.__setattr__(self, "center", tuple(center.tolist()))
        object.__setattr__(self, "burn_in", _checks.whole("burn_in", self.burn_in, 0))
        if not isinstance(self.per_path, bool):
            raise ValueError(f"per_path must be True or False, got {self.per_path!r}")

    def tally(self, setting: Setting) -> "_WindingTally":
        """The winding at work in a run."""
        return _WindingTally(self, setting)

    def halved(self) -> "Winding":
        """The same at steps twice as long."""
        return replace(self, burn_in=half("burn_in", self.burn_in))


class _WindingTally:
    """Per path: the signed crossings (or periods), then the first and the last state that count."""

    def __init__(self, winding: Winding, setting: Setting):
        domain = setting.domain
        self._winding, self._setting = winding, setting
        for v in winding.variables:
            _checks.choice("a variable of the winding", v, domain.variables)
        self._axes = [domain.variables.index(v) for v in winding.variables]
        wraps = [v for v, i in zip(winding.variables, self._axes) if domain.periodic[i]]
        if len(self._axes) == 1 and not wraps:
            raise ValueError(
                f"winding along {winding.variables[0]!r} alone needs it to be periodic in the domain; name two "
                "variables for the angle about a point"
            )
        if len(self._axes) == 2 and wraps:
            raise ValueError(
                f"winding about a point needs a plane, and {wraps[0]!r} is periodic; Winding({wraps[0]!r}) counts its "
                "periods"
            )
        if setting.paths < 2:
            raise TooFewSamples("the error of an angular velocity needs at least 2 paths, got 1")
        if winding.burn_in >= setting.steps:
            raise TooFewSamples(f"no step is counted: burn_in {winding.burn_in} of {setting.steps} steps")
        self._duration = float(setting.times(setting.steps) - setting.times(winding.burn_in))
        name, axes = setting.name, range(len(self._axes))
        self.part = Part(
            sums=(f"{name}_turns", *(f"{name}_from{k}" for k in axes), *(f"{name}_to{k}" for k in axes)),
            arguments=(f"{name}_burn_in", f"{name}_last", f"{name}_center"),
            values=(winding.burn_in, setting.steps, np.array(winding.center)),
            step=[
                f"if count == {name}_burn_in + 1:",
                *indent(
                    lane_loop(
                        [
                            f"{name}_turns[j] = 0.0",
                            *(f"{name}_from{k}[j] = X{i}[j]" for k, i in enumerate(self._axes)),
                        ]
                    )
                ),
            ],
            lanes=self._lines(name),
            after=[
                f"if count == {name}_last:",
                *indent(lane_loop([f"{name}_to{k}[j] = X{i}[j]" for k, i in enumerate(self._axes)])),
            ],
        )
        self._blocks = Blocks(min(_BLOCKS, setting.paths), setting.paths, 2)
        self.arrays: list[np.ndarray] = [self._blocks.sums]
        if winding.per_path:
            self.arrays.append(np.zeros(setting.paths))

    def _lines(self, name: str) -> list[str]:
        """A step from p to q crosses the half line counter-clockwise if it goes down through it, p × q > 0."""
        if len(self._axes) == 1:
            return [f"{name}_turns[j] += turns{self._axes[0]}"]
        i, k = self._axes
        p, q = f"{name}_p", f"{name}_q"
        return [
            f"{p}0 = x{i} - {name}_center[0]",
            f"{p}1 = x{k} - {name}_center[1]",
            f"{q}0 = y{i} - {name}_center[0]",
            f"{q}1 = y{k} - {name}_center[1]",
            f"{name}_area = {p}0 * {q}1 - {p}1 * {q}0",
            f"{name}_down = ({p}1 >= 0.0) & ({q}1 < 0.0) & ({name}_area > 0.0)",
            f"{name}_up = ({p}1 < 0.0) & ({q}1 >= 0.0) & ({name}_area < 0.0)",
            f"{name}_turns[j] += np.float64({name}_down) - np.float64({name}_up)",
        ]

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        if len(self._axes) == 1:
            (i,) = self._axes
            turns = sums[0] + (sums[2] - sums[1]) / self._setting.domain.period[i]
        else:
            a, b = self._winding.center
            # + 0.0: a coordinate of −0.0 lies on the upper side, as in the kernel
            angle = [np.arctan2(y - b + 0.0, x - a) for x, y in (sums[1:3], sums[3:5])]
            turns = sums[0] + (angle[1] - angle[0]) / (2 * math.pi)
        self._blocks.add(np.stack([turns, turns**2]), places)
        if self._winding.per_path:
            self.arrays[1][places] = turns

    def count(self, counts: np.ndarray) -> None:
        """It counts nothing."""

    def estimates(self) -> dict[str, Estimate]:
        """The angular velocity, with the blocks' own."""
        sums, sizes = self._blocks.sums[0], self._blocks.sizes
        rate = 2 * math.pi / self._duration
        return {"angular_velocity": Estimate((), rate * sums.sum() / sizes.sum(), rate * sums / sizes, "weak_order")}

    def dataset(self) -> xr.Dataset:
        paths = self._setting.paths
        first, second = self._blocks.sums.sum(1)
        variance = max(second - first**2 / paths, 0.0) / (paths - 1)
        error = 2 * math.pi / self._duration * math.sqrt(variance / paths)
        attrs = {"burn_in": self._winding.burn_in, "winding_of": ", ".join(self._winding.variables)}
        arrays: dict[str, Any] = {
            "angular_velocity": ((), self.estimates()["angular_velocity"].value, attrs),
            "angular_velocity_error": ((), error, attrs),
        }
        if self._winding.per_path:
            arrays["winding"] = (self._setting.member, self.arrays[1], attrs)
        return xr.Dataset(arrays)
