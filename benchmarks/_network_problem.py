"""The networks that every road of `networks.py` works on: read in our environment and in that of the peers.

A folder holds `settings.json` and `NAME.npz` with the samples and the trained weights. Time, memory and the true
residuals of eigenpairs are measured here, the same way for every road.
"""

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _jko_problem import confine, peak_bytes, report

__all__ = ["begin", "load", "measure", "network", "report", "residuals", "save", "settle", "weights_of"]

ENOUGH = 4.0  # seconds after which a measurement is not repeated
FORMS = {  # layers, activation, float type; with --small the first sizes are other ones
    "large": ((64, 964, 964, 10), "Tanh", "float32"),
    "middle": ((64, 64, 10), "Tanh", "float64"),
    "tiny": ((49, 16, 5), "ReLU", "float64"),
}
SMALL = (64, 40, 40, 10)
LEARNING_RATE, BATCH = 0.05, 32
CHECKED = 20  # steps after which trajectories are compared
FLOOR = 2e-5  # of residuals in float32 over the largest eigenvalue: rounding


class Problem(NamedTuple):
    """A model, its samples, and what the settings say of them."""

    model: object
    inputs: object
    targets: object
    device: str


def begin(folder: str, threads: str) -> dict:
    """The settings of the folder; one thread means one core. Before torch is imported."""
    confine(threads)
    settings = json.loads((Path(folder) / "settings.json").read_text("utf-8"))
    import torch

    if threads == "1":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings["tf32"]
    return settings


def network(name: str, small: bool = False):
    """The network with weights from seed 0, in its float type."""
    import torch
    from torch import nn

    sizes, activation, real = FORMS[name]
    sizes = SMALL if small and name == "large" else sizes
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for given, made in itertools.pairwise(sizes):
            layers += [nn.Linear(given, made), getattr(nn, activation)()]
    return nn.Sequential(*layers[:-1]).to(getattr(torch, real))


def save(folder: str, name: str, model, inputs, targets) -> None:
    np.savez(Path(folder) / f"{name}.npz", inputs=inputs, targets=targets, weights=weights_of(model))


def load(folder: str, name: str, settings: dict, real: str | None = None) -> Problem:
    """The trained network on the device; `real` is a float type in place of its own."""
    import torch
    from torch.nn.utils import vector_to_parameters

    model = network(name, settings["small"])
    with np.load(Path(folder) / f"{name}.npz") as held:
        inputs, targets, weights = (torch.from_numpy(held[key]) for key in ("inputs", "targets", "weights"))
    vector_to_parameters(weights, model.parameters())
    device, dtype = settings["device"], getattr(torch, real or FORMS[name][2])
    return Problem(model.to(device, dtype), inputs.to(device, dtype), targets.to(device), device)


def weights_of(model) -> np.ndarray:
    from torch.nn.utils import parameters_to_vector

    return parameters_to_vector(model.parameters()).detach().cpu().numpy()


def settle(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def measure(run: Callable[[], object], device: str, repeats: int = 4) -> tuple[dict, object]:
    """Seconds of the shortest of up to `repeats` runs and of the first; cores kept busy; bytes the first one added."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    before, seconds, memory, found = peak_bytes(), [], 0, None
    for index in range(repeats):
        if sum(seconds) > ENOUGH:
            break
        settle(device)
        began, used = time.perf_counter(), time.process_time()
        found = run()
        settle(device)
        seconds.append(time.perf_counter() - began)
        if seconds[-1] == min(seconds):
            busy = (time.process_time() - used) / seconds[-1]
        if index == 0:
            memory = peak_bytes() - before if device == "cpu" else torch.cuda.max_memory_allocated() - held
    return {"first": seconds[0], "seconds": min(seconds), "cores": busy, "memory": memory}, found


def residuals(problem: Problem, values: np.ndarray, vectors: np.ndarray) -> list[float]:
    """|H q − λ q| of unit vectors (k, d) for the Hessian of the mean loss: forward over reverse by torch.func."""
    import torch
    from torch.func import functional_call, grad, jvp

    model, inputs, targets, _ = problem
    at = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, weights, (inputs,)), targets)

    found = []
    for value, vector in zip(values, vectors):
        q = torch.as_tensor(np.ascontiguousarray(vector)).to(inputs)
        pieces = torch.split(q, [p.numel() for p in at.values()])
        along = {name: piece.reshape(p.shape) for (name, p), piece in zip(at.items(), pieces)}
        image = jvp(grad(loss), (at,), (along,))[1]
        product = torch.cat([part.reshape(-1) for part in image.values()]).double()
        found.append(float((product - float(value) * q.double()).norm()))
    return found


def noise_weights(samples: int):
    """(N,) float64 u_k = (ξ_k − ξ̄)/√(bN), Σ_k u_k g_k being a draw of N(0, D/b): the same ξ on every road."""
    import torch

    drawn = torch.randn(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn - drawn.mean()) / math.sqrt(BATCH * samples)
