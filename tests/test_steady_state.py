"""The steady state says how far it is from the exact density, and refuses where there is none."""

import time

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse.linalg as spla

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape, get
from sde_sgd.process import Process

F, D = np.array([[1.0, 0.8], [-0.8, 1.5]]), np.array([[1.0, 0.4], [0.4, 0.6]])


def linear(temperature):
    drift = [f"-({F[i, 0]})*x - ({F[i, 1]})*y" for i in range(2)]
    return Process(drift, D.astype(str).tolist(), temperature, variables=("x", "y"))


def pearson():
    a, s, k, temperature = 2.0, 0.7, 1.3, 0.4
    process = Process([f"-{a}*x"], [[f"{s}*(1 + {k}*x**2)"]], temperature, variables=("x",))
    return process, lambda x: (-1 - a / (2 * temperature * s * k)) * np.log(1 + k * x[..., 0] ** 2)


def of(name, temperature, **parameters):
    process = get(name, **parameters).at_temperature(temperature)
    return process, lambda x: -process.potential(x) / temperature


def ornstein(temperature=0.3):
    inverse = la.inv(la.solve_continuous_lyapunov(F, 2 * temperature * D))
    return linear(temperature), lambda x: -0.5 * np.einsum("...i,ij,...j", x, inverse, x)


def ornstein_in_space():
    drift = np.array([[1.0, 0.6, 0.0], [-0.6, 1.2, 0.3], [0.2, -0.3, 0.9]])
    diffusion = np.array([[1.0, 0.3, 0.1], [0.3, 0.8, 0.2], [0.1, 0.2, 0.9]])
    inverse = la.inv(la.solve_continuous_lyapunov(drift, diffusion))
    rows = [" + ".join(f"({-v})*{name}" for v, name in zip(row, "xyz")) for row in drift]
    process = Process(rows, diffusion.astype(str).tolist(), 0.5, variables=("x", "y", "z"))
    return process, lambda x: -0.5 * np.einsum("...i,ij,...j", x, inverse, x)


SQUARE = ((-4, -4), (4, 4))
CASES = [
    pytest.param(ornstein(), *SQUARE, (64, 64), id="OU 64²"),
    pytest.param(ornstein(), *SQUARE, (97, 81), id="OU odd"),
    pytest.param(of("example_19", 1.0, circulation=0.0), *SQUARE, (64, 64), id="example 19, 0"),
    pytest.param(of("example_19", 1.0, circulation=0.5), *SQUARE, (65, 63), id="example 19, ½, odd"),
    pytest.param(of("example_19", 1.0, circulation=1.5), *SQUARE, (48, 49), id="example 19, 3/2"),
    pytest.param(of("quadratic", 1.0), (-6, -6), (6, 6), (64, 69), id="quadratic"),
    pytest.param(of("quadratic", 1.0, rotation=1.0), (-6, -6), (6, 6), (61, 64), id="quadratic, turning"),
    pytest.param(of("sheared_double_well", 0.3), (-5, -4), (5, 4), (96, 80), id="sheared wells"),
    pytest.param(of("hopf", 0.2), (-2.5, -2.5), (2.5, 2.5), (72, 72), id="hopf"),
    pytest.param(of("hopf", 0.2), (-2.5, -2.5), (2.5, 2.5), (71, 73), id="hopf, odd"),
    pytest.param(ornstein_in_space(), (-3.6,) * 3, (3.6,) * 3, (16, 18, 17), id="OU in three variables"),
    pytest.param(pearson(), -6, 6, 100, id="multiplicative noise"),
    pytest.param(pearson(), -6, 6, 151, id="multiplicative noise, odd"),
    pytest.param(of("ring", 0.5), -np.pi, np.pi, 50, id="ring"),
    pytest.param(of("ring", 0.5), -np.pi, np.pi, 51, id="ring, odd"),
]


@pytest.mark.parametrize(("case", "lower", "upper", "shape"), CASES)
def test_the_error_estimate_is_within_a_quarter_of_the_error(case, lower, upper, shape):
    process, log_exact = case
    periodic = process.domain.periodic[0]
    if periodic:
        lower, upper = process.domain.lower[0], process.domain.upper[0]
    grid = Grid(lower, upper, shape, boundary="periodic" if periodic else "reflecting")
    fp = FokkerPlanck(process, grid)
    exact = np.exp(log_exact(grid.centers()))
    exact /= exact.sum() * grid.cell_volume
    density = fp.steady_state()
    error = np.abs(density.values - exact).sum() * grid.cell_volume
    assert 0.75 < density.attrs["error"] / error < 1.25
    assert density.attrs["error_source"] == "L1, from half the cells per axis" and density.attrs["residual"] < 1e-10


def test_the_estimate_falls_like_the_square_of_the_spacing():
    process, _ = ornstein()
    errors = [FokkerPlanck(process, Grid(*SQUARE, (n, n))).steady_state().attrs["error"] for n in (48, 96)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_counterexample_where_the_scheme_is_exact_there_is_no_error():
    """A known equilibrium potential: only the interpolation between two grids is left, of fourth order."""
    process = Landscape(("x", "y"), "(x**2 + y**2)/2").at_temperature(0.5)
    density = FokkerPlanck(process, Grid(*SQUARE, (64, 64))).steady_state()
    assert density.attrs["error"] < 2e-4
    assert (
        FokkerPlanck(ornstein()[0], Grid(*SQUARE, (64, 64))).steady_state().attrs["error"] > 10 * density.attrs["error"]
    )


def test_a_grid_too_small_to_halve_says_so():
    density = FokkerPlanck(ornstein()[0], Grid(*SQUARE, (7, 20))).steady_state()
    assert np.isnan(density.attrs["error"]) and "an axis of 7 cells cannot be halved" in density.attrs["error_source"]


def test_no_steady_state():
    process, _ = ornstein()
    with pytest.raises(ValueError, match="a grid with absorbing walls loses all its mass"):
        FokkerPlanck(process, Grid(*SQUARE, (9, 9), boundary="absorbing")).steady_state()
    fp = FokkerPlanck(process, Grid(*SQUARE, (9, 9)))
    edges = fp.edges
    cell = np.stack(np.unravel_index(edges.tail, fp.grid.shape)), np.stack(np.unravel_index(edges.head, fp.grid.shape))
    keep = (cell[0][0] < 4) == (cell[1][0] < 4)  # what joins the two halves is cut
    parts = {name: getattr(edges, name)[keep] for name in ("tail", "head", "offset", "conductance", "peclet")}
    fp.edges = type(edges)(**parts, leak=edges.leak, leak_moment=edges.leak_moment)
    with pytest.raises(ValueError, match="falls into 2 classes that exchange no mass"):
        fp.steady_state()


# long measurements -----------------------------------------------------------------------------------------


def rotating(ratio):
    """D with eigenvalues 1 and 1/ratio whose axes turn in space, in detailed balance with a double well."""
    import sympy as sp

    x, y = sp.symbols("x y", real=True)
    angle = 0.7 + 0.3 * sp.sin(x) * sp.cos(y)
    turn = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    diffusion = turn * sp.diag(1, sp.Rational(1, ratio)) * turn.T
    slope = sp.Matrix([x * (x * x - 1), y])
    divergence = sp.Matrix([sum(diffusion[i, j].diff((x, y)[j]) for j in range(2)) for i in range(2)])
    return Process(list(-diffusion * slope + divergence), diffusion, 1.0, variables=("x", "y"))


@pytest.mark.evidence
@pytest.mark.parametrize("ratio", [30, 1000])
def test_wide_offsets_within_a_minute(ratio):
    """Offsets of up to four cells at 256²: the longer the stencil, the thicker the separators."""
    fp = FokkerPlanck(rotating(ratio), Grid(*SQUARE, (256, 256)), max_offset=4)
    began = time.perf_counter()
    density = fp.steady_state()
    assert time.perf_counter() - began < 60 and density.attrs["residual"] < 1e-10
    assert fp.attrs["longest_offset"] == (4 if ratio == 1000 else 2)


@pytest.mark.evidence(table="steady_state_time")
def test_elimination_keeps_up_with_superlu(table):
    rows = []
    process = get("double_well").at_temperature(0.1)
    FokkerPlanck(process, Grid(*SQUARE, (16, 16))).steady_state()
    for cells, limit in ((128, 4), (256, 4), (512, 8)):
        seconds = {"elimination": np.inf, "LU": np.inf}
        for _ in range(3):
            fp = FokkerPlanck(process, Grid(*SQUARE, (cells, cells)))
            began = time.perf_counter()
            fp.log_steady_state()
            seconds["elimination"] = min(seconds["elimination"], time.perf_counter() - began)
            matrix = fp.matrix[1:][:, 1:].tocsc()
            began = time.perf_counter()
            spla.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            seconds["LU"] = min(seconds["LU"], time.perf_counter() - began)
        ratio = seconds["elimination"] / seconds["LU"]
        rows.append([f"{cells}²", *(f"{v:.3f}" for v in seconds.values()), f"{ratio:.1f}"])
        assert ratio < limit
    table(
        "Time of a steady state",
        ["cells", "elimination, s", "SuperLU, s", "ratio"],
        rows,
        "Five points per cell, best of three. Elimination with its evidence: residual, wall mass, and the error from a "
        "solve with half the cells per axis; SuperLU (`splu`, minimum degree on A + Aᵀ) factors only.",
    )
