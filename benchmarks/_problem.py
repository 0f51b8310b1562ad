"""The problem every road of `paths.py` solves, in numbers alone: read in our environment and in that of the peers.

dx = (x − x³) dt + √(2T) dW₁, dy = −y dt + √(2T) dW₂, the gradient flow of f = (x² − 1)²/4 + y²/2 with noise. Speed
counts only beside a right answer: each scheme leaves y with a variance known exactly.
"""

import json
import math
import time
from collections.abc import Callable

TEMPERATURE, STEP, PATHS, STEPS = 0.2, 0.01, 8192, 4000
START = (-1.0, 0.0)  # at t = 40 both the start and what it does to Var y, e^{−2t}, are forgotten
AMPLITUDE = math.sqrt(2 * TEMPERATURE * STEP)


def variance_of(scheme: str) -> float:
    """Var y in the steady state of the scheme, exactly: y' = a y + √(2Th) (noise of variance v)."""
    h = STEP
    if scheme == "leimkuhler_matthews":
        return TEMPERATURE
    a, v = 1 - h, 1.0  # euler_maruyama, weak_euler, milstein
    if scheme in ("stochastic_heun", "weak_heun", "sra1"):
        a, v = 1 - h + h * h / 2, (1 - h / 2) ** 2 + (h * h / 12 if scheme == "sra1" else 0.0)
    return 2 * TEMPERATURE * h * v / (1 - a * a)


def measure(work: Callable[[int], object], repeats: int, variance: float) -> dict:
    """Time `work(seed)`, which returns the final y of all paths: once to be warm, then the shortest of `repeats`.

    `cores` is how many the process kept busy in its shortest run: below 1 on one thread, something else was running.
    """
    work(0)
    runs, ratios = [], []
    for seed in range(1, repeats + 1):
        began, used = time.perf_counter(), time.process_time()
        y = work(seed)
        used, seconds = time.process_time() - used, time.perf_counter() - began
        runs.append((seconds, used / seconds))
        ratios.append(float(y.var()) / variance)  # type: ignore[attr-defined]
    seconds, cores = min(runs)
    return {
        "ns": 1e9 * seconds / (PATHS * STEPS),
        "cores": cores,
        "ratio": sum(ratios) / repeats,
        "error": math.sqrt(2 / (PATHS * repeats)),
    }


def report(result: dict) -> None:
    """One line of JSON, the last of the output."""
    print(json.dumps(result), flush=True)
