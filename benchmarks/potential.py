"""Quasi-potentials, barriers, Φ and j, closed orbits and covariances: accuracy against closed forms, and seconds.

Peers are SciPy's `solve_bvp`, `solve_continuous_lyapunov` and `solve_discrete_lyapunov`, and sparse LU. Run by `make
bench`; writes docs/benchmarks/potential.md. With --quick everything is short, the figures mean nothing, and the page
goes to build/benchmarks.
"""

import os
import re
import sys
from pathlib import Path

import _potential_cycles
import _potential_grid as grids
import _potential_linear
from _machine import DOCS, machine, publish, table
from threadpoolctl import threadpool_limits

BUSY = 1.5  # load before the start
QUICK = Path(__file__).resolve().parents[1] / "build" / "benchmarks"


def lost_by_lu() -> str:
    """The L1 errors of elimination and LU behind a barrier of 100 T, from the page that measures them."""
    page = (DOCS / "fokker_planck.md").read_text(encoding="utf-8").partition("## A barrier of")[2]
    errors = dict(re.findall(r"^\| \d+² (elimination|`splu`)[^|]*\|(?:[^|]*\|){3} *([^ |]+) *\|", page, re.MULTILINE))
    return f"{errors['elimination']} for elimination, {errors['`splu`']} for LU"


def grid_sections(quick: bool) -> str:
    n = _sizes(quick)
    kinds = [f"{kind}: {what}" for kind in ("quadratic", "linear") for what in ("largest", "mean", "s")]
    wells = ["Φ/T, well of the pinned cell", "j", "Φ/T, other well", "j"]
    return f"""## Quasi-potentials

`sde.quasipotential` on {n} cells at its default radius, with its quadratic interpolation of V between nodes and
with the linear one of the published method (OLIM-MID, Dahiya & Cameron 2018). Errors against the closed form, over the
largest V; seconds of the whole call. *Two wells glued*: `sheared_double_well`, D = diag(3, 1), a march from each.
*Limit cycle*: `hopf`. *D(x), Q(x)*: a manufactured drift.

{table(["", "cells", *kinds], grids.quasipotentials(quick))}

On the cycle the linear one is ahead; why was not found out.

{grids.authors()}
## One barrier

The least time at which the barrier has a relative error of {grids.NEAR:.0e}, and keeps it on the next finer grid or
path, among a few settings. *Two wells* is known; for Maier and Stein's drift, whose best path leaves the axis, the
reference is `minimum_action_path` with 1025 points. Grid roads give V everywhere, the path one number.

{table(["barrier", "road", "setting", "error", "s"], grids.barriers(quick))}

## Φ and j of a steady state

How the two solvers of the steady state compare is on {{doc}}`fokker_planck`: with a barrier of 100 temperatures between
two wells the L1 error of ρ is {lost_by_lu()}. What that does to `decompose`,
at {grids.BARRIER} temperatures in `sheared_double_well`, where j ≠ 0: mean error of Φ, in temperatures, and root mean
square error of j, over that of j, under ρ in each well down to {grids.BULK} nats below its bottom.

{table(["log ρ from", *wells], grids.steady(quick))}

The errors of the first row are the grid's. In the pinned well LU is as good; the other well it loses altogether, Φ and
j (*no number*: cells without a positive density).

"""


def _sizes(quick: bool) -> str:
    sizes = grids.SIZES[:1] if quick else grids.SIZES
    return " to ".join(f"{n}²" for n in dict.fromkeys((sizes[0], sizes[-1])))


def main(quick: bool) -> None:
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY
    parts = [grid_sections(quick), _potential_cycles.section(quick), "\n", _potential_linear.section(quick), "\n"]
    text = "# Potentials, cycles and the linear theory\n\nEverything on one thread.\n\n" + "".join(parts)
    text += machine("sde-sgd", "numpy", "scipy", "numba")
    if busy:
        text += " On a busy machine: ratios only."
    publish("potential", text, QUICK if quick else DOCS)


if __name__ == "__main__":
    with threadpool_limits(1):
        main("--quick" in sys.argv[1:])
