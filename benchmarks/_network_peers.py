"""The peers' side of `networks.py`, run in their own environment:

python _network_peers.py ROAD FOLDER THREADS [OPTION …] → one JSON line.
"""

import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from _network_problem import (
    BATCH,
    CHECKED,
    LEARNING_RATE,
    begin,
    load,
    measure,
    noise_weights,
    report,
    residuals,
    weights_of,
)

VERSIONS = ("torch", "scipy", "backpack-for-pytorch", "curvlinops-for-pytorch", "pyhessian")
ROWS = 256  # samples whose gradients BackPACK makes at once


def _error(folder: str, which: str, values: np.ndarray) -> float:
    with np.load(Path(folder) / "reference.npz") as exact:
        return float(np.abs(values - exact[which][: len(values)]).max() / exact[which][0])


def _largest(operator, k: int, tolerance: float, vectors: bool, basis: int | None = None):
    """scipy.sparse.linalg.eigsh, descending; how many products it took. `basis` is its ncv, 2k + 1 by default."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    plain, count = operator.to_scipy(), [0]

    def product(v):
        count[0] += 1
        return plain.matvec(v)

    counted = LinearOperator(plain.shape, matvec=product, dtype=plain.dtype)
    start = np.random.default_rng(0).standard_normal(plain.shape[0])
    found = eigsh(counted, k=k, which="LA", tol=tolerance, ncv=basis, v0=start, return_eigenvectors=vectors)
    if not vectors:
        return np.sort(found)[::-1], None, count[0]
    order = np.argsort(found[0])[::-1]
    return found[0][order], found[1].T[order], count[0]


def curvlinops_noise(folder: str, settings: dict, tolerance: str) -> dict:
    """Eigenvalues of D + ggᵀ, the "empirical Fisher": curvlinops has no centred one."""
    import curvlinops
    from torch import nn

    problem = load(folder, "large", settings)
    weights, data = list(problem.model.parameters()), [(problem.inputs, problem.targets)]

    def run():
        operator = curvlinops.EFLinearOperator(
            problem.model, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
        )
        return _largest(operator, settings["eigenvalues"], float(tolerance), False)

    timing, (values, _, products) = measure(run, problem.device, 2)
    return timing | {"count": len(values), "products": products, "error": _error(folder, "uncentred", values)}


def curvlinops_hessian(folder: str, settings: dict, tolerance: str, basis: str | None = None) -> dict:
    import curvlinops
    from torch import nn

    problem = load(folder, "large", settings)
    weights, data = list(problem.model.parameters()), [(problem.inputs, problem.targets)]

    def run():
        operator = curvlinops.HessianLinearOperator(
            problem.model, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
        )
        return _largest(operator, settings["eigenvalues"], float(tolerance), True, basis and int(basis))

    timing, (values, vectors, products) = measure(run, problem.device, 2)
    worst = max(residuals(problem, values, vectors)) / values[0]
    return timing | {"products": products, "residual": worst, "error": _error(folder, "hessian", values)}


def pyhessian(folder: str, settings: dict) -> dict:
    """Power iteration with deflation, as the package has it: the largest in modulus, one after another."""
    import pyhessian
    import torch
    from torch import nn

    inner = sys.modules["pyhessian.hessian"]  # the package has a class of that name in its place
    problem = load(folder, "large", settings)
    count, plain = [0], inner.hessian_vector_product

    def counted(*arguments):
        count[0] += 1
        return plain(*arguments)

    inner.hessian_vector_product = counted
    torch.manual_seed(0)
    cuda = problem.device != "cpu"

    def run():
        data = problem.inputs, problem.targets
        found = pyhessian.hessian(problem.model, nn.CrossEntropyLoss(), data=data, cuda=cuda)
        return found.eigenvalues(top_n=settings["eigenvalues"], tol=1e-3)

    timing, (values, vectors) = measure(run, problem.device, 1)
    order = np.argsort(values)[::-1]
    values = np.asarray(values)[order]
    rows = [torch.cat([part.reshape(-1) for part in vectors[i]]).detach().cpu().numpy() for i in order]
    worst = max(residuals(problem, values, rows)) / values[0]
    return timing | {"products": count[0], "residual": worst, "error": _error(folder, "hessian", values)}


class _Gradients:
    """Gradients of the samples by BackPACK's BatchGrad, ROWS of them at once."""

    def __init__(self, problem):
        from backpack import backpack, extend, extensions
        from torch import nn

        self._problem, self._model = problem, extend(problem.model)
        self._loss = extend(nn.CrossEntropyLoss(reduction="sum"))
        self._record = lambda: backpack(extensions.BatchGrad())
        self.size = sum(p.numel() for p in problem.model.parameters())

    def each(self):
        """(rows, gradients (rows, d))"""
        import torch

        inputs, targets = self._problem.inputs, self._problem.targets
        for start in range(0, len(inputs), ROWS):
            rows = slice(start, start + ROWS)
            with self._record():
                self._loss(self._model(inputs[rows]), targets[rows]).backward()
            yield rows, torch.cat([p.grad_batch.flatten(1) for p in self._model.parameters()], dim=1)
            for p in self._model.parameters():
                p.grad = None
                del p.grad_batch

    def all(self):
        """(N, d)"""
        import torch

        held = torch.empty(len(self._problem.inputs), self.size).to(self._problem.inputs)
        for rows, found in self.each():
            held[rows] = found
        return held


def backpack_noise(folder: str, settings: dict) -> dict:
    """All gradients, their inner products in their own float type, centred in float64."""
    import torch

    problem = load(folder, "large", settings)
    samples, gradients = len(problem.inputs), _Gradients(problem)

    def run():
        held = gradients.all()
        inner = (held @ held.T).double()
        inner -= inner.mean(dim=0)
        inner -= inner.mean(dim=1, keepdim=True)
        return torch.linalg.eigvalsh(inner / samples).flip(0)[: samples - 1].cpu().numpy()

    timing, values = measure(run, problem.device, 1)
    return timing | {"count": len(values), "error": _error(folder, "centred", values)}


def eager(folder: str, settings: dict) -> dict:
    """Seconds a step of the plainest loop: indexing, forward, backward, torch.optim.SGD; the samples drawn before."""
    import torch
    from torch import nn

    problem, picks = load(folder, "tiny", settings), torch.from_numpy(np.load(Path(folder) / "picks.npy"))[0]
    picks, start = picks.to(problem.device), problem.model.state_dict()
    start = {name: value.clone() for name, value in start.items()}

    def run(steps: int):
        problem.model.load_state_dict(start)
        optimizer = torch.optim.SGD(problem.model.parameters(), lr=LEARNING_RATE)
        for batch in picks[:steps]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(problem.model(problem.inputs[batch]), problem.targets[batch]).backward()
            optimizer.step()

    run(CHECKED)
    np.save(Path(folder) / "steps_eager.npy", weights_of(problem.model))
    timing, _ = measure(lambda: run(settings["steps"]), problem.device)
    return timing | {"seconds": timing["seconds"] / settings["steps"]}


def replicas(folder: str, settings: dict, compiled: str) -> dict:
    """Seconds a replica's step of vmap(grad) over stacked weights, written out; the samples drawn before."""
    import torch
    from torch import nn
    from torch.func import functional_call, grad, stack_module_state, vmap

    problem, picks = load(folder, "tiny", settings), torch.from_numpy(np.load(Path(folder) / "picks.npy"))
    picks = picks.to(problem.device).transpose(0, 1).contiguous()
    stacked, _ = stack_module_state([problem.model] * settings["replicas"])
    start = {name: value.detach().clone() for name, value in stacked.items()}

    def loss(weights, inputs, targets):
        return nn.functional.cross_entropy(functional_call(problem.model, weights, (inputs,)), targets)

    slopes = vmap(grad(loss))

    def step(weights, batch):
        found = slopes(weights, problem.inputs[batch], problem.targets[batch])
        return {name: value - LEARNING_RATE * found[name] for name, value in weights.items()}

    move = torch.compile(step) if compiled == "compiled" else step

    def run(steps: int):
        weights = start
        with torch.no_grad():
            for batch in picks[:steps]:
                weights = move(weights, batch)
        return weights

    began = time.perf_counter()
    rows = [value.flatten(1) for value in run(CHECKED).values()]
    first = time.perf_counter() - began
    np.save(Path(folder) / f"replicas_peer_{compiled}.npy", torch.cat(rows, dim=1).cpu().numpy())
    timing, _ = measure(lambda: run(CHECKED), problem.device, 8)
    return timing | {"first": first, "seconds": timing["seconds"] / (CHECKED * settings["replicas"])}


def weighted(folder: str, settings: dict, name: str) -> dict:
    """A draw by torch alone: one forward and one weighted backward pass."""
    from torch import nn
    from torch.nn.utils import parameters_to_vector

    problem = load(folder, name, settings)
    weights, parameters = noise_weights(len(problem.inputs)).to(problem.inputs), list(problem.model.parameters())

    def run():
        import torch

        losses = nn.functional.cross_entropy(problem.model(problem.inputs), problem.targets, reduction="none")
        return parameters_to_vector(torch.autograd.grad(losses @ weights, parameters))

    timing, drawn = measure(run, problem.device, 30)
    np.save(Path(folder) / f"draw_weighted_{name}.npy", drawn.cpu().numpy())
    return timing


def backpack_draw(folder: str, settings: dict, name: str) -> dict:
    """A draw from the gradients of all samples, made anew."""
    import torch

    problem = load(folder, name, settings)
    weights, gradients = noise_weights(len(problem.inputs)).to(problem.inputs), _Gradients(problem)

    def run():
        return torch.stack([weights[rows] @ found for rows, found in gradients.each()]).sum(dim=0)

    timing, drawn = measure(run, problem.device, 10)
    np.save(Path(folder) / f"draw_backpack_{name}.npy", drawn.cpu().numpy())
    return timing


def cholesky(folder: str, settings: dict, name: str) -> dict:
    """A draw from D itself: gradients by BackPACK, D, its Cholesky factor (1e-12 tr D on the diagonal, as D is
    singular), a product; `again` is the product alone, at the same weights."""
    import torch

    problem = load(folder, name, settings)
    gradients, generator, kept = _Gradients(problem), torch.Generator().manual_seed(0), {}

    def draw(factor):
        return factor @ torch.randn(len(factor), generator=generator, dtype=torch.float64).to(factor) / BATCH**0.5

    def run():
        held = gradients.all().double()
        held -= held.mean(dim=0)
        kept["matrix"] = matrix = held.T @ held / len(held)
        lifted = matrix + 1e-12 * matrix.trace() * torch.eye(len(matrix)).to(matrix)
        kept["factor"] = factor = torch.linalg.cholesky(lifted)
        return draw(factor)

    timing, _ = measure(run, problem.device)
    again, _ = measure(lambda: draw(kept["factor"]), problem.device, 30)
    gap = (kept["factor"] @ kept["factor"].T - kept["matrix"]).norm() / kept["matrix"].norm()
    return timing | {"again": again["seconds"], "error": float(gap)}


ROADS = {
    f.__name__: f
    for f in (curvlinops_noise, curvlinops_hessian, pyhessian, backpack_noise, eager, replicas, weighted,
              backpack_draw, cholesky)
}  # fmt: skip


def main(road: str, folder: str, threads: str, *options: str) -> None:
    warnings.simplefilter("ignore")
    settings = begin(folder, threads)
    report(ROADS[road](folder, settings, *options) | {"versions": {name: version(name) for name in VERSIONS}})


if __name__ == "__main__":
    main(*sys.argv[1:])
