"""A density accumulated while paths run, with its sampling error from independent blocks of paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.grid import Grid
from sde_sgd.landscapes._names import check_names

from ._frame import LANES, Part, indent, lane_loop
from ._observable import (
    Estimate,
    Setting,
    check_run,
    check_sampling,
    half,
    half_every,
    sampled,
    sampling_arguments,
)


@dataclass(frozen=True)
class Histogram:
    """Observable: the time-averaged density of all paths on a grid, counted inside the kernel.

    After `burn_in` steps every `every`-th state of every path is counted. Paths are split into `blocks` contiguous
    groups; groups are independent, so their scatter is an honest standard error however correlated one path is.
    Adds to the result: `density`, `density_error` (standard error), `counts` (block, cells) and `outside` (block),
    the samples beyond the grid. Inside an ensemble's Dataset the grid's dimensions are called `<variable>_bin`;
    `extract` gives them back their names.

    project : None for a grid over all variables; or the names of the grid's one to three variables; or a mapping of
        new names to directions, `{"u": (1, 1, 0), …}`, whose axis is the inner product u·x: not along periodic
        variables, and u is taken as it is, not normalised.
    """

    grid: Grid
    burn_in: int = 0
    every: int = 1
    blocks: int = 16
    project: Sequence[str] | Mapping[str, Sequence[float]] | None = None

    def __post_init__(self):
        _checks.instance("a histogram's grid", self.grid, Grid)
        check_sampling(self)
        if self.project is None:
            return
        what = "names of variables (or a mapping of names to directions), one per axis of the grid"
        names = _checks.sequence("project", self.project, self.grid.dim, what)
        project: tuple | dict = tuple(names)
        if isinstance(self.project, Mapping):
            check_names("projection", names)
            project = {n: tuple(_checks.finite_array(f"direction {n}", u).tolist()) for n, u in self.project.items()}
        object.__setattr__(self, "project", project)

    def tally(self, setting: Setting) -> "_HistogramTally":
        """The histogram at work in a run."""
        self.check(setting.domain, setting.paths, setting.steps)
        return _HistogramTally(self, setting)

    def halved(self) -> "Histogram":
        """The same at steps twice as long."""
        return replace(self, burn_in=half("burn_in", self.burn_in), every=half_every(self.every))

    def check(self, domain: Domain, paths: int, steps: int) -> None:
        """Refuse a grid that does not fit the process, or a run too short or small to fill the histogram."""
        grid, names = self.grid, domain.variables
        if self.project is None and grid.dim != len(names):
            raise ValueError(
                f"the histogram's grid has {grid.dim} dimensions, the process {len(names)} ({', '.join(names)}); name "
                "the variables of the grid with project"
            )
        for (name, axis), wall, *ends in zip(self.axes(domain), grid.boundary, grid.lower, grid.upper):
            if isinstance(axis, np.ndarray):
                if wall == "periodic":
                    raise ValueError(f"the histogram's axis {name} is periodic, and a direction is not; count on a box")
                continue
            wraps, span = domain.periodic[axis], domain.bounds[axis]
            if wraps != (wall == "periodic") or (wraps and tuple(ends) != span):
                raise ValueError(
                    f"the histogram's axis {name} is {wall} over {tuple(ends)}, but the process's is "
                    f"{'periodic' if wraps else 'not periodic'} over {span}; count on a grid that agrees"
                )
        check_run(self, paths, steps)

    def axes(self, domain: Domain) -> list[tuple[str, int | np.ndarray]]:
        """The name of each axis of the grid, with the index of its variable or its direction (d,)."""
        names = domain.variables
        if not isinstance(self.project, Mapping):
            chosen = names if self.project is None else self.project
            found = [_checks.choice("a name in project", name, names) for name in chosen]
            if len(set(found)) < len(found):
                raise ValueError(f"project names a variable twice: {', '.join(found)}")
            return [(name, names.index(name)) for name in found]
        result: list[tuple[str, int | np.ndarray]] = []
        for name, direction in self.project.items():
            u = _checks.finite_array(f"direction {name}", direction, (len(names),))
            if name in names:
                raise ValueError(f"project gives the name of the variable {name!r} to a direction; choose another")
            around = [v for v, wraps, component in zip(names, domain.periodic, u) if wraps and component]
            if around or not u.any():
                why = f"has a component along the periodic variable {around[0]}" if around else "is zero"
                raise ValueError(f"direction {name} {why}")
            result.append((name, u))
        return result

    @staticmethod
    def extract(result: xr.Dataset) -> xr.Dataset:
        """Density, error, counts, outside (and bias) of an ensemble's result on dimensions named as the variables."""
        names = ["density", "density_error", "counts", "outside"]
        _checks.instance("result", result, xr.Dataset)
        if any(name not in result for name in names):
            raise ValueError("result has no density; run it with a Histogram among its observables")
        parts = result[[*names, *(name for name in ("density_bias", "density_bias_error") if name in result)]]
        return parts.rename({d: str(d).removesuffix("_bin") for d in parts.dims if str(d).endswith("_bin")})


class _HistogramTally:
    def __init__(self, histogram: Histogram, setting: Setting):
        grid, name, axes = histogram.grid, setting.name, range(histogram.grid.dim)
        chosen = histogram.axes(setting.domain)
        self._histogram, self._variables = histogram, [label for label, _ in chosen]
        directions = [axis for _, axis in chosen if isinstance(axis, np.ndarray)]
        seen = [f"{name}_view[{i}, j]" if directions else f"X{axis}[j]" for i, (_, axis) in enumerate(chosen)]
        bins = [f"i{i} = np.floor(({seen[i]} - {name}_low[{i}]) * {name}_width[{i}])" for i in axes]
        inside = " and ".join(f"i{i} >= 0.0 and i{i} < {name}_shape[{i}]" for i in axes)
        index = "i0"
        for i in list(axes)[1:]:
            index = f"({index} * {name}_shape[{i}] + i{i})"
        outside = f"{name}_counts.shape[1] - 1"
        arguments, values = sampling_arguments(name, histogram)
        self.part = Part(
            arguments=(
                *arguments,
                *(f"{name}_{what}" for what in ("low", "width", "shape", "blocks")),
                *((f"{name}_directions",) if directions else ()),
            ),
            values=(
                *values,
                np.asarray(grid.lower, float),
                1.0 / np.asarray(grid.spacing, float),
                np.asarray(grid.shape, float),
                histogram.blocks,
                *((np.array(directions),) if directions else ()),
            ),
            setup=[
                f"{name}_where = np.empty({LANES}, np.int64)",
                *([f"{name}_view = np.empty(({len(directions)}, {LANES}))"] if directions else []),
            ],
            after=sampled(
                name,
                [
                    *(_inner_products(name, directions) if directions else ()),
                    *lane_loop([*bins, f"{name}_where[j] = np.int64({index}) if ({inside}) else {outside}"]),
                    "for j in range(live):",
                    *indent(
                        [
                            f"block = (offset + base + j) * {name}_blocks // total - {name}_counts_first",
                            f"{name}_counts[block, {name}_where[j]] += 1",
                        ]
                    ),
                ],
            ),
            counter=f"{name}_counts",
            counters=(histogram.blocks, grid.size + 1),
        )
        self.arrays = [np.zeros(self.part.counters, np.int64)]

    def fold(self, sums: np.ndarray, places: np.ndarray) -> None:
        """It keeps nothing per path."""

    def count(self, counts: np.ndarray) -> None:
        self.arrays[0] += counts

    def estimates(self) -> dict[str, Estimate]:
        """The density, with the blocks' own."""
        density, blocks = _densities(*self._split(), self._histogram.grid)
        return {"density": Estimate(tuple(f"{v}_bin" for v in self._variables), density, blocks)}

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        counts = self.arrays[0]
        return counts[:, :-1].reshape(-1, *self._histogram.grid.shape), counts[:, -1]

    def dataset(self) -> xr.Dataset:
        counts, histogram = self.arrays[0], self._histogram
        result = density_dataset(*self._split(), histogram.grid, self._variables, "_bin")
        return result.assign_attrs(
            burn_in=histogram.burn_in,
            every=histogram.every,
            samples=int(counts.sum()),
            outside=int(counts[:, -1].sum()),
        )


def _inner_products(name: str, directions: Sequence[np.ndarray]) -> list[str]:
    """Lines that fill the rows of `view` with u·x, in float64."""
    return [
        f"for axis in range({len(directions)}):",
        *indent(lane_loop([f"{name}_view[axis, j] = 0.0"])),
        f"    for i in range({len(directions[0])}):",
        f"        along = {name}_directions[axis, i]",
        *indent(lane_loop([f"{name}_view[axis, j] += along * work[i, j]"]), 2),
    ]


def density_dataset(
    counts: np.ndarray, outside: np.ndarray, grid: Grid, variables: Sequence[str], suffix: str = ""
) -> xr.Dataset:
    """density, density_error, counts, outside from counts (block, *cells) and the samples outside (block,).

    The density is normalised by all samples, those outside included, so that mass is not invented; each block by
    its own.
    """
    dims = tuple(f"{v}{suffix}" for v in variables)
    density, blocks = _densities(counts, outside, grid)
    error = Estimate(dims, density, blocks).error
    return xr.Dataset(
        {
            "density": (dims, density),
            "density_error": (dims, error),
            "counts": (("block", *dims), counts),
            "outside": ("block", outside),
        },
        coords={d: axis for d, axis in zip(dims, grid.axes)},
    )


def _densities(counts: np.ndarray, outside: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The density of all counts, and that of each block."""
    cells = tuple(range(1, counts.ndim))
    share = (counts.sum(axis=cells) + outside).reshape(-1, *[1] * grid.dim)
    return counts.sum(axis=0) / share.sum() / grid.cell_volume, counts / share / grid.cell_volume
