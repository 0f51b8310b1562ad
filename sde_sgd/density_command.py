"""The sub-command `sde-sgd density`: what is asked, as one configuration. Heavy imports live inside the functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._command import assignment, merged, numbers, read, spelled_out, start_of

if TYPE_CHECKING:
    from .process import Process

SNAPSHOTS = 8
CELLS = {1: 400, 2: 128, 3: 32}  # per axis of a box that is given without a shape
AROUND = "around"
SCHEMES = ("splitting", "implicit_euler", "exact", "krylov")
_KEYS = (
    *("landscape", "temperature", "shape", "box", "boundary", "max_offset", "start", "spectrum", "exit"),
    *("from", "to", "evolve", "snapshots", "scheme", "parameters"),
)


def density(
    landscape: Annotated[str, typer.Argument(help="A name of the catalogue; `sde-sgd list` shows them.")],
    config: Annotated[Path | None, typer.Argument(help="TOML file of settings; options overrule it.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T = η/2b. (default: the landscape's own)")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the landscape; repeatable.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="N,M,…", help="Cells per axis; one number is for all. (default: by the box)")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0,X1,Y0,Y1,…", help="Lower and upper end of each axis. (default: around the steady density)"
        ),
    ] = None,
    boundary: Annotated[
        str | None,
        typer.Option(
            metavar="WALL,…",
            help="reflecting, periodic or absorbing; one per axis, or one for all. (default: periodic axes of the "
            "landscape, and reflecting)",
        ),
    ] = None,
    max_offset: Annotated[
        int | None, typer.Option(help="Longest edge in cells, for anisotropic noise. (default: the generator's)")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="X,Y,…", help="Where --evolve begins, and one place whose --exit time is told."),
    ] = None,
    spectrum: Annotated[int | None, typer.Option(help="The k slowest modes of relaxation.")] = None,
    exit_from: Annotated[
        str | None, typer.Option("--exit", metavar="REGION", help='Exit times of a region, such as "x < 0 and y > -1".')
    ] = None,
    leave: Annotated[
        str | None, typer.Option("--from", metavar="REGION", help="With --to: transitions from one region to another.")
    ] = None,
    reach: Annotated[str | None, typer.Option("--to", metavar="REGION", help="See --from.")] = None,
    evolve: Annotated[float | None, typer.Option(help="Follow the density from --start for this time.")] = None,
    snapshots: Annotated[int | None, typer.Option(help=f"Densities kept on the way. (default: {SNAPSHOTS})")] = None,
    scheme: Annotated[str | None, typer.Option(help="Scheme of --evolve. (default: splitting)")] = None,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """The steady density of a landscape on a grid, its error, potential and current; relaxation, exits, transitions."""
    from . import _density, _density_report
    from ._console import Console
    from ._simulation import forget_empty
    from .results import Run

    given = {
        **dict(landscape=landscape, temperature=temperature, max_offset=max_offset, spectrum=spectrum, exit=exit_from),
        "from": leave,
        "to": reach,
        "evolve": evolve,
        "snapshots": snapshots,
        "scheme": scheme,
        "shape": None if shape is None else numbers(shape, "shape"),
        "box": None if box is None else numbers(box, "box"),
        "boundary": None if boundary is None else boundary.replace(" ", "").split(","),
        "start": None if start is None else numbers(start),
    }
    process, resolved = resolve(read(config) if config else {}, given, dict(map(assignment, parameter or [])))
    console = Console(quiet=quiet)
    run = Run("density", resolved, root=root, fresh=fresh)
    if fresh:
        _density.forget_files(run)
    if not run.finished:
        try:
            _density.perform(run, process, console)
        except ValueError:
            forget_empty(run)
            raise
    _density_report.show(run, console, as_json)


def resolve(
    file: Mapping[str, Any], options: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple["Process", dict[str, Any]]:
    """The process, and every setting spelled out: the options, else the file's, else the defaults.

    A box that is not given stays the word "around", so that a finished run is found without looking for it again.
    Raises ValueError for what is unknown or cannot be, before anything is written.
    """
    from . import _checks
    from ._region import Region
    from .landscapes import get

    asked, parameters = merged(file, options, parameters, _KEYS)
    process = get(asked["landscape"], **parameters).at_temperature(asked.get("temperature"))
    resolved: dict[str, Any] = {
        "landscape": asked["landscape"],
        "temperature": process.constant_temperature,
        **_grid_settings(process, asked),
    }
    for name in ("exit", "from", "to"):
        if name in asked:
            region = Region.of(asked[name], process.variables, process.landscape.parameters, process.domain, name)
            resolved[name] = region.describe()
    if ("from" in asked) != ("to" in asked):
        raise ValueError("transitions need both regions: give --from and --to")
    if "spectrum" in asked:
        resolved["spectrum"] = _checks.whole("spectrum", asked["spectrum"], 1, None, "it is a number of modes")
    if "evolve" in asked:
        resolved["evolve"] = _checks.positive("evolve", asked["evolve"], "it is a length of time")
        resolved["snapshots"] = _checks.whole("snapshots", asked.get("snapshots", SNAPSHOTS), 1, 399, "each is a frame")
        resolved["scheme"] = _checks.choice("scheme", asked.get("scheme", "splitting"), SCHEMES)
        resolved["start"] = start_of(process, asked.get("start"))
    else:
        for name in ("snapshots", "scheme"):
            if name in asked:
                raise ValueError(f"{name} is a setting of the evolution: give --evolve, too, or leave it out")
        if "start" in asked:
            if "exit" not in asked:
                raise ValueError("start is where --evolve begins, or --exit: give one of them, or leave it out")
            resolved["start"] = start_of(process, asked["start"])
    if "absorbing" in resolved["boundary"]:
        _check_absorbing(resolved)
    return process, resolved | {"parameters": spelled_out(asked["landscape"], parameters)}


def _grid_settings(process: "Process", asked: Mapping[str, Any]) -> dict[str, Any]:
    """Box, cells, walls and the longest edge, checked as far as they can be before a box is looked for."""
    from . import _checks
    from .grid import BOUNDARIES, Grid

    d = process.dim
    if d > 3:
        raise ValueError(f"{asked['landscape']} has {d} variables, and a grid at most 3; simulate its paths")
    own = ["periodic" if wraps else "reflecting" for wraps in process.domain.periodic]
    walls = _per_axis("boundary", asked.get("boundary", own), d)
    for wall in walls:
        _checks.choice("boundary", wall, BOUNDARIES)
    settings: dict[str, Any] = {"box": asked.get("box", AROUND), "boundary": walls}
    if "shape" in asked:
        cells = _per_axis("shape", asked["shape"], d)
        settings["shape"] = [_checks.whole("shape", n, 3, None, "it is a number of cells per axis") for n in cells]
    elif settings["box"] != AROUND:
        settings["shape"] = [CELLS[d]] * d
    if settings["box"] != AROUND:
        ends = _checks.finite_array("box", settings["box"])
        if ends.size != 2 * d:
            raise ValueError(
                f"box has {ends.size} numbers for {d} variables ({', '.join(process.variables)}); give a lower and an "
                "upper end of each, as X0,X1,Y0,Y1"
            )
        settings["box"] = ends.ravel().tolist()
        lower, upper = ends.reshape(d, 2).T.tolist()
        Grid(lower, upper, settings["shape"], boundary=walls)
    elif "absorbing" in walls:
        raise ValueError("with absorbing walls no steady density says where the box ends: give --box")
    if "max_offset" in asked:
        settings["max_offset"] = _checks.whole("max_offset", asked["max_offset"], 1, 16, "it is a number of cells")
    return settings


def _per_axis(name: str, given: Any, d: int) -> list:
    """One entry per axis from one for all or from one for each."""
    entries = list(given) if isinstance(given, list | tuple) else [given]
    if len(entries) not in (1, d):
        raise ValueError(f"{name} has {len(entries)} entries for {d} variables; give one for all, or one for each")
    return entries * (d // len(entries)) if len(entries) == 1 else entries


def _check_absorbing(resolved: Mapping[str, Any]) -> None:
    """What loses all its mass has no steady state, and nothing that is built on it."""
    if "from" in resolved:
        raise ValueError("transitions are those of the steady state, and absorbing walls leave none: use other walls")
    if not {"exit", "evolve", "spectrum"} & set(resolved):
        raise ValueError(
            "with absorbing walls nothing stays: the steady density is 0; ask for --exit, --evolve or --spectrum, or "
            "take other walls"
        )
