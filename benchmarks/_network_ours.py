"""Our side of `networks.py`, in a process of its own: python _network_ours.py ROAD FOLDER THREADS [OPTION …] → JSON.

"prepare" trains the networks and writes what all roads read; "reference" finds in float64 what they are compared with.
"""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
from _network_problem import (
    BATCH,
    CHECKED,
    LEARNING_RATE,
    begin,
    load,
    measure,
    network,
    report,
    residuals,
    save,
    settle,
)

SEED = 1  # of the samples that trajectories see


def prepare(folder: str, settings: dict) -> dict:
    """Train the three networks; write them, their samples, and the samples that trajectories draw."""
    import torch
    from sklearn.datasets import load_digits

    import sde_sgd as sde
    from sde_sgd.validation import digits, train_sgd

    images, labels = load_digits(return_X_y=True)
    take = 300 if settings["small"] else len(images)
    real = {"large": torch.float32, "middle": torch.float64}
    pairs = {n: (torch.from_numpy(images[:take] / 16).to(t), torch.from_numpy(labels[:take])) for n, t in real.items()}
    held = digits(7, range(5))
    pairs["tiny"] = held.inputs.flatten(1), held.targets
    found = {}
    for name, (inputs, targets) in pairs.items():
        model = network(name, settings["small"])
        done = train_sgd(model, inputs, targets, epochs=6, learning_rate=0.1, batch_size=64, sampling="reshuffling")
        save(folder, name, model, inputs, targets)
        size = sum(p.numel() for p in model.parameters())
        found[name] = {"weights": size, "samples": len(inputs), "loss": float(done["loss"][-1])}
    picks = [
        sde.sample_indices(len(held.inputs), batch_size=BATCH, steps=settings["steps"], seed=SEED, replica=r)
        for r in range(settings["replicas"])
    ]
    np.save(Path(folder) / "picks.npy", np.stack(picks).astype(np.int64))
    return found


def noise_of(folder: str, settings: dict, name: str = "large", real: str | None = None):
    from torch import nn

    from sde_sgd.validation import GradientNoise

    problem = load(folder, name, settings, real)
    return GradientNoise(problem.model, nn.CrossEntropyLoss(), (problem.inputs, problem.targets)), problem


def curvature_of(problem):
    from torch import nn

    from sde_sgd.validation import Curvature

    return Curvature(problem.model, nn.CrossEntropyLoss(), (problem.inputs, problem.targets))


def reference(folder: str, settings: dict) -> dict:
    """Float64: all eigenvalues of D, and 20 of D + ggᵀ and H; checked by tr D from gradients, and by products."""
    k = settings["eigenvalues"]
    noise, problem = noise_of(folder, settings, real="float64")
    centred = noise.spectrum()
    uncentred = np.linalg.eigvalsh(noise.gram() / noise.samples)[::-1][:k]
    pairs = noise.eigenpairs(3)  # whose residuals are by products, without the Gram matrix
    hessian = curvature_of(problem).spectrum(k, method="lanczos", tolerance=1e-4)  # an error of its square over a gap
    np.savez(Path(folder) / "reference.npz", centred=centred, uncentred=uncentred, hessian=hessian)
    return {
        "trace": abs(float(centred.sum() / noise.trace()) - 1),
        "residual": float(pairs["residuals"].max() / centred[0]),
        "shift": float(np.abs(uncentred - centred[:k]).max() / centred[0]),
    }


def eigenvalue_error(folder: str, which: str, values: np.ndarray) -> float:
    with np.load(Path(folder) / "reference.npz") as exact:
        return float(np.abs(values - exact[which][: len(values)]).max() / exact[which][0])


def spectrum(folder: str, settings: dict, method: str) -> dict:
    """All eigenvalues of D, or as many as the peers find by products; building the object is part of it."""
    from torch import nn

    from sde_sgd.validation import GradientNoise

    problem = load(folder, "large", settings)
    loss, data = nn.CrossEntropyLoss(), (problem.inputs, problem.targets)
    options = {"k": settings["eigenvalues"], "method": "lanczos", "tolerance": 1e-3} if method == "lanczos" else {}
    timing, values = measure(lambda: GradientNoise(problem.model, loss, data).spectrum(**options), problem.device)
    return timing | {"count": len(values), "error": eigenvalue_error(folder, "centred", values)}


def hessian(folder: str, settings: dict, tolerance: str) -> dict:
    """The largest eigenpairs of H to a residual of `tolerance` times the largest."""
    problem = load(folder, "large", settings)
    work = lambda: curvature_of(problem).eigenpairs(  # noqa: E731
        settings["eigenvalues"], method="lanczos", tolerance=float(tolerance)
    )
    timing, pairs = measure(work, problem.device)
    values = pairs["eigenvalues"].values
    worst = max(residuals(problem, values, pairs["vectors"].values)) / values[0]
    error = eigenvalue_error(folder, "hessian", values)
    return timing | {"products": pairs.attrs["products"], "residual": worst, "error": error}


def kernel(folder: str, settings: dict) -> dict:
    """Seconds a step of one trajectory, drawing the samples included."""
    from sde_sgd.validation import OneHiddenLayer

    problem = load(folder, "tiny", settings)
    options = {"learning_rate": LEARNING_RATE, "batch_size": BATCH, "seed": SEED}
    begun = lambda: OneHiddenLayer(problem.model, problem.inputs, problem.targets, **options)  # noqa: E731
    checked = begun()
    checked.run(CHECKED)
    np.save(Path(folder) / "steps_ours.npy", checked.weights)
    steps = 20 * settings["steps"]
    timing, _ = measure(lambda: begun().run(steps), "cpu")
    return timing | {"seconds": timing["seconds"] / steps}


def replicas(folder: str, settings: dict, compiled: str) -> dict:
    """Seconds a replica's step of `ensemble`, between two looks at the clock, so that compilation stands apart."""
    from sde_sgd.validation import ensemble

    problem = load(folder, "tiny", settings)
    ticks: list[tuple[int, float]] = []

    def tick(done: int, steps: int) -> None:
        settle(problem.device)
        ticks.append((done, time.perf_counter()))

    began = time.perf_counter()
    found = ensemble(
        problem.model, problem.inputs, problem.targets, replicas=settings["replicas"], steps=settings["steps"],
        learning_rate=LEARNING_RATE, batch_size=BATCH, seed=SEED, save_every=CHECKED, compile=compiled == "compiled",
        progress=tick,
    )  # fmt: skip
    if found.attrs["compiled"] != (compiled == "compiled"):
        raise RuntimeError("torch.compile failed here: see the warning")
    np.save(Path(folder) / f"replicas_{compiled}.npy", found["weights"].sel(step=CHECKED).values)
    each = [(b - a) / (n - m) for (m, a), (n, b) in itertools.pairwise(ticks) if n > m]
    return {"first": ticks[0][1] - began, "seconds": min(each) / settings["replicas"]}


def sample(folder: str, settings: dict, name: str) -> dict:
    """A draw of N(0, D/b) at the same weights, the graph of the losses being kept."""
    import torch

    noise, problem = noise_of(folder, settings, name)
    np.save(Path(folder) / f"draw_ours_{name}.npy", noise.sample(BATCH, torch.Generator().manual_seed(0)).cpu().numpy())
    generator = torch.Generator().manual_seed(0)
    timing, _ = measure(lambda: noise.sample(BATCH, generator), problem.device, 30)
    return timing


def euler(folder: str, settings: dict, name: str, replicas: str = "1") -> dict:
    """A replica's step of the SDE, gradient and noise at new weights each time."""
    from torch import nn

    from sde_sgd.validation import NetworkSDE

    problem = load(folder, name, settings)
    data = problem.inputs, problem.targets
    run = NetworkSDE(problem.model, nn.CrossEntropyLoss(), data, learning_rate=LEARNING_RATE, batch_size=BATCH)
    steps = 10 if name == "large" else 100
    run.euler(steps=1, replicas=int(replicas))
    timing, _ = measure(lambda: run.euler(steps=steps, replicas=int(replicas)), problem.device)
    return timing | {"seconds": timing["seconds"] / (steps * int(replicas))}


ROADS = {f.__name__: f for f in (prepare, reference, spectrum, hessian, kernel, replicas, sample, euler)}


def main(road: str, folder: str, threads: str, *options: str) -> None:
    report(ROADS[road](folder, begin(folder, threads), *options))


if __name__ == "__main__":
    main(*sys.argv[1:])
