"""What potential_from_samples takes: runs of simulate and sgd, arrays, projections; what it refuses; its figure."""

import numpy as np
import pytest
import scipy.signal
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures

T = 0.15
GRID = sde.Grid(-2.0, 2.0, 32)


def chain(seed, chains, n, phi, shape=()):
    """Stationary AR(1) of unit variance, (chains, n, *shape)."""
    noise = np.random.default_rng(seed).normal(size=(chains, n, *shape)) * np.sqrt(1 - phi * phi)
    noise[:, 0] /= np.sqrt(1 - phi * phi)
    return scipy.signal.lfilter([1.0], [1.0, -phi], noise, axis=1)


def gaps(found, exact):
    """(Φ̂ − Φ)/error in the gauge of Φ̂, over the cells shown."""
    phi, error = found.potential.values, found.potential_error.values
    shown = np.isfinite(phi)
    off = (phi - exact)[shown]
    return (off - np.average(off, weights=np.exp(-phi[shown] / found.attrs["temperature"]))) / error[shown]


def test_a_run_of_simulate():
    """Against the solved density, one well to the other; every path, and every form of the same samples."""
    landscape = sde.Landscape(("x",), "(x**2 - 1)**2/4", domain=((-3, 3),))
    process = landscape.at_temperature(0.3)
    run = sde.simulate(process, 1.0, step=0.02, steps=12_000, paths=40, save_every=30, seed=4)
    grid = sde.Grid(-2.0, 2.0, 20)
    found = sde.potential_from_samples(run, None, grid, burn_in=20, loss=landscape)
    fine = sde.FokkerPlanck(process, sde.Grid(-3.0, 3.0, 300)).steady_state()
    exact = -0.3 * np.log(fine.values[50:250].reshape(20, 10).mean(axis=1))
    z = gaps(found, exact)
    assert found.attrs["temperature"] == 0.3 and np.abs(z).max() < 4.5 and (z**2).mean() < 2.6, z
    array = run.x.values[..., None]
    same = sde.potential_from_samples(array, 0.3, grid, burn_in=20, loss=lambda p: landscape.loss(p))
    np.testing.assert_array_equal(found.potential.values, same.potential.values)
    np.testing.assert_array_equal(found.conditional_loss.values, same.conditional_loss.values)
    with pytest.raises(sde.TooFewSamples, match="381 samples in 1 chains"):
        sde.potential_from_samples(run.isel(path=0), None, grid, burn_in=20)
    last = sde.potential_from_samples(run.isel(time=-1, drop=True), None, grid, burn_in=0, least_visits=4)
    assert last.attrs["chains"] == 40 and last.attrs["correlation_time"] == 1 and last.attrs["samples"] == 40
    assert found.sizes == {"x": 20}


def test_a_run_of_sgd():
    """Spiral: the law of r² is a Gamma for the SDE; real mini-batches at η = 0.02 follow it. Projected onto x."""
    landscape = sde.landscapes.get("spiral")
    run = sde.sgd(landscape, (1.0, 0.0), learning_rate=0.02, batch_size=1, steps=40_000, replicas=24, save_every=100)
    grid = sde.Grid(-1.4, 1.4, 14)
    found = sde.potential_from_samples(run, None, grid, burn_in=50, project=["y"], loss=landscape)
    temperature, kappa = 0.01, 1.0
    a = 1 / (4 + kappa**2)
    rng = np.random.default_rng(0)
    r = np.sqrt(rng.gamma((a + 2 * a / temperature - 1) / 2, temperature / a, 400_000))
    y = r * np.sin(rng.uniform(0, 2 * np.pi, r.size))
    z = gaps(found, -temperature * np.log(np.histogram(y, grid.edges[0])[0]))
    assert found.attrs["temperature"] == pytest.approx(0.01) and np.abs(z).max() < 4.5, z
    momentum = run.assign_attrs(momentum=0.9)
    with pytest.raises(ValueError, match="with momentum the position is at"):
        sde.potential_from_samples(momentum, None, grid, burn_in=50, project=["y"])


def test_projections_agree():
    x = chain(17, 3, 3000, 0.5, (4,)) * [0.5, 1.0, 0.7, 0.4]
    run = xr.Dataset({n: (("path", "time"), x[..., i]) for i, n in enumerate("abcd")}, {"time": np.arange(3000) * 0.1})
    grid = sde.Grid((-2.0, -2.0), (2.0, 2.0), (16, 12))
    named = sde.potential_from_samples(run, T, grid, burn_in=5, project=["c", "a"])
    assert named.potential.dims == ("c", "a")
    matrix = np.eye(4)[[2, 0]]
    for form, names in ((matrix, ("u0", "u1")), (matrix.tolist(), ("u0", "u1")), (dict(zip("rs", matrix)), ("r", "s"))):
        found = sde.potential_from_samples(run, T, grid, burn_in=5, project=form)
        assert found.potential.dims == names
        np.testing.assert_array_equal(found.potential.values, named.potential.values)
    again = sde.potential_from_samples(x, T, grid, burn_in=5, project=["x2", "x0"])
    np.testing.assert_array_equal(again.potential.values, named.potential.values)
    other = sde.potential_from_samples(x, T, grid, burn_in=5, project=["x2", "x0"], seed=1)
    assert (other.potential_error != again.potential_error).any()
    both = (
        named.potential
        - sde.potential_from_samples(run, T, grid, burn_in=5, project=["c", "a"], gauge="minimum").potential
    )
    assert float(both.max() - both.min()) < 1e-12


def test_chains_that_end_early():
    x = 0.8 * chain(18, 30, 400, 0.6)[..., None]
    x[3, 250:], x[7, 5:] = np.nan, np.nan
    found = sde.potential_from_samples(x, T, GRID, burn_in=10)
    assert (found.attrs["samples"], found.attrs["chains"], found.attrs["chains_ended"]) == (28 * 390 + 240, 29, 2)
    x[3, 300] = 0.0
    with pytest.raises(ValueError, match="NaN followed by numbers in chain 3"):
        sde.potential_from_samples(x, T, GRID, burn_in=10)
    x[3, 300] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        sde.potential_from_samples(x, T, GRID, burn_in=10)


SOME = chain(19, 2, 3000, 0.2, (1,))
RUN = xr.Dataset({"x": (("path", "time"), SOME[..., 0])}, {"time": np.arange(3000) * 0.5})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number > 0"),
        ({"temperature": None}, "temperature must be given"),
        ({"grid": sde.Grid(-2, 2, 8, boundary="absorbing")}, "absorbing"),
        ({"grid": sde.Grid((-2, -2), (2, 2), (8, 8))}, "the grid has 2 dimensions, the samples 1 .x0."),
        ({"burn_in": 3000}, "burn_in must be less than the 3000 states"),
        ({"method": "kernal"}, "did you mean 'kernel'"),
        ({"gauge": "zero"}, "gauge must be one of"),
        ({"bandwidth": 0.1}, 'belongs to method="kernel"'),
        ({"method": "kernel", "bandwidth": [0.1, 0.2]}, "bandwidth must have 1 numbers"),
        ({"least_visits": 2}, "least_visits must be 4 or more"),
        ({"resamples": 10}, "resamples must be a whole number >= 50"),
        ({"project": ["y"]}, "a variable must be one of x0"),
        ({"project": np.zeros((1, 1))}, "linearly dependent"),
        ({"project": {"potential": [1.0]}}, "reserved"),
        ({"samples": SOME[0, :, 0]}, "shape .3000,."),
        ({"samples": RUN.x}, "is a DataArray"),
        ({"samples": RUN.rename(path="chain")}, "no variable over"),
        ({"samples": RUN.assign_coords(time=np.arange(3000.0) ** 2)}, "evenly spaced in time, got gaps from 1"),
        ({"samples": RUN.assign_attrs(walls="absorb")}, "no steady density; simulate with walls='reflect'"),
        ({"samples": np.ones((500, 1))}, "do not move along x0"),
        ({"method": "kernel", "bandwidth": 1e-12}, "fine cells needs about"),
        ({"grid": sde.Grid(-2, 2, 4_000_000_000 // 8)}, "GiB"),
        ({"loss": np.zeros(7)}, "values of shape .2, 3000., got .7,."),
        ({"loss": lambda p: p}, "the loss at the samples must have shape"),
        ({"loss": sde.landscapes.get("double_well")}, "the loss is over x, y, the samples over x0"),
    ],
)
def test_faults(change, words):
    given = {"samples": SOME, "temperature": T, "grid": GRID, "burn_in": 0} | change
    with pytest.raises(ValueError, match=words):
        sde.potential_from_samples(given.pop("samples"), given.pop("temperature"), given.pop("grid"), **given)


def test_figures():
    x = 0.8 * chain(20, 4, 4000, 0.6, (2,))
    loss = lambda p: (p**2).sum(axis=-1)  # noqa: E731
    line = sde.potential_from_samples(x, T, GRID, burn_in=0, project=["x0"], loss=loss)
    figure = figures.plot_sampled_potential(line)
    assert len(figure.axes) == 1 and figure.axes[0].get_xlabel() == "x0"
    assert figures.png(figure).startswith(b"\x89PNG")
    plain = figures.plot_sampled_potential(line.drop_vars(["conditional_loss", "conditional_loss_error"]))
    assert len(plain.axes[0].containers) == 0 < len(figure.axes[0].containers)
    plane = sde.potential_from_samples(x, T, sde.Grid((-2, -2), (2, 2), (12, 12)), burn_in=0, loss=loss)
    figure = figures.plot_sampled_potential(plane)
    assert len(figure.axes) == 6 and figures.is_field(figure)  # three maps, their colour bars
    figures.png(figure)
    assert len(figures.plot_sampled_potential(plane.drop_vars("conditional_loss")).axes) == 4
    with pytest.raises(ValueError, match="no sampled potential"):
        figures.plot_sampled_potential(plane[["potential"]])
    with pytest.raises(ValueError, match="over 3 axes cannot be drawn"):
        figures.plot_sampled_potential(plane.expand_dims("z"))


def test_a_result_is_saved_and_read(tmp_path):
    found = sde.potential_from_samples(SOME, T, GRID, burn_in=0, method="kernel")
    sde.results.save(found, tmp_path / "found.nc")
    loaded = sde.results.load(tmp_path / "found.nc")
    del loaded.attrs["schema"]
    xr.testing.assert_identical(loaded, found)
