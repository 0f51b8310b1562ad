"""Random increments of a step as kernel text: normal, two-point, three-point.

The counter of a Philox block is (block of steps, stream, path low, path high). Where a block holds the increments of
several steps it is drawn once for all of them.
"""

from dataclasses import dataclass

from ._frame import OF_PATHS, PATH, indent, lane_loop, literal

NORMAL_STREAM = 0  # second counter word: what the block is used for, so that one seed serves every kernel
UNIFORM_STREAM = 2 << 24  # Brownian-bridge tests of exits


@dataclass(frozen=True)
class Increments:
    """`draw(n)`: lines that make the increments of step n ready; `values` set z0… of lane j.

    With `substeps` the increment is that of a Brownian motion seen at a coarser step: z = Σ z_fine/√m over the m =
    `substeps` fine steps it covers, m a kernel argument. `pairs` > 0 says that the normals come as (ΔW, the
    independent part of ∫∫dW ds): the first `pairs` and the last, which coarsen together.
    """

    count: int
    kind: str
    real: str
    substeps: bool
    pairs: int = 0

    @property
    def _per_block(self) -> int:
        return 128 if self.kind == "two_point" else 4 if self.kind == "three_point" or self.real == "float32" else 2

    @property
    def _blocks(self) -> int:
        """Blocks per draw, one stream each."""
        return -(-self.count // 2) if self.kind == "two_point" else -(-self.count // self._per_block)

    @property
    def _steps(self) -> int:
        """Steps that one draw serves."""
        return 64 if self.kind == "two_point" else max(1, self._per_block // self.count)

    @property
    def scratch(self) -> tuple[str, ...]:
        if self.kind == "two_point":
            return ()
        drawn = tuple(f"N{i}" for i in range(self._blocks * self._per_block))
        return drawn + tuple(f"S{i}" for i in range(self.count if self.substeps else 0))

    @property
    def fragments(self) -> tuple[str, ...]:
        return ("_normals32",) if self.real == "float32" and self.kind != "two_point" else ()

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("substeps",) if self.substeps else ()

    @property
    def setup(self) -> list[str]:
        if self.kind == "two_point":
            return [f"words = np.zeros(({2 * self._blocks}, 64), np.uint64)"]
        lines = []
        if self.kind == "normal" or self._steps > 1:
            lines = [f"normals = work[at_N0:at_N0 + {self._blocks * self._per_block}]"]
        if self.substeps:
            power = "(substeps * math.sqrt(substeps))"
            lines += [
                f"share = {self._cast('1.0 / math.sqrt(substeps)')}",
                f"lever = {self._cast(f'math.sqrt(3.0) / {power}')}",
                f"inner = {self._cast(f'1.0 / {power}')}",
            ]
        return lines

    def _cast(self, text: str) -> str:
        return text if self.real == "float64" else f"np.float32({text})"

    def draw(self, n: str, fresh: str) -> list[str]:
        """Lines that fill the rows for step `n`; `fresh` is the condition under which nothing drawn earlier is kept."""
        if not self.substeps:
            return self._fill(n, fresh)
        parts = [f"N{i}" if self._steps == 1 else f"normals[part + {i}]" for i in range(self.count)]
        lines = []
        first = self.pairs or self.count
        for i in range(first):
            lines.append(f"S{i}[j] += share * {self._at(parts[i])}")
        for i in range(self.pairs):
            lines.append(
                f"S{i + first}[j] += lever * ({self._cast('(substeps - 1 - 2 * sub)')}) * {self._at(parts[i])} + "
                f"inner * {self._at(parts[i + first])}"
            )
        return [
            *lane_loop([f"S{i}[j] = {literal(0.0, self.real)}" for i in range(self.count)]),
            "for sub in range(substeps):",
            *indent([*self._fill(f"(({n}) * substeps + sub)", f"sub == 0 or {fresh}"), *lane_loop(lines)]),
        ]

    def _at(self, row: str) -> str:
        return f"{row[:-1]}, j]" if row.endswith("]") else f"{row}[j]"

    def _fill(self, n: str, fresh: str) -> list[str]:
        block = f"np.uint64({n})" if self._steps == 1 else f"np.uint64({n} // {self._steps})"
        if self.kind == "normal":
            suffix = "" if self.real == "float64" else "32"
            fill = [f"_draw_normals{suffix}{OF_PATHS} {block}, key0, key1)"]
        else:
            fill = lane_loop([PATH, *(line for b in range(self._blocks) for line in self._lanes_of(b, block))])
        if self._steps == 1:
            return fill
        two = self.kind == "two_point"
        select = f"bit = np.uint64({n} % 64)" if two else f"part = ({n} % {self._steps}) * {self.count}"
        return [f"if {n} % {self._steps} == 0 or {fresh}:", *indent(fill), select]

    def _lanes_of(self, b: int, block: str) -> list[str]:
        counter = f"{block}, np.uint64({NORMAL_STREAM + b}), path & _LOW, path >> _U32, key0, key1"
        if self.kind == "two_point":
            return [f"words[{2 * b}, j], words[{2 * b + 1}, j] = _two_words({counter})"]
        rows = [f"N{4 * b + i}[j] = {self._cast(f'z{i}')}" for i in range(4)]
        return [f"z0, z1, z2, z3 = _four_three_points({counter})", *rows]

    @property
    def values(self) -> list[str]:
        if self.kind == "two_point":
            return [f"z{i} = {self._cast(f'_signed(1.0, words[{i}, j], bit)')}" for i in range(self.count)]
        if self.substeps:
            return [f"z{i} = S{i}[j]" for i in range(self.count)]
        if self._steps == 1:
            return [f"z{i} = N{i}[j]" for i in range(self.count)]
        return [f"z{i} = normals[part + {i}, j]" for i in range(self.count)]
