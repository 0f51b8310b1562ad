"""Steppers for many variables: the lines of `Model` and `Increments` as loops over rows, any number d in the same text.

Component i of a vector v in lane j is `work[at_v0 + i, j]`. A product with a matrix goes by tiles of 4 × 4 on 4 rows
of 64 lanes, which hides the loads behind 16 multiply-adds per lane; tiles of zeros are left out, and vectors that
enter or leave a product have a multiple of 4 rows, those beyond d zero.
"""

import re
from dataclasses import dataclass

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode, RowCode

from ._frame import PATH, each_row, indent, lane_loop
from ._model import Model, cholesky
from ._noise import NORMAL_STREAM, Increments

TILE = 4
ROWS_FROM = 9  # linear drifts go by rows from here: about as fast, and compiled in a time that no longer grows
_STREAM_BLOCKS = 1 << 24  # blocks per step before the next stream begins
_COMPONENT = re.compile(r"(\w+)\{(d\+)?i\}(?:\[j\])?")


def padded(count: int) -> int:
    """The next multiple of TILE."""
    return -(-count // TILE) * TILE


@dataclass(frozen=True)
class RowIncrements(Increments):
    """The numbers of `Increments`, drawn by a loop over the blocks of a step; `base` is the row where z begins."""

    def __post_init__(self):
        if self._blocks > _STREAM_BLOCKS:
            raise ValueError(
                f"a step takes {self.count} random numbers and one seed has {_STREAM_BLOCKS * self._per_block} per "
                "step and path; take fewer samples, or real SGD, which draws only its batch"
            )

    @property
    def base(self) -> str:
        if self.kind == "two_point":
            return "at_z0"
        if self.substeps:
            return "at_S0"
        return "at_N0" if self._steps == 1 else "(at_N0 + part)"

    @property
    def scratch(self) -> tuple[str, ...]:
        if self.kind == "two_point":
            return tuple(f"z{i}" for i in range(padded(self.count)))
        drawn = self._blocks * self._per_block + TILE  # a product reads whole tiles from any part of a block
        summed = padded(self.count) if self.substeps else 0
        return (*(f"N{i}" for i in range(drawn)), *(f"S{i}" for i in range(summed)))

    @property
    def setup(self) -> list[str]:
        lines = [line for line in super().setup if not line.startswith("normals =")]
        if self.kind == "normal" and self.real == "float64":
            lines.append("pair = np.empty((2, 64), np.uint64)")
        return lines

    def draw(self, n: str, fresh: str) -> list[str]:
        if not self.substeps:
            return self._fill(n, fresh)
        first, part = self.pairs or self.count, "" if self._steps == 1 else "part + "
        fill = self._fill(f"(({n}) * substeps + sub)", f"sub == 0 or {fresh}")
        add = each_row(first, [f"work[at_S0 + i, j] += share * work[at_N0 + {part}i, j]"])
        if self.pairs:
            lever = self._cast("(substeps - 1 - 2 * sub)")
            inner = f"lever * {lever} * work[at_N0 + {part}i, j] + inner * work[at_N0 + {part}{first} + i, j]"
            add += each_row(self.pairs, [f"work[at_S0 + {first} + i, j] += {inner}"])
        zero = each_row(self.count, ["work[at_S0 + i, j] = 0.0"])
        return [*zero, "for sub in range(substeps):", *indent([*fill, *add])]

    def _fill(self, n: str, fresh: str) -> list[str]:
        block = f"np.uint64({n})" if self._steps == 1 else f"np.uint64({n} // {self._steps})"
        fill = [f"for b in range({self._blocks}):", *indent(self.block_lines(block, "b", "b"))]
        if self._steps == 1:
            return fill
        select = [f"bit = {n} % 64"] if self.kind == "two_point" else [f"part = ({n} % {self._steps}) * {self.count}"]
        return [f"if {n} % {self._steps} == 0 or {fresh}:", *indent(fill), *select]

    def block_lines(self, when: str, b: str, place: str) -> list[str]:
        """Lines that draw block number `b` of the step's into the rows of block `place`."""
        path = PATH
        counter = f"{when}, np.uint64({NORMAL_STREAM} + {b}), path & _LOW, path >> _U32, key0, key1"
        if self.kind == "two_point":
            return lane_loop([path, f"words[2 * {place}, j], words[2 * {place} + 1, j] = _two_words({counter})"])
        names = [f"one{i}" for i in range(self._per_block)]
        rows = [
            f"work[at_N0 + {self._per_block} * {place} + {i}, j] = {self._cast(name)}" for i, name in enumerate(names)
        ]
        if self.kind == "normal" and self.real == "float64":
            # two loops are faster than one: see `_philox`
            words = lane_loop([path, f"pair[0, j], pair[1, j] = _two_words({counter})"])
            return [*words, *lane_loop([f"{', '.join(names)} = _normal_pair(pair[0, j], pair[1, j])", *rows])]
        call = "_four_three_points" if self.kind == "three_point" else "_four_normals"
        return lane_loop([path, f"{', '.join(names)} = {call}({counter})", *rows])

    @property
    def values(self) -> list[str]:
        if self.kind != "two_point":
            return []
        return each_row(self.count, [f"work[at_z0 + i, j] = {self._cast('_signed(1.0, words[i, j], bit)')}"])


class RowModel(Model):
    """`Model` by loops over rows; schemes state both in the same words. A scheme's vectors become rows when named.

    x is X itself until a scheme moves it, and again when it is put back.
    """

    by_rows = True
    increments: RowIncrements

    def __init__(self, lane: LaneCode, increments: RowIncrements):
        super().__init__(lane, increments)
        self._vectors: dict[str, int] = {}
        self._moved = False
        self.vector("y")

    @property
    def code(self) -> RowCode:
        assert self.lane.rows is not None
        return self.lane.rows

    def vector(self, name: str, count: int | None = None) -> str:
        """The first row of a vector, which has rows of its own from now on."""
        if name == "X" or (name == "x" and not self._moved):
            return "at_X0"
        if name == "z":
            return self.increments.base
        name = "W" if name == "w" else name
        self._vectors[name] = max(self._vectors.get(name, 0), padded(count or self.dim))
        return f"at_{name}0"

    @property
    def scratch(self) -> tuple[str, ...]:
        return tuple(f"{name}{i}" for name, count in self._vectors.items() for i in range(count))

    def each(self, template: str) -> list[str]:
        if template == "x{i} = X{i}[j]":
            self._moved = False
            return []
        left, right = template.split(" = ", 1)
        right = _COMPONENT.sub(self._entry, right)
        self._moved |= left == "x{i}"
        left = _COMPONENT.sub(self._entry, left)
        return [] if left == right else each_row(self.dim, [f"{left} = {right}"])

    def _entry(self, match: re.Match) -> str:
        first = self.vector(match[1], 2 * self.dim if match[2] else None)
        return f"work[{first} + {f'{self.dim} + ' if match[2] else ''}i, j]"

    def over_lanes(self, lines) -> list[str]:
        return list(lines)


class LinearRows(RowModel):
    """b = −F(x − c), constant D."""

    @property
    def arguments(self) -> tuple[str, ...]:
        noise = ("factor",) if self._diagonal else ("noise_tiles", "noise_columns", "noise_first")
        return ("center", "drift_tiles", "drift_columns", "drift_first", *noise)

    @property
    def values(self) -> tuple:
        f, c = self.code.arrays
        factor = cholesky(self._matrix)
        noise = (np.diag(factor).astype(self.real),) if self._diagonal else tiles(factor, self.real)
        return (c.astype(self.real), *tiles(-f, self.real), *noise)

    @property
    def setup(self) -> list[str]:
        return []

    @property
    def fragments(self) -> tuple[str, ...]:
        return ("_tiles",)

    @property
    def _matrix(self) -> np.ndarray:
        assert self.constant is not None
        return self.constant

    @property
    def _diagonal(self) -> bool:
        return np.array_equal(self._matrix, np.diag(np.diag(self._matrix)))

    @property
    def evaluate(self) -> list[str]:
        b, u, one = self.vector("b"), self.vector("u"), self.number(1)
        away = each_row(self.dim, [f"work[{u} + i, j] = work[{self.vector('x')} + i, j] - center[i]"])
        return [*away, f"_product(work, {b}, drift_tiles, drift_columns, drift_first, {u}, {one})"]

    def noise(self, root: str = "root", normals: str = "z", into: str = "n") -> list[str]:
        n, z = self.vector(into), self.vector(normals)
        if self._diagonal:
            scale = f"scale = {root} * factor[i]"
            lines = lane_loop([f"work[{n} + i, j] = scale * work[{z} + i, j]"])
            return [f"for i in range({self.dim}):", *indent([scale, *lines])]
        return [f"_product(work, {n}, noise_tiles, noise_columns, noise_first, {z}, {root})"]


def tiles(matrix: np.ndarray, real: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 4 × 4 tiles of a matrix that are not zero, their first column, and where each row of tiles begins."""
    rows, columns = (padded(n) // TILE for n in matrix.shape)
    whole = np.zeros((rows * TILE, columns * TILE), real)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    blocks = whole.reshape(rows, TILE, columns, TILE).swapaxes(1, 2)
    row, column = np.nonzero(blocks.any((2, 3)))
    first = np.searchsorted(row, np.arange(rows + 1))
    return np.ascontiguousarray(blocks[row, column]), TILE * column, first
