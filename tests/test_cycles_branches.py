"""Fixed points and their kinds, weak foci, branches and their bifurcations, stiff and chaotic orbits."""

import dataclasses

import numpy as np
import pytest
import scipy.integrate
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures
from sde_sgd.cycles import (
    Bifurcation,
    Branch,
    Cycle,
    classify_focus,
    continue_cycles,
    continue_fixed_points,
    find_cycles,
    find_fixed_points,
    radius_per_turn,
)
from sde_sgd.cycles._floquet import log_multipliers

SQUARE = ((-2, 2), (-2, 2))
CRITICAL = np.exp(-0.25)  # where the wells of example_19 merge


def linear(matrix):
    return lambda x: x @ np.array(matrix, float).T


# fixed points --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[-1, 0], [0, -2]], "stable node"),
        ([[-1, 3], [-3, -1]], "stable focus"),
        ([[1, 0], [0, 2]], "unstable node"),
        ([[1, 3], [-3, 1]], "unstable focus"),
        ([[1, 0], [0, -2]], "saddle"),
        ([[0, 3], [-3, 0]], "centre or weak focus"),
        ([[-1, 3, 0], [-3, -1, 0], [0, 0, 1]], "saddle-focus"),
        ([[0, 3, 0], [-3, 0, 0], [0, 0, -1]], "centre or weak focus"),
        ([[0, 3, 0, 0], [-3, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], "saddle-focus"),
        (np.diag([-1, -2, -3, -4]), "stable node"),
    ],
)
def test_kinds_of_fixed_points(matrix, kind):
    d = len(matrix)
    (point,) = find_fixed_points(linear(matrix), ((-1, 1.2),) * d, starts=64 if d > 2 else None)
    assert point.kind == kind and point.stable == kind.startswith("stable")
    np.testing.assert_allclose(point.position, 0.0, atol=1e-10)
    np.testing.assert_allclose(
        np.sort_complex(point.eigenvalues), np.sort_complex(np.linalg.eigvals(matrix)), atol=1e-8
    )


def test_fixed_points_of_example_19():
    found = find_fixed_points(sde.landscapes.get("example_19", circulation=0.5))
    assert [p.kind for p in found] == ["stable node", "saddle", "stable node"]
    np.testing.assert_allclose(found[2].position, [0.902428, 0.388802], atol=1e-6)
    np.testing.assert_allclose(found[1].eigenvalues, [0.7667, -0.7667], atol=1e-4)
    (degenerate,) = find_fixed_points(lambda x: -(x**3), ((-1, 1.3),))
    assert degenerate.kind == "degenerate"


# weak foci ------------------------------------------------------------------------------------------------------


def test_example_19_has_a_weak_focus_and_no_limit_cycle():
    """λ = 1.5: eigenvalues ±1.6461i, R = 2/√t: the coefficient is −1/4, and R⁻² measured per turn has the slope 1/4."""
    landscape = sde.landscapes.get("example_19", circulation=1.5)
    (origin,) = find_fixed_points(landscape)
    assert origin.kind == "centre or weak focus" and not origin.stable
    focus = classify_focus(landscape, origin.position)
    assert focus.kind == "weak stable focus" and focus.frequency == pytest.approx(1.6461, abs=1e-4)
    assert focus.coefficient == pytest.approx(-0.25, abs=1e-5) and abs(focus.coefficient + 0.25) < focus.error < 1e-3
    assert focus.amplitude == pytest.approx(2, abs=1e-4)
    radius = radius_per_turn(landscape, (0.12, 0.0), center=origin.position, turns=8)
    slope = np.polyfit(radius.time, radius.values**-2.0, 1)[0]
    assert slope == pytest.approx(0.25, rel=0.05)
    assert find_cycles(landscape, ((-1, 1),) * 2, starts=2, steps=60) == []


def test_lyapunov_coefficients_known_by_hand():
    """ṙ = ∓r³ has c = ∓2, the damping x³ averages to −3/4; a centre is undecided."""
    forms = {
        -2.0: lambda x: np.stack([-x[..., 1], x[..., 0]], -1) - x * (x**2).sum(-1)[..., None],
        2.0: lambda x: np.stack([-x[..., 1], x[..., 0]], -1) + x * (x**2).sum(-1)[..., None],
        -0.75: lambda x: np.stack([x[..., 1] - x[..., 0] ** 3, -x[..., 0]], -1),
    }
    for expected, field in forms.items():
        focus = classify_focus(field, (0, 0), SQUARE)
        assert focus.coefficient == pytest.approx(expected, abs=1e-7)
        assert focus.kind == f"weak {'stable' if expected < 0 else 'unstable'} focus"
    # Quadratic terms count too: against the decay that is measured.
    bent = lambda x: np.stack([-x[..., 1], x[..., 0] + x[..., 0] ** 2 - x[..., 0] * x[..., 1]], -1)  # noqa: E731
    focus = classify_focus(bent, (0, 0), SQUARE)
    radius = radius_per_turn(bent, (0.05, 0.0), SQUARE, center=(0, 0), turns=4)
    slope = np.polyfit(radius.time, radius.values**-2.0, 1)[0]
    assert -focus.coefficient == pytest.approx(slope, rel=0.02)
    assert classify_focus(linear([[0, 1], [-1, 0]]), (0, 0), SQUARE).kind == "undecided"
    with pytest.raises(ValueError, match="not one pair"):
        classify_focus(linear([[-1, 1], [-1, -1]]), (0, 0), SQUARE)
    with pytest.raises(ValueError, match="no fixed point"):
        classify_focus(linear([[0, 1], [-1, 0]]), (1, 0), SQUARE)


# branches ---------------------------------------------------------------------------------------------------------


def test_the_pitchfork_of_example_19():
    """λ_c = e^(−1/4), from the wells, from the origin, and from either end; nothing else is met."""
    landscape = sde.landscapes.get("example_19")
    for settings in ({"start": (0, 0)}, {"start": (1, 0)}, {}):
        branches = continue_fixed_points(
            landscape, "circulation", (0, 1.5), box=((-1.5, 1.5),) * 2, step=0.05, **settings
        )
        assert len(branches) == 2
        for branch in branches:
            (found,) = branch.bifurcations
            assert found.kind == "pitchfork" and found.value == pytest.approx(CRITICAL, abs=1e-12)
            np.testing.assert_allclose(found.position, 0.0, atol=1e-9)
            assert branch.points.attrs["residual"] < 1e-12
    wells = next(b for b in branches if float(abs(b.points.x).max()) > 0.5).points
    assert bool(wells.stable[np.abs(wells.x) > 0.1].all())
    at = np.array([[float(wells.x[5]), float(wells.y[5])]])
    np.testing.assert_allclose(
        landscape.with_parameters(circulation=float(wells.circulation[5])).drift(at, 1.0), 0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("family", "kinds", "values"),
    [
        (lambda m: lambda x: m + x**2, ["fold"], [0.0]),
        (lambda m: lambda x: m + x - x**3, ["fold", "fold"], [2 / 27**0.5, -2 / 27**0.5]),
        (lambda m: lambda x: (m - 0.1) * x - x**2, ["transcritical"], [0.1]),
        (lambda m: lambda x: (m - 0.1) * (x - 0.2) + (x - 0.2) ** 3, ["pitchfork"], [0.1]),
    ],
)
def test_bifurcations_on_a_line(family, kinds, values):
    branches = continue_fixed_points(family, "m", (-1, 1), box=((-2, 2.1),), step=0.05)
    for branch in branches:
        assert sorted(b.kind for b in branch.bifurcations) == kinds
        np.testing.assert_allclose(sorted(b.value for b in branch.bifurcations), sorted(values), atol=1e-8)
    assert len(branches) == (1 if "fold" in kinds else 2)


def test_one_pair_crosses_and_another_does_not():
    """Real parts −1 and 2 − m: a Hopf point at m = 2. None at m = 1, where the pairs are equally far from the axis on
    either side of it, nor where a saddle's eigenvalues 1 and −m are opposite."""

    def pairs(m):
        blocks = np.zeros((4, 4))
        blocks[:2, :2], blocks[2:, 2:] = [[-1, 1], [-1, -1]], [[2 - m, 3], [-3, 2 - m]]
        return linear(blocks)

    start = {"start": (0,) * 4, "box": ((-1, 1.1),) * 4}
    (line,) = continue_fixed_points(pairs, "m", (0.5, 2.53), step=0.05, **start)
    (hopf,) = line.bifurcations
    assert hopf.kind == "Hopf" and hopf.value == pytest.approx(2, abs=1e-9)
    assert hopf.period == pytest.approx(2 * np.pi / 3, rel=1e-9) and line.points.attrs["ends"] == ("bounds", "bounds")
    (line,) = continue_fixed_points(
        lambda m: linear([[1, 0], [0, -m]]), "m", (0.5, 1.53), start=(0, 0), box=((-1, 1.1),) * 2
    )
    assert line.bifurcations == ()


def test_an_isola_is_followed_once():
    """x² + m² = ¼ closes on itself, with two folds; without a start on it, it is not found. Cut short, it says so."""
    settings = dict(bounds=(-1, 1), box=((-2, 2.1),), step=0.05)
    circle = lambda m: lambda x: x**2 + m**2 - 0.25  # noqa: E731
    (branch,) = continue_fixed_points(circle, "m", start=(0.5,), at=0.0, **settings)
    assert [b.kind for b in branch.bifurcations] == ["fold"] * 2 and branch.points.attrs["ends"] == ("closed",) * 2
    np.testing.assert_allclose(sorted(b.value for b in branch.bifurcations), [-0.5, 0.5], atol=1e-10)
    np.testing.assert_allclose(branch.points.x[[0, -1]], 0.5, atol=1e-12)
    turned = np.unwrap(np.arctan2(branch.points.m, branch.points.x).values)
    assert (
        abs(turned[-1] - turned[0]) == pytest.approx(2 * np.pi)
        and (np.diff(turned) * (turned[-1] - turned[0]) > 0).all()
    )
    (part,) = continue_fixed_points(circle, "m", start=(0.5,), at=0.0, most=3, **settings)
    assert part.points.attrs["ends"] == ("most", "most")
    assert continue_fixed_points(circle, "m", **settings) == []


def beside(extra):
    """ṙ = r(1 − r²), θ̇ = 1, and beside it ż = extra(m, z)."""

    def family(m):
        def field(x):
            r2 = (x[..., :2] ** 2).sum(-1)[..., None]
            flat = x[..., :2] * (1 - r2) + np.stack([-x[..., 1], x[..., 0]], -1)
            return np.concatenate([flat, extra(m, x[..., 2:])], -1)

        return field

    return family


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (
            lambda m, z: np.stack(
                [m * z[..., 0] - 1.3 * z[..., 1], m * z[..., 1] + 1.3 * z[..., 0], (m - 0.03) * z[..., 2]], -1
            ),
            [("torus", 0.0), ("branch point", 0.03)],
        ),
        pytest.param(lambda m, z: z * np.stack([0.2, m - 0.2], -1), [], marks=pytest.mark.evidence),
    ],
)
def test_multipliers_that_cross_the_unit_circle(extra, found):
    """+1, and a pair; none crosses where e^(0.2T) and e^((m − 0.2)T) are equally far from the circle, nor where their
    product is 1."""
    d = 5 if found else 4
    box = ((-2, 2),) * d
    t = 2 * np.pi * np.arange(32) / 32
    circle = np.stack([np.cos(t), np.sin(t), *np.zeros((d - 2, 32))], -1)
    nothing = np.zeros(d - 1)
    cycle = Cycle(
        2 * np.pi, circle, nothing, nothing, 0.0, 0.0, "stable", (0,) * d, 2 * np.pi, None, tuple("xyzuw"[:d])
    )
    branch = continue_cycles(beside(extra), "m", (-0.1, 0.12), cycle, at=-0.05, box=box, step=0.8)
    assert [b.kind for b in branch.bifurcations] == [kind for kind, _ in found]
    for b, (_, value) in zip(branch.bifurcations, found):
        assert b.value == pytest.approx(value, abs=1e-9) and b.period == pytest.approx(2 * np.pi, rel=1e-10)
    assert branch.points.attrs["ends"] == ("bounds", "bounds")


def test_a_hopf_bifurcation_and_the_cycles_born_there():
    """At a = 0 of the normal form, ω = 1; the cycles r = √a with T = 2π/(1 + a/2) shrink to it."""
    landscape = sde.landscapes.get("hopf")
    (line,) = continue_fixed_points(landscape, "a", (-1.01, 1), step=0.1)
    (hopf,) = line.bifurcations
    assert hopf.kind == "Hopf" and abs(hopf.value) < 1e-10 and hopf.period == pytest.approx(2 * np.pi, rel=1e-9)
    (cycle,) = find_cycles(landscape, starts=2, points=32)
    branch = continue_cycles(landscape, "a", (-0.5, 2), cycle, step=0.5)
    a = branch.points.a.values
    np.testing.assert_allclose(branch.points.period, 2 * np.pi / (1 + a / 2), rtol=1e-9)
    np.testing.assert_allclose(np.hypot(branch.points.x, branch.points.y), np.sqrt(a), rtol=1e-7)
    np.testing.assert_allclose(branch.points.multiplier[:, 0].real, np.exp(-2 * a * branch.points.period), rtol=1e-5)
    assert [b.kind for b in branch.bifurcations] == ["Hopf"] and abs(branch.bifurcations[0].value) < 1e-6
    assert branch.points.attrs["ends"] == ("point", "bounds")
    root = dataclasses.replace(cycle, points=cycle.points * 0.03, period=2 * np.pi / (1 + 9e-4 / 2))  # at a = 9e-4
    small = continue_cycles(landscape, "a", (4e-4, 1e-3), root, at=9e-4, step=0.5)  # small at its end: no Hopf point
    assert small.bifurcations == () and small.points.attrs["ends"] == ("bounds", "bounds")
    assert a.max() == 2.0 and bool(branch.points.stable[a > 0.01].all())
    ax = figures.plot_branch([branch, line])
    assert ax.get_xlabel() == "a" and "Hopf" in ax.get_legend_handles_labels()[1]
    with pytest.raises(ValueError, match="has no 'period'"):
        figures.plot_branch([branch, line], "period")


def test_a_bifurcation_is_marked_on_its_own_side_of_a_fold():
    """m = s(2 − s), period 1 + s: the orbit at s = 1.5 and not the one at s = 0.5, where m is the same."""
    s = np.linspace(0, 2, 21)
    columns = {"m": s * (2 - s), "period": 1 + s, "x": s, "minimum_x": -s, "maximum_x": s, "stable": s < 1}
    points = xr.Dataset({name: ("point", values) for name, values in columns.items()})
    flip = Bifurcation("period doubling", 0.75, np.array([1.5]), np.array([-1.0]), 2.5)
    ax = figures.plot_branch(Branch(points, (flip,), "m"), "period")
    (mark,) = [line for line in ax.lines if line.get_label() == "period doubling"]
    np.testing.assert_allclose(np.ravel(mark.get_data()), [0.75, 2.5])


def test_faults_in_words():
    landscape = sde.landscapes.get("example_19")
    with pytest.raises(ValueError, match="no parameter 'lambda'"):
        continue_fixed_points(landscape, "lambda", (0, 1))
    with pytest.raises(ValueError, match="lower < upper"):
        continue_fixed_points(landscape, "circulation", (1, 0))
    with pytest.raises(ValueError, match="give start too"):
        continue_fixed_points(landscape, "circulation", (0, 1), at=0.5)
    with pytest.raises(ValueError, match="pairs"):
        values = xr.DataArray(np.zeros((5, 5, 2)), dims=("x", "y", "component"), coords={"x": range(5), "y": range(5)})
        find_cycles(values, (1, 2))
    with pytest.raises(ValueError, match="cycle must be"):
        continue_cycles(landscape, "circulation", (0, 1), 3)


def test_multipliers_of_products_of_matrices():
    """Against eigenvalues of the product where it has them, and far below rounding where it does not."""
    random = np.random.default_rng(1)
    for _ in range(20):
        blocks = random.normal(size=(5, 3, 3))
        product = np.linalg.multi_dot(list(blocks[::-1]))
        found, exact = (np.sort_complex(v) for v in (np.exp(log_multipliers(blocks)), np.linalg.eigvals(product) + 0j))
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-10)
    turn = np.linalg.qr(random.normal(size=(40, 2, 2)))[0]
    logs = random.uniform(-3, -1, (40, 2)) - [0, 2]
    blocks = np.array([turn[(i + 1) % 40] @ np.diag(np.exp(logs[i])) @ turn[i].T for i in range(40)])
    np.testing.assert_allclose(log_multipliers(blocks).real, logs.sum(0), rtol=1e-10)  # about e^(−80) and e^(−160)
    logs[:, 1] = -20.0  # e^(−800), 0 in floating point, and turned over
    blocks = np.array(
        [turn[(i + 1) % 40] @ np.diag(np.exp(logs[i]) * [1, -1 if i == 3 else 1]) @ turn[i].T for i in range(40)]
    )
    np.testing.assert_allclose(log_multipliers(blocks), [logs[:, 0].sum(), -800 + 1j * np.pi], rtol=1e-7)


# long ---------------------------------------------------------------------------------------------------------------


def rossler(c):
    def field(x):
        x, y, z = np.moveaxis(x, -1, 0)
        return np.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - c)], -1)

    return field


def subcritical(mu):
    """ṙ = r(μ + r² − r⁴), θ̇ = 1: a fold of cycles at μ = −1/4, a Hopf bifurcation at 0."""

    def field(x):
        r2 = (x**2).sum(-1)[..., None]
        return x * (mu + r2 - r2**2) + np.stack([-x[..., 1], x[..., 0]], -1)

    return field


@pytest.mark.evidence(table="limit_cycles")
def test_cycles_of_the_literature(table):
    """Stiff van der Pol orbits, unstable ones in Rössler's chaos, a fold, a period doubling, decay at a weak focus."""
    rows = []
    for mu, period in ((1.0, 6.6632868593), (10.0, 19.07837), (30.0, None)):
        field = lambda x: np.stack([x[..., 1], mu * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)  # noqa: B023, E731
        (cycle,) = find_cycles(field, ((-3, 3), (-2 * mu, 2 * mu)) if mu > 1 else ((-4, 4),) * 2, starts=16)

        def rate(t, z):
            v = field(np.array(z[:2]))  # noqa: B023
            return [*v, mu * (1 - z[0] ** 2)]  # noqa: B023

        start = cycle.points[int(np.abs(cycle.points[:, 0]).argmax())]
        end = scipy.integrate.solve_ivp(rate, (0, cycle.period), [*start, 0.0], method="Radau", rtol=1e-9, atol=1e-11).y
        assert np.abs(end[:2, -1] - start).max() < 1e-5
        assert cycle.lyapunov_exponents[0] * cycle.period == pytest.approx(end[2, -1], rel=1e-5)
        if period:
            assert cycle.period == pytest.approx(period, abs=1e-9 if mu == 1 else 5e-6)
        rows.append(
            (f"van der Pol, μ = {mu:g}", f"{cycle.period:.10f}", f"{period or '–'}", f"{cycle.trivial_error:.1e}")
        )
    found = find_cycles(rossler(5.7), ((-12, 12), (-12, 12), (-1, 25)))
    for period, multiplier in ((5.88108846, -2.403953), (11.75862607, -3.512007)):  # Cvitanović et al., ChaosBook
        cycle = min(found, key=lambda c: abs(c.period - period))
        assert cycle.kind == "saddle" and cycle.period == pytest.approx(period, abs=1e-7)
        assert cycle.multipliers[0].real == pytest.approx(multiplier, abs=1e-5)
        rows.append(("Rössler, c = 5.7", f"{cycle.period:.8f}", f"{period}", f"μ = {cycle.multipliers[0].real:.6f}"))
    box = ((-8, 8), (-8, 8), (-1, 12))
    (cycle,) = find_cycles(rossler(2.5), box, starts=16)
    branch = continue_cycles(rossler, "c", (2.0, 3.5), cycle, at=2.5, box=box, step=0.1)
    (flip,) = branch.bifurcations
    doubled = find_cycles(rossler(flip.value + 0.02), box, starts=16)
    assert (flip.kind == "period doubling" and {c.kind for c in doubled} == {"stable", "saddle"}) or len(doubled) == 1
    assert max(c.period for c in doubled) == pytest.approx(2 * flip.period, rel=0.02)
    rows.append(("Rössler, doubling at c", f"{flip.value:.10f}", "2.83", f"μ = {flip.eigenvalues[0].real:.9f}"))
    (cycle,) = find_cycles(subcritical(0.1), SQUARE, starts=8)
    branch = continue_cycles(subcritical, "mu", (-0.5, 0.5), cycle, at=0.1, box=SQUARE, step=0.05)
    hopf, fold = branch.bifurcations
    assert (hopf.kind, fold.kind) == ("Hopf", "fold") and fold.value == pytest.approx(-0.25, abs=1e-10)
    rows.append(("fold of cycles, r' = r(μ + r² − r⁴)", f"{fold.value:.12f}", "-0.25", ""))
    landscape = sde.landscapes.get("example_19", circulation=1.5)
    radius = radius_per_turn(landscape, (0.5, 0.0), center=(0, 0), turns=1500)
    late = radius.time > radius.time[-1] / 2
    slope, at = np.polyfit(radius.time[late], radius.values[late] ** -2.0, 1)
    exponent = np.polyfit(np.log(radius.time[late] + at / slope), np.log(radius.values[late]), 1)[0]
    assert 1 / np.sqrt(slope) == pytest.approx(2, rel=2e-3) and exponent == pytest.approx(-0.5, abs=1e-3)
    rows.append(("example_19, λ = 1.5: R√t per turn", f"{1 / np.sqrt(slope):.5f}", "2", f"exponent {exponent:.5f}"))
    table("Limit cycles against the literature", ("orbit", "found", "known", "check"), rows)
