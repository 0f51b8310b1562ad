"""Lρ without a matrix, detailed balance on the rates, the edges at any temperature, and what walls do to a density."""

import warnings

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd import schedules
from sde_sgd.errors import BoxWarning
from sde_sgd.fokker_planck import FokkerPlanck, _wall_report
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape, get
from sde_sgd.process import Process

TURNED = [["1+x**2/4", "0.3*sin(y)"], ["0.3*sin(y)", "1"]]
CUBE = [["1", "0.3*x", "0.2"], ["0.3*x", "1", "0.1*y"], ["0.2", "0.1*y", "0.8"]]
COOLING = schedules.Annealing(1.0, 0.2, 5.0)


def swirling(strength, temperature=1.0):
    """The harmonic well of curvature 1 with a rotation, D = I."""
    return Landscape(("x", "y"), "(x**2 + y**2)/2", circulation=(f"-{strength}*y", f"{strength}*x")).at_temperature(
        temperature
    )


def ring(force):
    return Process((f"sin(a) + {force}",), (("1",),), 1.0, variables=("a",), domain=((0, 6.25, "periodic"),))


def generators():
    square = Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y", "x"))
    cube = Landscape(("x", "y", "z"), "x**2 + y**2 + z**2", diffusion=CUBE).at_temperature(0.7)
    yield FokkerPlanck(Landscape(("x",), "x**2").at_temperature(1.0), Grid(-2, 2, 17))
    yield FokkerPlanck(square.at_temperature(0.5), Grid((-2, -1), (1, 2), (21, 16)))
    yield FokkerPlanck(
        square.at_temperature(0.5), Grid((-2, -1), (1, 2), (21, 16), boundary=("absorbing", "reflecting"))
    )
    yield FokkerPlanck(cube, Grid((-1,) * 3, (1,) * 3, (7, 9, 8)))


def test_the_product_is_that_of_the_matrix():
    rng = np.random.default_rng(0)
    for fp in generators():
        density = fp.grid.data_array(rng.random(fp.grid.size), fp.process.variables, "density")
        found = fp.apply(density)
        assert found.dims == fp.process.variables and found.name == "rate_of_change"
        expected = fp.matrix @ density.values.ravel()
        scale = np.abs(fp.matrix) @ density.values.ravel()
        assert (np.abs(found.values.ravel() - expected) < 1e-14 * scale).all()
        if fp.conserves_mass:
            assert abs(found.values.sum()) < 1e-14 * scale.sum()
            assert np.abs(fp.apply(fp.steady_state())).max() < 1e-13 * scale.max()
    with pytest.raises(ValueError, match="shape"):
        fp.apply(np.ones(3))


# detailed balance ------------------------------------------------------------------------------------------


def test_detailed_balance_is_found_on_the_rates():
    box = Grid((-2, -2), (2, 2), (20, 23))
    assert FokkerPlanck(Landscape(("x", "y"), "x**4/4 + x*y + y**4").at_temperature(0.3), box).detailed_balance
    assert FokkerPlanck(swirling(0.0), box).detailed_balance
    linear = Process(("-x - 0.2*y", "-0.2*x - 0.7*y"), (("1", "0"), ("0", "1")), 0.5, variables=("x", "y"))
    assert linear.equilibrium_potential is None and FokkerPlanck(linear, box).detailed_balance
    assert {fp.edges.leak.dtype for fp in generators()} == {np.dtype(float)}
    for fp in generators():  # a line without a ring is always reversible
        assert fp.detailed_balance == (fp.grid.dim == 1)


@pytest.mark.parametrize("strength", [1.0, 1e-8])
def test_counterexamples_to_detailed_balance(strength):
    """Any rotation, however slow, and any force round a ring; without it the same chain is reversible."""
    assert not FokkerPlanck(swirling(strength), Grid((-2, -2), (2, 2), (20, 23))).detailed_balance
    circle = Grid(0, 6.25, 30, boundary="periodic")
    with pytest.raises(ValueError, match=r"the drift jumps by 0\.0331"):
        FokkerPlanck(ring(strength), circle)
    even = Process((f"sin(a) + {strength}",), (("1",),), 1.0, variables=("a",), domain=((0, 2 * np.pi, "periodic"),))
    assert not FokkerPlanck(even, Grid(0, 2 * np.pi, 30, boundary="periodic")).detailed_balance


def test_a_broken_rate_is_seen():
    fp = FokkerPlanck(swirling(0.0), Grid((-2, -2), (2, 2), (20, 23)))
    fp.edges.peclet[100] += 1e-9
    assert not fp.detailed_balance


# temperatures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "landscape",
    [
        Landscape(("x", "y"), "x**4/4 + y**2/2"),
        Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y", "x")),
        Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y*T", "x*T")),
        Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y*T", "x*exp(T)")),
        Landscape.manufactured(("x", "y"), "x**4/4 + y**2/2", TURNED),
        Landscape.manufactured(("x", "y"), "x**4/4 + y**2/2", TURNED, "sin(x)*y"),
        Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=[["x**2", "0"], ["0", "1"]], circulation=("1", "x")),
    ],
    ids=[
        "known potential",
        "full D",
        "drift with T",
        "drift with e^T",
        "known potential, full D",
        "Q",
        "noise that vanishes",
    ],
)
@pytest.mark.parametrize("boundary", ["reflecting", "absorbing"])
def test_edges_at_a_temperature_are_those_of_the_process_at_it(landscape, boundary):
    grid = Grid((-1.5, -1), (1.5, 2), (15, 14), boundary=boundary)
    scheduled = FokkerPlanck(landscape.at_temperature(COOLING), grid)
    warm = FokkerPlanck(landscape.at_temperature(1.0), grid)
    for temperature in (1.0, 0.3):
        constant = FokkerPlanck(landscape.at_temperature(temperature), grid)
        for edges in (scheduled.edges_at(temperature), warm.edges_at(temperature)):
            for name in ("tail", "head", "offset"):
                np.testing.assert_array_equal(getattr(edges, name), getattr(constant.edges, name))
            for name in ("conductance", "peclet", "leak", "leak_moment"):
                expected = getattr(constant.edges, name)
                np.testing.assert_allclose(
                    getattr(edges, name), expected, rtol=1e-9, atol=1e-13 * np.abs(expected).max()
                )
    assert warm.edges_at(1.0) is warm.edges


def test_a_schedule_shares_what_does_not_depend_on_temperature():
    landscape = Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y", "x"))
    fp = FokkerPlanck(landscape.at_temperature(COOLING), Grid((-1.5, -1), (1.5, 2), (15, 14)))
    first, second = fp.edges_at(1.0), fp.edges_at(0.5)
    assert all(getattr(first, name) is getattr(second, name) for name in ("tail", "head", "offset"))
    np.testing.assert_allclose(second.conductance, 0.5 * first.conductance, rtol=1e-15)
    assert fp.attrs["temperature"] == repr(COOLING) and "edges" in repr(fp)
    for use in (lambda: fp.edges, lambda: fp.matrix, fp.steady_state, fp.log_steady_state, lambda: fp.detailed_balance):
        with pytest.raises(ValueError, match="is a schedule of time, and this needs a number"):
            use()
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got 0"):
        fp.edges_at(0)


@pytest.mark.parametrize(("circulation", "again"), [("x*T", False), ("x*exp(T)", True)])
def test_a_drift_linear_in_temperature_is_not_evaluated_again(circulation, again, monkeypatch):
    """b = b₀ + T b₁ takes two evaluations, whatever the number of temperatures; and D is needed once for any drift."""
    landscape = Landscape(("x", "y"), "x**4/4 + y**2/2", diffusion=TURNED, circulation=("-y", circulation))
    fp = FokkerPlanck(landscape.at_temperature(COOLING), Grid((-1.5, -1), (1.5, 2), (15, 14)))
    fp.edges_at(1.0)
    calls = []
    for name in ("drift", "diffusion", "diffusion_divergence"):
        real = getattr(Process, name)
        monkeypatch.setattr(Process, name, lambda self, x, name=name, real=real: calls.append(name) or real(self, x))
    fp.edges_at(0.3)
    assert set(calls) == ({"drift"} if again else set())


def test_noise_that_vanishes_bounds_the_peclet_number_at_every_temperature():
    """D = 0 for x < 0: there ε depends on T, and the edges are built anew rather than with rates beyond float64."""
    process = Process(
        lambda x: (1 - 2 * x,), lambda x: ((np.maximum(x, 0.0),),), lambda t: 1e-4 + 0 * t, variables=("x",),
        diffusion_divergence=lambda x: (1.0 * (x > 0),),
    )  # fmt: skip
    fp = FokkerPlanck(process, Grid(-1, 1, 20))
    for temperature in (1e-4, 1e-8):
        assert 1e8 < np.abs(fp.edges_at(temperature).peclet).max() < 1e12


# warnings, what walls do ---------------------------------------------------------------------------------------------


def found(process, half, cells):
    fp = FokkerPlanck(process, Grid((-half,) * 2, (half,) * 2, (cells, cells)))
    mass = np.exp(fp.log_steady_state().values.ravel()) * fp.grid.cell_volume
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evidence = _wall_report.evidence(fp, mass)
    return evidence, " ".join(str(w.message) for w in caught if issubclass(w.category, BoxWarning))


@pytest.mark.parametrize(
    "use",
    [
        lambda fp: fp.steady_state(),
        lambda fp: fp.log_steady_state(),
        lambda fp: sde.decompose(fp),
        lambda fp: fp.spectrum(2),
        lambda fp: fp.lag_covariance([0.0, 1.0]),
        lambda fp: fp.free_energy(np.full((9, 9), 0.25)),
        lambda fp: fp.entropy_production(np.full((9, 9), 0.25)),
    ],
)
def test_a_warning_points_at_the_line_that_asked(use):
    fp = FokkerPlanck(swirling(2.0), Grid((-1, -1), (1, 1), (9, 9)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use(fp)
    assert {w.category for w in caught} <= {sde.BoxWarning}
    assert all((w.filename, w.lineno) == (__file__, use.__code__.co_firstlineno) for w in caught)
    if "steady" in use.__code__.co_names[0]:
        assert len(caught) == 1


def test_a_rotation_in_a_square_box_is_deflected():
    """Mass at the walls and a flow across them: the same figure on any grid, growing with the rotation."""
    coarse, text = found(swirling(2.0), 1.5, 32)
    fine, _ = found(swirling(2.0), 1.5, 64)
    slow, _ = found(swirling(0.2), 1.5, 32)
    assert coarse["wall_drift"] > 0.05 and abs(fine["wall_drift"] / coarse["wall_drift"] - 1) < 0.05
    assert abs(slow["wall_drift"] / coarse["wall_drift"] - 0.1) < 0.03
    for words in (
        "reflecting wall x = -1.5",
        "reflecting wall y = 1.5",
        "turn a current round",
        "Grid.around(process)",
    ):
        assert words in text


def test_a_box_cut_around_a_gradient_system_deflects_nothing():
    """Mass at the walls is reported, a deflection is not; and no wall where a process ends by itself is a fault."""
    still, text = found(swirling(0.0), 1.5, 32)
    assert still["wall_drift"] < 1e-13 and still["wall_mass"] > 0.03
    assert "the box cuts it" in text and "turn a current" not in text
    full = Landscape(("x", "y"), "(x**2 + y**2)/2", diffusion=TURNED, circulation=None).at_temperature(1.0)
    assert found(full, 4.0, 32)[0]["wall_mass"] < 0.05
    own = Landscape(("x", "y"), "(x**2 + y**2)/2", domain=((-1.5, 1.5),) * 2).at_temperature(1.0)
    evidence, text = found(own, 1.5, 32)
    assert evidence["wall_mass"] > 0.03 and not text


def test_a_flow_along_the_walls_is_not_deflected():
    shear = Process(
        ("1 - y**2", "-y"), (("1", "0"), ("0", "1")), 1.0, variables=("x", "y"), domain={"x": (0, 1, "periodic")}
    )
    fp = FokkerPlanck(shear, Grid((0, -1), (1, 1), (12, 20), boundary=("periodic", "reflecting")))
    mass = np.exp(fp.log_steady_state().values.ravel()) * fp.grid.cell_volume
    assert _wall_report.wall_drift(fp, mass) < 1e-12
    assert np.abs(fp.current(fp.steady_state()).values).max() > 0.1


def test_example_19_in_its_box_is_left_alone():
    evidence, text = found(get("example_19").with_parameters(circulation=1.5).at_temperature(1.0), 4.0, 64)
    assert evidence["wall_drift"] < 1e-5 and evidence["wall_mass"] < 1e-4 and not text


def test_a_grid_too_coarse_for_the_density_is_named():
    coarse, text = found(swirling(0.0, 1e-3), 2.0, 20)
    fine, nothing = found(swirling(0.0, 1e-3), 2.0, 150)
    assert coarse["mean_peclet"] > 2.0 and "take more cells" in text
    assert 0.5 < fine["mean_peclet"] < 1.5 and not nothing
