"""First exits against exact mean times and laws; the same bits however a run is cut; the bias of steps and its cure."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd.paths import _ensemble

WELL = sde.Landscape("x", "(x**2 - 1)**2/4")
LINE = sde.Landscape("x", "0").at_temperature(0.5)  # dx = dW
SKEW = sde.Landscape(("x", "y"), "0", diffusion=[[2, 1], [1, 1]]).at_temperature(0.5)
ELLIPSE = "x**2 - 2*x*y + 2*y**2 < 1"  # xᵀD⁻¹x < 1: a disc in the metric of SKEW's noise


def mean_first_passage(temperature, start=-1.0, end=1.0):
    """T⁻¹ ∫_start^end e^{f(y)/T} ∫_{−∞}^y e^{−f(z)/T} dz dy of WELL, by the trapezoidal rule."""
    y = np.linspace(-4.0, end, 200_001)
    f, dy = (y**2 - 1) ** 2 / 4, y[1] - y[0]
    weight = np.exp(-f / temperature)
    inner = np.concatenate([[0.0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))]) * dy
    outer = np.where(y >= start - dy / 2, np.exp(f.clip(max=0.25) / temperature) * inner, 0.0)  # f <= ¼ there
    return (outer.sum() - 0.5 * (outer[-1] + outer[np.argmax(outer > 0)])) * dy / temperature


def z_score(run, exact):
    return abs(float(run.mean_exit_time) - exact) / float(run.mean_exit_time_error)


@pytest.mark.parametrize("temperature, quoted, step", [(0.2, 19.0939, 0.01), (0.1, 66.2686, 0.02)])
def test_first_passage_of_a_double_well(temperature, quoted, step):
    """|z| < 4 (false alarm 6e-5 each), within 3 % of the integral; Kramers' formula is excluded at T = 0.2."""
    exact = mean_first_passage(temperature)
    assert exact == pytest.approx(quoted, rel=1e-5)
    run = sde.exit_times(
        WELL.at_temperature(temperature), -1.0, "x < 1", step=step, paths=20_000, max_steps=300_000, seed=3
    )
    assert run.attrs["scheme"] == "stochastic_heun" and run.attrs["censored"] == 0
    assert z_score(run, exact) < 4 and float(run.mean_exit_time) == pytest.approx(exact, rel=0.03)
    kramers = 2 * np.pi / np.sqrt(2) * np.exp(0.25 / temperature)
    assert temperature < 0.2 or z_score(run, kramers) > 10
    assert float(run.x.min()) > 0.6  # where they are just after: at the boundary, not at the start


def mean_times(process, region, start, steps, paths, exact, **settings):
    """Bias and standard error of the mean exit time at each h."""
    runs = [
        sde.exit_times(process, start, region, step=h, paths=paths, max_steps=int(40 / h), seed=4, **settings)
        for h in steps
    ]
    return (
        np.array([float(r.mean_exit_time) - exact for r in runs]),
        np.array([float(r.mean_exit_time_error) for r in runs]),
    )


def test_the_bridge_raises_the_order_from_a_half_to_one():
    """E τ = (1 − r²)/(2dT) in the ellipse xᵀD⁻¹x < 1, D = [[2, 1], [1, 1]].

    Ends of steps: order ½ ± 0.15 over h = 0.04, 0.01 (bias 40σ or more). Bridge: bias below a fifth of that, order in
    0.6 … 1.6 over h = 0.16, 0.04. From inside the exact value is met to 4σ at small h; D = I on that ellipse is not.
    """
    late, error = mean_times(SKEW, ELLIPSE, (0.0, 0.0), (0.04, 0.01), 100_000, 0.5, bridge=False)
    assert (late > 40 * error).all()
    assert np.log(late[0] / late[1]) / np.log(4) == pytest.approx(0.5, abs=0.15)
    bias, error = mean_times(SKEW, ELLIPSE, (0.0, 0.0), (0.16, 0.04), 400_000, 0.5)
    assert abs(bias[1]) < 0.2 * late[0] and (np.abs(bias) > 4 * error).all()
    assert 0.6 < np.log(bias[0] / bias[1]) / np.log(4) < 1.6
    within, error = mean_times(SKEW, ELLIPSE, (0.3, -0.1), (0.001,), 20_000, 0.5 * (1 - 0.17))
    assert abs(within[0]) < 4 * error[0]
    round_noise = sde.Landscape(("x", "y"), "0").at_temperature(0.5)
    other, error = mean_times(round_noise, ELLIPSE, (0.3, -0.1), (0.01,), 20_000, 0.5 * (1 - 0.17))
    assert abs(other[0]) > 10 * error[0]


def test_ends_of_steps_are_a_stopped_martingale():
    """E|x_τ − x_0|² = 2Td E τ holds exactly at every h (|z| < 4.5, false alarm 7e-6 each) where exits are looked for at
    the ends of steps; and then E τ is late by 0.5826 √(2Th) of the boundary (Siegmund), within 3 %."""
    for h in (0.04, 0.01):
        run = sde.exit_times(LINE, 0.5, "x > 0 and x < 1", step=h, paths=200_000, max_steps=10_000, bridge=False)
        gap = (run.x.values - 0.5) ** 2 - h * run.exit_step.values
        assert abs(gap.mean()) < 4.5 * gap.std() / np.sqrt(len(gap))
        late = h * run.exit_step.values.mean()
        assert late == pytest.approx((0.5 + 0.5826 * np.sqrt(h)) ** 2, rel=0.03)
        assert late > 1.2 * 0.25


def test_survival_is_the_series_of_the_heat_equation():
    """sup|Ŝ − S| < 2.2/√n + h max τ's density (false alarm 1.3e-4, Kolmogorov); a law of half the rate is 20 × off."""
    h, n = 0.002, 40_000
    run = sde.exit_times(LINE, 0.5, "0 < x and x < 1", step=h, paths=n, max_steps=5000, seed=6)
    t, k = run.time.values[:, None], np.arange(60)
    odd = 2 * k + 1

    def series(t):
        return (4 / (odd * np.pi) * (-1.0) ** k * np.exp(-((odd * np.pi) ** 2) * 0.5 * t)).sum(1)

    late = t[:, 0] > 0.01  # where sixty terms are plenty
    away = np.abs(run.survival.values - series(t))[late]
    assert away.max() < 2.2 / np.sqrt(n) + 4 * h
    assert np.abs(run.survival.values - series(t / 2))[late].max() > 20 * away.max()
    assert float(run.survival[0]) == 1.0 and (np.diff(run.survival) <= 0).all()
    np.testing.assert_allclose(run.survival_error, np.sqrt(run.survival * (1 - run.survival) / n))
    assert z_score(run, 0.25) < 4


def test_noise_that_depends_on_the_point():
    """dx = √(2T(1 + x²)) dW leaves (−1, 1) after (π/4 − ln2/2)/T: 1.5 % at h = 0.002 and |z| < 4.5 + bias; the value of
    constant D, 14 % away, is excluded."""
    process = sde.Landscape("x", "0", diffusion=[["1 + x**2"]]).at_temperature(0.5)
    run = sde.exit_times(process, 0.0, "x > -1 and x < 1", step=0.002, paths=40_000, max_steps=20_000, seed=2)
    exact = (np.pi / 4 - np.log(2) / 2) / 0.5
    assert float(run.mean_exit_time) == pytest.approx(exact, rel=0.015)
    assert z_score(run, 1.0) > 20 and run.attrs["scheme"] == "euler_maruyama"


def test_every_kind_of_region_gives_the_same_exits():
    """One interval as inequalities, their negation, an "or", a mask and a function: equal steps, equal states."""
    centers = np.linspace(0, 1, 11)[:-1] + 0.05
    kinds = {
        "text": "x > 0 and x < 1",
        "chain": "0 < x < 1",
        "not": "not (x <= 0 or x >= 1)",
        "or": "x*(1 - x) > 0 or x*(1 - x) > 0.2",
        "mask": xr.DataArray(np.ones(10, bool), dims="x", coords={"x": centers}),
        "function": lambda x: (x[..., 0] > 0) & (x[..., 0] < 1),
    }
    runs = {k: sde.exit_times(LINE, 0.5, r, step=0.03, paths=200, max_steps=60, bridge=False) for k, r in kinds.items()}
    for run in runs.values():
        np.testing.assert_array_equal(run.exit_step, runs["text"].exit_step)
        np.testing.assert_array_equal(run.x, runs["text"].x)
    assert runs["function"].attrs["inside"].startswith("function") and runs["text"].attrs["exits"] > 150
    bridged = sde.exit_times(LINE, 0.5, "0 < x < 1", step=0.03, paths=200, max_steps=60)
    left = runs["text"].exit_step.values > 0
    assert (bridged.exit_step.values[left] <= runs["text"].exit_step.values[left]).all()
    assert (bridged.exit_step.values < runs["text"].exit_step.values).any()
    half = xr.DataArray(centers < 0.7, dims="x", coords={"x": centers})  # holes count: cells beyond 0.7 are outside
    early = sde.exit_times(LINE, 0.5, half, step=0.03, paths=200, max_steps=60, bridge=False)
    text = sde.exit_times(LINE, 0.5, "0 < x < 0.7", step=0.03, paths=200, max_steps=60, bridge=False)
    np.testing.assert_array_equal(early.exit_step, text.exit_step)


def test_censored_paths_are_counted():
    """Given up after half the mean time: total time over exits is within 4σ + 1 % (the 3 units of time before escape is
    a Poisson process) of the integral, and the mean of those seen to leave is less than half of it."""
    exact, h, n = mean_first_passage(0.05), 0.04, 5000
    well = WELL.at_temperature(0.05)
    run = sde.exit_times(well, -1.0, "x < 1", step=h, paths=n, max_steps=int(0.5 * exact / h), seed=9)
    gone = run.exit_step.values > 0
    assert run.attrs["censored"] == (~gone).sum() == np.isnan(run.exit_time).sum() > n / 2
    assert run.attrs["exits"] + run.attrs["censored"] == n
    total = float(run.exit_time.sum()) + run.attrs["max_steps"] * h * (~gone).sum()
    assert float(run.mean_exit_time) == pytest.approx(total / gone.sum(), rel=1e-12)
    assert abs(float(run.mean_exit_time) - exact) < 4 * float(run.mean_exit_time_error) + 0.01 * exact
    assert float(run.exit_time.mean()) < 0.5 * exact
    assert float(run.survival[-1]) == pytest.approx((~gone).mean())
    assert (run.x.values[~gone] < 1).all()


def leaving(**changes):
    settings = dict(step=0.01, max_steps=150, paths=9000, seed=5) | changes
    return sde.exit_times(SKEW, (0.1, 0.2), ELLIPSE, **settings)


def test_bits_do_not_depend_on_how_a_run_is_cut(monkeypatch):
    """Threads, groups of paths, the moments at which those that left are dropped, and the number of paths."""
    names = ("exit_step", "exit_time", "x", "y", "survival")
    reference = leaving(threads=1)
    assert 0 < reference.attrs["censored"] < 4500
    others = [leaving(threads=n) for n in (2, 3, 7)]
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-5)
    others.append(leaving())
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    others.append(leaving(threads=2))
    for other in others:
        for name in names:
            np.testing.assert_array_equal(other[name], reference[name])
    few = leaving(paths=100)
    for name in names[:-1]:
        np.testing.assert_array_equal(few[name], reference[name][:100])
    assert not np.array_equal(leaving(seed=6).exit_step, reference.exit_step)


def test_steps_that_vary():
    steps = np.full(150, 0.01)
    same, reference = leaving(step=steps), leaving()
    np.testing.assert_array_equal(same.exit_step, reference.exit_step)
    np.testing.assert_allclose(same.exit_time, reference.exit_time, rtol=1e-12)
    growing = 0.01 * 1.01 ** np.arange(150)
    run = leaving(step=growing)
    ends = np.concatenate([[0], np.cumsum(growing)])
    left = run.exit_step.values[run.exit_step.values > 0]
    np.testing.assert_allclose(run.exit_time.values[run.exit_step.values > 0], 0.5 * (ends[left] + ends[left - 1]))


PHASE = sde.landscapes.get("ring").at_temperature(0.5)
FAULTS = {
    r"start \(1.5,\) is not inside 'x < 1'": lambda: sde.exit_times(LINE, 1.5, "x < 1", step=0.1, paths=9, max_steps=9),
    r"start \(2.0,\) is not inside": lambda: sde.exit_times(
        LINE, [[0.0], [2.0]], "x < 1", step=0.1, paths=2, max_steps=9
    ),
    "paths must be a whole number >= 2": lambda: leaving(paths=1),
    "bridge must be True or False": lambda: leaving(bridge=1),
    "the bridge test needs inequalities joined by 'and'": lambda: sde.exit_times(
        LINE, 0.0, "x < 1 or x < 2", step=0.1, paths=9, max_steps=9
    ),
    "does not see across the seam of the periodic variable": lambda: sde.exit_times(
        PHASE, 1.0, f"{PHASE.variables[0]} < 2", step=0.1, paths=9, max_steps=9
    ),
    "has no paths of its own": lambda: leaving(scheme="leimkuhler_matthews"),
    "'weak_heun' has no paths": lambda: leaving(scheme="weak_heun"),
    "scheme must be one of": lambda: leaving(scheme="heun"),
    "inside names|'z'": lambda: sde.exit_times(SKEW, (0, 0), "z < 1", step=0.1, paths=9, max_steps=9),
    "max_steps must be": lambda: leaving(max_steps=0),
    "process must be a Process, got Landscape": lambda: sde.exit_times(
        WELL, 0.0, "x < 1", step=0.1, paths=9, max_steps=9
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()


def test_too_few_exits_give_no_mean():
    with pytest.raises(sde.TooFewSamples, match=r"0 of 50 paths left within 10 steps \(time 0.1\); raise max_steps"):
        sde.exit_times(WELL.at_temperature(0.05), -1.0, "x < 1", step=0.01, paths=50, max_steps=10)


@pytest.mark.evidence(table="exit_times")
def test_first_passage_times(table):
    """T = 0.2, 0.1, 0.05 at two steps: every error at most 1 %, three standard errors or more."""
    rows = []
    for temperature, paths in ((0.2, 200_000), (0.1, 200_000), (0.05, 200_000)):
        exact = mean_first_passage(temperature)
        for h in (0.04, 0.02):
            run = sde.exit_times(
                WELL.at_temperature(temperature), -1.0, "x < 1", step=h, paths=paths, max_steps=int(30 * exact / h)
            )
            mean, error = float(run.mean_exit_time), float(run.mean_exit_time_error)
            relative = mean / exact - 1
            assert abs(relative) <= 0.01 and error <= 0.003 * exact, (temperature, h)
            rows.append([f"{temperature:g}", f"{h:g}", f"{exact:.4f}", f"{mean:.3f} ± {error:.3f}", f"{relative:+.2%}"])
    table(
        "Mean first passage from −1 to +1 in the double well (x² − 1)²/4",
        ["T", "step", "exact", "measured", "relative error"],
        rows,
        "200,000 paths of the stochastic Heun scheme with the Brownian-bridge test; standard errors. "
        "The exact value is a double integral.",
    )


@pytest.mark.evidence
def test_exits_past_a_reflecting_side():
    """Brownian motion from 0 on [0, ∞) with a mirror at 0 leaves x < 1 after L²/(2TD) = 1 (4 standard errors); without
    the mirror it takes for ever on the average, and most paths are still inside."""
    half = sde.Landscape("x", "0", domain={"x": (0, float("inf"))}).at_temperature(0.5)
    settings = dict(step=0.01, paths=20_000, max_steps=1000, seed=2)
    run = sde.exit_times(half, 0.0, "x < 1", walls="reflect", **settings)
    assert abs(float(run.mean_exit_time) - 1) < 4 * float(run.mean_exit_time_error) and run.attrs["censored"] == 0
    free = sde.exit_times(half, 0.0, "x < 1", **settings)
    assert free.attrs["censored"] > 4000
    with pytest.raises(ValueError, match="walls must be one of reflect, got 'absorb'"):
        sde.exit_times(half, 0.0, "x < 1", walls="absorb", **settings)


def test_beyond_sixteen_variables_the_state_is_one_variable():
    wide = sde.Landscape.linear(np.eye(17)).at_temperature(1.0)
    run = sde.exit_times(wide, np.zeros(17), f"{wide.variables[0]} < 0.5", step=0.05, paths=64, max_steps=4000)
    assert run.state.dims == ("path", "variable") and wide.variables[3] not in run.data_vars
