"""Long measurements, each with the figure it must reach; their tables are the documentation's evidence."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import sde_sgd as sde

evidence = pytest.mark.evidence


def steady_error(process, exact, reach, cells):
    """L1 error of the solved density against ρ ∝ exact(x), with the structural facts of its generator."""
    grid = sde.Grid((-reach,) * 2, (reach,) * 2, (cells,) * 2)
    fp = sde.FokkerPlanck(process, grid)
    log_density = fp.log_steady_state().values
    rho = exact(grid.centers())
    rho /= rho.sum() * grid.cell_volume
    matrix = fp.matrix
    diagonal = np.abs(matrix.diagonal())
    column = np.abs(np.asarray(matrix.sum(axis=0)).ravel()) / diagonal.max()
    assert fp.nonnegative_rates and fp.irreducible and np.isfinite(log_density).all() and column.max() <= 1e-12
    return float(np.abs(np.exp(log_density) - rho).sum() * grid.cell_volume), float(log_density.min()), column.max()


def rotating_tensor():
    """D = R(θ) diag(1, 0.03) R(θ)ᵀ, θ = 0.7 + 0.3 sin x cos y, b = −D∇Φ + T div D: Φ is the double well at T = 1."""
    import sympy as sp

    x, y = sp.symbols("x y", real=True)
    angle = sp.Rational(7, 10) + sp.Rational(3, 10) * sp.sin(x) * sp.cos(y)
    turn = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    d = turn * sp.diag(1, sp.Float(0.03)) * turn.T
    phi = (x**2 - 1) ** 2 / 4 + y**2 / 2
    divergence = [sp.diff(d[i, 0], x) + sp.diff(d[i, 1], y) for i in range(2)]
    drift = [-d[i, 0] * sp.diff(phi, x) - d[i, 1] * sp.diff(phi, y) + divergence[i] for i in range(2)]
    return sde.Process(drift, d.tolist(), 1.0, variables=("x", "y"))


def boltzmann(landscape, temperature):
    def exact(x):
        phi = landscape.potential(x, temperature)
        return np.exp(-(phi - phi.min()) / temperature)

    return exact


@evidence(table="fokker_planck_orders")
def test_fokker_planck_is_of_second_order(table):
    turning = sde.landscapes.get("quadratic", rotation=1.0)
    cases = {"quadratic, rotation 1": (turning.at_temperature(0.5), boltzmann(turning, 0.5), 6.0)}
    for circulation in (0.0, 0.5, 1.5):
        driven = sde.landscapes.get("example_19", circulation=circulation)
        cases[f"example_19, λ = {circulation:g}"] = (driven.at_temperature(1.0), boltzmann(driven, 1.0), 4.0)
    cases["rotating tensor, 33:1"] = (rotating_tensor(), boltzmann(sde.landscapes.get("double_well"), 1.0), 4.0)
    sizes, rows = (32, 64, 128, 256), []
    for name, (process, exact, reach) in cases.items():
        found = [steady_error(process, exact, reach, n) for n in sizes]
        errors = [f[0] for f in found]
        orders = np.log2(np.array(errors[:-1]) / errors[1:])
        # once the wells are resolved; a constant error would have order 0
        assert abs(orders[-1] - 2.0) <= 0.1, (name, orders)
        rows.append(
            [
                name,
                *(f"{e:.2e}" for e in errors),
                ", ".join(f"{o:.2f}" for o in orders),
                f"{min(f[1] for f in found):.0f}",
                f"{max(f[2] for f in found):.0e}",
            ]
        )
    table(
        "Steady state against exact densities",
        ["case", *(f"{n}²" for n in sizes), "orders", "lowest log ρ", "columns"],
        rows,
        "L1 errors. All rates are ≥ 0 and all cells positive; column sums are relative to the diagonal.",
    )


@evidence(table="random_fields")
def test_two_hundred_random_diffusion_fields(table):
    rng, rows, lowest, columns, peclets = np.random.default_rng(0), [], 0.0, 0.0, []
    for _ in range(200):
        ratio = rng.choice([0.0, *(10.0 ** -rng.uniform(0, 3, 3))])  # 0: rank one; down to 1000:1
        phase, wave, strength = rng.uniform(0, 2 * np.pi, 3), rng.normal(size=(3, 2)), 10.0 ** rng.uniform(-1, 4)

        def diffusion(x, y, ratio=ratio, phase=phase, wave=wave):
            angle = phase[0] + 2 * np.sin(wave[0, 0] * x + wave[0, 1] * y)
            c, s = np.cos(angle), np.sin(angle)
            return (c * c + ratio * s * s, (1 - ratio) * c * s), ((1 - ratio) * c * s, s * s + ratio * c * c)

        def force(x, y, phase=phase, wave=wave, strength=strength):
            return tuple(strength * np.sin(wave[i, 0] * x + wave[i, 1] * y + phase[i]) for i in (1, 2))

        def divergence(x, y, diffusion=diffusion, h=1e-6):
            right, left = diffusion(x + h, y), diffusion(x - h, y)
            up, down = diffusion(x, y + h), diffusion(x, y - h)
            return tuple((right[i][0] - left[i][0] + up[i][1] - down[i][1]) / (2 * h) for i in (0, 1))

        def drift(x, y, diffusion=diffusion, force=force, divergence=divergence):
            d, u, v = diffusion(x, y), force(x, y), divergence(x, y)
            return tuple(d[i][0] * u[0] + d[i][1] * u[1] + 0.3 * v[i] for i in (0, 1))

        process = sde.Process(drift, diffusion, 0.3, variables=("x", "y"), diffusion_divergence=divergence)
        fp = sde.FokkerPlanck(process, sde.Grid((-2, -2), (2, 2), (24, 24)))
        log_density = fp.log_steady_state()
        matrix = fp.matrix
        column = np.abs(np.asarray(matrix.sum(axis=0)).ravel()).max() / np.abs(matrix.diagonal()).max()
        assert fp.irreducible and fp.nonnegative_rates and column <= 1e-12
        assert np.isfinite(log_density.values).all()
        lowest, columns = min(lowest, float(log_density.min())), max(columns, column)
        peclets.append(log_density.attrs["max_peclet"])
    assert max(peclets) > 500  # the fields are as hard as promised
    rows.append([200, f"{np.median(peclets):.3g}", f"{max(peclets):.3g}", f"{lowest:.3g}", f"{columns:.0e}"])
    table(
        "Random diffusion fields",
        ["fields", "median Péclet", "largest", "lowest log ρ", "columns"],
        rows,
        "Rank one to 1000:1 at angles that turn in space, reflecting walls: each chain irreducible, every rate ≥ 0.",
    )


@evidence(table="spiral")
def test_the_spiral_turns(table):
    spiral, rows = sde.landscapes.get("spiral"), []

    def turning(run):
        z = run.x.values + 1j * run.y.values
        rate = np.angle(z[:, 1:] * z[:, :-1].conj()).sum(1) / run.time.values[-1]
        return rate.mean(), rate.std(ddof=1) / np.sqrt(len(rate))

    for temperature in (0.02, 0.05):
        eta = 2 * temperature
        settings = dict(start=(1.0, 0.0), learning_rate=eta, batch_size=1, replicas=16_384, seed=1)
        runs = {
            "paths of the SDE, h = η/8": sde.simulate(
                spiral.at_temperature(temperature),
                (1.0, 0.0),
                step=eta / 8,
                steps=8000,
                paths=16_384,
                save_every=8,
                seed=1,
            ),
            "SGD, b = 1": sde.sgd(spiral, steps=1000, save_every=1, **settings),
        }
        for n in (4, 16, 64):
            runs[f"SVAG, l = {n}"] = sde.sgd(spiral, steps=1000 * n, save_every=n, svag=n, **settings)
        for name, run in runs.items():
            velocity, error = turning(run)
            rows.append([f"{temperature:g}", name, f"{velocity / -temperature:.4f}", f"{error / temperature:.4f}"])
            assert error <= 0.02 * temperature
            bias = 0.02 if name.startswith("SGD") else 0.0  # O(η), seen and shrinking with T
            assert abs(velocity / -temperature - 1) < 4 * error / temperature + bias, (temperature, name)
    x = np.array([0.7, 0.4])
    before = np.arctan2(x[1], x[0])
    for _ in range(1000):
        x = x - 0.04 * spiral.gradient(x)
    rows.append(["0", "full batch, η = 0.04", f"{abs(np.arctan2(x[1], x[0]) - before):.1e} rad in 1000 steps", "0"])
    table(
        "Mean angular velocity of the spiral, divided by −Tκ", ["T", "road", "velocity / −Tκ", "standard error"], rows
    )


@evidence(table="demo")
def test_the_demo_ends_and_answers_at_once(table, tmp_path):
    pytest.importorskip("torch")
    cache = {"SDE_SGD_CACHE_DIR": str(tmp_path / "cache")}
    times, printed = [], ""
    for _ in range(2):
        began = time.perf_counter()
        command = [sys.executable, "-m", "sde_sgd.cli", "demo", "--json", "-q", "--root", str(tmp_path / "runs")]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | cache)
        times.append(time.perf_counter() - began)
        assert printed in ("", run.stdout)
        printed = run.stdout
    assert times[0] < 480 and times[1] < 15
    comparison = json.loads(printed)["comparison"]
    assert all(row["agrees"] != "no" for row in comparison)
    rows = [
        [
            f"{r['temperature']:g}",
            r["road"],
            r["setting"],
            f"{r['distance']:.4f} ± {r['error']:.4f}",
            f"{r['floor']:.4f}",
            r["agrees"] or "–",
        ]
        for r in comparison
    ]
    table(
        "Roads to the neuron's steady density",
        ["T", "road", "setting", "L1 distance", "floor", "agrees"],
        rows,
        f"First run {times[0]:.0f} s on {os.cpu_count()} cores without any cache; again {times[1]:.1f} s.",
    )
