"""Transitions between two regions against integrals, the process run backwards, and Kramers' law."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import RectBivariateSpline

from sde_sgd.fokker_planck import FokkerPlanck
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape, get
from sde_sgd.process import Process

MFPT = {0.1: 66.2686}  # (x² − 1)²/4, −1 → +1
WELL = Landscape(("x",), "(x**2 - 1)**2/4")


def double_well(temperature, cells):
    return FokkerPlanck(WELL.at_temperature(temperature), Grid(-3, 3, cells))


def orders(errors):
    errors = np.abs(np.array(errors))
    return np.log2(errors[:-1] / errors[1:])


def test_transitions_of_the_double_well():
    """ν = 1/(Z ∫e^{Φ/T}/T), q⁻ = 1 − q⁺, and the passage time is the MFPT from the edge of a."""
    temperature, errors = 0.1, []

    def boltzmann(x):
        return np.exp(-((x * x - 1) ** 2) / 4 / temperature)

    mass = quad(boltzmann, -3, 3)[0]
    flux = temperature / (mass * quad(lambda x: 1 / boltzmann(x), -1, 1)[0])
    for cells in (101, 202, 404):
        fp = double_well(temperature, cells)
        found = fp.transitions("x < -1", "x > 1")
        errors.append(float(found.flux) / flux - 1)
        np.testing.assert_allclose(found.committor + found.backward_committor, 1.0, rtol=1e-12)
        assert float(found.probability_a) == pytest.approx(0.5, rel=1e-12)
        assert found.attrs["flux_error"] < 1e-12 and found.attrs["current_error"] < 1e-11
        assert float(found.reactive_density.sum() * fp.grid.cell_volume) == pytest.approx(1, rel=1e-12)
        current = found.reactive_current.values[:, 0]
        np.testing.assert_allclose(current[np.abs(fp.grid.axes[0]) < 0.9], 1.0, rtol=1e-9)
        assert float(found.transition_time) < float(found.passage_time_ab)
    assert abs(errors[-1]) < 3e-4 and (np.abs(orders(errors) - 2) < 0.15).all(), errors
    assert float(found.passage_time_ab) == pytest.approx(MFPT[temperature], rel=3e-4)


def test_transitions_at_rates_of_e_minus_200():
    fp = double_well(0.25 / 200, 3000)
    found = fp.transitions("x < -0.99", "x > 0.98")
    # Kramers: 2π/√(|f''(−1)| f''(0))·e^{200}, f'' = 2 and −1
    assert float(found.log_rate_ab) == pytest.approx(-200 - np.log(np.sqrt(2) * np.pi), abs=0.01)
    assert float(found.rate_ab * found.probability_a) == pytest.approx(
        float(found.rate_ba * found.probability_b), rel=1e-10
    )
    assert found.attrs["flux_error"] < 1e-9


SHEARED = get("sheared_double_well")
A, B = "(sqrt(3)*x - y)/2 < -0.83", "(sqrt(3)*x - y)/2 > 0.9"


def sheared(cells, temperature=0.1):
    return FokkerPlanck(SHEARED.at_temperature(temperature), Grid((-3.2, -2.4), (3.2, 2.4), (cells, cells)))


def test_the_backward_committor_is_that_of_the_process_run_backwards():
    """Time reversal turns j: b = −D∇Φ − Q∇Φ becomes −D∇Φ + Q∇Φ, whose committor from b to a is q⁻."""
    u, w = "((sqrt(3)*x - y)/2)", "((sqrt(3)*y - x)/2)"
    slope = [f"(sqrt(3)/2*{u}*({u}**2 - 1) - {w}/2)", f"(-{u}*({u}**2 - 1)/2 + sqrt(3)/2*{w})"]
    drift = [f"-3*{slope[0]} + sqrt(3)/2*{slope[1]}", f"-{slope[1]} - sqrt(3)/2*{slope[0]}"]
    reversed_process = Process(drift, [["3", "0"], ["0", "1"]], 0.1, variables=("x", "y"))
    gaps, symmetric = [], []
    for cells in (48, 96):
        fp = sheared(cells)
        found = fp.transitions(A, B)
        other = FokkerPlanck(reversed_process, fp.grid).committor(B, A)
        mass = np.exp(fp.log_steady_state().values) * fp.grid.cell_volume
        gaps.append(float((mass * np.abs(found.backward_committor - other).values).sum()))
        symmetric.append(float((mass * np.abs(found.backward_committor - 1 + found.committor).values).sum()))
        assert found.attrs["flux_error"] < 1e-11 and found.attrs["current_error"] < 1e-9
    assert gaps[1] < 1e-3 and np.log2(gaps[0] / gaps[1]) > 1.6, gaps
    assert symmetric[1] > 20 * gaps[1]  # counterexample: 1 − q⁺ is not q⁻ where the process turns


def test_the_same_flux_through_every_surface_and_both_ways():
    fp = sheared(72)
    found = fp.transitions(A, B)
    back = fp.transitions(B, A)
    assert float(found.rate_ab * found.probability_a) == pytest.approx(
        float(found.rate_ba * found.probability_b), rel=1e-12
    )
    assert float(back.flux) == pytest.approx(float(found.flux), rel=1e-10)
    assert float(back.rate_ab) == pytest.approx(float(found.rate_ba), rel=1e-10)
    assert float(found.probability_a + found.probability_b) == pytest.approx(1, rel=1e-12)
    # ∫ J·∇s over a band in u, over its width, is the flux through the surfaces u = const in it: 1
    x, y = np.moveaxis(fp.grid.centers(), -1, 0)
    u = (np.sqrt(3) * x - y) / 2
    for low, high in ((-0.6, -0.1), (-0.2, 0.3), (0.1, 0.6)):
        ramp = np.clip((u - low) / (high - low), 0, 1)
        gx, gy = np.gradient(ramp, *fp.grid.axes)
        through = (found.reactive_current.values * np.stack([gx, gy], -1)).sum() * fp.grid.cell_volume
        assert through == pytest.approx(1, abs=0.02)


# low temperature -------------------------------------------------------------------------------------------


@pytest.mark.evidence(table="escape")
def test_escape_follows_the_potential_and_not_the_loss(table):
    """MFPT −√3,−1 → u = 1 over (2π/λ₊)√½ e^{ΔΦ/T}, λ₊ = (1 + √(19/4))/2: → 1, grid and T extrapolated."""
    growth = (1 + np.sqrt(19 / 4)) / 2
    temperatures, rows, ratios = (0.05, 0.025, 0.0125, 0.00625), [], []
    for temperature in temperatures:
        found = []
        for cells in (128, 256, 512):
            box = np.array([np.sqrt(3), 1.0]) + 5 * np.sqrt(temperature * np.array([2.5, 3.5]))  # 5 σ of each well
            grid = Grid(-box, box, (cells, cells))
            fp = FokkerPlanck(SHEARED.at_temperature(temperature), grid)
            time = fp.mean_exit_time("(sqrt(3)*x - y)/2 < 1", log=True)
            spline = RectBivariateSpline(*grid.axes, np.nan_to_num(time.values))
            log_time = float(spline(-np.sqrt(3), -1.0)[0, 0])
            found.append(np.exp(log_time - 0.25 / temperature) * growth / (2 * np.pi * np.sqrt(0.5)))
        order = np.log2((found[1] - found[0]) / (found[2] - found[1]))
        ratios.append(found[2] + (found[2] - found[1]) / 3)
        rows.append([temperature, *(f"{v:.5f}" for v in found), f"{order:.2f}", f"{ratios[-1]:.5f}"])
    # 1 + a T + b T² + c T³ through four temperatures, each half of the one before
    level = np.array(ratios)
    for power in (2, 4, 8):
        level = (power * level[1:] - level[:-1]) / (power - 1)
    limit = float(level[0])
    across = np.array([[np.sqrt(3), -1.0], [-1.0, np.sqrt(3)]]) / 2  # u and w of x and y; Φ = w²/2 − u²/2 at the saddle
    reversible = -np.linalg.eigvals(np.diag([3.0, 1.0]) @ across.T @ np.diag([-1.0, 1.0]) @ across).min()
    wrong = [(0.625 - 0.25) / t for t in temperatures]
    table(
        "Escape from a well that turns",
        ["T", "128²", "256²", "512²", "order", "h → 0"],
        rows,
        "Mean time from the minimum (−√3, −1) of `sheared_double_well` to u = (√3x − y)/2 = 1, over the irreversible "
        f"Eyring–Kramers formula (2π/λ₊)√(|det H_s|/det H_m) e^(ΔΦ/T), ΔΦ = 1/4, λ₊ = {growth:.6f}. Extrapolated to "
        f"T = 0 in powers of T: {limit:.4f}. With the loss, Δf = 5/8, the formula would be off by e^{wrong[0]:.1f} … "
        f"e^{wrong[-1]:.0f}; with the rate of −D∇²Φ at the saddle, {reversible:.4f}, as if j = 0, the limit would be "
        f"{limit * reversible / growth:.3f}.",
    )
    assert abs(limit - 1) < 0.01, (ratios, limit)
    assert abs(limit * reversible / growth - 1) > 0.05
