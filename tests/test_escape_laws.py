"""Times of escape on a grid against quadrature, the laws of Kramers and of Bouchet & Reygner, and paths."""

import numpy as np
import pytest
import scipy.integrate

import sde_sgd as sde

WELL = sde.Landscape("x", "(x**2 - 1)**2/4")


def passage(temperature, start, end):
    """T⁻¹ ∫_start^end e^{f/T} ∫_{−∞}^x e^{−f/T}, by quadrature."""
    f = lambda x: (x * x - 1) ** 2 / 4  # noqa: E731
    x = np.linspace(-3.0, end, 400_001)
    below = scipy.integrate.cumulative_simpson(np.exp(-f(x) / temperature), x=x, initial=0.0)
    x, below = x[x >= start], below[x >= start]
    return scipy.integrate.simpson(np.exp(f(x) / temperature) * below, x=x) / temperature


@pytest.mark.parametrize(("temperature", "exact"), [(0.2, 19.0939), (0.1, 66.2686), (0.05, 729.6707)])
def test_first_passage_of_the_double_well(temperature, exact):
    """From −1 to +1: the published digits, and order 2."""
    assert passage(temperature, -1.0, 1.0) == pytest.approx(exact, rel=1e-5)
    errors = []
    for cells in (96, 192, 384):
        process = WELL.at_temperature(temperature)
        found = sde.FokkerPlanck(process, sde.Grid(-3, 3, cells)).mean_exit_time("x < 1")
        errors.append(abs(float(found.interp(x=-1.0)) / exact - 1))
    assert errors[-1] < 1e-3 and np.log2(errors[0] / errors[-1]) / 2 > 1.9, errors


def test_kramers_at_low_temperature():
    """2π/√(f''(−1)|f''(0)|) e^{Δf/T} is approached as T → 0, linearly in T; 10⁴⁴ is nothing special."""
    gaps = []
    for temperature in (0.02, 0.01, 0.0025):
        fp = sde.FokkerPlanck(WELL.at_temperature(temperature), sde.Grid(-2.5, 2.5, 2000))
        log_time = float(fp.mean_exit_time("x < 1", log=True).interp(x=-1.0))
        gaps.append(np.expm1(log_time - np.log(2 * np.pi / np.sqrt(2)) - 0.25 / temperature))
    gaps = np.array(gaps)
    assert (gaps > 0).all() and gaps[-1] < 0.01
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], [2.0, 4.0], rtol=0.2)


@pytest.mark.evidence
def test_the_driven_well_escapes_by_its_potential():
    """sheared_double_well: (2π/λ₊)√(|det H_s|/det H_m) e^{ΔΦ/T} with ΔΦ = ¼, although Δf = ⅝ (Bouchet & Reygner)."""
    landscape, ratios = sde.landscapes.get("sheared_double_well"), []
    start, end = (-np.sqrt(3.0), -1.0), "(x - sqrt(3))**2 + (y - 1)**2 < 0.25"
    unstable = (1 + np.sqrt(19 / 4)) / 2
    for temperature in (0.04, 0.02, 0.01):
        process = landscape.at_temperature(temperature)
        fp = sde.FokkerPlanck(process, sde.Grid.around(process, shape=200))
        found = float(fp.mean_exit_time(f"not ({end})").interp(x=start[0], y=start[1]))
        # det H of Φ: −1 at the saddle, 2 at the minimum, in (u, w), which the ratio does not see
        ratios.append(found / (2 * np.pi / unstable * np.sqrt(0.5) * np.exp(0.25 / temperature)))
    gaps = np.array(ratios) - 1
    assert (gaps > 0).all() and gaps[-1] < 0.06 and (gaps[:-1] / gaps[1:] > 1.8).all(), ratios  # linear in T, or faster
    paths = sde.exit_times(
        landscape.at_temperature(0.08), start, f"not ({end})", step=0.002, paths=2000, max_steps=2_000_000, bridge=False
    )
    fp = sde.FokkerPlanck(landscape.at_temperature(0.08), sde.Grid.around(landscape.at_temperature(0.08), shape=200))
    exact = float(fp.mean_exit_time(f"not ({end})").interp(x=start[0], y=start[1]))
    measured, error = float(paths.mean_exit_time), float(paths.mean_exit_time_error)
    assert abs(measured - exact) < 4 * error + 0.01 * exact, (measured, error, exact)
