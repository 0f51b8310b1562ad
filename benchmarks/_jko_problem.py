"""The step every road of `jko.py` takes, in numbers alone: read in our environment and the peers'.

min W₂²(ρ, ρ₀)/2τ + E[(x² − 1)² + y²] + T∫ρ log ρ on [−2, 2]², ρ₀ = N((−1, 0.3), 0.3²). As Φ is a sum and ρ₀ a product,
so is the minimiser: of two steps in one variable each, which are exact by another method.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np

TEMPERATURE, TAU, HALF = 1 / 3, 0.05, 2.0
POTENTIALS = "(x**2 - 1)**2", "y**2"
CENTER, WIDTH = (-1.0, 0.3), 0.3


def axis(cells: int) -> np.ndarray:
    return -HALF + 2 * HALF / cells * (np.arange(cells) + 0.5)


def start(cells: int) -> np.ndarray:
    """ρ₀ of mass 1 on the cells."""
    x, y = (start_along(cells, c) for c in CENTER)
    return np.outer(x, y)


def start_along(cells: int, center: float) -> np.ndarray:
    density = np.exp(-((axis(cells) - center) ** 2) / (2 * WIDTH**2))
    return density / (density.sum() * 2 * HALF / cells)


def potential(cells: int) -> np.ndarray:
    square = axis(cells) ** 2
    return ((square - 1) ** 2)[:, None] + square


def confine(threads: str) -> None:
    """One thread means one core: before any library counts its cores."""
    if threads == "1":
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = "1"


def peak_bytes() -> int:
    """The most memory this process has held; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def measure(run: Callable[[], tuple[np.ndarray, int]], exact: np.ndarray, before: int, repeats: int) -> dict:
    """The first call, which may compile, and the shortest of `repeats` more; `run` gives density and iterations."""
    began = time.perf_counter()
    density, iterations = run()
    first, seconds = time.perf_counter() - began, math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        density, iterations = run()
        seconds = min(seconds, time.perf_counter() - began)
    density, area = np.asarray(density, float), (2 * HALF / len(exact)) ** 2
    mass = float(density.sum()) * area
    return {
        "first": first, "seconds": seconds, "iterations": int(iterations), "memory": peak_bytes() - before,
        "mass": mass, "l1": float(np.abs(density / mass - exact).sum()) * area,
    }  # fmt: skip


def report(result: dict) -> None:
    """One line of JSON, the last of the output."""
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
