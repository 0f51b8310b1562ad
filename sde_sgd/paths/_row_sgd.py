"""The stepper of `sgd` for many weights: the points of a chunk as rows of a (64, d) array, one lane and sample a time.

Each lane has a sample of its own, whose numbers lie side by side in memory: so must the lane's weights.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._frame import LANES, Part, data_arguments, each_row, indent, lane_loop, literal
from ._sgd_kernel import Recursion, batch_part

_SUMS = 8  # partial sums of a product of two vectors


def row_sgd_part(lane: LaneCode, recursion: Recursion) -> Part:
    """The recursion of `sgd_part` for a lane code by rows. Cost per draw: one gradient and d multiply-adds."""
    dim, svrg = lane.dim, recursion.svrg
    setup, add, arrays = _gather(lane, recursion)
    batches, options = batch_part(recursion, add), recursion.options
    zero = [*_turned("points", "X", dim), "summed[:] = 0.0"]
    mean = recursion.cast("summed[j, i]") + (" + work[at_M0 + i, j]" if svrg else "") + _decay(lane)
    moves = recursion.move("work[i, j]", mean, "work[at_V0 + i, j]", "work[at_y0 + i, j]")
    return replace(
        batches,
        rows=tuple(f"{kind}{i}" for kind in recursion.rows for i in range(dim)),
        scratch=tuple(f"y{i}" for i in range(dim)),
        arguments=(*batches.arguments, *options, *data_arguments(arrays)),
        values=(*batches.values, *options.values(), *arrays),
        setup=[*batches.setup, *setup],
        step=[
            f"rate = {recursion.cast('schedule[0, k]')}",
            *(_snapshot(lane, recursion) if svrg else ()),
            *zero,
            *batches.step,
        ],
        loops=each_row(dim, moves),
        fragments=(*batches.fragments, *recursion.fragments),
    )


def _gather(lane: LaneCode, recursion: Recursion) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Setup lines, lines that add w g of sample `picks[which, j]` at the lane's row of `points` to its row of `summed`,
    and the arrays data0… they read.

    With SVRG g is the difference of the gradients at `points` and at the rows of `old`. What all samples share, λx,
    is left to the step.
    """
    assert lane.rows is not None
    functions, real, svrg = lane.rows.kind == "functions", recursion.real, recursion.svrg
    width = lane.dim if functions else -(-lane.dim // _SUMS) * _SUMS
    arrays = [np.ascontiguousarray(lane.rows.arrays[0], dtype="float64" if functions else real)]
    if not functions:
        arrays = [np.zeros((len(arrays[0]), width), real), np.ascontiguousarray(lane.rows.arrays[1], dtype=real)]
        arrays[0][:, : lane.dim] = lane.rows.arrays[0]
    kind = "float64" if functions else real
    names = ("points", "summed", "old") if svrg else ("points", "summed")
    setup = [f"{name} = np.zeros(({LANES}, {width}), np.{kind})" for name in names]
    if functions:
        setup.append(f"out = np.zeros({width})")
    near = _gradient(lane, "points", "w", real)
    far = _gradient(lane, "old", "-w", real) if svrg else []
    return setup, lane_loop(["sample = picks[which, j]", *near, *far]), arrays


def _gradient(lane: LaneCode, points: str, weight: str, real: str) -> list[str]:
    """Lines that add `weight` times the gradient of `sample` at row j of `points` to that of `summed`."""
    assert lane.rows is not None
    start = ["row = data0[sample]", f"x = {points}[j]"]
    if lane.rows.kind == "functions":
        add = [f"for i in range({lane.dim}):", f"    summed[j, i] += {weight} * out[i]"]
        return [*start, *lane.rows.lines, *add]
    zero = literal(0.0, real)
    sums = [f"s{q}" for q in range(_SUMS)]
    pairs = ((0, 4), (1, 5), (2, 6), (3, 7))
    return [
        *start,
        f"{' = '.join(sums)} = {zero}",
        "for i in range(0, row.size, 8):",
        *indent([f"s{q} += row[i + {q}] * x[i + {q}]" for q in range(_SUMS)]),
        f"prediction = {' + '.join(f'(s{a} + s{b})' for a, b in pairs)}",
        "target = data1[sample]",
        *lane.rows.lines,
        f"slope = {weight} * slope",
        "for i in range(row.size):",
        "    summed[j, i] += slope * row[i]",
    ]


def _snapshot(lane: LaneCode, recursion: Recursion) -> Sequence[str]:
    """Every m steps x̃ = x and M = ∇f(x̃) without λx̃, over all samples."""
    gradient = _gradient(lane, "old", literal(1.0, recursion.real), recursion.real)
    return [
        "if step % svrg == 0:",
        *indent(each_row(lane.dim, ["work[at_S0 + i, j] = work[i, j]"])),
        *_turned("old", "S", lane.dim),
        "if step % svrg == 0:",
        *indent(
            [
                "summed[:] = 0.0",
                "for sample in range(data0.shape[0]):",
                *indent(lane_loop(gradient)),
                f"per_sample = {recursion.cast('1.0 / data0.shape[0]')}",
                *each_row(lane.dim, [f"work[at_M0 + i, j] = {recursion.cast('summed[j, i]')} * per_sample"]),
            ]
        ),
    ]


def _turned(array: str, rows: str, dim: int) -> list[str]:
    """The rows as columns of an array."""
    return lane_loop([f"for i in range({dim}):", f"    {array}[j, i] = work[at_{rows}0 + i, j]"])


def _decay(lane: LaneCode) -> str:
    """The part of a gradient that all samples share: a step's weights add up to 1."""
    assert lane.rows is not None
    return " + p0 * work[i, j]" if lane.rows.kind == "linear_model" else ""
