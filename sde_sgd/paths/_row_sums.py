"""Finite sums of many weights: gradients and their noise in one pass over the samples, D never formed.

With N independent ξ_k of mean 0 and variance 1, ξ̄ their mean,

    n = √(2Th/N) Σ_k (ξ_k − ξ̄) g_k   has the covariance   2Th (1/N) Σ_k (g_k − g)(g_k − g)ᵀ = 2Th D,

exactly, and what all g_k share drops out. A pass adds up Σ g_k, Σ ξ_k g_k and Σ ξ_k. Cost per step, path and sample:
one increment and 3d multiply-adds for a linear model, one gradient and 2d for functions.
"""

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._frame import LANES, each_row, indent, lane_loop
from ._rows import ROWS_FROM, TILE, LinearRows, RowIncrements, RowModel, padded
from ._scheme import Scheme


def row_model(lane: LaneCode, scheme: Scheme, real: str, substeps: bool) -> RowModel | None:
    """The model by rows of a lane code that has no other form, or that is faster so; None where there is none."""
    rows, d = lane.rows, lane.dim
    if rows is None or (lane.lines and (rows.kind != "linear" or d < ROWS_FROM)):
        return None
    if rows.kind == "linear":
        pairs = d if scheme.normals == 2 else 0
        return LinearRows(lane, RowIncrements(scheme.normals * d, scheme.increments, real, substeps, pairs))
    kind = {"linear_model": LinearModelRows, "functions": FunctionRows}[rows.kind]
    return kind(lane, SampleIncrements(len(rows.arrays[0]), scheme.increments, real, substeps))


class SampleIncrements(RowIncrements):
    """One increment per sample, ξ_k, drawn for a tile of samples where a pass reaches it."""

    @property
    def _steps(self) -> int:
        return 1

    @property
    def _blocks(self) -> int:
        return -(-self.count // self._per_block)  # of two-point increments a block has 128: one per sample and step

    @property
    def scratch(self) -> tuple[str, ...]:
        kinds = "z" if self.kind == "two_point" else "NS" if self.substeps else "N"
        return tuple(f"{kind}{i}" for kind in kinds for i in range(TILE))

    @property
    def setup(self) -> list[str]:
        return ["words = np.zeros((2, 64), np.uint64)"] if self.kind == "two_point" else super().setup

    def draw(self, n: str, fresh: str) -> list[str]:
        return []

    @property
    def values(self) -> list[str]:
        return []

    def tile(self) -> list[str]:
        """Lines that put ξ of the samples k … k + 3 of the current step into the first rows of z."""
        if self.kind == "two_point":
            fresh = ["if k_sample % 128 == 0:", *indent(self.block_lines("np.uint64(step)", "k_sample // 128", "0"))]
            sign = self._cast("_signed(1.0, words[k_sample % 128 // 64, j], k_sample % 64 + i)")
            return [*fresh, *each_row(TILE, [f"work[at_z0 + i, j] = {sign}"])]
        size = self._per_block
        first = f"k_sample // {size} + b"

        def fill(n: str) -> list[str]:
            return [f"for b in range({TILE // size}):", *indent(self.block_lines(f"np.uint64({n})", first, "b"))]

        if not self.substeps:
            return fill("step")
        add = each_row(TILE, ["work[at_S0 + i, j] += share * work[at_N0 + i, j]"])
        zero = each_row(TILE, ["work[at_S0 + i, j] = 0.0"])
        return [*zero, "for sub in range(substeps):", *indent([*fill("(step * substeps + sub)"), *add])]


class SampleRows(RowModel):
    """b = −∇f and the noise of a sum over samples; `samples(noisy)` are the lines of a pass."""

    increments: SampleIncrements

    @property
    def setup(self) -> list[str]:
        count = self.increments.count
        return [f"per_sample = {self.cast(repr(1.0 / count))}", f"per_root = {self.cast(repr(count**-0.5))}"]

    @property
    def fragments(self) -> tuple[str, ...]:
        return ("_tiles",)

    def covariance(self, i: int, j: int) -> str:
        raise ValueError(
            f"a step with {self.dim} weights does not form D at the point, which reflecting walls and the "
            "Brownian-bridge test need: leave walls out, or pass bridge=False"
        )

    def sweep(self, rows: str = "X", noisy: bool = True) -> list[str]:
        v = self.vector("v")
        lines = each_row(self.dim, [f"work[{v} + i, j] = work[at_{rows}0 + i, j]"])
        for name, count in (("G", None), *((("R", None), ("E", 1)) if noisy else ())):
            first = self.vector(name, count)
            lines += each_row(count or self.dim, [f"work[{first} + i, j] = 0.0"])
        return [*lines, *self.samples(noisy)]

    def samples(self, noisy: bool) -> list[str]:
        raise NotImplementedError

    @property
    def evaluate(self) -> list[str]:
        b, g = self.vector("b"), self.vector("G")
        return each_row(self.dim, [f"work[{b} + i, j] = -(work[{g} + i, j] * per_sample{self._decay})"])

    _decay = ""

    def noise(self, root: str = "root", normals: str = "z", into: str = "n") -> list[str]:
        n, g, r, e = (self.vector(name) for name in (into, "G", "R", "E"))
        centred = f"(work[{r} + i, j] - work[{e}, j] * per_sample * work[{g} + i, j])"
        return each_row(self.dim, [f"work[{n} + i, j] = {root} * per_root * {centred}"])


class LinearModelRows(SampleRows):
    """g_k = ℓ'(x_k·w, y_k) x_k + λw, tiles of 4 samples by 4 weights; λw has no noise."""

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("inputs", "targets")

    @property
    def values(self) -> tuple:
        return padded_samples(self.code.arrays[0], self.code.arrays[1], self.real)

    @property
    def _decay(self) -> str:  # type: ignore[override]
        return f" + p0 * work[{self.vector('x')} + i, j]"

    def samples(self, noisy: bool) -> list[str]:
        count, v, p, g = self.increments.count, self.vector("v"), self.vector("P", TILE), self.vector("G")
        lane = [f"prediction = work[{p} + i, j]", *self.code.lines, f"work[{p} + i, j] = slope"]
        if noisy:
            z, e, q, r = self.increments.base, self.vector("E"), self.vector("Q_", TILE), self.vector("R")
            lane += [f"work[{e}, j] += work[{z} + i, j]", f"work[{q} + i, j] = slope * work[{z} + i, j]"]
        last = [f"for i in range({count} - k_sample, {TILE}):"]
        last += indent(lane_loop([f"work[{name} + i, j] = 0.0" for name in ((p, q) if noisy else (p,))]))
        each = [f"for i in range(min({TILE}, {count} - k_sample)):", "    target = targets[k_sample + i]"]
        return [
            f"for k_sample in range(0, {count}, {TILE}):",
            *indent(
                [
                    *(self.increments.tile() if noisy else ()),
                    f"_predict(work, {p}, inputs, k_sample, {v})",
                    *each,
                    *indent(lane_loop(lane)),
                    *last,
                    f"_gather(work, {g}, inputs, k_sample, {p})",
                    *([f"_gather(work, {r}, inputs, k_sample, {q})"] if noisy else ()),
                ]
            ),
        ]


class FunctionRows(SampleRows):
    """g_k written by a function into an array: the points as rows of a (64, d) array, in float64.

    Gradients are added up as deviations from the first sample's, which cancels what all samples share: a direction
    without noise gets exactly none.
    """

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("data",)

    @property
    def values(self) -> tuple:
        return self.code.arrays

    @property
    def setup(self) -> list[str]:
        names = ("points", "shared", "summed", "spread")
        return [
            *super().setup,
            *(f"{name} = np.zeros(({LANES}, {self.dim}))" for name in names),
            f"scratch_out = np.zeros({self.dim})",
        ]

    @property
    def evaluate(self) -> list[str]:
        b, g = self.vector("b"), self.vector("G")
        return each_row(
            self.dim, [f"work[{b} + i, j] = -({self.cast('shared[j, i]')} + work[{g} + i, j] * per_sample)"]
        )

    def samples(self, noisy: bool) -> list[str]:
        count, v, g, d = self.increments.count, self.vector("v"), self.vector("G"), self.dim
        call = ["x = points[j]", *self.code.lines]
        add = ["change = out[i] - shared[j, i]", "summed[j, i] += change"]
        scalars: list[str] = []
        if noisy:
            z, e, r = self.increments.base, self.vector("E"), self.vector("R")
            scalars = [f"xi = work[{z} + q, j]", f"work[{e}, j] += xi"]
            add += ["spread[j, i] += xi * change"]
        over = [f"for i in range({d}):"]
        results = [(g, "summed"), (r, "spread")] if noisy else [(g, "summed")]
        return [
            "row = data[0]",
            *lane_loop(
                [
                    *over,
                    f"    points[j, i] = work[{v} + i, j]",
                    "    summed[j, i] = 0.0",
                    "    spread[j, i] = 0.0",
                    "out = shared[j]",
                    *call,
                ]
            ),
            "out = scratch_out",
            f"for k_sample in range(0, {count}, {TILE}):",
            *indent(
                [
                    *(self.increments.tile() if noisy else ()),
                    f"for q in range(min({TILE}, {count} - k_sample)):",
                    "    row = data[k_sample + q]",
                    *indent(lane_loop([*scalars, *call, *over, *indent(add)])),
                ]
            ),
            *each_row(d, [f"work[{first} + i, j] = {self.cast(f'{name}[j, i]')}" for first, name in results]),
        ]


def padded_samples(inputs: np.ndarray, targets: np.ndarray, real: str) -> tuple[np.ndarray, np.ndarray]:
    """X with a multiple of 4 rows and columns, the new ones 0; y."""
    whole = np.zeros(tuple(map(padded, inputs.shape)), real)
    whole[: inputs.shape[0], : inputs.shape[1]] = inputs
    return whole, np.ascontiguousarray(targets, dtype=real)
