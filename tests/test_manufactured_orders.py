"""The density of random drifts, made for a known steady state, is right to second order in two and three variables."""

import itertools

import numpy as np
import pytest
import sympy as sp

import sde_sgd as sde

NAMES = ("x", "y", "z")


def random_case(seed, dim):
    """Φ, D(x) and Q(x) of random plane waves on [−1, 1]^dim, T between ½ and 2.

    D has eigenvalues from 1 down to 1/30 with axes that turn in space; Q is cut to 0 at the walls. Waves have
    |k| ≤ 2 in two variables and 0.6 in three, and |∇Φ| ≤ 2T or 0.6T: ten cells of the coarsest grid per length.
    """
    rng = np.random.default_rng([seed, dim])
    x = sp.symbols(NAMES[:dim], real=True)
    steepest = {2: 2.0, 3: 0.6}[dim]

    def wave():
        direction = rng.normal(size=dim)
        k = direction / np.linalg.norm(direction) * rng.uniform(0.5, 1.0) * steepest
        return sp.sin(sp.Float(round(rng.uniform(0, 6), 3)) + sum(sp.Float(round(a, 3)) * v for a, v in zip(k, x)))

    temperature, ratio = float(rng.uniform(0.5, 2.0)), float(np.exp(rng.uniform(np.log(3.0), np.log(30.0))))
    shares = rng.dirichlet([1.0, 1.0, 1.0])
    phi = sum(sp.Float(round(share * temperature, 3)) * wave() for share in shares)
    # a unit vector whose angles are waves: |∇v| ≤ |k|
    angles = [sp.Float(round(rng.uniform(0, 3), 3)) + wave() for _ in range(dim - 1)]
    if dim == 2:
        v = [sp.cos(angles[0]), sp.sin(angles[0])]
    else:
        v = [sp.cos(angles[0]) * sp.cos(angles[1]), sp.sin(angles[0]) * sp.cos(angles[1]), sp.sin(angles[1])]
    low = sp.Float(round(1 / ratio, 4))
    long = rng.integers(2) if dim == 3 else 1  # a needle, or in three variables a disc
    d = [
        [
            (low if long else 1) * (1 if i == j else 0) + (1 if long else -1) * (1 - low) * v[i] * v[j]
            for j in range(dim)
        ]
        for i in range(dim)
    ]
    bump = sp.Mul(*[(1 - a**2) ** 2 for a in x])
    strength = float(rng.uniform(0.5, 2.0))
    q = [bump * sp.Float(round(strength, 3)) * wave() for _ in range(1 if dim == 2 else 3)]
    landscape = sde.Landscape.manufactured(
        x, phi, d, q[0] if dim == 2 else q, domain=[(-1, 1)] * dim, name=f"random {seed}"
    )
    return landscape.at_temperature(temperature), ratio


def l1_error(process, cells):
    """Offsets of up to 4 cells: with the 2 that are usual in three variables the density is that of D + εI."""
    grid = sde.Grid((-1,) * process.dim, (1,) * process.dim, (cells,) * process.dim)
    exact = np.exp(-process.potential(grid.centers()) / process.temperature)
    exact /= exact.sum() * grid.cell_volume
    density = sde.FokkerPlanck(process, grid, max_offset=4).steady_state().values
    return float(np.abs(density - exact).sum() * grid.cell_volume)


def orders(errors, sizes):
    errors, sizes = np.array(errors), np.array(sizes, float)
    return np.log(errors[:-1] / errors[1:]) / np.log(sizes[1:] / sizes[:-1])


def extrapolated(found, sizes):
    """The order as h → 0 where it falls short of its limit by c·h: a line through the last two, at their mean h."""
    h = 0.5 * (1 / np.array(sizes[:-1], float) + 1 / np.array(sizes[1:], float))
    return float(found[-1] + (found[-1] - found[-2]) * h[-1] / (h[-2] - h[-1]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_variables(seed):
    """Three cases on small grids: the order is 2 within a tenth once extrapolated."""
    sizes = (24, 36, 54)
    process, _ = random_case(seed, 2)
    assert process.equilibrium_potential is None  # the generator is told b and D only
    found = orders([l1_error(process, n) for n in sizes], sizes)
    assert extrapolated(found, sizes) > 1.9, found


def test_counterexample_a_current_through_the_walls_has_no_order():
    """Without the bump e^{−Φ/T} is not stationary between the walls, and no refinement makes it so."""
    landscape = sde.Landscape.manufactured(("x", "y"), "sin(x + y/2)", None, "1 + sin(x - y)", domain=[(-1, 1)] * 2)
    process, sizes = landscape.at_temperature(1.0), (24, 36, 54)
    errors = [l1_error(process, n) for n in sizes]
    assert errors[-1] > 0.02 and max(orders(errors, sizes)) < 0.5


@pytest.mark.evidence(table="manufactured_orders")
def test_random_cases_are_of_second_order(table):
    plan = {2: (range(14), (40, 80, 160), 1.9), 3: (range(8), (12, 18, 27), 1.8)}
    rows = []
    for dim, (seeds, sizes, least) in plan.items():
        for seed in seeds:
            process, ratio = random_case(seed, dim)
            errors = [l1_error(process, n) for n in sizes]
            found = orders(errors, sizes)
            limit = extrapolated(found, sizes)
            assert limit >= least and found[-1] >= found[0] - 0.1, (dim, seed, errors, found, limit)
            rows.append(
                [
                    f"{dim}-D, {seed}", f"{ratio:.1f}", f"{process.temperature:.2f}", " ".join(map(str, sizes)),
                    *(f"{e:.2e}" for e in errors), ", ".join(f"{o:.2f}" for o in found), f"{limit:.2f}",
                ]
            )  # fmt: skip
    table(
        "Steady states of random manufactured drifts",
        ["case", "anisotropy", "T", "cells per axis", "L1", "L1", "L1", "orders", "extrapolated"],
        rows,
        "Φ, D(x) and Q(x) are random plane waves, Q vanishes at the reflecting walls; the generator knows b and D, and "
        "its density is compared with e^{−Φ/T}. Ten cells of the coarsest grid per length. Extrapolated: the order for "
        "h → 0 where it falls short in proportion to h.",
    )


@pytest.mark.parametrize("force", [0.0, 0.5, 2.0])
def test_the_ring_has_the_current_of_its_closed_form(force):
    """J = T(1 − e^{−2πF/T})/Z in every cell (Stratonovich), of order 2 at least; no force, no current."""
    temperature = 0.5
    landscape = sde.landscapes.get("ring", force=force)
    process = landscape.at_temperature(temperature)
    errors, densities = [], []
    for cells in (64, 128, 256):
        grid = sde.Grid.around(process, shape=cells)
        fp = sde.FokkerPlanck(process, grid)
        density = fp.steady_state()
        current = fp.current(density).values[:, 0]
        # Z = ∫∫ of the unnormalised density, whose logarithm is −Φ/T
        fine = -np.pi + 2 * np.pi * (np.arange(4096) + 0.5) / 4096
        z = np.exp(-landscape.potential(fine[:, None], temperature) / temperature).mean() * 2 * np.pi
        exact = temperature * -np.expm1(-2 * np.pi * force / temperature) / z
        assert np.ptp(current) < 1e-12 * max(1.0, abs(exact)) / grid.cell_volume
        errors.append(abs(current.mean() - exact))
        rho = np.exp(-process.potential(grid.centers()) / temperature)
        densities.append(np.abs(density.values - rho / rho.sum() / grid.cell_volume).sum() * grid.cell_volume)
    if force == 0.0:
        assert max(errors) < 1e-13
    else:
        assert orders(errors, (64, 128, 256)).min() > 1.9  # 4 is found: J is a property of the whole ring
        assert errors[-1] < 1e-3 * exact
        assert abs(exact) > 10 * errors[0]  # the order is that of a current, not of rounding
    assert max(densities) < 1e-12 or abs(orders(densities, (64, 128, 256))[-1] - 2.0) < 0.1


def known_cases():
    """Names, processes, boxes: steady states in closed form."""
    cases = {}
    for c, temperature in itertools.product((0.5, 2.0), (0.1, 1.0)):
        well = sde.landscapes.get("multiplicative_well", c=c).at_temperature(temperature)
        cases[f"multiplicative_well, c = {c:g}, T = {temperature:g}"] = well
    for circulation in (0.0, 0.5, 1.5):
        driven = sde.landscapes.get("example_19", circulation=circulation).at_temperature(1.0)
        cases[f"example_19, λ = {circulation:g}"] = driven
    for rotation in (0.0, 1.0, 3.0):
        cases[f"quadratic, ω = {rotation:g}"] = sde.landscapes.get("quadratic", rotation=rotation).at_temperature(0.5)
    return cases


@pytest.mark.evidence(table="density_orders")
def test_known_densities_are_of_second_order(table):
    rows = []
    for name, process in known_cases().items():
        base = {1: 100, 2: 48}[process.dim]
        sizes, errors = [base, 2 * base, 4 * base], []
        for n in sizes:
            grid = sde.Grid.around(process, shape=n)
            exact = np.exp(-process.potential(grid.centers()) / process.temperature)
            exact /= exact.sum() * grid.cell_volume
            density = sde.FokkerPlanck(process, grid).steady_state().values
            errors.append(float(np.abs(density - exact).sum() * grid.cell_volume))
        found = orders(errors, sizes)
        assert process.equilibrium_potential is None and abs(found[-1] - 2.0) <= 0.1, (name, errors, found)
        rows.append(
            [name, " ".join(map(str, sizes)), *(f"{e:.2e}" for e in errors), ", ".join(f"{o:.2f}" for o in found)]
        )
    table(
        "Steady states of the catalogue against their closed forms",
        ["case", "cells per axis", "L1", "L1", "L1", "orders"],
        rows,
        "On the boxes of Grid.around, from b and D alone: the generator is not told that λ = 0 has a potential.",
    )
