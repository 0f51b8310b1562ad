"""Rings, tori and absorbing walls."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.process import Process


def tilted(angle, ratio):
    """Eigenvalues 1 and 1/ratio, the first at an angle to x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.outer([c, s], [c, s]) + np.outer([-s, c], [-s, c]) / ratio


def circle(force, temperature, cells):
    process = Process(
        lambda x: (force + np.sin(x),), lambda x: ((1 + 0 * x,),), temperature, variables=("angle",),
        diffusion_divergence=lambda x: (0 * x,), domain=((0, 2 * np.pi, "periodic"),),
    )  # fmt: skip
    return FokkerPlanck(process, Grid(0, 2 * np.pi, cells, boundary="periodic"))


def test_force_on_a_ring():
    """V = cos θ, b = F − V': J = T(1 − e^{−2πF/T})/Z, the same at every angle."""
    force, temperature = 0.7, 0.5
    u = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    theta = (np.arange(200) + 0.5) * 2 * np.pi / 200  # W = V − Fθ
    gap = (np.cos(theta[:, None] + u) - np.cos(theta[:, None]) - force * u) / temperature
    rho = np.exp(gap).sum(axis=1)  # proportional to ∫ exp([W(θ+u) − W(θ)]/T) du
    normal = (rho * (u[1] - u[0])).sum() * (theta[1] - theta[0])
    expected = temperature * (1 - np.exp(-2 * np.pi * force / temperature)) / normal
    errors = []
    for cells in (50, 100):
        fp = circle(force, temperature, cells)
        assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
        current = fp.current(fp.steady_state()).values
        assert np.ptp(current) < 1e-12
        errors.append(abs(current.mean() - expected) / expected)
    assert errors[1] < 1e-6 and errors[0] > 4 * errors[1]  # midpoint sums over a period: better than order 2


def test_torus_with_wide_offsets():
    """Constant drift and constant anisotropic D on a torus: ρ uniform and J = bρ, exactly."""
    drift, tensor = (0.8, -0.3), tilted(0.55, 40.0)
    process = Process(
        lambda x, y: (drift[0] + 0 * x, drift[1] + 0 * x),
        lambda x, y: tuple(tuple(v + 0 * x for v in row) for row in tensor), 1.0, variables=("x", "y"),
        diffusion_divergence=lambda x, y: (0 * x, 0 * x), domain=((0, 1, "periodic"), (0, 2, "periodic")),
    )  # fmt: skip
    fp = FokkerPlanck(process, Grid((0, 0), (1, 2), (17, 12), boundary="periodic"))
    assert fp.conserves_mass and fp.nonnegative_rates and fp.irreducible
    density = fp.steady_state()
    np.testing.assert_allclose(density.values, 0.5, rtol=1e-12)
    exact = np.array(drift) * 0.5
    np.testing.assert_allclose(fp.current(density).values, np.broadcast_to(exact, (17, 12, 2)), rtol=1e-11)


def test_absorbing_walls_give_the_mean_exit_time():
    """Lᵀτ = −1. In 1-D with D = T = 1 on (−1, 1), τ = (1 − x²)/2 plus O(h²); and mass is lost, not kept."""
    brownian = Process(
        lambda x: (0 * x,),
        lambda x: ((1 + 0 * x,),),
        1.0,
        variables=("x",),
        diffusion_divergence=lambda x: (0 * x,),
    )
    errors = []
    for cells in (20, 40):
        fp = FokkerPlanck(brownian, Grid(-1, 1, cells, boundary="absorbing"))
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(cells))
        errors.append(np.abs(time - (1 - fp.grid.axes[0] ** 2) / 2).max())
        assert not fp.conserves_mass and fp.nonnegative_rates
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 3.5
    with pytest.raises(ValueError, match="absorbing walls loses all its mass"):
        fp.steady_state()


def test_absorbing_walls_with_a_tilted_tensor():
    """Mean exit time from the middle of a square with a full D: converges faster than first order."""
    tensor = np.array([[1.0, 0.45], [0.45, 0.6]])
    brownian = Process(("0", "0"), tensor.tolist(), 1.0, variables=("x", "y"))
    middle = []
    for cells in (21, 41, 81):
        grid = Grid((0, 0), (1, 1), (cells, cells), boundary="absorbing")
        fp = FokkerPlanck(brownian, grid)
        time = spla.spsolve(fp.matrix.T.tocsc(), -np.ones(grid.size)).reshape(grid.shape)
        middle.append(time[cells // 2, cells // 2])
    first, second = abs(middle[1] - middle[0]), abs(middle[2] - middle[1])
    assert second < 0.4 * first and first < 0.02 * middle[2]
