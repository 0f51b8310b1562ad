"""Correlations in time of a density that is stationary: of the chain, of linear processes, over many decades."""

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse.linalg as sla

import sde_sgd as sde
from sde_sgd.fokker_planck import _lag_covariance

F, D = np.array([[1.0, 2.0], [-2.0, 3.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])
TURNING = sde.Process(["-x - 2*y", "2*x - 3*y"], D.tolist(), 1.0, variables=("x", "y"))


def solver(process, half, cells, **options):
    d = process.dim
    return sde.FokkerPlanck(process, sde.Grid((-half,) * d, (half,) * d, (cells,) * d, **options))


def line(loss, temperature, cells, half=2.2, **options):
    return solver(sde.Landscape("x", loss).at_temperature(temperature), half, cells, **options)


def test_lag_covariance_is_that_of_the_chain():
    """Against Krylov exponentials of the matrix, to the tolerance, for chains with and without a current."""
    times = np.array([0.0, 0.01, 0.1, 1.0, 3.0])
    for fp in (solver(TURNING, 5.0, 20), solver(sde.landscapes.get("example_19").at_temperature(1.0), 4.0, 20)):
        found = fp.lag_covariance(times, tolerance=1e-11)
        x, pi = fp.grid.centers().reshape(-1, 2), fp.steady_state().values.ravel() * fp.grid.cell_volume
        x = x - pi @ x
        for k, t in enumerate(times):
            exact = sla.expm_multiply(fp.matrix.T * t, x).T @ (pi[:, None] * x)
            assert np.abs(found.values[k] - exact).max() < 1e-11
            assert t == 0.0 or np.abs(found.values[k].T - exact).max() > 1e-3  # which of the two comes later matters
        assert found.attrs["error"] <= 1e-11 and found.dims == ("time", "variable", "variable_2")


def test_lag_covariance_of_a_linear_process():
    """e^{−Ft}S, to second order; its antisymmetric part over t tends to −2TQ."""
    S = la.solve_continuous_lyapunov(F, 2 * D)
    times = [0.0, 0.3, 1.0, 2.5]
    exact = np.stack([la.expm(-F * t) @ S for t in times])
    errors = [np.abs(solver(TURNING, 6.0, n).lag_covariance(times).values - exact).max() for n in (32, 64)]
    assert errors[1] < 0.02 and 3.5 < errors[0] / errors[1] < 4.5
    short = solver(TURNING, 6.0, 64).lag_covariance([1e-4]).values[0]
    assert (short - short.T)[0, 1] / 1e-4 == pytest.approx(-2 * (F @ S - D)[0, 1], rel=0.02)


def test_lag_covariance_is_symmetric_under_detailed_balance():
    fp = solver(sde.landscapes.get("double_well").at_temperature(0.3), 2.5, 24)
    found = fp.lag_covariance([0.2, 2.0]).values
    assert np.abs(found - found.transpose(0, 2, 1)).max() < 1e-11


def test_lag_covariance_over_many_decades_and_many_turns():
    """A gap of e^−40 seen at its own time, and a fast rotation for a hundred turns."""
    fp = line("(x**2-1)**2", 1 / 40, 200, 1.8)
    gap = float(fp.spectrum(2)["eigenvalue"][1])
    found = fp.lag_covariance([1.0, 0.5 / gap, 2.0 / gap]).values[:, 0, 0]
    assert found[2] / found[1] == pytest.approx(np.exp(-1.5), rel=1e-8) and found[1] > 0.5
    circle = {"a": (0, 2 * np.pi, "periodic")}
    process = sde.Process(["3"], [[1]], 0.002, variables=("a",), domain=circle)
    turning = sde.FokkerPlanck(process, sde.Grid(0.0, 2 * np.pi, 24, boundary="periodic"))
    times = [1.0, 40.0, 200.0]
    value = turning.lag_covariance(times, {"c": "cos(a)", "s": "sin(a)"}).sel(
        variable=["c", "s"], variable_2=["c", "s"]
    )
    rate = turning.spectrum(3)["eigenvalue"].values[1]
    for k, t in enumerate(times):
        decay = 0.5 * np.exp(-rate.real * t)
        exact = decay * np.array([[np.cos(rate.imag * t), -np.sin(rate.imag * t)],
                                  [np.sin(rate.imag * t), np.cos(rate.imag * t)]])  # fmt: skip
        assert np.abs(value.values[k] - exact).max() < 1e-8


def test_a_time_of_many_spaces_keeps_to_the_tolerance(monkeypatch):
    fp = solver(TURNING, 4.0, 12)
    times = [0.5, 1.0, 1.7, 3.0]
    exact = fp.lag_covariance(times).values
    monkeypatch.setattr(_lag_covariance, "_LONGEST", 9)
    found = fp.lag_covariance(times, tolerance=1e-6)
    assert np.abs(found.values - exact).max() < 1e-6 and 0.0 < found.attrs["error"] < 1e-6
    monkeypatch.setattr(_lag_covariance, "_LONGEST", 3)
    with pytest.raises(ValueError, match="a tolerance of 1e-12 is beyond rounding: to reach it, steps of"):
        fp.lag_covariance(times, tolerance=1e-12)


def test_observables_are_expressions_functions_or_fields():
    fp = line("(x**2-1)**2/4", 0.3, 60)
    field = fp.steady_state().copy(data=fp.grid.axes[0] ** 2)
    squares = {"text": "x**2", "function": lambda x: x[..., 0] ** 2, "field": field, "constant": "3"}
    found = fp.lag_covariance([0.0, 0.5], squares)
    assert found["variable"].values.tolist() == ["x", "text", "function", "field", "constant"]
    assert np.ptp(found.sel(variable="x", variable_2=["text", "function", "field"]).values, axis=1).max() < 1e-12
    assert not found.sel(variable="constant").values.any() and not found.sel(variable_2="constant").values.any()
    mass = fp.steady_state().values * fp.grid.cell_volume
    square = fp.grid.axes[0] ** 2
    assert float(found.sel(variable="text", variable_2="field")[0]) == pytest.approx(
        mass @ square**2 - (mass @ square) ** 2, rel=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "give one time at least"),
        (([[1.0]],), {}, r"got shape \(1, 1\)"),
        (([-1.0, 0.0],), {}, "times must be >= 0, got -1"),
        (([1.0, 1.0],), {}, "times must increase, got 1 before 1"),
        (([np.nan],), {}, "times must be finite"),
        (("soon",), {}, "array of real numbers"),
        (([1.0], ["x**2"]), {}, "observables must be a mapping, got list"),
        (([1.0], {"x": "x**2"}), {}, "a name of its own, got 'x'"),
        (([1.0], {"time": "x**2"}), {}, "a name of its own, got 'time'"),
        (([1.0], {"q": "x**2 + z"}), {}, "z"),
        (([1.0], {"q": np.zeros(7)}), {}, r"observable 'q' must have shape \(30,\)"),
        (([1.0],), {"tolerance": 0.0}, "tolerance must be a finite number > 0"),
        (([1.0],), {"tolerance": 1e-15}, "at least 1e-13"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        line("x**2/2", 1.0, 30).lag_covariance(*arguments, **options)


def test_nothing_is_stationary_between_absorbing_walls():
    with pytest.raises(ValueError, match="absorbing walls"):
        line("x**2/2", 1.0, 30, boundary="absorbing").lag_covariance([1.0])
