"""Our side of `jko.py`, in a process of its own: python _jko_ours.py METHOD CELLS SETTING THREADS REPEATS EXACT → JSON.

SETTING is the regularisation, 0 where the step chooses it; EXACT a .npy file of the density.
"""

import sys

import numpy as np
from _jko_problem import HALF, POTENTIALS, TAU, TEMPERATURE, confine, measure, peak_bytes, report, start


def main(method: str, cells: str, setting: str, threads: str, repeats: str, exact: str) -> None:
    confine(threads)
    import sde_sgd as sde
    from sde_sgd.jko import JKO

    n, box = int(cells), (-HALF, HALF)
    well = sde.Landscape(("x", "y"), " + ".join(POTENTIALS), domain=(box, box))
    process, density = well.at_temperature(TEMPERATURE), start(n)
    before = peak_bytes()

    def run() -> tuple[np.ndarray, int]:
        grid = sde.Grid((-HALF,) * 2, (HALF,) * 2, (n, n))
        options = {"regularisation": float(setting)} if float(setting) else {}
        found = JKO(process, grid, method=method, tolerance=1e-6, **options).step(density, TAU)
        return found.values, found.attrs["iterations"]

    report(measure(run, np.load(exact), before, int(repeats)))


if __name__ == "__main__":
    main(*sys.argv[1:])
