"""Nanoseconds per path-step of `simulate` against a NumPy loop, torchsde, and the cost of the noise alone.

One problem for all: the 2-D double well, Euler–Maruyama, float64, the same step and number of paths. Each road says
what it found of Var y, whose exact value under the scheme is T/(1 − h/2): speed counts only beside a right answer.
Run by `make bench`; writes docs/benchmarks/paths.md.
"""

import itertools
import math
import os
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
from _machine import best_seconds, machine, publish, table

import sde_sgd as sde

TEMPERATURE, STEP, PATHS = 0.2, 0.01, 8192
START = (-1.0, 0.0)
STEPS = {"numba": 4000, "numpy": 1000, "torchsde": 1000}  # each long enough to forget the start: t ≥ 10
LANES = 64


def simulate(threads: int | None, seed: int) -> np.ndarray:
    process = sde.landscapes.get("double_well").at_temperature(TEMPERATURE)
    run = sde.simulate(process, START, step=STEP, steps=STEPS["numba"], paths=PATHS, threads=threads, seed=seed)
    return run.y.values


def numpy_loop(seed: int) -> np.ndarray:
    """In place and without allocation, as one would write it for speed."""
    rng = np.random.default_rng(seed)
    x, y = np.full(PATHS, START[0]), np.full(PATHS, START[1])
    z, drift, amplitude = np.empty((2, PATHS)), np.empty(PATHS), math.sqrt(2 * TEMPERATURE * STEP)
    for _ in range(STEPS["numpy"]):
        rng.standard_normal(out=z)
        z *= amplitude
        np.multiply(x, x, out=drift)
        drift -= 1.0
        drift *= x
        drift *= STEP
        x -= drift
        x += z[0]
        y *= 1.0 - STEP
        y += z[1]
    return y


def torchsde_loop(seed: int) -> np.ndarray:
    """torchsde's own Euler scheme with diagonal noise, its Brownian interval told the step; one thread."""
    import torch
    import torchsde

    class DoubleWell:
        noise_type, sde_type = "diagonal", "ito"
        amplitude = torch.full((PATHS, 2), math.sqrt(2 * TEMPERATURE), dtype=torch.float64)

        def f(self, t, state):
            x, y = state[:, 0], state[:, 1]
            return torch.stack([x - x * x * x, -y], dim=1)

        def g(self, t, state):
            return self.amplitude

    torch.set_num_threads(1)
    end = STEP * STEPS["torchsde"]
    motion = torchsde.BrownianInterval(0.0, end, size=(PATHS, 2), dtype=torch.float64, dt=STEP, entropy=seed)
    start = torch.tensor(START, dtype=torch.float64).repeat(PATHS, 1)
    with torch.no_grad():
        states = torchsde.sdeint(
            DoubleWell(), start, torch.tensor([0.0, end], dtype=torch.float64), bm=motion, dt=STEP, method="euler"
        )
    return states[-1, :, 1].numpy()


def normals_only():
    """A kernel that draws the very normals of `simulate` and adds them up: no drift, no checks, no saving."""
    from sde_sgd.paths._ensemble import key_of
    from sde_sgd.paths._kernel_cache import HEADER, fragment, load

    body = textwrap.dedent(
        f"""
        @njit(cache=True, nogil=True, error_model="numpy", fastmath={{"contract"}})
        def kernel(state, steps, key0, key1):
            work = np.zeros({2 * LANES})
            first, second = work[:{LANES}], work[{LANES}:]
            for chunk in range(state.shape[1] // {LANES}):
                base = chunk * {LANES}
                for j in range({LANES}):
                    first[j] = second[j] = 0.0
                for step in range(steps):
                    for j in range({LANES}):
                        path = np.uint64(base + j)
                        z0, z1 = _two_normals(np.uint64(step), np.uint64(0), path & _LOW, path >> _U32, key0, key1)
                        first[j] += z0
                        second[j] += z1
                for j in range({LANES}):
                    state[0, base + j], state[1, base + j] = first[j], second[j]
        """
    )
    kernel, state = load(HEADER + fragment("_philox") + body).kernel, np.empty((2, PATHS))

    def draw(seed: int, steps: int = STEPS["numba"]) -> np.ndarray:
        kernel(state, steps, *key_of(seed))
        return state[1] / math.sqrt(steps)

    return draw


FRESH = """
import time
began = time.perf_counter()
import sde_sgd as sde
process = sde.landscapes.get("double_well").at_temperature(0.2)
defined = time.perf_counter()
sde.simulate(process, (-1.0, 0.0), step=0.01, steps=1, paths=64, threads=1)
called = time.perf_counter()
sde.simulate(process, (-1.0, 0.0), step=0.01, steps=1, paths=64, threads=1)
again = time.perf_counter()
print(defined - began, called - defined, again - called)
"""


def first_calls() -> list[list[str]]:
    """A process that has never seen the landscape, with an empty and with a filled folder of kernels."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        for title in ("empty kernel folder", "filled kernel folder"):
            repeats = 1 if title.startswith("empty") else 3
            results = []
            for _ in range(repeats):
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", FRESH], env=os.environ | {"SDE_SGD_CACHE_DIR": folder},
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                results.append([*map(float, done.stdout.split()), time.perf_counter() - began])
            best = np.min(results, axis=0)
            rows.append([title, f"{best[0]:.2f} s", f"{best[1]:.2f} s", f"{1e3 * best[2]:.1f} ms", f"{best[3]:.2f} s"])
    return rows


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    noise = normals_only()
    noise(0, steps=1)
    simulate(1, 0)  # compiled before the clock starts
    exact = TEMPERATURE / (1 - STEP / 2)
    roads = [
        ("the same normals and nothing else, 1 thread", noise, "numba", 5, 1.0),
        ("`sde.simulate`, 1 thread", lambda seed: simulate(1, seed), "numba", 5, exact),
        (f"`sde.simulate`, {cores} threads", lambda seed: simulate(None, seed), "numba", 5, exact),
        ("NumPy in place, 1 thread", numpy_loop, "numpy", 5, exact),
        ("torchsde, 1 thread", torchsde_loop, "torchsde", 3, exact),
    ]
    found = []
    for title, work, kind, repeats, variance in roads:
        seeds, ends = itertools.count(), []
        try:
            seconds = best_seconds(lambda work=work, seeds=seeds, ends=ends: ends.append(work(next(seeds))), repeats)
        except ModuleNotFoundError as missing:
            found.append((title, math.nan, f"{missing.name} is not installed"))
            continue
        ratio = np.mean([end.var() for end in ends]) / variance
        error = math.sqrt(2 / (PATHS * repeats))
        found.append((title, 1e9 * seconds / (PATHS * STEPS[kind]), f"{ratio:.4f} ± {error:.4f}"))
    one = found[1][1]
    rows = [[t, f"{ns:.2f}" if ns < 100 else f"{ns:.0f}", f"{ns / one:.2f}" if ns < one * 10 else f"{ns / one:.0f}", c]
            for t, ns, c in found]  # fmt: skip
    publish(
        "paths",
        f"""# Paths

The 2-D double well $f = (x^2-1)^2/4 + y^2/2$ at $T = {TEMPERATURE:g}$: Euler–Maruyama, step {STEP:g}, {PATHS} paths,
float64, drift and noise included; the shortest of several runs. One path-step of this problem uses two normals.
The last column is what each road found of $\\operatorname{{Var}} y$, over its exact value under the scheme,
$T/(1-h/2)$ (for the first row, the variance of its normals): it must be 1 within the error.

{table(["", "ns per path-step", "relative", "variance, found / exact"], rows)}

The first row is the floor: a kernel of the same Philox blocks and Box–Muller pairs that only adds them up.

## The first call

A landscape's kernel is written, compiled and kept. What a fresh process pays:

{table(["", "import and landscape", "first call", "second call", "whole process"], first_calls())}

{machine("sde-sgd", "numpy", "numba", "torch", "torchsde")}
""".rstrip(),
    )


if __name__ == "__main__":
    main()
