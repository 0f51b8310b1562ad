"""The stepper of `sgd`: how a step chooses its samples, adds up their gradients and moves, as a part of a kernel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._frame import LANES, PATH, Part, data_arguments, indent, lane_loop, literal


@dataclass(frozen=True)
class Recursion:
    """What a step of `sgd` is, whatever form the weights have: its batch, and how the gradient moves them."""

    sampling: str
    keyed: bool
    batch_size: int
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    svag: int = 1
    svrg: int | None = None
    real: str = "float64"

    def number(self, value: float) -> Any:
        """A kernel argument of the float type."""
        return value if self.real == "float64" else np.float32(value)

    def cast(self, text: str) -> str:
        return text if self.real == "float64" else f"np.float32({text})"

    @property
    def rows(self) -> tuple[str, ...]:
        """The vectors kept from step to step: the velocity V, S = x̃ and M = ∇f(x̃)."""
        return (*(("V",) if self.momentum else ()), *(("S", "M") if self.svrg else ()))

    @property
    def options(self) -> dict[str, Any]:
        """The kernel arguments that the lines of `move` and of a snapshot read."""
        values = {"mu": self.momentum, "decay": self.decay}
        numbers = {name: self.number(value) for name, value in values.items() if value}
        return numbers | ({"svrg": self.svrg} if self.svrg else {})

    @property
    def fragments(self) -> tuple[str, ...]:
        return ("_lane_math",) if self.real == "float64" else ("_normals32", "_lane_math32")

    def move(self, x: str, mean: str, v: str, y: str) -> list[str]:
        """Lines that give the coordinate `y` after a step from `x`, the gradient `mean` and the velocity kept in `v`.

        They read rate, mu and decay. The definition of torch.optim.SGD: v does not contain the learning rate.
        """
        lines = [f"g = {mean} + decay * {x}" if self.decay else f"g = {mean}"]
        if self.momentum:
            lines += [f"{v} = mu * {v} + g", f"g = g + mu * {v}" if self.nesterov else f"g = {v}"]
        return [*lines, f"{y} = {x} - rate * g"]


def sgd_part(lane: LaneCode, recursion: Recursion) -> Part:
    """v' = μv + g, x' = x − ηv' (Nesterov: x − η(g + μv')), g = ∇f_B(x) [− ∇f_B(x̃) + ∇f(x̃)] + λx; η = `schedule[0]`.

    Rows V (the velocity), S (x̃) and M (∇f(x̃)) exist where they are used. Per draw: half a Philox block (12 where the
    permutation is keyed), a gather of the sample's numbers and one gradient, two with `svrg`, which adds N/m a step.
    """
    axes, svrg, real = range(lane.dim), recursion.svrg, recursion.real
    read = [f"a{k} = A{k}[j]" for k in range(len(lane.data))]
    near = [f"x{i} = X{i}[j]" for i in axes]
    if svrg:
        far = [*(f"near{i} = g{i}" for i in axes), *(f"x{i} = S{i}[j]" for i in axes), *lane.lines]
        gradient = [*near, *read, *lane.lines, *far, *(f"g{i} = near{i} - g{i}" for i in axes)]
    else:
        gradient = [*near, *read, *lane.lines]
    add = [
        *lane_loop([f"A{k}[j] = data{k}[picks[which, j]]" for k in range(len(lane.data))]),
        *lane_loop([*gradient, *(f"G{i}[j] += w * g{i}" for i in axes)]),
    ]
    batches, options = batch_part(recursion, add), recursion.options
    moves: list[str] = []
    for i in axes:
        mean = f"G{i}[j] + M{i}[j]" if svrg else f"G{i}[j]"
        moves += recursion.move(f"x{i}", mean, f"V{i}[j]", f"y{i}")
    return replace(
        batches,
        rows=tuple(f"{kind}{i}" for kind in recursion.rows for i in axes),
        scratch=(*(f"G{i}" for i in axes), *(f"A{k}" for k in range(len(lane.data)))),
        arguments=(*batches.arguments, *options, *data_arguments(lane.data)),
        values=(
            *batches.values,
            *options.values(),
            *(np.ascontiguousarray(array, dtype=real) for array in lane.data),
        ),
        step=[
            f"rate = {recursion.cast('schedule[0, k]')}",
            *(_snapshot(lane, recursion) if svrg else ()),
            *lane_loop([f"G{i}[j] = {literal(0.0, real)}" for i in axes]),
            *batches.step,
        ],
        lanes=moves,
        fragments=(*batches.fragments, *recursion.fragments),
    )


def batch_part(recursion: Recursion, add: Sequence[str]) -> Part:
    """How any kernel of SGD goes through a step's samples, those of `sample_indices`.

    For each draw in turn `add` adds w times the gradient of sample `picks[which, j]` in lane j to what the step sums.
    `data0` must have one row per sample.
    """
    sampling, keyed, batch_size, svag = recursion.sampling, recursion.keyed, recursion.batch_size, recursion.svag
    spread = math.sqrt(2 * svag - 1)
    weights = [recursion.number(sign / (2 * batch_size)) for sign in (1 + spread, 1 - spread)]
    if svag == 1:
        weights = [recursion.number(1 / batch_size)]
    if sampling == "reshuffling":
        weights = []
    begin: list[str] = []
    setup = ["samples = np.uint64(data0.shape[0])", f"picks = np.empty((2, {LANES}), np.int64)"]
    if sampling != "with_replacement" and keyed:
        setup += ["side_rows, side_columns = _sides(samples)", f"halves = np.empty((2, {LANES}), np.uint64)"]
    elif sampling != "with_replacement":
        setup += [f"table = np.empty((data0.shape[0], {LANES}), np.uint16)"]
        setup += [f"targets = np.empty((2, {LANES}), np.uint64)"]
    if sampling == "with_replacement":
        step = _independent(add, svag > 1)
    elif sampling == "without_replacement":
        step = _subset(add, keyed, svag > 1)
        setup += [] if keyed else _IDENTITY
    else:
        setup.append("epoch_steps = (data0.shape[0] + batch - 1) // batch")
        begin, step = _epoch(add, keyed, recursion.cast("1.0 / draws"))
    return Part(
        arguments=("batch", "weight", "other")[: 1 + len(weights)],
        values=(batch_size, *weights),
        setup=setup,
        begin=begin,
        step=step,
        fragments=("_sampling",),
    )


_REPLICA = "path & _LOW, path >> _U32, key0, key1"
_IDENTITY = ["for place in range(data0.shape[0]):", *indent(lane_loop(["table[place, j] = place"]))]


def _independent(add: Sequence[str], svag: bool) -> list[str]:
    """Lines of a step whose samples are drawn with replacement; both batches of SVAG are one row of draws."""
    counter = f"np.uint64(step), _SAMPLE_STREAM + np.uint64(pair), {_REPLICA}"
    block = [
        PATH,
        f"one, two = _two_indices(samples, {counter})",
        "picks[0, j] = np.int64(one)",
        "picks[1, j] = np.int64(two)",
    ]
    weigh = "w = weight if place < batch else other" if svag else "w = weight"
    return [f"draws = {'2 * batch' if svag else 'batch'}", *_places("0", block, [weigh, *add])]


def _subset(add: Sequence[str], keyed: bool, svag: bool) -> list[str]:
    """Lines of a step that takes a fresh subset, SVAG two of them."""
    block: list[str] = []
    undo: list[str] = []
    if keyed:
        pick = _keyed_pick("half * _ROUNDS", "np.uint64(step), _SUBSET_STREAM")
    else:
        block, pick = _exchange("np.uint64(step), _SUBSET_STREAM + np.uint64(half * ((batch + 1) // 2) + pair)")
        undo = lane_loop(["_give_back(table, np.uint64(place), np.uint64(batch), j)"])
        undo = ["for place in range(batch):", *indent(undo)]
    weigh = "w = weight if half == 0 else other" if svag else "w = weight"
    return [
        "draws = batch",
        f"for half in range({2 if svag else 1}):",
        *indent([*_places("0", block, [weigh, *pick, *add]), *undo]),
    ]


def _epoch(add: Sequence[str], keyed: bool, weight: str) -> tuple[list[str], list[str]]:
    """Lines of a chunk's beginning and of a step that takes the next samples of the epoch's permutation.

    A table is made anew at an epoch's first step; a chunk that begins inside an epoch repeats its exchanges so far.
    """
    begin: list[str] = []
    block: list[str] = []
    fresh: list[str] = []
    if keyed:
        pick = _keyed_pick("0", "epoch, _EPOCH_STREAM")
    else:
        block, pick = _exchange("epoch, _EPOCH_STREAM + np.uint64(pair)")
        fresh = ["if start == 0:", *indent(_IDENTITY)]
        begin = [
            "epoch = np.uint64((first_step + done) // epoch_steps)",
            "draws = (first_step + done) % epoch_steps * batch",
            "if draws > 0:",
            *indent([*_IDENTITY, *_places("0", block, pick)]),
        ]
    return begin, [
        "epoch = np.uint64(step // epoch_steps)",
        "start = step % epoch_steps * batch",
        "draws = min(batch, data0.shape[0] - start)",
        f"w = {weight}",
        *fresh,
        *_places("start", block, [*pick, *add]),
    ]


def _places(start: str, block: Sequence[str], each: Sequence[str]) -> list[str]:
    """`each` at the places start … start + draws − 1, after the lanes have drawn the `block` of a pair of places."""
    return [
        f"for pair in range({start} // 2, ({start} + draws + 1) // 2):",
        *indent(lane_loop(block)),
        *indent(
            [
                f"for which in range(max(0, {start} - 2 * pair), min(2, {start} + draws - 2 * pair)):",
                *indent(["place = 2 * pair + which", *each]),
            ]
        ),
    ]


def _exchange(counter: str) -> tuple[list[str], list[str]]:
    """A block of a pair of places in a table's shuffle, and what takes the sample at one of them."""
    block = [
        PATH,
        "left = samples - np.uint64(2 * pair)",
        f"one, two = _two_below(left, left - _U1, {counter}, {_REPLICA})",
        "targets[0, j] = one",
        "targets[1, j] = two",
    ]
    return block, lane_loop(["picks[which, j] = _take(table, np.uint64(place), targets[which, j], j)"])


def _keyed_pick(first: str, counter: str) -> list[str]:
    """The sample at `place` of a keyed permutation: all lanes do its rounds together, then those outside go on."""
    rounds = [
        PATH,
        f"one = _round(halves[0, j], halves[1, j], side_rows, number, {counter}, {_REPLICA})",
        f"two = _round(halves[1, j], one, side_columns, number + _U1, {counter}, {_REPLICA})",
        "halves[0, j] = one",
        "halves[1, j] = two",
    ]
    return [
        *lane_loop(
            ["halves[0, j] = np.uint64(place) // side_columns", "halves[1, j] = np.uint64(place) % side_columns"]
        ),
        f"first_round = {first}",
        "for twice in range(_ROUNDS // 2):",
        *indent(["number = np.uint64(first_round + 2 * twice)", *lane_loop(rounds)]),
        *lane_loop(
            [
                PATH,
                "spot = halves[0, j] * side_columns + halves[1, j]",
                "if spot >= samples:",
                *indent([f"spot = _keyed_place(spot, samples, first_round, {counter}, {_REPLICA})"]),
                "picks[which, j] = np.int64(spot)",
            ]
        ),
    ]


def _snapshot(lane: LaneCode, recursion: Recursion) -> list[str]:
    """Every m steps x̃ = x and M = ∇f(x̃), over all samples."""
    axes = range(lane.dim)
    read = [f"a{k} = data{k}[sample]" for k in range(len(lane.data))]
    far = [f"x{i} = S{i}[j]" for i in axes]
    zero = literal(0.0, recursion.real)
    return [
        "if step % svrg == 0:",
        *indent(
            [
                *lane_loop([*(f"S{i}[j] = X{i}[j]" for i in axes), *(f"M{i}[j] = {zero}" for i in axes)]),
                "for sample in range(data0.shape[0]):",
                *indent([*read, *lane_loop([*far, *lane.lines, *(f"M{i}[j] += g{i}" for i in axes)])]),
                f"per_sample = {recursion.cast('1.0 / data0.shape[0]')}",
                *lane_loop([f"M{i}[j] = M{i}[j] * per_sample" for i in axes]),
            ]
        ),
    ]
