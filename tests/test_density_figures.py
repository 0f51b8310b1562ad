"""Figures of densities in time, of relaxation and of currents: what is drawn is what was given."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from PIL import Image

import sde_sgd as sde
from sde_sgd import figures

TIMES = np.array([0.0, 0.1, 0.4, 1.0, 2.0])


def bell(x, width):
    return np.exp(-(x**2) / (2 * width**2)) / np.sqrt(2 * np.pi) / width


@pytest.fixture(scope="module")
def lines():
    x = np.linspace(-3, 3, 80)
    return xr.DataArray(np.stack([bell(x, 0.2 + t) for t in TIMES]), {"time": TIMES, "x": x}, ("time", "x"))


@pytest.fixture(scope="module")
def maps():
    x, y = np.linspace(-3, 3, 30), np.linspace(-2, 2, 20)
    values = [bell(x[:, None] - 1 + t, 0.2 + t) * bell(y[None, :], 0.3) for t in TIMES]
    return xr.DataArray(np.stack(values), {"time": TIMES, "w": x, "v": y}, ("time", "w", "v"))


def free_energy(**change):
    columns = {"free_energy": np.exp(-3 * TIMES), "dissipation": 3 * np.exp(-3 * TIMES), **change}
    return xr.Dataset({k: ("time", v) for k, v in columns.items()}, {"time": TIMES})


def spectrum(dims=("x",), turning=False):
    """Three modes of a well, the last two a pair if it turns."""
    axes = [np.linspace(-2, 2, 24), np.linspace(-2, 2, 20)][: len(dims)]
    X = np.meshgrid(*axes, indexing="ij")
    steady = np.exp(-12 * sum(c**2 for c in X))
    left = np.stack([np.ones_like(X[0]), X[0] + 1j * X[-1], X[0] - 1j * X[-1]])
    values = np.array([0, 1 + 2j, 1 - 2j]) if turning else np.array([0, 3.72e-43, 2.5])
    left = left if turning else left.real
    data = {"eigenvalue": ("mode", values), "left": (("mode", *dims), left), "right": (("mode", *dims), left * steady)}
    return xr.Dataset(data, dict(zip(dims, axes)))


def decomposition(shape=(30, 24)):
    x, y = np.linspace(-2, 2, shape[0]), np.linspace(-2, 2, shape[1])
    X, Y = np.meshgrid(x, y, indexing="ij")
    coords = {"x": x, "y": y}
    potential = xr.DataArray((X**2 + Y**2) / 2, coords, ("x", "y"))
    vectors = xr.DataArray(np.stack([-Y, X], -1), coords, ("x", "y", "component"))
    return xr.Dataset({"potential": potential, "remainder": vectors}, attrs={"temperature": 0.3})


def texts(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


# evolutions -----------------------------------------------------------------------------------------------


def test_lines_in_time(lines):
    ax = figures.plot_evolution(lines)
    assert len(ax.lines) == 5 and all(np.array_equal(line.get_ydata(), v) for line, v in zip(ax.lines, lines))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()[0]) == ("x", "density", 0.0)
    assert [other.get_ylabel() for other in ax.figure.axes] == ["density", "time"]
    assert len({line.get_color() for line in ax.lines}) == 5
    log = figures.plot_evolution(lines.T, log=True)
    assert log.get_yscale() == "log" and log.get_ylim()[0] == pytest.approx(1e-8 * float(lines.max()))
    given = Figure().subplots()
    assert figures.plot_evolution(lines[:1], ax=given) is given
    figures.png(ax.figure)


def test_a_ridge_raises_each_line_by_the_same(lines):
    ax = figures.plot_evolution(lines, ridge=True)
    drawn = sorted((np.asarray(line.get_ydata()) for line in ax.lines), key=min)
    ticks = ax.get_yticks()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.1", "0.4", "1", "2"]
    assert np.ptp(np.diff(ticks)) < 1e-12
    assert all(np.allclose(y - tick, value, atol=1e-12) for y, tick, value in zip(drawn, ticks, lines.values))
    figures.png(ax.figure)


def test_an_animation_has_a_frame_per_time_and_the_same_bytes(lines, maps, tmp_path):
    for name, field, options in (("a", lines, {}), ("b", lines, {"log": True}), ("c", maps, {"log": True})):
        file = tmp_path / f"{name}.gif"
        field = field.isel(time=[0, 4])
        figures.animate_density(field, file, frames_per_second=5, dpi=40, **options)
        with Image.open(file) as image:
            assert image.format == "GIF" and image.n_frames == 2 and image.info["loop"] == 0
            pauses, frames = [], []
            for k in range(2):
                image.seek(k)
                pauses.append(image.info["duration"])
                frames.append(np.asarray(image.convert("RGB"), int))
            assert pauses == [200, 1000]
            assert np.abs(frames[0] - frames[1]).max() > 50
    again = tmp_path / "again.gif"
    figures.animate_density(field.transpose("w", "time", "v"), str(again), frames_per_second=5, dpi=40, log=True)
    assert again.read_bytes() == file.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "again.gif", "b.gif", "c.gif"]


def test_an_animation_ends_empty_where_all_has_left(maps, tmp_path):
    figures.animate_density(maps.isel(time=[0, 1]) * [[[1.0]], [[0.0]]], tmp_path / "a.gif", dpi=40)


@pytest.mark.parametrize("count", [4, 5])
def test_a_row_of_maps_may_be_unfinished(maps, count):
    """The panels of every column show their variable below, and the colour bar stands beside them all."""
    figure = figures.plot_densities({f"{k}": maps[k % 5] for k in range(count)}, columns=3)
    figures.png(figure)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == count
    assert [bool(ax.get_xlabel()) for ax in panels] == [k + 3 >= count for k in range(count)]
    assert [bool(ax.get_ylabel()) for ax in panels] == [k % 3 == 0 for k in range(count)]
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in panels] == [k + 3 >= count for k in range(count)]


def test_three_variables_are_seen_along_each(maps):
    z = np.linspace(-1, 1, 10)
    density = maps[2].expand_dims(z=z) * xr.DataArray(bell(z, 0.3), {"z": z}, ("z",))
    density = density.transpose("w", "v", "z")
    figure = figures.plot_marginals(density)
    panels = [ax for ax in figure.axes if ax.get_xlabel()]
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in panels] == [("w", "v"), ("w", "z"), ("v", "z")]
    mesh = next(c for c in panels[1].collections if isinstance(c, QuadMesh))
    expected = density.sum("v") * float(maps.v[1] - maps.v[0])
    assert np.allclose(np.ma.asarray(mesh.get_array()), expected.T)
    figures.png(figure)
    figures.png(figures.plot_marginals(density, log=True))


def test_log_densities_reach_below_float64():
    x = np.linspace(-3, 3, 40)
    log_density = xr.DataArray(-500.0 * x**2, {"x": x}, ("x",))
    ax = figures.plot_log_density(log_density)
    assert np.allclose(ax.lines[0].get_ydata(), -500 * x**2 / np.log(10)) and ax.get_ylabel() == "log₁₀ density"
    cut = figures.plot_log_density(log_density, decades=30).lines[0].get_ydata()
    assert np.isnan(cut[0]) and np.nanmin(cut) >= np.nanmax(cut) - 30
    plane = xr.DataArray(-500.0 * (x[:, None] ** 2 + x[None, :] ** 2), {"x": x, "y": x}, ("x", "y"))
    ax = figures.plot_log_density(plane)
    assert any(isinstance(c, ContourSet) for c in ax.collections) and ax.get_xlabel() == "x"
    figures.png(ax.figure)
    figures.png(figures.plot_log_density(0 * plane).figure)


# relaxation -----------------------------------------------------------------------------------------------


def test_free_energy_and_its_dissipation():
    figure = figures.plot_free_energy(free_energy(), rate=1.5)
    above, below = figure.axes
    assert np.array_equal(above.lines[0].get_ydata(), np.exp(-3 * TIMES))
    assert np.allclose(above.lines[1].get_ydata(), np.exp(-3 * np.asarray(above.lines[1].get_xdata())))  # e^{−2λt}
    assert (above.get_yscale(), below.get_xlabel(), below.get_ylabel()) == ("log", "time", "dissipation, per time")
    assert "1.5" in above.get_legend().get_texts()[0].get_text()
    figures.png(figure)


def test_what_is_infinite_or_rounding_is_not_drawn():
    values = np.array([1.0, 1e-3, 1e-9, 1e-20, 0.0])
    figure = figures.plot_free_energy(free_energy(free_energy=values, dissipation=[np.inf, *values[1:]]))
    above, below = figure.axes
    assert above.lines[0].get_xdata().tolist() == [0.0, 0.1, 0.4] and below.lines[0].get_xdata().tolist() == [0.1, 0.4]


def test_modes_over_one_variable():
    figure = figures.plot_modes(spectrum())
    assert texts(figure) == ["λ = 0", "λ = 3.72·10⁻⁴³", "λ = 2.5"]
    drawn = figure.axes[1].lines[1].get_ydata()
    expected = spectrum()["right"][1].values
    assert np.allclose(drawn, expected / np.abs(expected).max()) and np.abs(drawn).max() == 1.0
    left = figures.plot_modes(spectrum(), 2, side="left")
    assert len(left.axes) == 2 and np.isnan(left.axes[1].lines[1].get_ydata()[0])  # nothing ever goes there
    figures.png(figure)


def test_a_turning_pair_is_one_panel():
    figure = figures.plot_modes(spectrum(("x", "y"), turning=True), columns=1)
    assert texts(figure) == ["λ = 0", "λ = 1 ± 2i"]
    assert figure.axes[-1].get_ylabel() == "mode / its largest"
    figures.png(figure)
    figure = figures.plot_modes(spectrum(("x", "y")), side="left", columns=2)
    assert [ax.get_xlabel() for ax in figure.axes[:3]] == ["", "x", "x"]
    figures.png(figure)


def test_lag_covariances_of_a_generator_are_lines():
    lag = np.linspace(0, 2, 9)
    value = np.exp(-lag)[:, None, None] * np.array([[1.0, 0.4], [-0.4, 2.0]])
    names = {"variable": ["x", "y"], "variable_2": ["x", "y"]}
    exact = xr.DataArray(value, {"time": lag, **names}, ("time", "variable", "variable_2"), "lag_covariance")
    above, below = figures.plot_lag_covariance(exact).axes
    assert below.get_xlabel() == "lag, time" and np.allclose(
        below.containers[0].lines[0].get_ydata(), 0.4 * np.exp(-lag)
    )
    assert not above.containers[0].lines[2] and np.array_equal(above.containers[0].lines[0].get_xdata(), lag)


def test_results_of_the_library_are_drawn_with_one_call(tmp_path):
    well = sde.Landscape(("x",), "(x**2 - 1)**2/4").at_temperature(0.2)
    fp = sde.FokkerPlanck(well, sde.Grid(-2.0, 2.0, 40))
    densities = fp.evolve(fp.steady_state().roll(x=4, roll_coords=False), np.linspace(0, 3, 4))
    relaxing = fp.spectrum(4)
    figures.plot_evolution(densities, ridge=True)
    figures.animate_density(densities, tmp_path / "a.gif", dpi=40)
    figures.plot_free_energy(fp.free_energy(densities), rate=float(relaxing["eigenvalue"][1]))
    figures.plot_modes(relaxing, side="left")
    figures.plot_log_density(fp.log_steady_state())
    figures.plot_lag_covariance(fp.lag_covariance([0.0, 1.0, 2.0]))
    flat = sde.FokkerPlanck(sde.landscapes.get("example_19").at_temperature(1.0), sde.Grid((-4, -4), (4, 4), (16, 16)))
    figures.plot_current(sde.decompose(flat), current=flat.current(flat.steady_state()))


# currents -------------------------------------------------------------------------------------------------


def test_any_current_is_drawn_over_the_potential():
    found = decomposition()
    still = found.assign(remainder=0 * found["remainder"])
    assert "detailed balance" in figures.plot_current(still).texts[0].get_text()
    weight = np.exp(-found["potential"] / 0.3)
    ax = figures.plot_current(still, current=(found["remainder"] * weight).transpose("component", "y", "x"))
    lines = [
        c for c in ax.collections if c.get_zorder() == 2 and len(c.get_paths()) > 10 and not isinstance(c, ContourSet)
    ]
    assert not ax.texts and lines
    vertices = np.concatenate([path.vertices for path in lines[0].get_paths()])
    radius = np.hypot(*vertices.T)
    assert radius.max() < 2.6  # e^{−r²/2T}·r is below 1e-4 of its largest there
    partly = (found["remainder"] * weight).where(found["x"] < 0)  # NaN elsewhere: as outside a region
    assert len(figures.plot_current(still, current=partly).collections) == len(ax.collections)
    assert figures.plot_current(still, current=0 * partly).texts[0].get_text() == "no current"
    figures.png(ax.figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: figures.plot_evolution(f["maps"]), "time and one variable are needed"),
        (lambda f: figures.plot_evolution(f["lines"][0]), "time and one variable are needed"),
        (lambda f: figures.plot_evolution(f["lines"][:0]), "no time to draw"),
        (lambda f: figures.plot_evolution(0 * f["lines"]), "somewhere positive"),
        (lambda f: figures.plot_evolution(f["lines"].where(f["lines"].x > 0)), "finite and somewhere positive"),
        (lambda f: figures.plot_densities({"a": f["maps"][0]}, columns=0), "columns must be a whole number >= 1"),
        (lambda f: figures.plot_marginals(f["maps"][:1]), "at least two cells are needed along each variable"),
        (lambda f: figures.plot_evolution(f["lines"], ridge=True, log=True), "leave out ridge or log"),
        (lambda f: figures.animate_density(f["maps"], "x.png"), "end the name in .gif"),
        (lambda f: figures.animate_density(f["maps"][0], "x.gif"), "time and one or two variables are needed"),
        (lambda f: figures.animate_density(0 * f["maps"], "x.gif"), "somewhere positive"),
        (lambda f: figures.animate_density(f["maps"], "x.gif", frames_per_second=0), "frames_per_second must be"),
        (lambda f: figures.animate_density(f["maps"], "x.gif", dpi=5), "dpi must be a whole number from 30"),
        (lambda f: figures.animate_density(f["lines"].isel(time=[0] * 801), "x.gif"), "one in 3 .*slice\\(None"),
        (lambda f: figures.plot_marginals(f["maps"][0]), "three variables has three marginal planes"),
        (lambda f: figures.plot_marginals(0 * f["maps"].rename(time="u")), "somewhere positive"),
        (lambda f: figures.plot_log_density(f["maps"]), "two dimensions"),
        (lambda f: figures.plot_log_density(f["maps"][0] - np.inf), "finite at its peak"),
        (lambda f: figures.plot_log_density(f["maps"][0], decades=0), "decades must be"),
        (lambda f: figures.plot_free_energy(f["lines"].to_dataset(name="density")), "no free energy over time"),
        (lambda f: figures.plot_free_energy(free_energy().isel(time=[0])), "two times are needed"),
        (lambda f: figures.plot_free_energy(free_energy(dissipation=0 * TIMES)), "nowhere positive"),
        (lambda f: figures.plot_free_energy(free_energy(), rate=-1), "rate must be a finite number > 0"),
        (lambda f: figures.plot_modes(free_energy()), "give a result of FokkerPlanck.spectrum"),
        (lambda f: figures.plot_modes(spectrum(), side="top"), "side must be one of right, left"),
        (lambda f: figures.plot_modes(spectrum(), 0), "modes must be a whole number"),
        (lambda f: figures.plot_modes(spectrum().expand_dims(y=2, z=2)), "one or two variables"),
        (lambda f: figures.plot_current(decomposition(), current=f["maps"]), "has these dimensions and component"),
        (lambda f: figures.plot_current(decomposition(), current=decomposition((20, 24))["remainder"]),
         "other cells along x"),
    ],
)  # fmt: skip
def test_refusals(lines, maps, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call({"lines": lines, "maps": maps})
    assert not list(tmp_path.iterdir())


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys, numpy as np, xarray as xr; from sde_sgd import figures\n"
        "a = xr.DataArray(np.ones((3, 4, 4)), {'time': [0., 1., 2.]}, ('time', 'x', 'y'))\n"
        f"figures.animate_density(a, {str(tmp_path / 'a.gif')!r}); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
