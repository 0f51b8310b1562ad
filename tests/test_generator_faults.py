"""What a generator cannot be built on is refused, with the offending value, the place and the remedy."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from sde_sgd import _memory
from sde_sgd.fokker_planck import FokkerPlanck, _inputs
from sde_sgd.grid import Grid
from sde_sgd.landscapes import Landscape
from sde_sgd.potential import decompose
from sde_sgd.process import Process


def one_variable(drift="-x", diffusion="1", domain=None):
    return Process((drift,), ((diffusion,),), 1.0, variables=("x",), domain=domain)


def two_variables(diffusion, drift=lambda x, y: (-x, -y)):
    return Process(drift, diffusion, 1.0, variables=("x", "y"), diffusion_divergence=lambda x, y: (0 * x, 0 * x))


ROUND = Grid(-1, 1, 8, boundary="periodic")
SQUARE = Grid((-1, -1), (1, 1), (8, 8))


@pytest.mark.parametrize(
    ("process", "grid", "words"),
    [
        (one_variable(), SQUARE, "the process has 1 variables"),
        (one_variable(), Grid(-1, 1, 8, boundary="periodic"), "not periodic in the process"),
        (one_variable(domain=((0, 1, "periodic"),)), Grid(0, 1, 8), "x is periodic in the process"),
        (one_variable(domain=((0, 1, "periodic"),)), Grid(0, 2, 8, boundary="periodic"), "span one period"),
        (one_variable(domain=((0, 1, "periodic"),)), Grid(0.5, 1.5, 8, boundary="periodic"), "shifted from"),
        (one_variable(domain=((0, 1),)), Grid(-1, 1, 8), "outside the process's domain"),
        (one_variable("-1/x"), Grid(-1, 1, 8), "drift is .* at"),
        (one_variable(diffusion="0"), Grid(-1, 1, 8), "zero on the whole grid"),
        (one_variable(diffusion="x"), Grid(-1, 1, 8), "smallest eigenvalue is -0.875 at"),
        (two_variables(lambda x, y: ((1 + 0 * x, x > 0.5), (0 * x, 1 + 0 * x))), SQUARE, "must be symmetric"),
        (
            two_variables(lambda x, y: ((1 + 0 * x, 1.5 + 0 * x), (1.5 + 0 * x, 1 + 0 * x))),
            SQUARE,
            "eigenvalue is -0.5",
        ),
        (
            one_variable("-x", domain=((-1, 1, "periodic"),)),
            ROUND,
            "drift jumps by 2 across the periodic axis x, from -1",
        ),
        (one_variable("sin(pi*x) + x**3/1e6", domain=((-1, 1, "periodic"),)), ROUND, "drift jumps by 2e-06 across"),
        (
            one_variable("sin(pi*x)", "2 + x", domain=((-1, 1, "periodic"),)),
            ROUND,
            r"diffusion jumps by 2 across the periodic axis x, from 3 at \(1.0,\) to 1 at \(-1.0,\); what is periodic",
        ),
        (
            Process(
                ("0", "0"),
                (("1", "0"), ("0", "1 + x*y**2")),
                1.0,
                variables=("x", "y"),
                domain=((-1, 1), (0, 1, "periodic")),
            ),
            Grid((-1, 0), (1, 1), (8, 8), boundary=("reflecting", "periodic")),
            r"diffusion jumps by 0.875 across the periodic axis y, from .* at \(-0.875, 1.0\)",
        ),
        (
            Landscape(
                ("x", "y", "z"), "x**2", diffusion=(("1", "0", "0"), ("0", "1", "x*y*z"), ("0", "x*y*z", "0.1"))
            ).at_temperature(1.0),
            Grid((-2,) * 3, (2,) * 3, (8,) * 3),
            r"smallest eigenvalue is -4.828.* at \(-1.75, -1.75, -1.75\)",
        ),
        (one_variable(), Grid((-1,) * 3, (1,) * 3, (8,) * 3), "the process has 1 variables"),
        (two_variables(lambda x, y: ((x + np.inf, 0 * x), (0 * x, 1 + 0 * x))), SQUARE, "diffusion is .* at"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_faults_are_named(process, grid, words):
    with pytest.raises(ValueError, match=words):
        FokkerPlanck(process, grid)


def test_other_arguments_are_refused():
    for wrong in (0, 17, 2.0, True):
        with pytest.raises(ValueError, match="max_offset must be a whole number from 1 to 16"):
            FokkerPlanck(one_variable(), Grid(-1, 1, 8), max_offset=wrong)
    with pytest.raises(ValueError, match="grid must be a Grid, got tuple"):
        FokkerPlanck(one_variable(), (-1, 1, 8))
    for wrong in (None, Landscape(("x",), "x**2"), "x"):
        with pytest.raises(ValueError, match=f"process must be a Process, got {type(wrong).__name__}"):
            FokkerPlanck(wrong, Grid(-1, 1, 8))
    with pytest.raises(ValueError, match="fp must be a FokkerPlanck, got Process"):
        decompose(one_variable())


def test_a_density_must_be_real_finite_and_of_this_grid():
    fp = FokkerPlanck(one_variable(), Grid(-1, 1, 8))
    density = fp.steady_state()
    fp.current(density.assign_coords(x=density.x + 1e-12))  # rounding is no other grid
    fp.current(density.drop_vars("x"))
    other = FokkerPlanck(one_variable(), Grid(-2, 2, 8)).steady_state()
    with pytest.raises(ValueError, match="belongs to another grid"):
        fp.current(other)
    with pytest.raises(ValueError, match="dimensions"):
        fp.edge_current(density.rename(x="y"))
    for coordinates in (list("abcdefgh"), [np.nan] * 8):
        with pytest.raises(ValueError, match="belongs to another grid"):
            fp.current(density.assign_coords(x=coordinates))
    for wrong, words in (
        (np.ones(9), r"shape \(9,\)"),
        (other[:4], r"shape \(4,\)"),
        (np.ones(8) * 1j, "real numbers"),
        (density * (1 + 1j), "real numbers"),
        (np.array([1.0] * 7 + [np.nan]), "must be finite, got nan at index"),
        (["a"] * 8, "real numbers"),
        (None, r"shape \(\)"),
        (density.to_dataset(), r"density is a Dataset; give an array of shape \(8,\)"),
        ([[1.0], [1.0, 2.0]], "density is a list"),
    ):
        with pytest.raises(ValueError, match=words):
            fp.current(wrong)


def test_a_potential_that_jumps_at_the_seam_is_refused():
    process = one_variable(domain=((0, 1, "periodic"),))
    names = ("variables", "dim", "temperature", "domain", "settings", "diffusion", "diffusion_divergence")
    same = {name: getattr(process, name) for name in names}
    tilted = SimpleNamespace(**same, drift=process.drift, equilibrium_potential=lambda x: x[..., 0])
    with pytest.raises(ValueError, match="jumps by 1 across the periodic axis x"):
        FokkerPlanck(tilted, Grid(0, 1, 8, boundary="periodic"))


def test_a_disconnected_chain_is_refused():
    fp = FokkerPlanck(one_variable(), Grid(-1, 1, 8))
    keep = fp.edges.tail != 3
    fp.edges = dataclasses.replace(
        fp.edges,
        **{k: getattr(fp.edges, k)[keep] for k in ("tail", "head", "offset", "conductance", "peclet")},
    )
    assert not fp.irreducible
    with pytest.raises(ValueError, match="2 classes that exchange no mass"):
        fp.steady_state()


def test_memory_is_refused_before_it_is_taken(monkeypatch):
    flat = two_variables(lambda x, y: ((1 + 0 * x, 0 * x), (0 * x, 1 + 0 * x)))
    tilted = two_variables(lambda x, y: ((1 + 0 * x, 0.5 + 0 * x), (0.5 + 0 * x, 0.3 + 0 * x)))
    with pytest.raises(
        ValueError, match=r"1000000 × 1000000 cells needs about .* GiB of memory available; use fewer cells"
    ):
        FokkerPlanck(flat, Grid((-1, -1), (1, 1), (10**6, 10**6)))
    fp = FokkerPlanck(tilted, Grid((-1, -1), (1, 1), (64, 64)))
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**20)
    with pytest.raises(ValueError, match="64 × 64 cells needs about"):
        fp.steady_state()


@pytest.mark.parametrize("shape", [(3000, 2000), (150, 150, 90), (400, 400, 5)])
def test_the_refusal_of_a_large_grid_says_what_fits(monkeypatch, shape):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**32)
    grid = Grid((-1,) * len(shape), (1,) * len(shape), shape)
    needed = _inputs.steady_bytes(grid)
    with pytest.raises(ValueError, match=r"needs about .* GiB.*; use fewer cells \(about [0-9 ×]+ fit\)") as refused:
        _inputs.check_memory(needed, "the steady state", shape)
    fitting = tuple(int(n) for n in str(refused.value).split("about ")[-1].split(" fit")[0].split("×"))
    smaller = _inputs.steady_bytes(Grid(grid.lower, grid.upper, fitting))
    assert 0.05 * 2**31 < smaller <= 2**31
    with pytest.raises(ValueError, match=r"available; use fewer cells or a smaller box$"):
        _inputs.check_memory(2**80, "the steady state", shape)


def test_a_grid_too_large_for_its_steady_state_still_evolves(monkeypatch):
    process = Landscape(("x", "y"), "x**2 + y**2").at_temperature(1.0)
    grid = Grid((-3, -3), (3, 3), (200, 200))
    assert _inputs.generator_bytes(grid) < _inputs.steady_bytes(grid)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2 * _inputs.steady_bytes(grid) - 2)
    fp = FokkerPlanck(process, grid)
    assert float(fp.evolve((0.0, 0.0), 0.1).sum()) * grid.cell_volume == pytest.approx(1.0)
    with pytest.raises(ValueError, match="the steady state on a grid of 200 × 200 cells needs"):
        fp.steady_state()


def test_noise_that_vanishes_where_the_drift_does_not():
    """D = 0 on half the box: edges there are upwind, P stays bounded, and the density is positive."""
    process = Process(
        lambda x, y: (1 - 2 * x, 3 * (0.5 - y)),
        lambda x, y: ((np.maximum(x, 0.0), 0 * x), (0 * x, np.maximum(x, 0.0))),
        1e-4,
        variables=("x", "y"),
        diffusion_divergence=lambda x, y: (1.0 * (x > 0), 0 * x),
    )
    fp = FokkerPlanck(process, Grid((-1, -1), (1, 1), (20, 20)))
    assert 1e8 < fp.attrs["max_peclet"] < 1e12 and 0 < fp.attrs["added_diffusion_max"] < 1e-5
    log_density = fp.log_steady_state()
    assert np.isfinite(log_density.values).all() and log_density.attrs["residual"] < 1e-3
    assert log_density.idxmax("x").max() > 0.4


def test_a_peclet_number_beyond_any_exponent_is_refused():
    with pytest.raises(ValueError, match=r"cell Péclet number exceeds 1e\+13 near"):
        FokkerPlanck(Landscape(("x",), "1e20*x**2").at_temperature(1.0), Grid(-1, 1, 8))


def test_the_refusal_takes_half_of_what_is_available(monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2**30)
    _memory.refuse_beyond(2**29, "this", "that")
    with pytest.raises(ValueError, match=r"^this needs about 0.5 GiB, more than half of the 1 GiB of memory available"):
        _memory.refuse_beyond(2**29 + 1, "this", "that")


def test_memory_is_estimated_without_proc(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError

    here = _memory.available_bytes()
    monkeypatch.setattr("builtins.open", missing)
    elsewhere = _memory.available_bytes()
    assert here > 0 and 2**26 < elsewhere < 2**50
