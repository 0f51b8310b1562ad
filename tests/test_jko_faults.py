"""What JKO refuses, in words."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd import JKO, Grid, Landscape, Process
from sde_sgd.jko import PorousMedium

WELL = Landscape(("x",), "x**2")
PLANE = Landscape(("x", "y"), "x**2 + y**2")
LINE, SQUARE = Grid(-3, 3, 60), Grid((-3, -3), (3, 3), (16, 16))


RING, CIRCLE = ((0.0, 2 * np.pi, "periodic"),), Grid(0.0, 2 * np.pi, 60, boundary="periodic")


def well(**options):
    return JKO(WELL.at_temperature(0.5), LINE, **options)


def plane(**options):
    return JKO(PLANE.at_temperature(0.5), SQUARE, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: JKO(WELL, LINE), "process must be a Process, got Landscape"),
        (lambda: JKO(WELL.at_temperature(0.5), 3), "grid must be a Grid"),
        (lambda: JKO(PLANE.at_temperature(0.5), LINE), "the process has 2 variables"),
        (lambda: JKO(WELL.at_temperature(lambda t: 0.5 + 0 * t), LINE), "is a schedule of time"),
        (lambda: JKO(sde.Underdamped(WELL, 0.5, 1.0), SQUARE), "noise in its velocities only"),
        (lambda: JKO(WELL.at_temperature(0.5), Grid(-3, 3, 60, boundary="absorbing")), "absorbing wall takes mass"),
        (
            lambda: JKO(
                Landscape(("x", "y", "z"), "x**2 + y**2 + z**2").at_temperature(1.0),
                Grid((-1,) * 3, (1,) * 3, (8,) * 3),
            ),
            "one or two variables, and the grid three",
        ),
        (lambda: JKO(Process(["-x"], [["x**2"]], 0.5, variables=("x",)), Grid(-3, 3, 61)), "D > 0, and D is 0 at"),
        (
            lambda: JKO(Process(["-x", "-y"], [["1", "0"], ["0", "x**2"]], 0.5, variables=("x", "y")), SQUARE),
            r"its least eigenvalue is 0 at \(0, -3\); shift the box",
        ),
        (
            lambda: JKO(
                Landscape(("x",), "cos(x)", domain={"x": (0.0, 2 * np.pi, "periodic")}).at_temperature(0.5),
                Grid(0.0, 2 * np.pi, 60, boundary="periodic"),
                method="quantile",
            ),
            "'quantile' has no periodic axes; use method='entropic'",
        ),
        (lambda: JKO(Process(["-x"], [["1"]], 0.5, variables=("x",)), LINE, potential="loss"), "given by its drift"),
        (lambda: well(method="quantil"), "did you mean 'quantile'"),
        (lambda: well(method="monge_ampere"), "'monge_ampere' is for 2 variables, and the grid has 1"),
        (lambda: well(potential="free"), "potential must be one of steady_state, loss"),
        (lambda: well(remainder="drop"), "remainder must be one of split, ignore"),
        (lambda: well(tolerance=0.5), "tolerance must be from 1e-12 to 0.01, got 0.5"),
        (lambda: well(nodes=2), "nodes must be a whole number"),
        (lambda: well(regularisation=0.1), "regularisation = 0.1 belongs to method='entropic'"),
        (lambda: well(internal_energy=2.0), "internal_energy must be a PorousMedium"),
        (lambda: PorousMedium(1.0), "exponent must be > 1, got 1"),
        (
            lambda: JKO(PLANE.at_temperature(0.5), Grid((-3, -3), (3, 3), (3, 8))),
            "3 × 8 cells, and cubic splines need 4",
        ),
        (lambda: JKO(Landscape(("a",), "a**2", domain=RING).at_temperature(0.5), CIRCLE), "the periodic axis a"),
        (
            lambda: JKO(
                Landscape(("a",), "cos(a) + a/5", diffusion=[["1 + cos(a)/3"]], domain=RING).at_temperature(0.5),
                CIRCLE,
                potential="loss",
            ),
            "the loss jumps by 1.25664 across the periodic axis a",
        ),
        (lambda: plane(nodes=100), "nodes = 100 belongs to method='quantile'"),
        (lambda: plane(internal_energy=PorousMedium(2.0)), "belongs to method='quantile'"),
    ],
)
def test_what_cannot_be_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


FLAT = np.full(60, 1 / 6)


@pytest.mark.parametrize(
    ("density", "tau", "words"),
    [
        (FLAT, 0.0, "tau must be a finite number > 0, got 0"),
        (FLAT, -1.0, "tau must be a finite number > 0, got -1"),
        (FLAT, np.inf, "tau must be a finite number > 0"),
        (1.5 * FLAT, 0.1, r"the density has mass 1\.5, .* divide it by its mass"),
        (np.where(np.arange(60) == 3, -0.1, FLAT), 0.1, "density is -0.1 at"),
        (np.where(np.arange(60) == 3, np.nan, FLAT), 0.1, "density must be finite"),
        (FLAT[:-1], 0.1, "density has shape"),
        (0 * FLAT, 0.1, "density is 0 in every cell"),
        (Grid(0, 6, 60).data_array(FLAT, ("x",), "density"), 0.1, "belongs to another grid"),
        (Grid(-3, 3, 60).data_array(FLAT, ("z",), "density"), 0.1, "density has dimensions"),
    ],
)
def test_what_cannot_be_stepped(density, tau, words):
    with pytest.raises(ValueError, match=words):
        well().step(density, tau)


def test_a_flow_of_no_steps_and_a_progress_that_is_none():
    with pytest.raises(ValueError, match=r"steps must be a whole number from 1 to .*, got 0"):
        well().flow(FLAT, 0.1, 0)
    with pytest.raises(ValueError, match="progress must be a function"):
        well().flow(FLAT, 0.1, 1, progress=3)
    with pytest.raises(ValueError, match="file must be the name of a file"):
        well().flow(FLAT, 0.1, 1, file=3)


def test_a_porous_medium_in_two_parts():
    start = np.where(np.abs(np.abs(LINE.axes[0]) - 1.5) < 0.5, 1.0, 0.0)
    with pytest.raises(ValueError, match="0 between two parts of its support"):
        well(internal_energy=PorousMedium(2.0)).step(start / (start.sum() * 0.1), 0.1)


def test_a_step_that_is_not_found_says_how_far_it_came():
    """Valleys far thinner than a cell."""
    process = Landscape(("x", "y"), "1000*cos(9*x) + 1000*cos(11*y) + x**2 + y**2").at_temperature(0.01)
    start = np.exp(-(SQUARE.centers() ** 2).sum(-1))
    with pytest.raises(
        sde.NotConverged, match=r"step of tau = 1 is only known to .*a finer grid, or method='entropic'"
    ):
        JKO(process, SQUARE).step(start / (start.sum() * SQUARE.cell_volume), 1.0)
