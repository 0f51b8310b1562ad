"""Paths that leave a region: found at the end of a step, or between its two ends by the Brownian bridge."""

import numpy as np
import sympy as sp
import xarray as xr

from sde_sgd._region import Region
from sde_sgd.process import Process

from ._frame import LANES, PATH, Part, indent, lane_loop
from ._model import Model
from ._noise import UNIFORM_STREAM

_TINY = 1e-300  # where nothing spreads across the boundary, nothing crosses it between two points inside
_SURE = 40.0  # e^−40 is rounding; far smaller values would be subnormal numbers, at which processors are slow
_STOP_EVERY = 64  # steps between two looks at whether a chunk has any path left


class Exits:
    """The steps at which paths leave a region (0 while inside), as a tally; a path that left stands still.

    A step from x to y, both inside {φ_k > 0}, has left and come back with probability 1 − Π_k (1 − p_k),
    p_k = exp(−φ_k(x) φ_k(y)/(T h ∇φ_kᵀ D ∇φ_k)): exact for a half space and constant coefficients, and it raises
    the order of exit times from ½ to 1 (Gobet 2000). One uniform number decides.
    """

    def __init__(self, name: str, region: Region, process: Process, model: Model, paths: int, bridge: bool, stop: bool):
        self.arrays = [np.zeros(paths)]
        old = region.names()
        new = {s: sp.Symbol(str(c).replace("x", "y"), real=True) if str(c)[0] == "x" else c for s, c in old.items()}
        row, first, second = f"{name}_step", f"{name}_first", f"{name}_second"
        lanes: list[str] = []
        step: list[str] = []
        if bridge:
            lanes += region.lane_lines(old, prefix="f")
            step = [
                "if step % 2 == 0 or k == 0:",
                *indent(
                    lane_loop(
                        [
                            PATH,
                            f"{first}[j], {second}[j] = _two_uniforms(np.uint64(step // 2), "
                            f"np.uint64({UNIFORM_STREAM}), path & _LOW, path >> _U32, key0, key1)",
                        ]
                    )
                ),
                "odd_step = step % 2 == 1",
            ]
        lanes += region.lane_inside(new, output="inside", prefix="g")
        lanes += ["gone = not inside"]
        if bridge:
            assert region.levels is not None
            lanes.append("stays = 1.0")
            for k in range(len(region.levels)):
                spread = " + ".join(
                    f"f{k}_{i} * f{k}_{j} * {model.covariance(i, j)}"
                    for i in range(model.dim)
                    for j in range(model.dim)
                    if model.constant is None or model.constant[i, j] != 0
                )
                lanes += [
                    f"spread = T * h * ({spread or '0.0'})",
                    f"exponent = min(max(f{k} * g{k}, 0.0) / max(spread, {_TINY}), {_SURE})",
                    f"stays = stays * (1.0 - _exp({model.cast('-exponent')}))",  # _exp reads bits of this type only
                ]
            lanes += [
                f"u = {second}[j] if odd_step else {first}[j]",
                "gone = gone | (u > stays)",
            ]
        lanes += [f"alive = {row}[j] == 0.0", f"{row}[j] = np.float64(count) if alive & gone else {row}[j]"]
        lanes += [f"y{i} = y{i} if alive else x{i}" for i in range(process.dim)]
        after = [
            f"if count % {_STOP_EVERY} == 0:",
            *indent(
                [
                    "left = 0",
                    *lane_loop([f"left += np.int64({row}[j] > 0.0)"]),
                    f"if left == {LANES}:",
                    *indent(["break"]),
                ]
            ),
        ]
        mask = {} if region.mask is None else region.mask.arguments("g")
        self.part = Part(
            sums=(row,),
            scratch=(first, second) if bridge else (),
            arguments=tuple(mask),
            values=tuple(mask.values()),
            step=step,
            lanes=lanes,
            after=after if stop else (),
        )

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        self.arrays[0][places] = sums[0]

    def count(self, counts: np.ndarray) -> None:
        """It counts nothing."""

    @property
    def steps(self) -> np.ndarray:
        """The step at whose end, or during which, each path left; 0 for those that never did."""
        return self.arrays[0]

    def dataset(self) -> xr.Dataset:
        """Nothing of its own: `exit_times` and `walls="absorb"` word their own results."""
        return xr.Dataset()
