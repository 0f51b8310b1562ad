"""Nanoseconds per path-step of `simulate` against its peers and against the cost of the noise alone; work–precision.

One problem for all (`_problem.py`): the 2-D double well, Euler–Maruyama, float64, the same step and number of paths.
Each road says what it found of Var y, whose exact value under its scheme is known: speed counts only beside a right
answer. Peers run in an environment of their own, build/peers, which `make bench` makes from peers.txt.
Run by `make bench`; writes docs/benchmarks/paths.md and work_precision.svg. With --quick everything is short, the
figures mean nothing, and the page goes to build/benchmarks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import _ours
import _work_precision as work
from _machine import DOCS, cores, machine, publish, table
from _peers import ROADS as PEERS
from _problem import PATHS, STEP, STEPS, TEMPERATURE

from sde_sgd.figures import svg

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = HERE.parent / "build" / "peers" / "bin" / "python"
THREADS = ("1", "all")


def peer(road: str, threads: str, repeats: int) -> dict:
    """A road of the peers, in a process of its own."""
    command = [str(PEERS_PYTHON), str(HERE / "_peers.py"), road, threads, str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{road}, threads {threads}, failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def against_peers(repeats: int) -> tuple[list[list[str]], dict, dict]:
    """Rows of the first table; the cores each road kept busy, {(road, threads): cores}; versions of the peers."""
    count, versions = {"1": 1, "all": cores()}, {}
    results = {}
    for threads in THREADS:
        results["the same normals and nothing else", threads] = _ours.floor("float64", count[threads], repeats)
        results["`sde.simulate`", threads] = _ours.simulated("euler_maruyama", "float64", count[threads], repeats)
    for road in PEERS:
        for threads in THREADS:
            results[road, threads] = found = peer(road, threads, min(repeats, 3 if road.startswith("torch") else 5))
            versions |= found["versions"]
    ns = {key: result["ns"] for key, result in results.items()}
    rows = []
    for road in dict.fromkeys(road for road, _ in ns):
        cells = [[_ns(ns[road, t]), _ratio(ns[road, t] / ns["`sde.simulate`", t])] for t in THREADS]
        rows.append([road, *cells[0], *cells[1], _check(results[road, "1"])])
    return rows, {key: result["cores"] for key, result in results.items()}, versions


def schemes(repeats: int) -> tuple[list[list[str]], dict]:
    """Rows of the second table: every scheme and float type over the floor of its float type; ns as above."""
    ns, rows = {}, []
    for real in ("float64", "float32"):
        for threads in (1, cores()):
            ns[real, threads] = _ours.floor(real, threads, repeats)["ns"]
        rows.append([f"the normals alone, {real}", _ns(ns[real, 1]), _ns(ns[real, cores()]), "1.00", ""])
    for scheme, real in _ours.ROADS:
        one = _ours.simulated(scheme, real, 1, repeats)
        every = _ours.simulated(scheme, real, None, repeats)["ns"]
        ns[scheme, real] = one["ns"]
        title = f"`{scheme}`" + (", float32" if real == "float32" else "")
        rows.append([title, _ns(one["ns"]), _ns(every), _ratio(one["ns"] / ns[real, 1]), _check(one)])
    return rows, ns


def _ns(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _check(result: dict) -> str:
    return f"{result['ratio']:.4f} ± {result['error']:.4f}"


def error_columns(steps) -> list[str]:
    """A step is written as a decimal, or as the fraction 1/n where that is shorter."""
    words = (min(f"{h:g}", f"1/{1 / h:g}", key=len) for h in steps)
    return ["", "ns per step", *(f"h = {word}" for word in words)]


def work_precision(folder: Path, units: float) -> str:
    """The figure, and the section about it."""
    panels = {name: work.steady(name, units) for name in ("well", "rotation")}
    panels |= {name: work.strong(name) for name in ("constant", "multiplicative")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work_precision.svg").write_bytes(svg(work.figure(panels, units)))
    heavy = [p for p in panels["well"] if p.scheme == "baoab"]
    light = [p for p in panels["well"] if p.scheme != "baoab"]
    worst, points = work.deviation(panels["rotation"])
    columns = {name: error_columns(steps) for name, steps in work.STEADY_STEPS.items()}
    return f"""## Work and precision

![Bias in the steady state and error of single paths against cost, for every scheme](work_precision.svg)

Every scheme at a geometric list of steps; to the right a smaller step. Cost is that of the step alone on one thread,
in ns per path and unit of time. Above, the bias of $E[x^2]$ in the steady state from {units:.1e} units of time, with
its standard error; a hollow mark is an upper limit where the bias is less than two standard errors, and the dotted
line is the standard error that one second of one thread leaves: of a scheme below it, a second shows no bias. In the
lower panels, the distance at $t = 1$ from the same scheme on the same noise at a step {work.REFINED} times smaller than
the smallest shown.

On the left $f = (x^2-1)^2$ at $\\beta = {work.BETA:g}$, $E[x^2] = {work.well_second_moment():.6f}$ by quadrature
(at $h = 0.1$ a path of `euler_maruyama` has been seen to escape to infinity):

{table(columns["well"], work.rows(light))}

{table(error_columns(work.FRICTION_STEPS), work.rows(heavy))}

`baoab` samples the same $x$ with momentum, friction {work.FRICTION:g}; its unit of time is another one, and one unit
of it says less about $x$. `milstein` is `euler_maruyama` wherever $D$ is constant.

On the right $\\dot z = -(1 + {work.ROTATION:g}i)z$ with $D = I$, $T = 1$, where each scheme's bias is known in closed
form (the lines); the worst of {points} points lies {worst:.1f} standard errors from its line. The drift is not a
gradient there, and `leimkuhler_matthews` loses its second order, as it declares:

{table(columns["rotation"], work.rows(panels["rotation"]))}

Single paths, constant noise, $f$ and $\\beta$ as above:

{table(error_columns(work.STRONG_STEPS), work.rows(panels["constant"]))}

Single paths, $D = 1 + 2x^2$ (`multiplicative_well` at $T = {work.MULTIPLICATIVE_TEMPERATURE:g}$):

{table(error_columns(work.STRONG_STEPS), work.rows(panels["multiplicative"]))}
"""


def main(quick: bool) -> None:
    repeats, folder = (1, HERE.parent / "build" / "benchmarks") if quick else (7, DOCS)
    threads = cores()
    compared, busy, versions = against_peers(repeats)
    by_scheme, own = schemes(repeats)
    scaling = _ours.scaling(2 if quick else 15)
    memory = _ours.memory(100_000, 100 if quick else 10_000)
    first = _ours.first_calls(1 if quick else 3)
    precision = work_precision(folder, 2.0**17 if quick else 2.0**25)
    speeds = ", ".join(f"{speed:.2f} times on {count}" for count, speed, _ in scaling if count > 1)
    gains = ", ".join(f"{gain:.2f} times on {count}" for count, _, gain in scaling if count > 1)
    idle = min(found for (_, count), found in busy.items() if count == "1")
    single = own["euler_maruyama", "float64"] / own["euler_maruyama", "float32"]
    calls = [[name, *(f"{second:.2f} s" for second in times[:3]), f"{1e3 * times[3]:.1f} ms"] for name, times in first]
    publish(
        "paths",
        f"""# Paths

The 2-D double well $f = (x^2-1)^2/4 + y^2/2$ at $T = {TEMPERATURE:g}$: step {STEP:g}, {PATHS} paths, {STEPS} steps,
drift and noise included; the shortest of several runs, each library warm. One path-step of this problem uses two
normals. The last column is what each road found of $\\operatorname{{Var}} y$ on one thread, over its exact value under
the scheme, $T/(1-h/2)$ for Euler–Maruyama (for the normals alone, their variance): it must be 1 within the error.

## Against other software

Euler–Maruyama in float64. *Relative* is over `sde.simulate` on as many threads. On one thread the peers are confined
to one core; *all* are {threads} here, in NumPy by blocks of paths, in JAX and torch as they decide themselves.

{table(["", "1 thread, ns", "relative", "all threads, ns", "relative", "variance, found / exact"], compared)}

- *the same normals*: a kernel of the same Philox blocks and Box–Muller pairs that only adds them up, the floor of
  every scheme that uses them.
- *NumPy*: array expressions and the default generator; *in place*, no allocation in the loop, generator SFC64.
- *JAX*: a loop of one's own, no solver; `unsafe_rbg` is XLA's generator in place of JAX's default.
- *diffrax*: `diffeqsolve` under `jit`, `Euler`, `UnsafeBrownianPath`, constant steps, the end alone saved,
  `ForwardMode` (nothing kept for derivatives). It can choose steps by error and differentiate through the solution;
  this run asks for neither.
- *torchsde*: `sdeint` without gradients, diagonal noise, as its examples call it; with its `BrownianInterval` told the
  step; and with a Brownian motion of ours that draws each increment when it is asked for and remembers none.

## Schemes

`sde.simulate`; *over the normals* is one thread over the normals of the same float type.

{table(["", "1 thread, ns", f"{threads} threads, ns", "over the normals", "variance, found / exact"], by_scheme)}

`weak_euler` needs one random bit where the others need a normal; `sra1` needs two normals. float32 is {single:.2f}
times as fast as float64.

## Threads

Over one thread, the normals alone, which touch no memory beyond the first cache, gain {speeds or "nothing, on one"}
threads: this is what the machine gives. `sde.simulate` gains {gains or "nothing"}.

What else the machine did: in their shortest runs, every road on one thread had at least {100 * idle:.0f} % of its core,
and `sde.simulate` on {threads} threads had {busy["`sde.simulate`", "all"]:.2f} cores.

## Memory

{memory["samples"]:.0e} path-steps counted into 120 × 120 cells by `sample_density`, {memory["paths"]:,} paths:
{memory["peak"] / 2**20:.0f} MiB at the peak of the process, {memory["before"] / 2**20:.0f} MiB of them held before it
began (Python, the libraries and the compiler); {memory["seconds"]:.1f} s on {threads} threads. The density lies
{memory["l1"]:.1e} from the exact one in L1.

## The first call

A process's kernel is written, compiled and kept. What a fresh Python pays, the shortest of several:

{table(["", "imports", "definition", "first call", "second call"], calls)}

{precision}
{machine("sde-sgd", "numpy", "numba")} Peers: {", ".join(f"{name} {number}" for name, number in versions.items())}.
""".rstrip(),
        folder,
    )


if __name__ == "__main__":
    if not PEERS_PYTHON.exists():
        sys.exit(f"{os.path.relpath(PEERS_PYTHON)} is missing; `make bench` makes it from benchmarks/peers.txt")
    main("--quick" in sys.argv[1:])
