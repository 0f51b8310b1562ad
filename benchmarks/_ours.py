"""Our side of `paths.py`: schemes and float types, the floor below them, threads, memory, the first call."""

import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _machine import best_seconds, cores
from _problem import PATHS, START, STEP, STEPS, TEMPERATURE, measure, variance_of

import sde_sgd as sde

LANES = 64
ROADS = (  # scheme, float type
    ("euler_maruyama", "float64"),
    ("euler_maruyama", "float32"),
    ("weak_euler", "float64"),
    ("leimkuhler_matthews", "float64"),
    ("milstein", "float64"),
    ("stochastic_heun", "float64"),
    ("weak_heun", "float64"),
    ("sra1", "float64"),
)


def simulated(scheme: str, real: str, threads: int | None, repeats: int) -> dict:
    """A road of `simulate`, as anyone would call it."""
    process = sde.landscapes.get("double_well").at_temperature(TEMPERATURE)

    def work(seed: int) -> np.ndarray:
        run = sde.simulate(
            process, START, step=STEP, steps=STEPS, paths=PATHS, scheme=scheme, dtype=real, threads=threads, seed=seed
        )
        return run.y.values.astype(float)

    return measure(work, repeats, variance_of(scheme))


_DRAW = {
    "float64": """
        for step in range(steps):
            for j in range(LANES):
                path = np.uint64(base + j)
                words[0, j], words[1, j] = _two_words(np.uint64(step), _U0, path & _LOW, path >> _U32, key0, key1)
            for j in range(LANES):
                z0, z1 = _normal_pair(words[0, j], words[1, j])
                sums[0, j] += z0
                sums[1, j] += z1
    """,
    "float32": """
        for step in range(steps // 2):  # one block serves two steps
            for j in range(LANES):
                path = np.uint64(base + j)
                words[0, j], words[1, j], words[2, j], words[3, j] = _four_words(
                    np.uint64(step), _U0, path & _LOW, path >> _U32, key0, key1)
            for j in range(LANES):
                z0, z1 = _normal_pair32(words[0, j], words[1, j])
                z2, z3 = _normal_pair32(words[2, j], words[3, j])
                sums[0, j] += z0 + z2
                sums[1, j] += z1 + z3
    """,
}


def normals_only(real: str):
    """draw(seed, threads): the normals of `simulate` added up, with no drift, no check and nothing saved."""
    from sde_sgd.paths._ensemble import key_of
    from sde_sgd.paths._kernel_cache import HEADER, imports, load

    body = f"""
@njit(cache=True, nogil=True, error_model="numpy")
def kernel(state, first, last, steps, key0, key1):
    _widest_vectors()
    sums, words = np.zeros((2, LANES), np.{real}), np.zeros((4, LANES), np.uint{real[5:]})
    for chunk in range(first, last):
        base = chunk * LANES
        sums[:] = 0.0
{textwrap.indent(textwrap.dedent(_DRAW[real]).strip(), " " * 8)}
        for j in range(LANES):
            state[0, base + j], state[1, base + j] = sums[0, j], sums[1, j]
"""
    fragments = ["_philox", *(["_normals32"] if real == "float32" else [])]
    body = body.replace("LANES", str(LANES))
    source = "\n".join([HEADER, *imports(fragments, body), body])
    kernel, state = load(source).kernel, np.empty((2, PATHS), real)

    def draw(seed: int, threads: int = 1) -> np.ndarray:
        edges = np.linspace(0, PATHS // LANES, threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda a, b: kernel(state, a, b, STEPS, *key_of(seed)), edges[:-1], edges[1:]))
        return state[1].astype(float) / math.sqrt(STEPS)

    return draw


def floor(real: str, threads: int, repeats: int) -> dict:
    draw = normals_only(real)
    return measure(lambda seed: draw(seed, threads), repeats, 1.0)


def scaling(repeats: int) -> list[tuple[int, float, float]]:
    """(threads, speed of the normals alone, of `simulate`), both over one thread.

    The normals are arithmetic alone, their data in the first cache: what the machine gives. All take turns, so that
    what else the machine does meets each of them.
    """
    process, draw = sde.landscapes.get("double_well").at_temperature(TEMPERATURE), normals_only("float64")

    def simulate(threads: int):
        sde.simulate(process, START, step=STEP, steps=STEPS, paths=PATHS, scheme="euler_maruyama", threads=threads)

    counts, works = range(1, cores() + 1), (lambda n: draw(0, n), simulate)
    shortest = np.full((len(works), len(counts)), math.inf)
    for _ in range(repeats + 1):  # one more: the first compiles
        for i, work in enumerate(works):
            for k, count in enumerate(counts):
                shortest[i, k] = min(shortest[i, k], best_seconds(lambda work=work, count=count: work(count), 1))
    gains = shortest[:, :1] / shortest
    return [(count, float(gains[0, k]), float(gains[1, k])) for k, count in enumerate(counts)]


MEMORY = """
import json, sys, time
import numpy as np
from _machine import peak_bytes
import sde_sgd as sde
paths, steps = map(int, sys.argv[1:])
process = sde.landscapes.get("double_well").at_temperature(0.2)
grid = sde.Grid((-3, -3), (3, 3), (120, 120))
def run(paths, steps):
    return sde.sample_density(process, grid, step=0.01, steps=steps, paths=paths, burn_in=steps // 2)
run(64, 10)
before, began = peak_bytes(), time.perf_counter()
density = run(paths, steps)
seconds, peak = time.perf_counter() - began, peak_bytes()
exact = np.exp(-process.potential(grid.centers()) / process.temperature)
exact /= exact.sum() * grid.cell_volume
distance = float(np.abs(density.values - exact).sum() * grid.cell_volume)
print(json.dumps({"before": before, "peak": peak, "seconds": seconds, "l1": distance}))
"""


def memory(paths: int, steps: int) -> dict[str, float]:
    """Peak memory of a process that counts paths × steps states, and of the same process just before."""
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", MEMORY, str(paths), str(steps)]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the memory run failed:\n{done.stderr}")
    return json.loads(done.stdout) | {"paths": paths, "samples": float(paths) * steps}


FRESH = """
import sys, time
began = time.perf_counter()
import numba
import sde_sgd as sde
sde.landscapes.get, sde.simulate
imported = time.perf_counter()
if sys.argv[1] == "catalogue":
    landscape = sde.landscapes.get("double_well")
else:
    landscape = sde.Landscape(("x", "y"), "a*(x**2 - y)**2 + (1 - x)**2/2 + log(1 + y**2)/4", parameters={"a": 0.7})
process = landscape.at_temperature(0.2)
defined = time.perf_counter()
sde.simulate(process, (-1.0, 0.0), step=0.01, steps=1, paths=64, threads=1)
called = time.perf_counter()
sde.simulate(process, (-1.0, 0.0), step=0.01, steps=1, paths=64, threads=1)
again = time.perf_counter()
print(imported - began, defined - imported, called - defined, again - called)
"""


def first_calls(repeats: int) -> list[tuple[str, np.ndarray]]:
    """Seconds for import, definition, first and second call of fresh processes, their kernel folder empty or filled."""
    rows = []
    for kind, title in (("catalogue", "`double_well` of the catalogue"), ("expression", "a loss given as a string")):
        cold, warm = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                os.chmod(folder, 0o700)
                environment = os.environ | {"SDE_SGD_CACHE_DIR": folder}
                for results in (cold, warm):
                    done = subprocess.run(
                        [sys.executable, "-c", FRESH, kind], env=environment, capture_output=True, text=True, check=True
                    )
                    results.append([float(word) for word in done.stdout.split()])
        rows += [(f"{title}, compiled", np.min(cold, axis=0)), (f"{title}, from the folder", np.min(warm, axis=0))]
    return rows
