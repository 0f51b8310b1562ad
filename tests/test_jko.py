"""The class JKO: what it returns, files that go on, and where its parts come from."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd import JKO, FokkerPlanck, Grid, Landscape, landscapes
from sde_sgd.jko import flow as flow_module

row = JKO._row

WELL = Landscape(("x",), "(x**2 - 1)**2/4").at_temperature(0.2)
LINE = Grid(-2.5, 2.5, 100)


def bump(grid, mean=0.6, width=0.3):
    values = np.exp(-((grid.centers() - mean) ** 2).sum(-1) / (2 * width**2))
    return values / (values.sum() * grid.cell_volume)


@pytest.fixture(scope="module")
def sheared():
    process = landscapes.get("sheared_double_well").at_temperature(0.25)
    return JKO(process, Grid((-3, -3), (3, 3), (32, 32)))


def test_what_a_flow_returns():
    flow = JKO(WELL, LINE).flow(bump(LINE), 0.05, 6)
    assert flow.dims == ("time", "x") and flow.name == "density"
    np.testing.assert_allclose(flow.time, 0.05 * np.arange(7))
    np.testing.assert_array_equal(flow.values[0] > 0, True)
    np.testing.assert_allclose(flow.values.sum(1) * LINE.cell_volume, 1, atol=1e-12)
    np.testing.assert_allclose(flow.values[0], bump(LINE), atol=1e-4)
    assert {"energy", "wasserstein", "residual", "iterations"} <= set(flow.coords)
    assert flow.wasserstein.values[0] == 0 and (flow.wasserstein.values[1:] > 0).all()
    assert (flow.residual.values <= 1e-8).all() and (np.diff(flow.energy) < 0).all()
    attrs = flow.attrs
    assert (attrs["method"], attrs["temperature"], attrs["tau"], attrs["steps"]) == ("quantile", 0.2, 0.05, 6)


def test_each_step_pays_for_its_way():
    """F(ρ_k) − F(ρ_{k+1}) ≥ W²/(2τ), and tends to twice that, W²/τ, at order 1 in τ."""
    excess = []
    for tau in (0.04, 0.02, 0.01):
        flow = JKO(WELL, LINE, nodes=4000).flow(bump(LINE), tau, 4)
        paid = flow.wasserstein.values[1:] ** 2 / (2 * tau)
        assert (paid <= -np.diff(flow.energy)).all()
        excess.append(-np.diff(flow.energy)[0] / paid[0] - 2)
    assert np.log2(excess[0] / excess[2]) / 2 == pytest.approx(1, abs=0.35), excess


def test_a_step_is_the_first_of_a_flow(sheared):
    start = bump(sheared.grid)
    step, flow = sheared.step(start, 0.05), sheared.flow(start, 0.05, 2)
    np.testing.assert_array_equal(step.values, flow.values[1])
    assert step.dims == ("x", "y") and set(step.coords) == {"x", "y"}
    for name in ("energy", "wasserstein", "residual", "iterations", "mass_defect", "transport_mass_defect"):
        assert step.attrs[name] == flow[name].values[1]
    again = sheared.step(step, 0.05)
    np.testing.assert_allclose(again.values, flow.values[2], rtol=1e-9)
    assert sheared.energy(step) == pytest.approx(step.attrs["energy"], rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_stopped_flow_goes_on_with_the_same_bits(tmp_path, dim, sheared):
    jko = JKO(WELL, LINE) if dim == 1 else sheared
    start, file = bump(jko.grid), tmp_path / "flow.nc"
    whole, seen = jko.flow(start, 0.05, 4), []

    def stop(done, total):
        seen.append((done, total))
        if done == 2 and len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="goes on from the last step"):
        jko.flow(start, 0.05, 4, file=file, progress=stop)
    assert not file.exists()
    resumed = jko.flow(start, 0.05, 4, file=file, progress=stop)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    xr.testing.assert_identical(resumed.load(), whole)
    assert jko.flow(start, 0.05, 4, file=file, progress=stop).identical(whole) and len(seen) == 4
    with pytest.raises(ValueError, match="holds another flow"):
        jko.flow(start, 0.04, 4, file=file)


def test_a_file_of_before_that_lacks_a_coordinate_is_refused(tmp_path, sheared, monkeypatch):
    start, file = bump(sheared.grid), tmp_path / "flow.nc"

    def stop(done, total):
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setitem(flow_module._REPORTS, "monge_ampere", ())
        before.setattr(JKO, "_row", lambda self, *a: {k: v for k, v in row(self, *a).items() if k != "mass_defect"})
        with pytest.raises(KeyboardInterrupt):
            sheared.flow(start, 0.05, 2, file=file, progress=stop)
    with pytest.raises(ValueError, match="holds another flow"):
        sheared.flow(start, 0.05, 2, file=file)


def test_where_the_potential_comes_from(sheared):
    assert sheared.attrs["potential_from"] == "closed form" and sheared.attrs["remainder"] == "split"
    known, grid = landscapes.get("sheared_double_well").at_temperature(0.5), Grid((-3, -3), (3, 3), (32, 32))
    hidden = sde.Process(
        lambda x, y: tuple(np.moveaxis(known.drift(np.stack([x, y], -1)), -1, 0)),
        lambda x, y: [[known.diffusion(np.stack([x, y], -1))[..., i, j] for j in (0, 1)] for i in (0, 1)],
        0.5,
        variables=("x", "y"),
        finite_difference=True,
    )
    jko = JKO(hidden, grid)
    assert "FokkerPlanck" in jko.attrs["shares"] and "FokkerPlanck" not in sheared.attrs["shares"]
    start = bump(grid)
    a, b = (one.flow(start, 0.02, 3).values[-1] for one in (JKO(known, grid), jko))
    assert np.abs(a - b).sum() * grid.cell_volume < 0.02
    steady = FokkerPlanck(hidden, grid).steady_state().values
    assert np.abs(jko.step(steady, 0.1).values - steady).sum() * grid.cell_volume < 1e-9


def test_cells_without_mass_and_points():
    start = np.where(np.abs(LINE.axes[0] - 0.5) < 0.3, 1.0, 0.0)
    start /= start.sum() * LINE.cell_volume
    exact = FokkerPlanck(WELL, LINE).evolve(start, [0.2], scheme="exact", tolerance=1e-6).values[0]
    flow = JKO(WELL, LINE).flow(start, 0.01, 20)
    assert np.abs(flow.values[-1] - exact).sum() * LINE.cell_volume < 0.03 and flow.values[-1].min() > 0
