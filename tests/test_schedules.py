"""Temperatures that change in time: the law of an Ornstein–Uhlenbeck process under cooling, and what is refused."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd import schedules

LINE = sde.Landscape("x", "x**2/2")
COOLING = schedules.Annealing(2.0, 0.2, 1.0)
START = 1.5


def exact_moments(schedule, time=1.0, pieces=20_000):
    """m' = −m, V' = −2V + 2T(t) from V = 0: V = ∫ 2T(s) e^{−2(t−s)} ds by the midpoint rule."""
    s = (np.arange(pieces) + 0.5) * time / pieces
    return START * np.exp(-time), (2 * schedule(s) * np.exp(-2 * (time - s))).sum() * time / pieces


def recursion(scheme, h, schedule, time=1.0):
    """Mean and variance of the scheme on dx = −x dt + √(2T(t)) dW, worked out by hand from its formula."""
    now, after = schedule(h * np.arange(round(time / h))), schedule(h * np.arange(1, round(time / h) + 1))
    heun = 1 - h + h * h / 2
    if scheme == "leimkuhler_matthews":  # noise (ξ_n + ξ_{n+1})/2: each ξ is seen by two steps
        weights = np.zeros(len(now) + 1)
        for k, temperature in enumerate(now):
            weights *= 1 - h
            weights[k : k + 2] += 0.5 * np.sqrt(2 * temperature * h)
        return START * (1 - h) ** len(now), (weights**2).sum()
    if scheme in ("stochastic_heun", "weak_heun"):
        growth, noise = heun, (1 - h / 2) ** 2 * (now + after) * h
    elif scheme == "sra1":
        first, last = np.sqrt(2 * now * h), np.sqrt(2 * after * h)
        common = last + 0.5 * (first - last) - 0.5 * h * first
        growth, noise = heun, common**2 + ((0.5 * (first - last) - 0.5 * h * first) / np.sqrt(3)) ** 2
    else:
        growth, noise = 1 - h, 2 * now * h
    variance = 0.0
    for n in noise:
        variance = growth**2 * variance + n
    return START * growth ** len(now), variance


LONG = ("weak_euler", "weak_heun")  # the lines of euler_maruyama and stochastic_heun


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(name, marks=pytest.mark.evidence) if name in LONG else name
        for name in sorted(name for name, s in sde.SCHEMES.items() if not s.underdamped)
    ],
)
def test_cooling_has_the_moments_of_the_scheme(scheme):
    """Mean and variance at h = 1/4 within 4.5σ (false alarm 7e-6 each) of the recursion; of a constant T, excluded by
    20σ. The recursion's own order is the declared weak order ± 0.15, that of T frozen at 2 has none."""
    n, h = 200_000, 0.25
    run = sde.simulate(LINE.at_temperature(COOLING), START, step=h, steps=4, paths=n, seed=1, scheme=scheme)
    mean, variance = recursion(scheme, h, COOLING)
    x = run.x.values
    assert abs(x.mean() - mean) < 4.5 * np.sqrt(variance / n)
    spread = np.sqrt(((x - x.mean()) ** 4).mean() - variance**2) / np.sqrt(n)
    assert abs(x.var() - variance) < 4.5 * spread
    assert abs(x.var() - recursion(scheme, h, lambda t: 2.0 + 0 * t)[1]) > 20 * spread
    exact = exact_moments(COOLING)
    steps = 2.0 ** -np.arange(5, 8)
    errors = np.array([abs(np.subtract(recursion(scheme, h, COOLING), exact)) for h in steps])
    declared = sde.SCHEMES[scheme].weak_order
    assert np.log2(errors[-2] / errors[-1])[0] == pytest.approx(declared, abs=0.15)
    assert np.log2(errors[-2] / errors[-1])[1] > declared - 0.15
    frozen = [recursion(scheme, h, lambda t: 2.0 + 0 * t)[1] - exact[1] for h in steps]
    assert abs(np.log2(frozen[-2] / frozen[-1])) < 0.1


def test_heun_takes_both_ends_of_the_step():
    """With T at the step's start alone the order would be one."""

    def one_sided(h):
        growth, variance = 1 - h + h * h / 2, 0.0
        for t in COOLING(h * np.arange(round(1 / h))):
            variance = growth**2 * variance + (1 - h / 2) ** 2 * 2 * t * h
        return variance

    exact = exact_moments(COOLING)[1]
    assert np.log2((one_sided(2**-6) - exact) / (one_sided(2**-7) - exact)) == pytest.approx(1, abs=0.1)


def test_baoab_under_cooling():
    """Position and velocity variances at t = 2 within 4.5σ + 1 % of the moment equations, and 20σ off T = 2."""
    friction, n, h = 1.5, 100_000, 0.05
    run = sde.simulate(sde.Underdamped(LINE, COOLING, friction), (0.0, 0.0), step=h, steps=40, paths=n, seed=2)
    f, s, fine = np.array([[0.0, 1.0], [-1.0, -friction]]), np.zeros((2, 2)), 2 / 20_000
    for t in (np.arange(20_000) + 0.5) * fine:
        s = s + fine * (f @ s + s @ f.T + np.diag([0, 2 * friction * COOLING(t)]))
    for got, exact in ((run.x, s[0, 0]), (run.velocity_x, s[1, 1])):
        assert abs(float(got.var()) - exact) < 4.5 * exact * np.sqrt(2 / n) + 0.01 * exact
        assert abs(float(got.var()) - 2.0) > 20 * exact * np.sqrt(2 / n)


def test_an_array_of_steps_is_the_clock_of_a_schedule():
    """T is taken at t = Σ h: growing steps end at the moments of that time; step counts in place of t do not."""
    steps = np.geomspace(0.002, 0.02, 100)
    time, n = steps.sum(), 100_000
    run = sde.simulate(
        LINE.at_temperature(COOLING), START, step=steps, steps=100, paths=n, scheme="stochastic_heun", save_every=100
    )
    mean, variance = exact_moments(COOLING, time)
    last = run.x[:, -1]
    assert float(run.time[-1]) == pytest.approx(time) and run.attrs["step"] == "100 values"
    assert abs(float(last.mean()) - mean) < 4.5 * np.sqrt(variance / n)
    assert abs(float(last.var()) - variance) < 4.5 * variance * np.sqrt(2 / n)
    counted = exact_moments(lambda s: COOLING(100 * s / time), time)[1]
    assert abs(float(last.var()) - counted) > 20 * variance * np.sqrt(2 / n)


def test_a_constant_schedule_is_the_number():
    number = sde.simulate(LINE.at_temperature(0.3), 1.0, step=0.1, steps=20, paths=64)
    constant = sde.simulate(LINE.at_temperature(lambda t: 0.3), 1.0, step=0.1, steps=20, paths=64)
    np.testing.assert_array_equal(number.x, constant.x)


VALUES = {
    schedules.Annealing(2.0, 0.5, 4.0): {0: 2, 2: 1, 4: 0.5, 9: 0.5, -1: 2},
    schedules.Cyclic(1.0, 3.0, 4.0): {0: 1, 1: 2, 2: 3, 3: 2, 4: 1, 6: 3},
    schedules.Trapezoid(1.0, 3.0, 2, 4, 1): {0: 1, 1: 2, 2: 3, 6: 3, 6.5: 2, 7: 1, 99: 1},
    schedules.StepDecay(8.0, 0.5, (1.0, 3.0)): {0: 8, 0.999: 8, 1: 4, 2.9: 4, 3: 2, 99: 2},
}


@pytest.mark.parametrize("schedule", VALUES, ids=repr)
def test_corners(schedule):
    times, values = np.array(list(VALUES[schedule])), list(VALUES[schedule].values())
    np.testing.assert_allclose(schedule(times), values, rtol=1e-14)
    assert float(schedule(times[1])) == pytest.approx(values[1])
    assert schedule(times.reshape(1, -1)).shape == (1, len(times))
    run = sde.simulate(LINE.at_temperature(schedule), 0.0, step=0.1, steps=3)
    assert run.attrs["temperature"] == repr(schedule) and type(schedule).__name__ in repr(LINE.at_temperature(schedule))


def falls(t):
    return 1.0 - t


FAULTS = {
    "gave -0.5 at t = 1; it must be finite and > 0": lambda: sde.simulate(
        LINE.at_temperature(lambda t: 0.5 - t), 0.0, step=1.0, steps=2
    ),
    "the temperature schedule gave 0 at t = 1": lambda: sde.simulate(LINE.at_temperature(falls), 0, step=0.5, steps=9),
    "gave nan at t = 0": lambda: LINE.at_temperature(lambda t: t * np.nan).temperature_at([0.0, 1.0]),
    "must be a function of an array of times": lambda: LINE.at_temperature(lambda t: 1 if t < 1 else 2).temperature_at(
        [0.0, 2.0]
    ),
    r"gave shape \(2,\) for times of shape \(3,\)": lambda: LINE.at_temperature(lambda t: t[1:]).temperature_at(
        np.ones(3)
    ),
    "is a schedule of time, and this needs a number": lambda: sde.FokkerPlanck(
        LINE.at_temperature(COOLING), sde.Grid(-3, 3, 16)
    ).steady_state(),
    "this needs a number; make the process at_temperature": lambda: LINE.at_temperature(COOLING).drift([0.0]),
    "start must be a finite number > 0, got 0": lambda: schedules.Annealing(0, 1, 1),
    "duration must be": lambda: schedules.Annealing(1, 1, float("inf")),
    "low must not exceed high, got 3 and 1": lambda: schedules.Cyclic(3, 1, 1),
    "floor must not exceed peak, got 2 and 1": lambda: schedules.Trapezoid(2, 1, 1, 1, 1),
    "at must be increasing times": lambda: schedules.StepDecay(1, 0.5, (2, 1)),
    "factor must be": lambda: schedules.StepDecay(1, -0.5, (1,)),
    "temperature must be a finite number > 0, got -1": lambda: LINE.at_temperature(-1),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(message):
    with pytest.raises(ValueError, match=message):
        FAULTS[message]()
