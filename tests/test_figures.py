"""Figures: each kind of result is drawn from plain fields, and what is drawn is what was given."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sde_sgd import figures

T = 0.1


@pytest.fixture(scope="module")
def fields():
    x, y = np.linspace(-2, 2, 40), np.linspace(-1.5, 1.5, 30)
    X, Y = np.meshgrid(x, y, indexing="ij")
    potential = (X**2 - 1) ** 2 / 4 + (Y - 0.2 * X) ** 2
    loss = potential + 0.1 * X + 7.0
    density = np.exp(-potential / T)
    density /= density.sum() * (x[1] - x[0]) * (y[1] - y[0])
    slope = np.gradient(potential, x, y)
    coordinates = {"x": x, "y": y}
    grid = {k: xr.DataArray(v, dims=("x", "y"), coords=coordinates) for k, v in
            {"potential": potential, "loss": loss, "density": density}.items()}  # fmt: skip
    decomposition = xr.Dataset(
        {
            "potential": grid["potential"],
            "remainder": (("x", "y", "component"), np.stack([-slope[1], slope[0]], -1)),
        },
        attrs={"temperature": T},
    )
    return grid | {"decomposition": decomposition}


def points(**columns):
    return xr.Dataset({name: ("point", values) for name, values in columns.items()})


def mesh_values(ax):
    return np.ma.asarray(ax.collections[0].get_array())


def test_density_map(fields):
    ax = figures.plot_density(fields["density"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    assert np.array_equal(mesh_values(ax), fields["density"].T) and ax.collections[0].norm.vmin == 0
    assert figures.png(ax.figure).startswith(b"\x89PNG")


def test_density_on_given_axes_and_on_a_logarithmic_scale(fields):
    given = Figure().subplots()
    density = fields["density"].copy()
    density[0, 0] = 0.0
    assert figures.plot_density(density, ax=given, log=True) is given
    assert np.ma.getmaskarray(mesh_values(given))[0, 0]  # zero has no logarithm and is left blank
    figures.png(given.figure)


def test_density_over_one_variable(fields):
    ax = figures.plot_density(fields["density"].sum("y"))
    assert ax.get_xlabel() == "x" and np.allclose(ax.lines[0].get_ydata(), fields["density"].sum("y"))
    figures.png(figures.plot_density(fields["density"].sum("y"), log=True).figure)


def test_densities_share_one_scale_and_show_titles_as_text(fields):
    titles = ["Fokker–Planck", "costs $1 and $2", "third", "fourth"]
    figure = figures.plot_densities({t: fields["density"] * (1 + k) for k, t in enumerate(titles)}, columns=2)
    maps = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in maps] == titles and not maps[1].title.get_parse_math()
    assert len({(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in maps}) == 1
    assert figures.is_field(figure)
    figures.png(figure)


def test_densities_over_one_variable_are_lines(fields):
    figure = figures.plot_densities({"a": fields["density"].sum("y"), "b": fields["density"].sum("y")})
    assert len(figure.axes[0].lines) == 2 and not figures.is_field(figure)


def test_lines_keep_their_own_cells(fields):
    marginal = fields["density"].sum("y")
    figure = figures.plot_densities({"fine": marginal, "coarse": marginal[::4]})
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [40, 10]
    shifted = fields["density"].assign_coords(x=fields["density"].x + 1e-14)
    figures.plot_densities({"a": fields["density"], "b": shifted})  # the same cells but for rounding


def test_potential_against_loss(fields):
    critical = points(x=[-1.0, 0.0, 1.0, 9.0], y=[-0.2, 0, 0.2, 9.0], kind=["minimum", "saddle", "minimum", "maximum"])
    ax = figures.plot_potential_against_loss(
        fields["decomposition"], fields["loss"], critical, points(x=[-1.0, 1.0], y=[-0.2, 0.2])
    )
    shown = mesh_values(ax)
    expected = (fields["potential"] - fields["potential"].min()) - (fields["loss"] - fields["loss"].min())
    hidden = (fields["potential"] - fields["potential"].min()).to_numpy() > 12 * T
    assert np.array_equal(np.ma.getmaskarray(shown), hidden.T) and hidden.any()
    assert np.allclose(shown.compressed(), np.ma.masked_where(hidden, expected).T.compressed())
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [
        "minimum of the loss",
        "saddle of the loss",
        "mode of the density",
    ]  # the far one is outside
    figures.png(ax.figure)


def test_equal_potential_and_loss_show_one_colour(fields):
    rounding = 1e-15 * np.random.default_rng(0).normal(size=fields["potential"].shape)
    ax = figures.plot_potential_against_loss(fields["decomposition"], fields["potential"] + 3.0 + rounding)
    norm = ax.collections[0].norm
    assert np.ptp(norm(mesh_values(ax)).compressed()) < 1e-6 and abs(norm(0.0) - 0.5) < 1e-6


def test_current(fields):
    ax = figures.plot_current(fields["decomposition"])
    assert ax.get_xlabel() == "x" and not ax.texts
    figures.png(ax.figure)


def test_no_current_is_said_not_drawn(fields):
    still = fields["decomposition"].assign(remainder=fields["decomposition"]["remainder"] * 1e-14)
    ax = figures.plot_current(still)
    assert "detailed balance" in ax.texts[0].get_text()


def series(distance, **more):
    rates = [0.2, 0.1, 0.05, 0.025]
    columns = {"distance": distance, **more}
    return xr.Dataset({k: ("learning_rate", np.broadcast_to(v, 4)) for k, v in columns.items()},
                      coords={"learning_rate": rates})  # fmt: skip


def test_distance_states_the_slope(fields):
    rates = np.array([0.2, 0.1, 0.05, 0.025])
    ax = figures.plot_distance(series(3 * rates**1.5, error=1e-3), "learning_rate")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["measured", "slope 1.50 ± 0.01"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    figures.svg(ax.figure)


def test_distances_at_the_floor_are_left_out_of_the_fit():
    ax = figures.plot_distance(series([0.2, 0.1, 0.05, 0.0249], floor=0.02), "learning_rate")
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["measured", "at the sampling floor", "slope 1.00", "sampling floor"]
    bare = figures.plot_distance(series([1.0, 2.0, 3.0, 4.0])["distance"], "learning_rate", floor=10.0)
    assert "slope" not in " ".join(t.get_text() for t in bare.get_legend().get_texts())


def test_a_point_that_cannot_be_fitted_is_drawn():
    """A zero error gives a point no weight that could be used, a zero distance no place on the axis."""
    rates = np.array([0.2, 0.1, 0.05, 0.025])
    ax = figures.plot_distance(series(3 * rates * [9, 1, 1, 1], error=[0.0, 1e-3, 1e-3, 1e-3]), "learning_rate")
    assert [t.get_text() for t in ax.get_legend().get_texts()][1].startswith("slope 1.00")
    assert sorted(ax.lines[0].get_xdata()) == sorted(rates)
    ax = figures.plot_distance(series(3 * rates * [1, 1, 1, 0], error=1e-3), "learning_rate")
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend[0] == "measured (1 of 4 not positive)" and legend[1].startswith("slope 1.00")
    exact = figures.plot_distance(series(3 * rates, error=0.0), "learning_rate")
    assert [t.get_text() for t in exact.get_legend().get_texts()] == ["measured", "slope 1.00"]
    for distance in ([0.0, 0.0, 0.0, 0.0], [np.nan, 1.0, 2.0, 4.0]):
        for fit in (True, False):
            figures.svg(figures.plot_distance(series(distance), "learning_rate", fit=fit).figure)


def test_power_law():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    law = figures.fit_power_law(x, 3 * x**2, 0.01 * x**2)
    assert law.slope == pytest.approx(2) and law.factor == pytest.approx(3)
    # Four points at ln 2 apart with 1/300 relative error each: σ_slope = (1/300)/(ln 2 · √5).
    assert law.slope_error == pytest.approx(1 / 300 / (np.log(2) * np.sqrt(5)))
    rng = np.random.default_rng(5)
    slopes = np.array([figures.fit_power_law(x, y, 0.05 * x)[:2] for y in x * np.exp(0.05 * rng.normal(size=(400, 4)))])
    # A deviation over 400 fits is known to 3.5 %; the errors stated, widened by χ², are never too small.
    assert slopes[:, 0].std() < 1.15 * slopes[:, 1].mean()
    assert np.isnan(figures.fit_power_law([1, 2], [1, 2]).slope_error)


def test_spectrum():
    values = np.array([4.0, 1e-3, 2.0, -1e-9])
    ax = figures.plot_spectrum({"D": values, "H": [5.0, 1.0]}, {"D": 1.0, "float32 cut": 1e-6})
    assert np.array_equal(ax.lines[0].get_ydata(), [4, 2, 1e-3])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "D (1 of 4 not positive)", "H", "threshold 1.0e+00: rank 2", "float32 cut",
    ]  # fmt: skip
    figures.svg(ax.figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: figures.plot_density(f["density"].expand_dims(z=2)), "two dimensions"),
        (lambda f: figures.plot_density(f["density"] * 0), "somewhere positive"),
        (lambda f: figures.plot_densities({}), "no density"),
        (lambda f: figures.plot_densities({"a": f["density"], "b": f["density"].T}), "same variables"),
        (lambda f: figures.plot_densities({"a": f["density"], "b": f["density"][1:]}), "'b' has other cells along x"),
        (lambda f: figures.plot_densities({"a": f["density"], "b": f["density"].assign_coords(y=f["density"].y * 2)}),
         "'b' has other cells along y"),
        (lambda f: figures.plot_potential_against_loss(f["decomposition"], f["loss"][1:]), "same grid"),
        (lambda f: figures.plot_potential_against_loss(
            f["decomposition"], f["loss"], points(x=[0.], y=[0.], kind=["top"])), "got top"),
        (lambda f: figures.plot_distance(f["density"], "x"), "one dimension"),
        (lambda f: figures.fit_power_law([1, 2], [1, 0]), "positive"),
        (lambda f: figures.fit_power_law([1, 1], [1, 2]), "two different x"),
        (lambda f: figures.fit_power_law([1, 2, 3], [1, 2]), r"one shape \(n,\), got \(3,\), \(2,\)"),
        (lambda f: figures.fit_power_law([1, 2], [1, 2], [0.1]), "one shape"),
        (lambda f: figures.fit_power_law(1, 2), "one shape"),
        (lambda f: figures.plot_spectrum({"D": [-1.0]}), "no positive eigenvalue"),
        (lambda f: figures.plot_spectrum({}), "no spectrum"),
    ],
)  # fmt: skip
def test_refusals(fields, call, message):
    with pytest.raises(ValueError, match=message):
        call(fields)


def test_the_same_figure_gives_the_same_bytes(fields):
    def line():
        return figures.plot_density(fields["density"].sum("y")).figure

    assert figures.svg(line()) == figures.svg(line()) and figures.png(line()) == figures.png(line())
    assert b"<dc:date>" not in figures.svg(line())


def test_the_callers_settings_are_restored_and_threads_agree(fields):
    before = dict(matplotlib.rcParams)

    def work(_):
        return figures.png(figures.plot_density(fields["density"]).figure)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np, xarray as xr; from sde_sgd import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figures.png(figures.plot_density(xr.DataArray(np.ones((4, 4)), dims=('x', 'y'))).figure);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
