"""The peers' side of `fokker_planck.py`, run in their own environment on one core:

python _density_peers.py ROAD CELLS SETTING REFERENCE REPEATS → one JSON line. REFERENCE is a .npy file of the exact
density; SETTING is what makes the road more accurate, 0 where nothing does.
"""

import os
import sys
import time
from importlib.metadata import version

import numpy as np
from _density_problem import BETA, END, HALF, blob, centers, measure, potential, report

VERSIONS = ("numpy", "scipy", "numba", "fipy", "py-pde", "fplanck")


def fipy(cells: int, setting: float):
    """Exponential convection and backward Euler in `setting` equal steps, its SciPy solvers."""
    os.environ["FIPY_SOLVERS"] = "scipy"
    from fipy import (
        CellVariable,
        DiffusionTerm,
        ExponentialConvectionTerm,
        FaceVariable,
        Grid2D,
        TransientTerm,
    )

    h = 2 * HALF / cells
    origin = ((-HALF,), (-HALF,))
    mesh = Grid2D(nx=cells, ny=cells, dx=h, dy=h) + origin
    density = CellVariable(mesh=mesh, value=0.0)
    x, y = mesh.faceCenters.value
    slope = FaceVariable(mesh=mesh, rank=1)
    slope.setValue(np.array([4 * x * (x * x - 1) + 0.5 * y, 2 * y + 0.5 * x]))
    slope.setValue(0.0, where=mesh.exteriorFaces)
    equation = TransientTerm() == DiffusionTerm(1 / BETA) + ExponentialConvectionTerm(coeff=slope)
    steps, start = int(setting), blob(cells)

    def run():
        density.setValue(start.T.ravel())
        for _ in range(steps):
            equation.solve(var=density, dt=END / steps)
        return density.value.reshape(cells, cells).T

    return run


def _pypde(cells: int, dt: float | None, **options):
    import pde
    from pde.solvers import EulerSolver

    x, y = centers(cells)
    grid = pde.CartesianGrid([[-HALF, HALF], [-HALF, HALF]], cells)
    slope = pde.VectorField(grid, np.array([4 * x * (x * x - 1) + 0.5 * y, 2 * y + 0.5 * x]))
    curvature = pde.ScalarField(grid, 12 * x * x - 4 + 2)
    equation = pde.PDE(
        {"p": "dot(gradient(p), slope) + p * curvature + diffusion * laplace(p)"},
        consts={"slope": slope, "curvature": curvature, "diffusion": 1 / BETA},
        bc={"value": 0},
    )
    start = pde.ScalarField(grid, blob(cells))

    # what `solve` does at each call, in two parts: it compiles a stepper, and the stepper advances the state
    stepper = EulerSolver(equation, backend="numba", **options).make_stepper(start, dt)
    stepper(start.copy(), 0.0, 1e-7)

    def run():
        state = start.copy()
        stepper(state, 0.0, END)
        return state.data

    return run


def pypde_explicit(cells: int, setting: float):
    """Explicit Euler at nine tenths of the step at which it is stable."""
    return _pypde(cells, 0.9 * (2 * HALF / cells) ** 2 / (4 / BETA))


def pypde_adaptive(cells: int, setting: float):
    """Its default: explicit Euler with adaptive steps."""
    return _pypde(cells, 1e-5, adaptive=True, tolerance=setting)


def fplanck(cells: int, setting: float):
    """The exponential of its rate matrix applied to the start, SciPy's `expm_multiply`."""
    vars(np)["product"] = np.prod  # the release predates NumPy 2
    import fplanck as package
    from scipy import constants

    h = 2 * HALF / cells
    model = package.fokker_planck(
        temperature=1 / (BETA * constants.k), drag=1, extent=[2 * HALF - h / 2] * 2, resolution=h,
        potential=potential, boundary=package.boundary.reflecting,
    )  # fmt: skip

    def run():
        return model.propagate(lambda x, y: blob(cells), END) / h**2

    return run


ROADS = {
    "FiPy": fipy,
    "py-pde, explicit Euler": pypde_explicit,
    "py-pde, adaptive Euler": pypde_adaptive,
    "fplanck": fplanck,
}


def main(road: str, cells: str, setting: str, reference: str, repeats: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
    began = time.perf_counter()
    run = ROADS[road](int(cells), float(setting))
    result = measure(run, np.load(reference), time.perf_counter() - began, int(repeats))
    report(result | {"versions": {name: version(name) for name in VERSIONS}})


if __name__ == "__main__":
    main(*sys.argv[1:])
