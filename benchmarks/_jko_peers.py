"""The peers' side of `jko.py`, run in their own environment:

python _jko_peers.py ROAD CELLS EPSILON THREADS REPEATS EXACT → one JSON line; EXACT is a .npy file of the density.

Each minimises ⟨c, P⟩/2τ + ε KL(P) + F(P₂) over plans P from ρ₀. With ε/2 ∫ρ log ρ, the first order of what ε adds,
taken off F ("less ε/2"), their bias is of order ε² too; neither package does so by itself.
"""

import math
import sys
from importlib.metadata import version

import numpy as np
from _jko_problem import HALF, TAU, TEMPERATURE, axis, confine, measure, peak_bytes, potential, report, start

VERSIONS = ("numpy", "scipy", "jax", "POT", "ott-jax")
MOST = 5000  # iterations
STOP = 1e-6


def masses(cells: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """ρ₀ and e^{−Φ/T}, of mass 1 each, as vectors."""
    a, b = start(cells).ravel() * (2 * HALF / cells) ** 2, np.exp(-potential(cells).ravel() / temperature)
    return a, b / b.sum()


def pot(cells: int, epsilon: float, temperature: float):
    """Dense, `sinkhorn_unbalanced`: cost and plan are matrices of all cells by all cells."""
    import ot

    a, b = masses(cells, temperature)

    def run():
        square = (axis(cells)[:, None] - axis(cells)) ** 2 / (2 * TAU)
        cost = (square[:, None, :, None] + square[None, :, None, :]).reshape(cells**2, cells**2)
        plan, log = ot.unbalanced.sinkhorn_unbalanced(
            a, b, cost, reg=epsilon, reg_m=(math.inf, temperature), method="sinkhorn", reg_type="entropy",
            numItermax=MOST, stopThr=STOP, log=True,
        )  # fmt: skip
        return plan.sum(axis=0).reshape(cells, cells) / (2 * HALF / cells) ** 2, len(log["err"])

    return run


def ott_grid(cells: int, epsilon: float, temperature: float, logarithms: bool):
    """`Grid`, whose kernel is a product of one matrix per axis."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    from ott.geometry import grid
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    x = jnp.asarray(axis(cells) / math.sqrt(2 * TAU))
    a, b = (jnp.asarray(v) for v in masses(cells, temperature))
    solver = sinkhorn.Sinkhorn(lse_mode=logarithms, max_iterations=MOST, threshold=STOP, inner_iterations=10)

    @jax.jit
    def solve(a, b):
        geometry = grid.Grid(x=[x, x], epsilon=epsilon)
        problem = linear_problem.LinearProblem(geometry, a=a, b=b, tau_b=temperature / (temperature + epsilon))
        found = solver(problem)
        return found.marginal(0), found.n_iters

    def run():
        marginal, iterations = solve(a, b)
        return np.asarray(marginal).reshape(cells, cells) / (2 * HALF / cells) ** 2, int(iterations)

    return run


def main(road: str, cells: str, epsilon: str, threads: str, repeats: str, exact: str) -> None:
    confine(threads)
    package, *options = road.split(", ")
    eps = float(epsilon)
    temperature = TEMPERATURE - 0.5 * eps * ("less ε/2" in options)
    if package == "POT":
        import ot  # noqa: F401 - before the memory is taken

        before = peak_bytes()
        run = pot(int(cells), eps, temperature)
    else:
        import ott as _  # noqa: F401

        before = peak_bytes()
        run = ott_grid(int(cells), eps, temperature, "kernel" not in options)
    result = measure(run, np.load(exact), before, int(repeats))
    report(result | {"versions": {name: version(name) for name in VERSIONS}})


if __name__ == "__main__":
    main(*sys.argv[1:])
