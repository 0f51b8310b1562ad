"""Evolution of a density to a given time, against the peers: seconds and memory at equal error.

`python _evolution.py CELLS TOLERANCE REFERENCE REPEATS` measures our road in a process of its own, as
`_density_peers.py` does theirs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _density_problem import BETA, END, HALF, blob, coarse, l1, measure, report
from _machine import peak_bytes, table

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = HERE.parent / "build" / "peers" / "bin" / "python"
CELLS = 128
TARGET = 1.5e-3  # L1 error at which roads are compared: half of it more than the grid of 128² cells leaves
OURS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # tolerances of `evolve`
LADDERS = {  # cells and setting, each more accurate than the one before
    "FiPy": [(128, 20), (128, 40), (128, 80), (128, 160), (128, 320)],
    "py-pde, explicit Euler": [(128, 0), (256, 0)],
    "py-pde, adaptive Euler": [(256, 1e-4)],
    "fplanck": [(128, 0)],
}
GROWTH = (128, 256, 512, 1024)


def generator(cells: int):
    import sde_sgd as sde

    box = (-HALF, HALF)
    well = sde.Landscape(("x", "y"), "(x**2 - 1)**2 + y**2 + x*y/2", domain=(box, box))
    return sde.FokkerPlanck(well.at_temperature(1 / BETA), sde.Grid((-HALF,) * 2, (HALF,) * 2, (cells, cells)))


def reference() -> tuple[np.ndarray, float]:
    """The density at the end, extrapolated from 128² and 256² cells, exact in time; and the error of 128² cells."""
    from scipy.sparse.linalg import expm_multiply

    rough, fine = (expm_multiply(END * generator(n).matrix, blob(n).ravel()).reshape(n, n) for n in (CELLS, 2 * CELLS))
    exact = (4 * coarse(fine, CELLS) - rough) / 3
    return exact, l1(rough, exact)


def our_road(cells: int, tolerance: float, exact: np.ndarray, repeats: int) -> dict:
    from sde_sgd.fokker_planck._sweeps import sweep_cost

    generator(16).evolve(blob(16), [END], tolerance=tolerance)  # compiled before the clock starts
    before = peak_bytes()
    began = time.perf_counter()
    fp = generator(cells)
    setup = time.perf_counter() - began
    found: list = []

    def run() -> np.ndarray:
        found[:] = [fp.evolve(blob(cells), [END], tolerance=tolerance)]
        return found[0].values[-1]

    result = measure(run, exact, setup, repeats)
    memory = peak_bytes() - before
    return result | {"memory": memory, "steps": found[0].attrs["steps"], "sweep": sweep_cost(fp.edges)["step"]}


def road(name: str, cells: int, setting: float, exact: Path, repeats: int) -> dict:
    """A road in a process of its own, on one core."""
    ours = name == "`evolve`"
    program = [sys.executable, str(HERE / "_evolution.py")] if ours else [str(PEERS_PYTHON), "_density_peers.py", name]
    command = [*program, str(cells), str(setting), str(exact), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def section(quick: bool) -> tuple[str, dict]:
    """The text of the page, and the versions of the peers."""
    exact, grid_error = reference()
    rows, cheapest, versions = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exact.npy"
        np.save(file, exact)
        ladders = {"`evolve`": [(CELLS, tolerance) for tolerance in OURS]} | LADDERS
        for name, ladder in ladders.items():
            for cells, setting in ladder[:1] if quick else ladder:
                found = road(name, cells, setting, file, 5 if name == "`evolve`" else 2)
                versions |= found.get("versions", {})
                said = _setting(name, setting)
                rows.append([
                    name, f"{cells}²", said, f"{found['setup']:.2f}", f"{found['seconds']:.3g}", f"{found['l1']:.2e}",
                    f"{found['least']:.0e}", f"{found['mass'] - 1:.0e}",
                ])  # fmt: skip
                if found["l1"] <= TARGET and found["seconds"] < cheapest.get(name, (np.inf,))[0]:
                    cheapest[name] = (found["seconds"], f"{cells}², {said}", found["l1"])
        growth = [road("`evolve`", cells, 1e-3, file, 3) for cells in (GROWTH[:2] if quick else GROWTH)]
    own = cheapest["`evolve`"][0]
    equal = [[n, w, f"{e:.1e}", f"{s:.3g}", f"{s / own:.3g}"] for n, (s, w, e) in cheapest.items()]
    missing = [name for name in ladders if name not in cheapest]
    grown = [
        [f"{n}²", f"{g['setup']:.2f}", f"{g['seconds']:.3g}", str(g["steps"]),
         f"{g['sweep']:.1f}", f"{1e9 * g['seconds'] / (n * n * g['steps']):.0f}", f"{g['memory'] / 2**20:.0f}"]
        for n, g in zip(GROWTH, growth)
    ]  # fmt: skip
    columns = ["", "cells", "accuracy", "set-up, s", "solution, s", "L1 error", "least density", "mass − 1"]
    return (
        f"""## Evolution

A Gaussian blob in the left well of $V = (x^2-1)^2 + y^2 + xy/2$ at $\\beta = {BETA:g}$ evolves to $t = {END:g}$ on
$[-{HALF:g}, {HALF:g}]^2$ without flux through the walls; everything on one core. The exact density is that of the rate
matrices of 128² and 256² cells, their exponentials taken by SciPy and extrapolated in the spacing; on 128² cells the
grid alone leaves an L1 error of {grid_error:.1e}. The shortest of several runs. *Set-up* is everything before the clock
starts; in py-pde it holds the compilation that each call of its `solve` does again.

{table(columns, rows)}

The least time at which each road's L1 error is {TARGET:.1e} or less{_without(missing)}:

{table(["", "cells and accuracy", "L1 error", "solution, s", "over `evolve`"], equal)}

- *FiPy*: exponential convection, backward Euler in equal steps, its SciPy solvers. *py-pde*: finite differences of the
  equation written out, which do not keep the mass, explicit in time. *fplanck*: `expm_multiply` of its rate matrix.

How the cost of `evolve` grows with the cells, at a tolerance of 1e-3. A *sweep* is one backward Euler step, a
tridiagonal solve along every line of each offset, in ns per cell; a step of `evolve` takes six and finds its own error:

{table(["cells", "generator, s", "solution, s", "steps", "sweep", "step", "memory, MiB"], grown)}
""",
        versions,
    )


def _setting(name: str, setting: float) -> str:
    if name == "FiPy":
        return f"{setting} steps"
    return f"tolerance {setting:g}" if setting else "–"


def _without(missing: list[str]) -> str:
    return f" ({', '.join(missing)} did not get there)" if missing else ""


def main(cells: str, tolerance: str, exact: str, repeats: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report(our_road(int(cells), float(tolerance), np.load(exact), int(repeats)))


if __name__ == "__main__":
    main(*sys.argv[1:])
