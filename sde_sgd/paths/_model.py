"""Drift and noise of a process at the lanes' points, as kernel text."""

from collections.abc import Sequence

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._frame import indent, lane_loop, literal
from ._noise import Increments


class Model:
    """How a kernel evaluates b and D of a `LaneCode`, and turns z ~ (0, I) into the noise n = root · L z, L Lᵀ = D.

    `sweep(rows)` are step lines that go through the samples of a finite sum at the points in `rows`0…, for b alone
    where not `noisy`; `evaluate` are lane lines that give b0… (and D) at x0…, after such a sweep where there are
    samples; `extra` lines of a scheme. A scheme states what it does to every component by `each`, so that the lines
    of one that names every coordinate and those of one that loops over them (`RowModel`) are the same scheme.
    """

    by_rows = False  # whether its lines are `Part.loops`
    periodic: Sequence[bool] = ()  # axes of the domain, where a scheme has to know them

    def __init__(self, lane: LaneCode, increments: Increments, extra: Sequence[str] = ()):
        self.lane, self.increments, self.extra = lane, increments, list(extra)
        self.dim, self.real = lane.dim, increments.real
        self._pairs = [(i, j) for i in range(self.dim) for j in range(i + 1)]

    def number(self, value: float) -> str:
        """A literal of the kernel's float type."""
        return literal(value, self.real)

    @property
    def constant(self) -> np.ndarray | None:
        return self.lane.constant_diffusion

    @property
    def fragments(self) -> tuple[str, ...]:
        return ()

    @property
    def scratch(self) -> tuple[str, ...]:
        if not self.lane.data:
            return ()
        names = [f"{kind}{i}" for kind in ("G", "R") for i in range(self.dim)]
        return (*names, *(f"M{i}_{j}" for i, j in self._pairs))

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*(() if self.constant is None else ("factor",)), *(f"data{k}" for k in range(len(self.lane.data))))

    @property
    def values(self) -> tuple:
        factor = () if self.constant is None else (cholesky(self.constant).astype(self.real),)
        return (*factor, *(np.ascontiguousarray(a, dtype=self.real) for a in self.lane.data))

    @property
    def setup(self) -> list[str]:
        lines = []
        if self.constant is not None:
            lines += [f"factor{i}_{j} = factor[{i}, {j}]" for i, j in self._pairs]
        if self.lane.data:
            lines.append(f"per_sample = {self.cast('1.0 / data0.shape[0]')}")
        return lines

    def cast(self, text: str) -> str:
        return text if self.real == "float64" else f"np.float32({text})"

    def each(self, template: str) -> list[str]:
        """The statement for every component i, {d+i} being the one d further on; z{i} is a lane's, Z{i}[j] a row's."""
        d = self.dim
        return [template.replace("{i}", str(i)).replace("{d+i}", str(d + i)) for i in range(d)]

    def over_lanes(self, lines: Sequence[str]) -> list[str]:
        """Step lines that do the lane lines in every lane."""
        return lane_loop(lines)

    def sweep(self, rows: str = "X", noisy: bool = True) -> list[str]:
        """Sums over the samples. D is summed about the first sample's gradient R, which cancels what all samples share:
        a direction without noise gets exactly none, and a large common gradient costs no digits."""
        lane, d = self.lane, self.dim
        if not lane.data:
            return []
        point = [f"x{i} = {rows}{i}[j]" for i in range(d)]
        pairs = self._pairs if noisy else []
        sums = [f"G{i}" for i in range(d)] + [f"M{i}_{j}" for i, j in pairs]
        read = [f"a{k} = data{k}[sample]" for k in range(len(lane.data))]
        first = [*(f"{s}[j] = {self.number(0)}" for s in sums), *(f"R{i}[j] = g{i}" for i in range(d))]
        add = [f"g{i} = g{i} - R{i}[j]" for i in range(d)] + [f"G{i}[j] += g{i}" for i in range(d)]
        add += [f"M{i}_{j}[j] += g{i} * g{j}" for i, j in pairs]
        return [
            "sample = 0",
            *read,
            *lane_loop([*point, *lane.lines, *first]),
            "for sample in range(1, data0.shape[0]):",
            *indent([*read, *lane_loop([*point, *lane.lines, *add])]),
        ]

    @property
    def evaluate(self) -> list[str]:
        lane, d = self.lane, self.dim
        if lane.data:
            lines = [f"g{i} = G{i}[j] * per_sample" for i in range(d)] + [f"b{i} = -(R{i}[j] + g{i})" for i in range(d)]
            lines += [f"d{i}_{j} = M{i}_{j}[j] * per_sample - g{i} * g{j}" for i, j in self._pairs]
            return lines + [f"scale{i} = M{i}_{i}[j] * per_sample" for i in range(d)]
        lines = list(lane.lines)
        if self.constant is None:
            lines += [f"scale{i} = d{i}_{i}" for i in range(d)]
        return lines

    def noise(self, root: str = "root", normals: str = "z", into: str = "n") -> list[str]:
        """n = root · L z, from D as `evaluate` left it or from the constant factor passed in."""
        d = self.dim
        if self.constant is None:
            lines = self._cholesky_lines()
            return lines + [
                f"{into}{i} = {root} * ({' + '.join(f'l{i}_{j} * {normals}{j}' for j in range(i + 1))})"
                for i in range(d)
            ]
        diagonal = np.array_equal(self.constant, np.diag(np.diag(self.constant)))
        return [
            f"{into}{i} = "
            + " + ".join(f"({root} * factor{i}_{j}) * {normals}{j}" for j in range(i + 1) if i == j or not diagonal)
            for i in range(d)
        ]

    def covariance(self, i: int, j: int) -> str:
        """Text of D_ij in a lane after `evaluate`."""
        i, j = max(i, j), min(i, j)
        return f"d{i}_{j}" if self.constant is None else self.number(self.constant[i, j])

    def _cholesky_lines(self) -> list[str]:
        """L with L Lᵀ = D, without branches.

        A pivot below rounding of `scale` (the size of what it was subtracted from) counts as 0: D may be singular.
        A truly negative one gives NaN, which stops the run.
        """
        rounding, zero, one = self.number(1e-13 if self.real == "float64" else 1e-5), self.number(0), self.number(1)
        lines = []
        for i in range(self.dim):
            for j in range(i):
                inner = "".join(f" - l{i}_{k} * l{j}_{k}" for k in range(j))
                lines.append(f"l{i}_{j} = (d{i}_{j}{inner}) * r{j}")
            inner = "".join(f" - l{i}_{k} * l{i}_{k}" for k in range(i))
            lines += [
                f"v{i} = d{i}_{i}{inner}",
                f"v{i} = {zero} if math.fabs(v{i}) <= {rounding} * scale{i} else v{i}",
                f"l{i}_{i} = math.sqrt(v{i})",
                f"r{i} = {one} / l{i}_{i} if l{i}_{i} > {zero} else {zero}",
            ]
        return lines


def cholesky(diffusion: np.ndarray) -> np.ndarray:
    """Lower L with L Lᵀ = D for a positive semi-definite D; a pivot that is rounding counts as 0, as in the kernel."""
    lower = np.zeros_like(diffusion)
    for i in range(len(diffusion)):
        for j in range(i + 1):
            rest = diffusion[i, j] - lower[i, :j] @ lower[j, :j]
            if i == j:
                lower[i, i] = np.sqrt(rest) if rest > 1e-13 * diffusion[i, i] else 0.0
            elif lower[j, j] > 0:
                lower[i, j] = rest / lower[j, j]
    return lower
