"""Figures: each kind of result is drawn from plain fields, and what is drawn is what was given."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

import sde_sgd as sde
from sde_sgd import figures, schedules

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


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


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
    # the far one is outside
    assert legend_of(ax) == ["minimum of the loss", "saddle of the loss", "mode of the density"]
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
    assert legend_of(ax) == ["measured", "slope 1.50 ± 0.01"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    figures.svg(ax.figure)


def test_distances_at_the_floor_are_left_out_of_the_fit():
    ax = figures.plot_distance(series([0.2, 0.1, 0.05, 0.0249], floor=0.02), "learning_rate")
    assert legend_of(ax) == ["measured", "at the sampling floor", "slope 1.00", "sampling floor"]
    bare = figures.plot_distance(series([1.0, 2.0, 3.0, 4.0])["distance"], "learning_rate", floor=10.0)
    assert "slope" not in " ".join(legend_of(bare))


def test_a_point_that_cannot_be_fitted_is_drawn():
    """A zero error gives a point no weight that could be used, a zero distance no place on the axis."""
    rates = np.array([0.2, 0.1, 0.05, 0.025])
    ax = figures.plot_distance(series(3 * rates * [9, 1, 1, 1], error=[0.0, 1e-3, 1e-3, 1e-3]), "learning_rate")
    assert legend_of(ax)[1].startswith("slope 1.00")
    assert sorted(ax.lines[0].get_xdata()) == sorted(rates)
    ax = figures.plot_distance(series(3 * rates * [1, 1, 1, 0], error=1e-3), "learning_rate")
    legend = legend_of(ax)
    assert legend[0] == "measured (1 of 4 not positive)" and legend[1].startswith("slope 1.00")
    exact = figures.plot_distance(series(3 * rates, error=0.0), "learning_rate")
    assert legend_of(exact) == ["measured", "slope 1.00"]
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
    assert legend_of(ax) == [
        "D (1 of 4 not positive)", "H", "threshold 1.0e+00: rank 2", "float32 cut",
    ]  # fmt: skip
    figures.svg(ax.figure)


def saved(dims=("path", "time"), n=8, times=30, **more):
    """Smooth curves as saved states: path k is its own."""
    t, k = np.linspace(0, 3, times), np.arange(n)[:, None]
    x, y = np.cos(t + 0.1 * k), 0.5 * np.sin(t - 0.2 * k)
    return xr.Dataset({"x": (dims, x), "y": (dims, y), **more}, coords={"time": t, "step": ("time", np.arange(times))})


WELL = sde.Landscape(("x", "y"), "(x**2 - 1)**2/4 + y**2/2", domain=((-3, 3), (-3, 3)), name="well")


def test_paths_in_the_plane_lie_over_the_loss():
    """Lines are the first paths; the box holds them; levels are those of the loss, closer where it is low."""
    run = saved(passage=("path", np.zeros(8)))
    ax = figures.plot_paths(run, WELL)
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 30]
    assert [np.array_equal(line.get_xdata(), run.x[k]) for k, line in enumerate(drawn)] == [True] * 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y") and ax.get_title(loc="right") == "3 of 8 paths"
    for values, (low, high) in ((run.x[:3], ax.get_xlim()), (run.y[:3], ax.get_ylim())):
        assert low < values.min() and values.max() < high
    levels = [c for c in ax.collections if isinstance(c, ContourSet)][-1].levels
    assert (np.diff(levels, 2) > 0).all()
    start = next(line for line in ax.lines if line.get_label() == "start")
    assert np.array_equal(start.get_xdata(), run.x[:3, 0])
    figures.png(ax.figure)
    every = figures.plot_paths(run, WELL.at_temperature(0.1), shown=8).lines
    assert len(every) == 8 * 2 + 2  # a path and its end each; the starts, and the key of the ends
    assert figures.plot_paths(run, shown=9).get_title(loc="right") == ""


def test_paths_of_one_variable_run_against_time():
    ax = figures.plot_paths(saved(("replica", "time")), variables="y")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="right")) == ("time", "y", "5 of 8 replicas")
    assert len(ax.lines) == 5 and ax.lines[0].get_xdata()[-1] == 3.0
    line = sde.Landscape(("y",), "y**2/2")
    figures.png(figures.plot_paths(saved()[["y"]], line).figure)
    flat = sde.Landscape(("y",), "0*y")
    assert not figures.plot_paths(saved()[["y"]], flat).collections  # a flat loss has no levels


def test_paths_end_at_a_seam_and_can_be_named_among_many_variables():
    ring = sde.Landscape(("y",), "cos(y)", domain=((-1, 1, "periodic"),))
    values = np.array([[0.5, 0.9, -0.9, -0.5]])
    run = xr.Dataset({"y": (("path", "time"), values)}, coords={"time": np.arange(4.0)})
    assert np.isnan(figures.plot_paths(run, ring).lines[0].get_ydata()).tolist() == [False, False, True, False]
    assert not np.isnan(figures.plot_paths(run).lines[0].get_ydata()).any()  # nothing says that it is a circle
    many = xr.Dataset({"state": (("path", "time", "variable"), np.random.default_rng(0).normal(size=(2, 4, 20)))},
                      coords={"time": np.arange(4.0), "variable": [f"w{i}" for i in range(20)]})  # fmt: skip
    ax = figures.plot_paths(many, variables=("w3", "w1"))
    assert np.array_equal(ax.lines[0].get_xdata(), many.state[0, :, 3]) and ax.get_ylabel() == "w1"


def exits(censored=0, name="mean_exit_time"):
    """The survival curve of an exponential law with mean 2."""
    t = np.linspace(0, 8, 60)
    alive = np.exp(-t / 2)
    curve, numbers = ("time", alive), {name: 2.0, f"{name}_error": 0.0212}
    data = {"survival": curve, "survival_error": ("time", np.sqrt(alive * (1 - alive) / 900)), **numbers}
    attrs = {"paths": 900, "censored": censored}
    if name == "passage_time":
        data["censored"] = attrs.pop("censored")
    return xr.Dataset(data, coords={"time": t}, attrs=attrs)


def test_survival_states_mean_and_censored():
    ax = figures.plot_survival(exits(16))
    assert legend_of(ax) == ["mean 2.000 ± 0.021, 16 of 900 censored", "exponential law with that mean"]
    curve, law = ax.lines
    assert ax.get_yscale() == "log" and np.allclose(curve.get_ydata(), law.get_ydata())
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() <= 1 and band[:, 1].min() < curve.get_ydata().min()
    figures.png(ax.figure)


def test_survivals_share_a_frame():
    ax = figures.plot_survival(exits(), label="T = 0.2")
    low = ax.get_ylim()[0]
    assert figures.plot_survival(exits().isel(time=slice(20)), ax=ax, label="T = 0.1") is ax
    assert legend_of(ax) == [
        "T = 0.2: mean 2.000 ± 0.021", "T = 0.1: mean 2.000 ± 0.021", "exponential law with that mean",
    ]  # fmt: skip
    assert ax.get_ylim()[0] == low and ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color()


def test_a_first_passage_without_an_end_has_no_law():
    ax = figures.plot_survival(exits(16, "passage_time"))
    assert legend_of(ax) == ["mean at least 2.000 ± 0.021, 16 of 900 censored"] and len(ax.lines) == 1
    assert len(figures.plot_survival(exits(0, "passage_time")).lines) == 2


def lags(names=("x", "y"), **coords):
    d, lag = len(names), np.arange(6)
    value = np.exp(-0.4 * lag)[:, None, None] * np.eye(d) + 0.1 * lag[:, None, None] * np.triu(np.ones((d, d)), 1)
    error = 0.01 + 0.01 * np.triu(np.ones((d, d)), 1)[None] * np.ones((6, 1, 1))
    dims = ("lag", "variable", "variable_2")
    return xr.Dataset({"lag_covariance": (dims, value), "lag_covariance_error": (dims, error)},
                      coords={"lag": lag, "variable": list(names), "variable_2": list(names), **coords})  # fmt: skip


def test_lag_covariance_shows_both_parts():
    figure = figures.plot_lag_covariance(lags(lag_time=("lag", 0.5 * np.arange(6))))
    above, below = figure.axes
    assert legend_of(above) == ["x, x", "y, y", "x, y"] and legend_of(below) == ["x, y"]
    (antisymmetric,) = below.containers
    assert np.allclose(antisymmetric.lines[0].get_ydata(), 0.05 * np.arange(6))
    assert np.allclose(above.containers[2].lines[0].get_ydata(), 0.05 * np.arange(6))
    bar = antisymmetric.lines[2][0].get_segments()[3]
    assert np.isclose(np.ptp(bar[:, 1]), 2 * 0.015)  # the mean of both components' errors
    assert below.get_xlabel() == "lag, time" and antisymmetric.lines[0].get_xdata()[-1] == 2.5
    assert antisymmetric.lines[0].get_color() == above.containers[2].lines[0].get_color()
    figures.png(figure)


def test_lag_covariance_of_one_variable_is_one_panel():
    figure = figures.plot_lag_covariance(lags(("a", "b", "c", "d")), "c")
    (ax,) = figure.axes
    assert ax.get_xlabel() == "lag, samples" and legend_of(ax) == ["c, c"]


def test_schedule():
    """It draws what the schedule gives, as far as it does anything."""
    ends = {
        schedules.Annealing(0.4, 0.1, 10.0): 12.0,
        schedules.Cyclic(0.1, 0.4, 5.0): 15.0,
        schedules.Trapezoid(0.1, 0.4, 1, 2, 7): 11.0,
        schedules.StepDecay(0.4, 0.5, (2.0, 4.0)): 5.0,
    }
    for schedule, end in ends.items():
        ax = figures.plot_schedule(schedule)
        t, value = ax.lines[0].get_data()
        assert t[-1] == pytest.approx(end) and np.array_equal(value, schedule(t)) and ax.get_ylim()[0] == 0
    ax = figures.plot_schedule(lambda t: 0.1, end=3.0, label="constant")
    figures.plot_schedule(schedules.Annealing(0.4, 0.1, 2.0), ax=ax, label="falling")
    assert legend_of(ax) == ["constant", "falling"] and ax.get_ylim()[1] > 0.4
    figures.png(ax.figure)


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
        (lambda f: figures.plot_paths(saved().isel(time=-1)), "run it with save_every"),
        (lambda f: figures.plot_paths(saved(), variables="z"), "no saved variable 'z'; it has x, y"),
        (lambda f: figures.plot_paths(saved(z=(("path", "time"), np.zeros((8, 30))))), "the run has x, y, z"),
        (lambda f: figures.plot_paths(saved()[["x"]], WELL), "well is over x, y and the paths drawn are over x"),
        (lambda f: figures.plot_paths(saved(), shown=0), "at least 1, got 0"),
        (lambda f: figures.plot_survival(saved()), "no survival curve"),
        (lambda f: figures.plot_lag_covariance(saved()), "no lag covariance"),
        (lambda f: figures.plot_lag_covariance(lags(), ["z"]), "no variable 'z'"),
        (lambda f: figures.plot_lag_covariance(lags("abcd")), "one to 3 variables can be drawn, got 4"),
        (lambda f: figures.plot_schedule(np.sqrt), "give end"),
        (lambda f: figures.plot_schedule(0.1), "must be a function"),
        (lambda f: figures.plot_schedule(np.sqrt, end=0), "end must be a finite number > 0"),
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
        assert len(set(pool.map(work, range(4)))) == 1
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np, xarray as xr; from sde_sgd import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figures.png(figures.plot_density(xr.DataArray(np.ones((4, 4)), dims=('x', 'y'))).figure);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
