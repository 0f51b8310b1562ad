"""Wells in one variable, and the mean time over their barrier."""

import math
from dataclasses import dataclass
from functools import cache

from scipy.integrate import quad

import sde_sgd as sde


@dataclass(frozen=True)
class Well:
    """A loss in one variable with noise D(x): a minimum, the barrier to its right, and where the escape is complete."""

    name: str
    loss: str
    minimum: float
    barrier: float
    beyond: float
    diffusion: str = "1"
    reach: float = 2.0

    @property
    def landscape(self) -> sde.Landscape:
        return sde.Landscape(("x",), self.loss, diffusion=[[self.diffusion]], domain=((-6, 6),), name="well")

    def at(self, temperature: float) -> sde.Process:
        return self.landscape.at_temperature(temperature)

    def log_prefactor(self) -> float:
        """log 2π/√(f''(a)|f''(b)|)."""
        bends = [self.landscape.hessian([x])[0, 0] for x in (self.minimum, self.barrier)]
        return math.log(2 * math.pi / math.sqrt(bends[0] * abs(bends[1])))

    def noise_ratio(self) -> float:
        """D(b)/D(a)."""
        noise = [self.landscape.diffusion([x])[0, 0] for x in (self.barrier, self.minimum)]
        return float(noise[0] / noise[1])

    def rise(self) -> float:
        """∫ f'/D from the minimum to the barrier."""
        slope = self.landscape
        return quad(lambda x: slope.gradient([x])[0] / slope.diffusion([x])[0, 0], self.minimum, self.barrier)[0]


@cache
def log_time(well: Well, temperature: float, cells: int) -> float:
    """log of the mean time from the minimum until the path is beyond the barrier, from the backward equation."""
    grid = sde.Grid(-well.reach, well.reach, cells)
    time = sde.FokkerPlanck(well.at(temperature), grid).mean_exit_time(f"x < {well.beyond}", log=True)
    return float(time.interp(x=well.minimum))
