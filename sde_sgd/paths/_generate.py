"""The text of path kernels: Philox, lane mathematics, a landscape's code and a scheme pasted into one module.

A kernel advances chunks of LANES paths, structure of arrays in one work buffer (one base address: LLVM then needs no
aliasing checks), one inner loop per task: draw, evaluate, update. Per path-step of a d-dimensional constant-D
landscape: ⌈d/2⌉ Philox blocks, d normals, 2d loads and stores in L1.
"""

from collections.abc import Sequence

import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

from ._kernel_cache import HEADER, fragment
from ._scheme import Scheme

LANES = 64
BOUND = 1e100  # a coordinate beyond this, or NaN, counts as diverged
NORMAL_STREAM = 0  # second counter word: what the block is used for, so that one seed serves both kernels
SAMPLE_STREAM = 1 << 24

_ARGUMENTS = (
    "state, first, last, paths, first_step, steps, every, saved, low, span, bin_low, bin_width, bin_shape, "
    "bin_start, bin_every, blocks, first_block, counts, failure, key0, key1, parameters"
)


def langevin_source(lane: LaneCode, scheme: Scheme, periodic: Sequence[bool]) -> str:
    """Kernel of `simulate`. Extra arguments: h, T, sigma (Cholesky factor of constant D times √(2Th)), data…"""
    d = lane.dim
    rows = _Rows([f"X{i}" for i in range(d)] + [f"Z{i}" for i in range(d + d % 2)])
    body = [*_draw_normals(d)]
    point = [f"x{i} = X{i}[j]" for i in range(d)]
    if lane.data:
        # D is summed about the first sample's gradient R, which cancels what all samples share: a direction without
        # noise gets exactly none, and a large common gradient costs no digits.
        pairs = [(i, j) for i in range(d) for j in range(i + 1)]
        sums = [f"G{i}" for i in range(d)] + [f"M{i}_{j}" for i, j in pairs]
        rows.add([*sums, *(f"R{i}" for i in range(d))])
        read = [f"a{k} = data{k}[sample]" for k in range(len(lane.data))]
        first = [*(f"{s}[j] = 0.0" for s in sums), *(f"R{i}[j] = g{i}" for i in range(d))]
        body += ["sample = 0", *read, *_lane_loop([*point, *lane.lines, *first])]
        body += ["for sample in range(1, data0.shape[0]):", *_indent(read)]
        add = [f"g{i} = g{i} - R{i}[j]" for i in range(d)] + [f"G{i}[j] += g{i}" for i in range(d)]
        add += [f"M{i}_{j}[j] += g{i} * g{j}" for i, j in pairs]
        body += _indent(_lane_loop([*point, *lane.lines, *add]))
        model = [f"g{i} = G{i}[j] * per_sample" for i in range(d)] + [f"b{i} = -(R{i}[j] + g{i})" for i in range(d)]
        model += [f"d{i}_{j} = M{i}_{j}[j] * per_sample - g{i} * g{j}" for i, j in pairs]
        model += [f"scale{i} = M{i}_{i}[j] * per_sample" for i in range(d)]
    else:
        model = list(lane.lines)
        if lane.constant_diffusion is None:
            model += [f"scale{i} = d{i}_{i}" for i in range(d)]
    noise = _cholesky_noise(d) if lane.constant_diffusion is None else _constant_noise(lane.constant_diffusion)
    update = [f"y{i} = {scheme.update(i)}" for i in range(d)]
    body += _lane_loop([*point, *model, *noise, *update, *_wrap(periodic), *(f"X{i}[j] = y{i}" for i in range(d))])
    setup = ["root = math.sqrt(2.0 * T * h)"]
    setup += [f"sigma{i}_{j} = sigma[{i}, {j}]" for i in range(d) for j in range(i + 1)]
    setup += ["per_sample = 1.0 / data0.shape[0]"] if lane.data else []
    return _module(lane, rows, f"h, T, sigma{_data_arguments(lane)}", setup, body)


def sgd_source(lane: LaneCode, periodic: Sequence[bool]) -> str:
    """Kernel of `sgd`. Extra arguments: rate, batch, draws, weight, other (weights of the two halves), data…"""
    d = lane.dim
    rows = _Rows([f"X{i}" for i in range(d)] + [f"G{i}" for i in range(d)] + [f"A{k}" for k in range(len(lane.data))])
    gather = [f"A{k}[j] = data{k}[picks[which, j]]" for k in range(len(lane.data))]
    gradient = [f"x{i} = X{i}[j]" for i in range(d)] + [f"a{k} = A{k}[j]" for k in range(len(lane.data))]
    gradient += [*lane.lines, *(f"G{i}[j] += w * g{i}" for i in range(d))]
    body = _lane_loop([f"G{i}[j] = 0.0" for i in range(d)])
    body += ["for pair in range((draws + 1) // 2):"]
    body += _indent(
        _lane_loop(
            [
                "path = np.uint64(base + j)",
                f"one, two = _two_indices(samples, np.uint64(step), np.uint64({SAMPLE_STREAM} + pair), path & _LOW, "
                "path >> _U32, key0, key1)",
                "picks[0, j] = np.int64(one)",
                "picks[1, j] = np.int64(two)",
            ]
        )
    )
    body += _indent(
        [
            "for which in range(min(2, draws - 2 * pair)):",
            *_indent(
                [
                    "w = weight if 2 * pair + which < batch else other",
                    *_lane_loop(gather),
                    *_lane_loop(gradient),
                ]
            ),
        ]
    )
    update = [f"y{i} = X{i}[j] - rate * G{i}[j]" for i in range(d)]
    body += _lane_loop([*update, *_wrap(periodic), *(f"X{i}[j] = y{i}" for i in range(d))])
    setup = ["samples = np.uint64(data0.shape[0])", f"picks = np.empty((2, {LANES}), np.int64)"]
    return _module(lane, rows, f"rate, batch, draws, weight, other{_data_arguments(lane)}", setup, body)


def _wrap(periodic: Sequence[bool]) -> list[str]:
    """y back into [low, low + span); rounding may give either end, which are one point."""
    lines = []
    for i in (i for i, wraps in enumerate(periodic) if wraps):
        lines += [
            f"y{i} = y{i} - span[{i}] * np.floor((y{i} - low[{i}]) / span[{i}])",
            f"y{i} = low[{i}] if y{i} >= low[{i}] + span[{i}] or y{i} < low[{i}] else y{i}",
        ]
    return lines


class _Rows:
    """Names of the rows of the work buffer."""

    def __init__(self, names: list[str]):
        self.names = names

    def add(self, names: list[str]) -> None:
        self.names = self.names + names

    def setup(self) -> list[str]:
        return [
            f"work = np.zeros({len(self.names) * LANES})",
            *(f"{name} = work[{i * LANES}:{(i + 1) * LANES}]" for i, name in enumerate(self.names)),
        ]


def _indent(lines: Sequence[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in lines]


def _lane_loop(lines: Sequence[str]) -> list[str]:
    return [f"for j in range({LANES}):", *_indent(lines)]


def _data_arguments(lane: LaneCode) -> str:
    return "".join(f", data{k}" for k in range(len(lane.data)))


def _draw_normals(d: int) -> list[str]:
    lines = ["path = np.uint64(base + j)"]
    for block in range((d + 1) // 2):
        lines += [
            f"z0, z1 = _two_normals(np.uint64(step), np.uint64({NORMAL_STREAM + block}), path & _LOW, "
            "path >> _U32, key0, key1)",
            f"Z{2 * block}[j] = z0",
            f"Z{2 * block + 1}[j] = z1",
        ]
    return _lane_loop(lines)


def _constant_noise(diffusion: np.ndarray) -> list[str]:
    """n = √(2Th) L ξ with the constant factor passed in; entries that are zero for every T and h are left out."""
    diagonal = np.array_equal(diffusion, np.diag(np.diag(diffusion)))
    return [
        f"n{i} = " + " + ".join(f"sigma{i}_{j} * Z{j}[j]" for j in range(i + 1) if i == j or not diagonal)
        for i in range(len(diffusion))
    ]


def _cholesky_noise(d: int) -> list[str]:
    """n = √(2Th) L(x) ξ, L Lᵀ = D by Cholesky without branches.

    A pivot below 1e-13 of `scale` (the size of what it was subtracted from) is rounding and counts as 0: D may be
    singular. A truly negative one gives NaN, which stops the run.
    """
    lines = []
    for i in range(d):
        for j in range(i):
            inner = "".join(f" - l{i}_{k} * l{j}_{k}" for k in range(j))
            lines.append(f"l{i}_{j} = (d{i}_{j}{inner}) * r{j}")
        inner = "".join(f" - l{i}_{k} * l{i}_{k}" for k in range(i))
        lines += [
            f"v{i} = d{i}_{i}{inner}",
            f"v{i} = 0.0 if math.fabs(v{i}) <= 1e-13 * scale{i} else v{i}",
            f"l{i}_{i} = math.sqrt(v{i})",
            f"r{i} = 1.0 / l{i}_{i} if l{i}_{i} > 0.0 else 0.0",
        ]
    for i in range(d):
        lines.append(f"n{i} = root * ({' + '.join(f'l{i}_{j} * Z{j}[j]' for j in range(i + 1))})")
    return lines


def _module(lane: LaneCode, rows: _Rows, extra: str, setup: Sequence[str], body: Sequence[str]) -> str:
    d = lane.dim
    state = [f"X{i}[j] = state[{i}, base + j]" for i in range(d)]
    store = [f"state[{i}, base + j] = X{i}[j]" for i in range(d)]
    escaped = " or ".join(f"not (math.fabs(X{i}[j]) < {BOUND!r})" for i in range(d))
    counted = " + ".join(f"np.int64(not (math.fabs(X{i}[j]) < {BOUND!r}))" for i in range(d))
    # A chunk stops at its own first divergence; the earliest step, then the lowest path, is what is reported: the
    # same whatever the threads and however a run is cut into segments.
    divergence = [
        "escaped = 0",
        *_lane_loop([f"escaped += {counted}"]),
        "if escaped > 0:",
        *_indent(
            [
                "lane = -1",
                "for j in range(live):",
                *_indent([f"if lane < 0 and ({escaped}):", *_indent(["lane = j"])]),
                "if lane >= 0:",
                *_indent(
                    [
                        "if failure[1] < 0 or step + 1 < failure[1]:",
                        *_indent(["failure[0] = base + lane", "failure[1] = step + 1"]),
                        "break",
                    ]
                ),
            ]
        ),
    ]
    save = [
        "if every > 0 and (step + 1) % every == 0:",
        *_indent(
            [
                "row = (step + 1) // every - 1 - first_step // every",
                "for j in range(live):",
                *_indent([f"saved[row, {i}, base + j] = X{i}[j]" for i in range(d)]),
            ]
        ),
    ]
    bins = [f"i{i} = np.floor((X{i}[j] - bin_low[{i}]) * bin_width[{i}])" for i in range(d)]
    inside = " and ".join(f"i{i} >= 0.0 and i{i} < bin_shape[{i}]" for i in range(d))
    index = "i0"
    for i in range(1, d):
        index = f"({index} * bin_shape[{i}] + i{i})"
    histogram = [
        "if bin_every > 0 and step >= bin_start and (step + 1 - bin_start) % bin_every == 0:",
        *_indent(
            [
                *_lane_loop([*bins, f"where[j] = np.int64({index}) if ({inside}) else counts.shape[1] - 1"]),
                "for j in range(live):",
                *_indent(["counts[(base + j) * blocks // paths - first_block, where[j]] += 1"]),
            ]
        ),
    ]
    return "\n".join(
        [
            HEADER,
            fragment("_philox"),
            fragment("_lane_math"),
            "",
            '@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})',
            f"def kernel({_ARGUMENTS}, {extra}):",
            *_indent(
                [
                    *(f"p{k} = parameters[{k}]" for k in range(len(lane.parameters))),
                    *setup,
                    *rows.setup(),
                    f"where = np.empty({LANES}, np.int64)",
                    "for chunk in range(first, last):",
                    *_indent(
                        [
                            f"base = chunk * {LANES}",
                            f"live = min({LANES}, paths - base)",
                            *_lane_loop(state),
                            "for k in range(steps):",
                            *_indent(["step = first_step + k", *body, *divergence, *save, *histogram]),
                            *_lane_loop(store),
                        ]
                    ),
                ]
            ),
            "",
        ]
    )
