"""Walls of a process's domain in a path kernel."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._region import Region
from sde_sgd.process import Process

from ._ensemble import Tally
from ._exits import Exits
from ._frame import Part, _wrap, bound_of
from ._model import Model
from ._scheme import Scheme

WALLS = ("reflect", "absorb")


def walls_part(
    walls: str | None, process: Process, model: Model, scheme: Scheme, paths: int, times: Callable
) -> tuple[list[Part], list[Tally]]:
    """What keeps paths in the domain: a part for "reflect", a tally for "absorb"."""
    if walls is None:
        return [], []
    _checks.choice("walls", walls, WALLS)
    domain = process.domain
    sides = [
        (i, side, float(end))
        for i, wraps in enumerate(domain.periodic)
        if not wraps
        for side, end in ((">", domain.lower[i]), ("<", domain.upper[i]))
        if np.isfinite(end)
    ]
    if not sides:
        raise ValueError(
            f"walls={walls!r} needs a wall: {process.landscape.name} has no finite, non-periodic side; give it a domain"
        )
    if scheme.underdamped:
        raise ValueError(
            f"walls={walls!r} and scheme {scheme.name!r} do not go together: walls are for processes without momentum; "
            "take the landscape at_temperature(T), or exit_times with bridge=False"
        )
    if scheme.lookahead or (walls == "absorb" and scheme.increments != "normal"):
        raise ValueError(
            f"walls={walls!r} and scheme {scheme.name!r} do not go together: its steps do not have the end points of "
            "a path; take euler_maruyama"
        )
    if walls == "reflect":
        return [_reflecting(sides, model, domain.periodic)], []
    inside = " and ".join(f"{process.variables[i]} {side} {end!r}" for i, side, end in sides)
    region = Region.of(inside, process.variables, process.landscape.parameters, domain)
    return [], [Absorbed("wall", region, process, model, paths, times)]


class Absorbed(Exits):
    """Exits through the walls: the path stands still, and `exit_time` says since when (NaN: never)."""

    def __init__(self, name: str, region: Region, process: Process, model: Model, paths: int, times: Callable):
        super().__init__(name, region, process, model, paths, bridge=True, stop=False)
        still = [f"turns{i} = turns{i} if alive else 0.0" for i, wraps in enumerate(process.domain.periodic) if wraps]
        self.part = replace(self.part, lanes=[*self.part.lanes, *still])
        self._times = times

    def dataset(self) -> xr.Dataset:
        step = self.steps.astype(np.int64)
        middle = 0.5 * (self._times(step) + self._times(np.maximum(step - 1, 0)))
        return xr.Dataset(
            {"exit_time": ("path", np.where(step > 0, middle, np.nan))}, attrs={"absorbed": int((step > 0).sum())}
        )


def _reflecting(sides: list[tuple[int, str, float]], model: Model, periodic: Sequence[bool]) -> Part:
    """A point beyond a wall is folded back along the conormal: x_i by twice the overshoot o, x_j by 2o D_ji/D_ii.

    A last clamp holds points that a step too large threw beyond the opposite wall, but no diverged one: that must show.
    """
    lines, moved, zero, two = [], set(), model.number(0), model.number(2)
    for i, side, end in sides:
        wall = model.number(end)
        over = f"{wall} - y{i}" if side == ">" else f"y{i} - {wall}"
        sign = "" if side == ">" else "-"
        lines += [f"o = {over}", f"o = {two} * o if o > {zero} else {zero}", f"y{i} = y{i} + {sign}o"]
        for j in range(model.dim):
            if j != i and (model.constant is None or model.constant[i, j] != 0):
                moved |= {j} if periodic[j] else set()
                size, cross = model.covariance(i, i), model.covariance(i, j)
                lines.append(f"y{j} = y{j} + {sign}o * ({cross} / {size} if {size} > {zero} else {zero})")
    for i, side, end in sides:
        clamped = f"{'max' if side == '>' else 'min'}(y{i}, {model.number(end)})"
        lines.append(f"y{i} = {clamped} if math.fabs(y{i}) < {bound_of(model.real)} else y{i}")
    for i in sorted(moved):  # the conormal may lead across a seam
        lines += [*_wrap(f"y{i}", "again", i), f"turns{i} = turns{i} + again"]
    return Part(lanes=lines)
