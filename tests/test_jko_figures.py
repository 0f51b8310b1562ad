"""Figures of flows: what they draw is what the flow holds."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.figures import plot_energy, plot_flow, plot_heat_equation

GRID = sde.Grid(-2.5, 2.5, 100)


def flow_of(loss, steps=8, tau=0.05):
    process = sde.Landscape(("x",), loss, name="line").at_temperature(0.1)
    start = np.exp(-((GRID.axes[0] + 0.2) ** 2) / 0.2)
    start /= start.sum() * GRID.cell_volume
    return sde.JKO(process, GRID, nodes=400), start, sde.JKO(process, GRID, nodes=400).flow(start, tau, steps)


@pytest.fixture(scope="module")
def well():
    return flow_of("(x**2 - 1)**2/4")


def drawn(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_ydata(), float)


def test_a_flow_on_a_line_is_drawn_by_time(well):
    _, _, flow = well
    ax = plot_flow(flow)
    assert len(ax.lines) == flow.sizes["time"]
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), flow.values[-1])


def test_a_flow_in_the_plane_is_drawn_as_maps(well):
    _, _, flow = well
    plane = (flow * flow.isel(x=slice(40, 60)).rename(x="y")).assign_coords(flow.coords)
    figure = plot_flow(plane.transpose("time", "x", "y"))
    assert figure.axes[0].get_title() == "time 0"
    with pytest.raises(ValueError, match="leave out ax"):
        plot_flow(plane.transpose("time", "x", "y"), ax=figure.axes[0])


def test_energy_and_what_each_step_pays(well):
    jko, start, flow = well
    fp = sde.FokkerPlanck(jko.process, GRID)
    lowest = jko.energy(fp.steady_state())
    solved = fp.free_energy(fp.evolve(start, flow.time.values[1:]))
    above, below = plot_energy(flow, solved, lowest).axes
    np.testing.assert_allclose(drawn(above, "JKO"), flow.energy - lowest)
    np.testing.assert_allclose(drawn(above, "JKO")[1:], drawn(above, "Fokker–Planck"), rtol=0.06)  # order 1 in τ
    fall, speed = drawn(below, "−ΔE/τ"), drawn(below, "W²/τ²")
    np.testing.assert_allclose(fall, speed, rtol=0.1)
    assert (fall >= speed / 2).all()
    assert not np.allclose(fall, 2 * speed, rtol=0.1)  # W²/(2τ²) would be half of what is paid


def test_without_the_lowest_energy_there_is_no_other_line(well):
    _, _, flow = well
    above, _ = plot_energy(flow).axes
    assert above.get_yscale() == "linear"
    with pytest.raises(ValueError, match="give lowest"):
        plot_energy(flow, free_energy=flow.to_dataset(name="free_energy"))


def test_the_heat_equation_descends_both_energies(well):
    _, _, flow = flow_of("0*x")
    left, right, one, two = plot_heat_equation(flow).axes
    for ax in (left, right):
        assert (np.diff(ax.lines[0].get_ydata()) < 0).all()
    np.testing.assert_allclose(drawn(one, "−ΔE/τ"), drawn(one, "∫(Δρ/τ)²"), rtol=0.08)
    np.testing.assert_allclose(drawn(two, "−ΔE/τ"), drawn(two, "W²/τ²"), rtol=0.08)
    # the well is no steepest descent of these energies
    _, _, one, two = plot_heat_equation(well[2]).axes
    off = drawn(one, "−ΔE/τ") / drawn(one, "∫(Δρ/τ)²")
    assert not ((off > 0.9) & (off < 1.1)).all()


def test_on_a_ring_slopes_go_round():
    """T/2 ∫(∂ρ)² of (1 − sin(a)/2)/2π is T/(32π), wherever the seam lies."""
    ring = sde.Landscape(("a",), "0*a", domain=((0, 2 * np.pi, "periodic"),)).at_temperature(0.1)
    grid = sde.Grid(0.0, 2 * np.pi, 24, boundary="periodic")
    start = (1 + 0.5 * np.cos(grid.axes[0] + np.pi / 2)) / (2 * np.pi)
    figure = plot_heat_equation(sde.JKO(ring, grid).flow(start, 0.5, 1))
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(0.1 / (32 * np.pi), rel=0.01)


def test_what_is_no_flow_is_said(well):
    _, _, flow = well
    for plot in (plot_flow, plot_energy, plot_heat_equation):
        with pytest.raises(ValueError, match="without energy"):
            plot(flow.drop_vars("energy"))
        with pytest.raises(ValueError, match="no step"):
            plot(flow.isel(time=[0]))
