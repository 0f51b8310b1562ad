"""The stepper of `sgd` for many weights: the points of a chunk as rows of a (64, d) array, one lane and sample a time.

Each lane has a sample of its own, whose numbers lie side by side in memory: so must the lane's weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._frame import LANES, Part, each_row, indent, lane_loop, literal
from ._sgd_kernel import batch_part, move

_SUMS = 8  # partial sums of a product of two vectors


def row_sgd_part(
    lane: LaneCode,
    *,
    sampling: str,
    keyed: bool,
    batch_size: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    decay: float = 0.0,
    svag: int = 1,
    svrg: int | None = None,
    real: str = "float64",
) -> Part:
    """The recursion of `sgd_part` for a lane code by rows. Cost per draw: one gradient and d multiply-adds."""
    dim, number = lane.dim, float if real == "float64" else np.float32
    setup, add, arrays = gather_rows(lane, real, svrg=svrg is not None)
    batches = batch_part(sampling, keyed=keyed, batch_size=batch_size, svag=svag, real=real, add=add)
    options: dict[str, Any] = {}
    if momentum:
        options["mu"] = number(momentum)
    if decay:
        options["decay"] = number(decay)
    if svrg:
        options["svrg"] = svrg
    kept = [kind for kind, used in (("V", momentum), ("S", svrg), ("M", svrg)) if used]
    zero = [*_turned("points", "X", dim), "total[:] = 0.0"]
    mean = _cast("total[j, i]", real) + (" + work[at_M0 + i, j]" if svrg else "") + _decay(lane)
    velocity, y = "work[at_V0 + i, j]", "work[at_y0 + i, j]"
    moves = move(
        "work[i, j]", mean, velocity, y, momentum=bool(momentum), nesterov=nesterov, decay=bool(decay)
    )  # fmt: skip
    return replace(
        batches,
        rows=tuple(f"{kind}{i}" for kind in kept for i in range(dim)),
        scratch=tuple(f"y{i}" for i in range(dim)),
        arguments=(*batches.arguments, *options, *(f"data{k}" for k in range(len(arrays)))),
        values=(*batches.values, *options.values(), *arrays),
        setup=[*batches.setup, *setup],
        step=[
            f"rate = {_cast('schedule[0, k]', real)}",
            *(_snapshot(lane, real) if svrg else ()),
            *zero,
            *batches.step,
        ],
        loops=each_row(dim, moves),
        fragments=(*batches.fragments, *(("_lane_math",) if real == "float64" else ("_normals32", "_lane_math32"))),
    )


def gather_rows(lane: LaneCode, real: str, svrg: bool = False) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Setup lines, lines that add w g of sample `picks[which, j]` at the lane's row of `points` to its row of `total`,
    and the arrays data0… they read.

    With `svrg` g is the difference of the gradients at `points` and at the rows of `old`. What all samples share, λx,
    is left to the step.
    """
    assert lane.rows is not None
    functions = lane.rows.kind == "functions"
    width = lane.dim if functions else -(-lane.dim // _SUMS) * _SUMS
    arrays = [np.ascontiguousarray(lane.rows.arrays[0], dtype="float64" if functions else real)]
    if not functions:
        arrays = [np.zeros((len(arrays[0]), width), real), np.ascontiguousarray(lane.rows.arrays[1], dtype=real)]
        arrays[0][:, : lane.dim] = lane.rows.arrays[0]
    kind = "float64" if functions else real
    names = ("points", "total", "old") if svrg else ("points", "total")
    setup = [f"{name} = np.zeros(({LANES}, {width}), np.{kind})" for name in names]
    if functions:
        setup.append(f"out = np.zeros({width})")
    near = _gradient(lane, "points", "w", real)
    far = _gradient(lane, "old", "-w", real) if svrg else []
    return setup, lane_loop(["sample = picks[which, j]", *near, *far]), arrays


def _gradient(lane: LaneCode, points: str, weight: str, real: str, total: str = "total") -> list[str]:
    """Lines that add `weight` times the gradient of `sample` at row j of `points` to that of `total`."""
    assert lane.rows is not None
    start = ["row = data0[sample]", f"x = {points}[j]"]
    if lane.rows.kind == "functions":
        add = [f"for i in range({lane.dim}):", f"    {total}[j, i] += {weight} * out[i]"]
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
        f"    {total}[j, i] += slope * row[i]",
    ]


def _snapshot(lane: LaneCode, real: str) -> Sequence[str]:
    """Every m steps x̃ = x and M = ∇f(x̃) without λx̃, over all samples."""
    one = literal(1.0, real)
    gradient = _gradient(lane, "old", one, real)
    return [
        "if step % svrg == 0:",
        *indent(each_row(lane.dim, ["work[at_S0 + i, j] = work[i, j]"])),
        *_turned("old", "S", lane.dim),
        "if step % svrg == 0:",
        *indent(
            [
                "total[:] = 0.0",
                "for sample in range(data0.shape[0]):",
                *indent(lane_loop(gradient)),
                f"per_sample = {_cast('1.0 / data0.shape[0]', real)}",
                *each_row(lane.dim, [f"work[at_M0 + i, j] = {_cast('total[j, i]', real)} * per_sample"]),
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


def _cast(text: str, real: str) -> str:
    return text if real == "float64" else f"np.float32({text})"
