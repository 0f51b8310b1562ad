"""The sub-command `sde-sgd simulate`: what is asked, as one configuration. Heavy imports live inside the functions."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._command import assignment, merged, numbers, read, spelled_out, start_of

if TYPE_CHECKING:
    from .process import Process

STEPS, PATHS = 8000, 2048
_KEYS = (
    *("landscape", "temperature", "start", "step", "steps", "paths", "scheme", "walls", "burn_in", "every"),
    *("save_every", "dtype", "seed", "step_bias", "parameters"),
)


def simulate(
    landscape: Annotated[str, typer.Argument(help="A name of the catalogue; `sde-sgd list` shows them.")],
    config: Annotated[Path | None, typer.Argument(help="TOML file of settings; options overrule it.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T = η/2b. (default: the landscape's own)")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the landscape; repeatable.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="Length h of a time step. (default: a twentieth of the fastest relaxation)")
    ] = None,
    steps: Annotated[int | None, typer.Option(help=f"Steps of every path. (default: {STEPS})")] = None,
    paths: Annotated[int | None, typer.Option(help=f"Independent paths. (default: {PATHS})")] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="X,Y,…", help="Start of every path. (default: a known fixed point, or the centre)"),
    ] = None,
    scheme: Annotated[str | None, typer.Option(help="auto, or the name of a scheme. (default: auto)")] = None,
    walls: Annotated[
        str | None, typer.Option(help="none, reflect or absorb, at the domain's sides. (default: none)")
    ] = None,
    burn_in: Annotated[int | None, typer.Option(help="Steps left out. (default: a quarter)")] = None,
    every: Annotated[int | None, typer.Option(help="Count every k-th state after them. (default: 1)")] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Keep every k-th state of the first eight paths, and draw them.")
    ] = None,
    step_bias: Annotated[
        bool | None,
        typer.Option(
            "--step-bias/--no-step-bias", help="Run at twice the step, too. (default: where the scheme allows it)"
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 or float32. (default: float64)")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random number. (default: 0)")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; the numbers do not depend on it. (default: all cores)")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder under which the run keeps its results.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget results of earlier runs and compute anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Langevin paths of a landscape: mean, covariance and density, each with its error and the step's own bias."""
    from . import _simulation
    from ._console import Console
    from .cli import INTERRUPTED
    from .results import Run

    given = {
        **dict(landscape=landscape, temperature=temperature, start=None if start is None else numbers(start)),
        **dict(step=step, steps=steps, paths=paths, scheme=scheme, walls=walls, burn_in=burn_in, every=every),
        **dict(save_every=save_every, dtype=dtype, seed=seed, step_bias=step_bias),
    }
    process, resolved = resolve(read(config) if config else {}, given, dict(map(assignment, parameter or [])))
    console = Console(quiet=quiet)
    run = Run("simulate", resolved, root=root, fresh=fresh)
    if fresh:
        _simulation.forget_checkpoints(run)
    if not run.finished:
        try:
            _simulation.perform(run, process, console, threads)
        except KeyboardInterrupt as stop:
            if not stop.args:  # not from the steps of the paths: nothing is known of where it stopped
                raise
            where = str(stop.args[0]).partition(";")[0]
            print(f"interrupted: {where}; the same command continues from there", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except ValueError:
            _simulation.forget_empty(run)
            raise
    _simulation.show(run, console, as_json)


def resolve(
    file: Mapping[str, Any], options: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple["Process", dict[str, Any]]:
    """The process, and every setting spelled out: the options, else the file's, else the defaults.

    Raises ValueError for what is unknown or cannot be, before anything is written.
    """
    from . import _checks
    from .landscapes import get
    from .paths._choose import choose
    from .paths._simulate import DTYPES
    from .paths._walls import WALLS

    asked, parameters = merged(file, options, parameters, _KEYS)
    landscape = get(asked["landscape"], **parameters)
    process = landscape.at_temperature(asked.get("temperature"))

    steps = _checks.whole("steps", asked.get("steps", STEPS), 1)
    blocks = "the statistical errors come from 16 blocks of paths"
    paths = _checks.whole("paths", asked.get("paths", PATHS), 16, None, blocks)
    every = _checks.whole("every", asked.get("every", 1), 1, steps)
    burn_in = _checks.whole("burn_in", asked.get("burn_in", steps // 8 * 2), 0, steps - every)
    dtype = _checks.choice("dtype", asked.get("dtype", "float64"), DTYPES)
    walls = _checks.choice("walls", asked.get("walls", "none"), ("none", *WALLS))
    scheme = asked.get("scheme", "auto")
    chosen, _, _ = choose(process, scheme, dtype, end_points=walls != "none")
    at = start_of(process, asked.get("start"))
    paired = chosen.increments == "normal" and walls != "absorb"
    bias = asked.get("step_bias", paired)
    if not isinstance(bias, bool):
        raise ValueError(f"step_bias must be true or false, got {bias!r}")
    if bias:
        for name, number in (("steps", steps), ("burn_in", burn_in), ("every", 2 * (every == 1) or every)):
            if number % 2:
                raise ValueError(
                    f"the step's bias comes from a second run at twice the step: {name} must be even, got {number}; "
                    "or add --no-step-bias"
                )
    resolved = {
        "landscape": asked["landscape"], "temperature": process.constant_temperature, "start": at,
        "step": _checks.positive("step", asked["step"]) if "step" in asked else _default_step(process, at),
        "steps": steps, "paths": paths, "scheme": scheme, "walls": walls, "burn_in": burn_in,
        "every": every, "dtype": dtype, "seed": _checks.whole("seed", asked.get("seed", 0), 0), "step_bias": bias,
    }  # fmt: skip
    if "save_every" in asked:
        resolved["save_every"] = _checks.whole("save_every", asked["save_every"], 1, steps)
    return process, resolved | {"parameters": spelled_out(asked["landscape"], parameters)}


def _default_step(process: "Process", start: list[float]) -> float:
    """0.05/λ, rounded down to 1, 2 or 5 · 10ᵏ; λ the largest rate of ∂b/∂x at the start and the fixed points."""
    import numpy as np

    temperature = process.constant_temperature
    with np.errstate(all="ignore"):
        slopes = [process.landscape.evaluator().jacobian(np.array(start), temperature)]
        rates = [np.linalg.eigvals(s) for s in slopes if np.isfinite(s).all()]
        if process.dim <= 3 and np.isfinite(process.domain.upper - process.domain.lower).all():
            rates.append(process.landscape.fixed_points(temperature=temperature)["eigenvalue"].values.ravel())
    fastest = max((float(np.abs(r).max()) for r in rates if r.size), default=0.0)
    if fastest == 0:
        return 0.01
    longest = 0.05 / fastest
    power = int(np.floor(np.log10(longest)))
    digit = next((d for d in (5, 2) if d * (1 - 1e-12) <= longest / 10.0**power), 1)
    return float(f"{digit}e{power}")
