"""The peers' side of `paths.py`, run in their own environment: python _peers.py ROAD THREADS REPEATS → one JSON line.

THREADS is 1 or "all". One thread means one core: the process is confined to it before a library counts its cores.
"""

import math
import os
import sys
from importlib.metadata import version

from _problem import AMPLITUDE, PATHS, START, STEP, STEPS, TEMPERATURE, measure, report, variance_of

VERSIONS = ("numpy", "jax", "diffrax", "torch", "torchsde")


def numpy_plain(threads: int):
    """The loop as one writes it: array expressions and the default generator."""
    import numpy as np

    def block(seed, paths: int):
        rng = np.random.default_rng(seed)
        x, y = np.full(paths, START[0]), np.full(paths, START[1])
        for _ in range(STEPS):
            z = rng.standard_normal((2, paths))
            x, y = x + STEP * (x - x * x * x) + AMPLITUDE * z[0], y - STEP * y + AMPLITUDE * z[1]
        return y

    return _in_blocks(block, threads)


def numpy_in_place(threads: int):
    """A loop without allocation and the fastest bit generator of NumPy."""
    import numpy as np

    def block(seed, paths: int):
        rng = np.random.Generator(np.random.SFC64(seed))
        x, y = np.full(paths, START[0]), np.full(paths, START[1])
        z, drift = np.empty((2, paths)), np.empty(paths)
        for _ in range(STEPS):
            rng.standard_normal(out=z)
            z *= AMPLITUDE
            np.multiply(x, x, out=drift)
            drift -= 1.0
            drift *= x
            drift *= STEP
            x -= drift
            x += z[0]
            y *= 1.0 - STEP
            y += z[1]
        return y

    return _in_blocks(block, threads)


def _in_blocks(block, threads: int):
    """`block(seed, paths)` once per thread, on its share of the paths."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    def run(seed: int):
        seeds = np.random.SeedSequence(seed).spawn(threads)
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(block, seeds, [PATHS // threads] * threads)))

    return run


def _jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def jax_scan(threads: int, generator: str = "threefry2x32"):
    """No solver: `jax.lax.scan` over the steps, all paths in one array, the keys of all steps split beforehand."""
    jax = _jax()
    jnp = jax.numpy

    def step(state, key):
        x, y = state
        z = jax.random.normal(key, (2, PATHS))
        return (x + STEP * (x - x * x * x) + AMPLITUDE * z[0], y - STEP * y + AMPLITUDE * z[1]), None

    @jax.jit
    def solve(key):
        start = jnp.full(PATHS, START[0]), jnp.full(PATHS, START[1])
        return jax.lax.scan(step, start, jax.random.split(key, STEPS))[0][1]

    return lambda seed: _fetched(solve(jax.random.key(seed, impl=generator)))


def jax_scan_rbg(threads: int):
    """The same with XLA's own generator, faster on some machines and not the default."""
    return jax_scan(threads, "unsafe_rbg")


def diffrax_vmap(threads: int):
    """`diffeqsolve`, one path each, mapped over paths: how the package documents ensembles."""
    jax = _jax()
    solve_one = _diffeqsolve(jax, (2,))

    @jax.jit
    def solve(key):
        return jax.vmap(solve_one)(jax.random.split(key, PATHS))[:, 1]

    return lambda seed: _fetched(solve(jax.random.key(seed)))


def diffrax_batch(threads: int):
    """`diffeqsolve` once, its state the array of all paths."""
    jax = _jax()
    solve_all = _diffeqsolve(jax, (2, PATHS))
    solve = jax.jit(lambda key: solve_all(key)[1])
    return lambda seed: _fetched(solve(jax.random.key(seed)))


def _diffeqsolve(jax, shape: tuple[int, ...]):
    """Euler in constant steps; increments drawn as they are needed, nothing kept for derivatives, the end alone."""
    import diffrax
    import lineax

    jnp = jax.numpy
    amplitude = math.sqrt(2 * TEMPERATURE)

    def drift(t, state, args):
        x, y = state
        return jnp.stack([x - x * x * x, -y])

    def noise(t, state, args):
        return lineax.DiagonalLinearOperator(jnp.full(shape, amplitude))

    def solve(key):
        motion = diffrax.UnsafeBrownianPath(shape=jax.ShapeDtypeStruct(shape, jnp.float64), key=key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(noise, motion))
        start = jnp.stack([jnp.full(shape[1:], c) for c in START])
        return diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, STEPS * STEP, STEP, start, saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=diffrax.ConstantStepSize(), adjoint=diffrax.ForwardMode(), max_steps=STEPS + 8,
        ).ys[0]  # fmt: skip

    return solve


def _fetched(array):
    import numpy as np

    return np.asarray(array)


def _torchsde(threads: int, motion_of):
    """`sdeint`, its Euler scheme with diagonal noise, no gradients; `motion_of(torch, seed)` is its `bm`."""
    import torch
    import torchsde

    torch.set_num_threads(threads)

    class DoubleWell:
        noise_type, sde_type = "diagonal", "ito"
        amplitude = torch.full((PATHS, 2), math.sqrt(2 * TEMPERATURE), dtype=torch.float64)

        def f(self, t, state):
            x, y = state[:, 0], state[:, 1]
            return torch.stack([x - x * x * x, -y], dim=1)

        def g(self, t, state):
            return self.amplitude

    end = STEP * STEPS
    times, start = torch.tensor([0.0, end], dtype=torch.float64), torch.tensor(START, dtype=torch.float64)

    def run(seed: int):
        with torch.no_grad():
            states = torchsde.sdeint(
                DoubleWell(), start.repeat(PATHS, 1), times, bm=motion_of(torch, seed), dt=STEP, method="euler"
            )
        return states[-1, :, 1].numpy()

    return run


def torchsde_plain(threads: int):
    """`sdeint` as its examples call it: no Brownian motion given, so that it makes one and is not told the step."""
    import numpy as np

    def motion_of(torch, seed):
        np.random.seed(seed)  # noqa: NPY002 - where torchsde takes its entropy from

    return _torchsde(threads, motion_of)


def torchsde_interval(threads: int):
    """torchsde's own Brownian motion, told the step."""
    import torchsde

    def motion_of(torch, seed):
        return torchsde.BrownianInterval(0.0, STEP * STEPS, (PATHS, 2), dtype=torch.float64, dt=STEP, entropy=seed)

    return _torchsde(threads, motion_of)


def torchsde_forward(threads: int):
    """A Brownian motion that can only be asked forwards: each increment drawn when asked for, none remembered."""
    import torchsde

    class Forward(torchsde.BaseBrownian):
        dtype, device, levy_area_approximation = None, None, "none"
        shape = (PATHS, 2)

        def __init__(self, torch, seed):
            super().__init__()
            self.dtype, self.device = torch.float64, torch.device("cpu")
            self.generator = torch.Generator().manual_seed(seed)
            self.increment = torch.empty(self.shape, dtype=self.dtype)

        def __repr__(self):
            return "Forward()"

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            return self.increment.normal_(0.0, math.sqrt(tb - ta), generator=self.generator)

    return _torchsde(threads, Forward)


ROADS = {
    "NumPy": numpy_plain,
    "NumPy in place": numpy_in_place,
    "JAX, `lax.scan`": jax_scan,
    "JAX, `lax.scan`, generator `unsafe_rbg`": jax_scan_rbg,
    "diffrax, `vmap` over paths": diffrax_vmap,
    "diffrax, one state of all paths": diffrax_batch,
    "torchsde": torchsde_plain,
    "torchsde, `BrownianInterval`": torchsde_interval,
    "torchsde, increments drawn forwards": torchsde_forward,
}


def main(road: str, threads: str, repeats: str) -> None:
    can_confine = hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_confine else list(range(os.cpu_count() or 1))
    if threads == "1" and can_confine:
        os.sched_setaffinity(0, {cores[-1]})
    os.environ["OMP_NUM_THREADS"] = str(count := 1 if threads == "1" else len(cores))
    work = ROADS[road](count)
    result = measure(work, int(repeats), variance_of("euler_maruyama"))
    report(result | {"versions": {name: version(name) for name in VERSIONS}})


if __name__ == "__main__":
    main(*sys.argv[1:])
