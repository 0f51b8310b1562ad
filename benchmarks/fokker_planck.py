"""Generator, steady state and evolution: against sparse LU on the very same matrix, FiPy, py-pde and fplanck.

Three steady problems whose density e^{−Φ/T} is known: D = I (five points per cell, the grid's own steady state is
exact), a 10:1 diffusion tensor that rotates in space, with off-diagonal entries (more points, second order), and two
wells behind a barrier of 100 temperatures. Each measurement is a process of its own, so that its peak memory is its
own. The evolution and its peers are in `_evolution.py`. Run by `make bench`; writes docs/benchmarks/fokker_planck.md.
With --quick everything is short, the figures mean nothing, and the page goes to build/benchmarks.
"""

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
from _evolution import PEERS_PYTHON, section
from _machine import DOCS, machine, peak_bytes, publish, table

SIZES = {"isotropic": (128, 256, 512, 1024), "tensor": (128, 256, 512), "barrier": (256,)}
CASES = {"isotropic": (0.1, 4.0), "tensor": (0.25, 3.0), "barrier": (0.0025, 2.0)}  # temperature, half width of box
SOLVERS = ("elimination", "LU")
RATIO = 10
BULK = 20  # nats below the top


def process_of(case: str):
    """The process and its Φ: a double well, in detailed balance with D."""
    import sympy as sp

    import sde_sgd as sde

    temperature, reach = CASES[case]
    if case != "tensor":
        well = sde.landscapes.get("double_well")
        return well.at_temperature(temperature), well.loss
    x, y = sp.symbols("x y", real=True)
    variables, temperature_ = sp.Matrix([x, y]), sp.Float(temperature)
    phi = (x**2 - 1) ** 2 / 4 + y**2 / 2
    cosine, sine = sp.cos(x + y), sp.sin(x + y)
    turn = sp.Matrix([[cosine, -sine], [sine, cosine]])
    diffusion = turn * sp.diag(RATIO, 1) * turn.T / RATIO
    slope = sp.Matrix([phi.diff(v) for v in variables])
    divergence = sp.Matrix([sum(diffusion[i, j].diff(variables[j]) for j in range(2)) for i in range(2)])
    drift = -diffusion * slope + temperature_ * divergence
    domain = ((-reach, reach), (-reach, reach))
    process = sde.Process(list(drift), diffusion, temperature, variables=("x", "y"), domain=domain)
    return process, sde.landscapes.get("double_well").loss


def null_vector(matrix, pinned: int) -> np.ndarray:
    """ρ of Lρ = 0 with ρ[pinned] = 1: the row and column of that cell are left out and the rest is solved by LU."""
    from scipy.sparse.linalg import splu

    keep = np.delete(np.arange(matrix.shape[0]), pinned)
    rest = matrix[:, keep][keep].tocsc()
    right = -matrix[:, [pinned]].toarray().ravel()[keep]
    factors = splu(rest, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    rho = np.ones(matrix.shape[0])
    rho[keep] = factors.solve(right)
    return rho


def measure(case: str, solver: str, cells: int) -> dict[str, float]:
    import sde_sgd as sde

    temperature, reach = CASES[case]
    process, potential = process_of(case)

    def grid(n: int) -> sde.Grid:
        return sde.Grid((-reach, -reach), (reach, reach), (n, n))

    def solve(fp: sde.FokkerPlanck) -> np.ndarray:
        if solver == "elimination":
            return fp.log_steady_state().values.ravel()
        return null_vector(fp.matrix, int(np.argmin(potential(fp.grid.centers()).ravel())))

    solve(sde.FokkerPlanck(process, grid(16)))  # compiled, and every library loaded, before the clock starts
    before, began = peak_bytes(), time.perf_counter()
    fp = sde.FokkerPlanck(process, grid(cells))
    built = time.perf_counter()
    found = solve(fp)
    solved = time.perf_counter()
    peak = peak_bytes() - before

    exact = -potential(fp.grid.centers()).ravel() / temperature
    exact -= exact.max()
    exact -= math.log(np.exp(exact).sum() * fp.grid.cell_volume)
    if solver == "elimination":
        density, positive = np.exp(found), np.isfinite(found)
        logarithm = found
    else:
        density = found / (found.sum() * fp.grid.cell_volume)
        positive = density > 0
        with np.errstate(all="ignore"):
            logarithm = np.log(density)
    with np.errstate(all="ignore"):
        off = np.abs(logarithm - exact)
    return {
        "build": built - began,
        "solve": solved - built,
        "peak": peak,
        "l1": float(np.abs(density - np.exp(exact)).sum() * fp.grid.cell_volume),
        "bulk": float(np.max(np.where(positive, off, math.inf)[exact > exact.max() - BULK])),
        "worst": float(np.max(np.where(positive, off, math.inf))),
        "nonpositive": int((~positive).sum()),
        "nats": float(exact.max() - exact.min()),
        "points": fp.matrix.nnz / fp.grid.size,
    }


def rows_of(case: str, quick: bool) -> tuple[list[list[str]], dict[str, float]]:
    rows, last = [], {}
    for cells in SIZES[case][:1] if quick else SIZES[case]:
        for solver in SOLVERS:
            command = [sys.executable, __file__, case, solver, str(cells)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            last = json.loads(done.stdout)
            name = "elimination" if solver == "elimination" else "`splu`, one cell pinned"
            rows.append([
                f"{cells}² {name}", f"{last['build']:.2f}", f"{last['solve']:.2f}", f"{last['peak'] / 2**20:.0f}",
                f"{last['l1']:.1e}", _number(last["bulk"]), _number(last["worst"]), f"{last['nonpositive']}",
            ])  # fmt: skip
    return rows, last


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "∞"


def main(quick: bool) -> None:
    columns = ["cells", "build, s", "solve, s", "memory, MiB", "L1 error", "log ρ, bulk", "log ρ, all", "cells not > 0"]
    isotropic, facts = rows_of("isotropic", quick)
    tensor, tensor_facts = rows_of("tensor", quick)
    barrier, barrier_facts = rows_of("barrier", quick)
    evolution, versions = section(quick)
    publish(
        "fokker_planck",
        f"""# Fokker–Planck

The steady density of one generator by two solvers: `log_steady_state`, which eliminates without a subtraction in
extended range, and SciPy's sparse LU (`splu`, minimum degree on $A + A^\\top$, symmetric mode) with the most likely
cell pinned to 1. Both see the same matrix. *Build* is the assembly of the generator, *memory* what the process grew
by, the *L1 error* is against the exact density $e^{{-\\Phi/T}}$; *log ρ* is the largest
$|\\log\\hat\\rho - \\log\\rho|$ over the cells within {BULK} nats of the top (the bulk) and over all cells. The
time of `log_steady_state` holds a second solution, on half as many cells per axis, from which it estimates its error.

## D = I

$\\Phi = (x^2-1)^2/4 + y^2/2$ at $T = {CASES["isotropic"][0]:g}$ on
$[-{CASES["isotropic"][1]:g}, {CASES["isotropic"][1]:g}]^2$: {facts["points"]:.0f} entries per column,
{facts["nats"]:.0f} nats from the top to the lowest cell. Here $e^{{-\\Phi/T}}$ is the exact null vector of the matrix:
every error is the solver's.

{table(columns, isotropic)}

## A {RATIO}:1 tensor that rotates

$D = R(x+y)\\operatorname{{diag}}(1, 1/{RATIO})R^\\top$, the same Φ at $T = {CASES["tensor"][0]:g}$ on
$[-{CASES["tensor"][1]:g}, {CASES["tensor"][1]:g}]^2$: {tensor_facts["points"]:.1f} entries per column,
{tensor_facts["nats"]:.0f} nats. Here the error of the grid shows, the same for
both: the L1 error is of second order in the spacing; log ρ of the tails, where the drift across one cell outweighs the
noise, converges more slowly.

{table(columns, tensor)}

## A barrier of {0.25 / CASES["barrier"][0]:.0f} temperatures

$D = I$ and the same Φ at $T = {CASES["barrier"][0]:g}$ on $[-{CASES["barrier"][1]:g}, {CASES["barrier"][1]:g}]^2$. Two
wells of equal weight exchange mass at a rate $\\propto e^{{-{0.25 / CASES["barrier"][0]:.0f}}}$, below the rounding of
the diagonal: LU subtracts and loses the other well, elimination never subtracts. {barrier_facts["nats"]:.0f} nats from
the top to the lowest cell.

{table(columns, barrier)}

Where all cells mix, LU is as exact and faster: without pivoting it keeps the signs of an M-matrix, so that even its
tails come out positive. Its error grows with the barrier between wells, like $\\varepsilon e^{{\\Delta\\Phi/T}}$; that
of the elimination does not depend on it.

{evolution}
{machine("sde-sgd", "numpy", "scipy", "numba")} Peers: {", ".join(map(" ".join, versions.items()))}.
""".rstrip(),
        PEERS_PYTHON.parents[2] / "benchmarks" if quick else DOCS,
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    elif not PEERS_PYTHON.exists():
        sys.exit(f"{os.path.relpath(PEERS_PYTHON)} is missing; `make bench` makes it from benchmarks/peers.txt")
    else:
        main("--quick" in sys.argv[1:])
