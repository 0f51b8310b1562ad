"""The densities every road of `fokker_planck.py` solves for, in numbers alone: read in our environment and the peers'.

∂p/∂t = div(p ∇V + ∇p/β), V = (x² − 1)² + y² + xy/2, on [−2, 2]² without flux, from a Gaussian blob in the left well.
"""

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np

BETA, END, HALF = 3.0, 1.0, 2.0
CENTER, WIDTH = (-1.0, 0.3), 0.3


def potential(x, y):
    return (x * x - 1) ** 2 + y * y + 0.5 * x * y


def centers(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the cell centres, (cells, cells) each."""
    axis = -HALF + 2 * HALF / cells * (np.arange(cells) + 0.5)
    return tuple(np.meshgrid(axis, axis, indexing="ij"))  # type: ignore[return-value]


def blob(cells: int) -> np.ndarray:
    """The density at time 0, of mass 1, as averages over the cells."""
    edges = np.linspace(-HALF, HALF, cells + 1)
    x, y = ([math.erf((e - c) / (WIDTH * math.sqrt(2))) for e in edges] for c in CENTER)
    density = np.outer(np.diff(x), np.diff(y))
    return density / (density.sum() * (2 * HALF / cells) ** 2)


def coarse(density: np.ndarray, cells: int) -> np.ndarray:
    """Averages over blocks of cells."""
    factor = len(density) // cells
    return density.reshape(cells, factor, cells, factor).mean(axis=(1, 3))


def l1(density: np.ndarray, reference: np.ndarray) -> float:
    """The distance on the cells of the reference, whose averages the finer density is first brought to."""
    density = coarse(density, len(reference))
    return float(np.abs(density - reference).sum() * (2 * HALF / len(density)) ** 2)


def measure(run: Callable[[], np.ndarray], reference: np.ndarray, setup: float, repeats: int) -> dict:
    """The shortest of `repeats` runs, which each return the density at the end; the first may compile."""
    first = time.perf_counter()
    density = np.asarray(run(), float)
    times = [time.perf_counter() - first]
    for _ in range(repeats - 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    mass = float(density.sum() * (2 * HALF / len(density)) ** 2)
    return {
        "seconds": min(times), "setup": setup, "l1": l1(density, reference), "least": float(density.min()), "mass": mass
    }  # fmt: skip


def report(result: dict) -> None:
    """One line of JSON, the last of the output."""
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
