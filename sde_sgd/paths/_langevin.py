"""The stepper of `simulate`: a scheme's lines and the increments they need, as a part of a kernel."""

import re

from ._frame import Part
from ._model import Model
from ._scheme import Scheme


def langevin_part(model: Model, scheme: Scheme, *, substeps: int, friction: float | None = None) -> Part:
    """Advances x0… by one step of the scheme.

    `schedule[0]` holds the steps h, `schedule[1]` the temperatures at their ends, one more than steps.
    """
    increments, real = model.increments, model.real
    draw = increments.draw("step", "k == 0")
    begin = [f"T = {model.cast('schedule[1, 0]')}", *scheme.begin(model)]
    lanes = scheme.lanes(model)
    if scheme.lookahead:
        # the normals of step n serve steps n − 1 and n; a resumed run finds them by their counter
        keep = model.each("W{i}[j] = z{i}")
        begin += [*increments.draw("(first_step + done)", "True"), *model.over_lanes([*increments.values, *keep])]
        draw = increments.draw("(step + 1)", "k == 0")
        lanes = [*model.each("w{i} = W{i}[j]"), *lanes, *keep]
    lanes = [*increments.values, *lanes]
    loops = scheme.loops(model)
    rows = dict.fromkeys([*increments.scratch, *scheme.scratch(model), *model.scratch])
    if scheme.lookahead:
        rows |= dict.fromkeys(f"W{i}" for i in range(model.dim))
    # h and T are there for other parts too; each of the rest, where it is not read, cost a hundredth of the compilation
    read = {"h", "T", *re.findall(r"\w+", "\n".join([*draw, *loops, *lanes]))}
    scalars = [line for line in _scalars(model, friction is not None) if line.split(" = ")[0] in read]
    return Part(
        scratch=tuple(rows),
        arguments=(*increments.arguments, *(("friction",) if friction is not None else ()), *model.arguments),
        values=(*((substeps,) if increments.substeps else ()), *((friction,) if friction is not None else ()),
                *model.values),
        setup=[*model.setup, *increments.setup],
        begin=begin,
        step=[*scalars, *draw, *loops],
        fragments=(*(("_normals32", "_lane_math32") if real == "float32" else ("_lane_math",)),
                   *increments.fragments, *model.fragments),
        lanes=() if model.by_rows else lanes,
        loops=lanes if model.by_rows else (),
    )  # fmt: skip


def _scalars(model: Model, underdamped: bool) -> list[str]:
    """What a step's lines may read besides x and z."""
    cast = model.cast
    lines = [
        f"h = {cast('schedule[0, k]')}",
        f"T_start = {cast('schedule[1, k]')}",
        f"T_end = {cast('schedule[1, k + 1]')}",
        f"T = {cast('schedule[1, k]')}",
    ]
    if underdamped:
        kicked = "-0.5 * (schedule[1, k] + schedule[1, k + 1]) * math.expm1(-2.0 * friction * schedule[0, k])"
        return [
            *lines,
            f"decay = {cast('math.exp(-friction * schedule[0, k])')}",
            f"kick = {cast(f'math.sqrt({kicked})')}",
        ]
    return [
        *lines,
        f"root = {cast('math.sqrt(2.0 * schedule[1, k] * schedule[0, k])')}",
        f"root_end = {cast('math.sqrt(2.0 * schedule[1, k + 1] * schedule[0, k])')}",
        f"mean_root = {cast('math.sqrt((schedule[1, k] + schedule[1, k + 1]) * schedule[0, k])')}",
        f"T_later = {cast('0.25 * schedule[1, k] + 0.75 * schedule[1, k + 1]')}",
    ]
