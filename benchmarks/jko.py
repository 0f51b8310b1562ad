"""One step of steepest descent in the Wasserstein metric: against POT (dense Sinkhorn) and ott-jax (Grid).

Seconds and memory at equal error, 64² to 256² cells, on one core and on all. Each measurement is a process of its own,
so that its peak memory is its own; what the first call takes besides, compilation above all, stands apart. Run by
`make bench`; writes docs/benchmarks/jko.md. With --quick everything is short, the figures mean nothing, and the page
goes to build/benchmarks.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _jko_problem import CENTER, HALF, POTENTIALS, TAU, TEMPERATURE, start_along
from _machine import DOCS, machine, publish, table

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = HERE.parent / "build" / "peers" / "bin" / "python"
FINER = 9  # cells of the exact step per cell: odd, so that centres are centres
OURS = ("monge_ampere", "entropic")
LADDERS = {  # cells and ε (0: none, or chosen by the step)
    "monge_ampere": [(32, 0), (64, 0), (128, 0), (256, 0)],
    "entropic": [(32, 0), (64, 0), (128, 0), (256, 0)],
    "POT": [(32, 0.1), (64, 0.1), (64, 0.03)],
    "POT, less ε/2": [(64, 0.3), (64, 0.1)],
    "ott": [(64, 0.03), (128, 0.1), (128, 0.03), (256, 0.03)],
    "ott, kernel": [(128, 0.1), (128, 0.03)],
    "ott, kernel, less ε/2": [(64, 0.1), (128, 0.3), (128, 0.1), (256, 0.1)],
}
SHOWN = {
    "monge_ampere": '`JKO`, `"monge_ampere"`', "entropic": '`JKO`, `"entropic"`', "ott": "ott, logarithms",
    "POT, less ε/2": "POT, less $\\varepsilon/2$", "ott, kernel, less ε/2": "ott, kernel, less $\\varepsilon/2$",
}  # fmt: skip
THREADS = ("1", "all")


def exact(cells: int) -> np.ndarray:
    """The product of two steps in one variable, by the quantile function on finer cells."""
    import sde_sgd as sde
    from sde_sgd.jko import JKO

    factors = []
    for name, phi, center in zip("xy", POTENTIALS, CENTER):
        process = sde.Landscape((name,), phi, domain=((-HALF, HALF),)).at_temperature(TEMPERATURE)
        fine = FINER * cells
        found = JKO(process, sde.Grid(-HALF, HALF, fine), nodes=100_000).step(start_along(fine, center), TAU)
        along = found.values[FINER // 2 :: FINER]
        factors.append(along / (along.sum() * 2 * HALF / cells))
    return np.outer(*factors)


def road(name: str, cells: int, setting: float, threads: str, repeats: int, folder: Path) -> dict:
    """A road in a process of its own."""
    reference = folder / f"{cells}.npy"
    if not reference.exists():
        np.save(reference, exact(cells))
    program = [sys.executable, "_jko_ours.py"] if name in OURS else [str(PEERS_PYTHON), "-W", "ignore", "_jko_peers.py"]
    command = [*program, name, str(cells), str(setting), threads, str(repeats), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(quick: bool) -> tuple[dict, dict]:
    """(road, cells, ε) → figures with the seconds of each number of threads; versions of the peers."""
    found, versions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, ladder in LADDERS.items():
            for cells, setting in [(32, ladder[0][1])] if quick else ladder:
                runs = {t: road(name, cells, setting, t, 1 if quick else 3, Path(folder)) for t in THREADS}
                versions |= runs["1"].pop("versions", {})
                found[name, cells, setting] = runs["1"] | {t: runs[t]["seconds"] for t in THREADS}
    return found, versions


def rows(found: dict) -> list[list[str]]:
    return [
        [SHOWN.get(name, name), f"{cells}²", f"{setting:g}" if setting else "–", f"{f['iterations']}",
         f"{f['first']:.2f}", f"{f['1']:.3g}", f"{f['all']:.3g}", f"{f['memory'] / 2**20:.0f}", f"{f['l1']:.1e}"]
        for (name, cells, setting), f in found.items()
    ]  # fmt: skip


def equal_error(found: dict) -> list[list[str]]:
    """For every setting of a peer, our fastest step on as many cells whose error is no larger."""
    lines = []
    for (name, cells, setting), f in found.items():
        if name in OURS:
            continue
        ours = [
            (own["1"], SHOWN[own_name], own["l1"])
            for (own_name, own_cells, _), own in found.items()
            if own_name in OURS and own_cells == cells and own["l1"] <= f["l1"]
        ]
        best = min(ours, default=None)
        own = ["none", "–", "–", "–"]
        if best is not None:
            own = [best[1], f"{best[2]:.1e}", f"{best[0]:.3g}", f"{f['1'] / best[0]:.3g}"]
        lines.append([SHOWN.get(name, name), f"{cells}²", f"{setting:g}", f"{f['l1']:.1e}", f"{f['1']:.3g}", *own])
    return lines


def main(quick: bool) -> None:
    found, versions = measured(quick)
    dense = ", ".join(f"{8 * n**4 / 2**30:.3g} GiB at {n}²" for n in (64, 128, 256))
    columns = ["", "cells", "ε", "iterations", "first call, s", "1 core, s", "all, s", "memory, MiB", "L1 error"]
    against = ["", "cells", "ε", "L1 error", "1 core, s", "ours", "L1 error", "1 core, s", "ratio"]
    publish(
        "jko",
        f"""# Steepest descent in the Wasserstein metric

One step of $\\tau = {TAU:g}$ for $\\Phi = (x^2-1)^2 + y^2$ at $T = 1/3$ on $[-{HALF:g}, {HALF:g}]^2$ from a Gaussian of
width 0.3 around $(-1, 0.3)$. The exact density is a product of two steps in one variable, which the quantile function
gives to 10⁻⁵. *First call* is that of a new process: it compiles, or loads what was compiled before. Then the shortest
of several on one core, and on all; *memory* is what the process grew by.

{table(columns, rows(found))}

The peers minimise the regularised problem, whose bias is of order ε. *Less ε/2* is the same with
$T - \\varepsilon/2$ in place of $T$, which takes the first order off; neither package offers it, one has to know. POT
holds the cost and the plan as matrices of all cells by all cells: {dense} for one of them.

Each setting of a peer, and the fastest of our steps on as many cells whose error is no larger:

{table(against, equal_error(found))}

Where D = I and a regularised answer will do, a separable kernel is the fastest road, if the first order of its bias is
taken off. `JKO` keeps to methods that also do any D(x), and have no ε (`"monge_ampere"`) or report what it costs
(`"entropic"`).

{machine("sde-sgd", "numpy", "scipy", "numba")} Peers: {", ".join(map(" ".join, versions.items()))}.
""".rstrip(),
        PEERS_PYTHON.parents[2] / "benchmarks" if quick else DOCS,
    )


if __name__ == "__main__":
    if not PEERS_PYTHON.exists():
        sys.exit(f"{os.path.relpath(PEERS_PYTHON)} is missing; `make bench` makes it from benchmarks/peers.txt")
    main("--quick" in sys.argv[1:])
