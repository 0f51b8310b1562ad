"""Roads of the crosscheck that need torch: torchsde's integrator and noise, and a module trained by torch.optim."""

from __future__ import annotations

import numpy as np
import torch

import sde_sgd as sde
from sde_sgd._crosscheck_gap import DERIVATIVES, PHILOX, Gap, made_of
from sde_sgd._crosscheck_roads import NotTaken, Question, sampled

from .neuron import replay_sgd
from .torchsde_adapter import torchsde_states

_SHARE = 4  # torchsde is a hundred times slower than the core's kernels, and gets fewer paths
_UPDATES = 2000  # of the module
_ROUNDING = 1e-12  # of its weights after them


def through_torchsde(question: Question) -> list[Gap]:
    """Euler–Maruyama by torchsde with its own Brownian motion, extrapolated in the step."""
    paths, states = question.paths // _SHARE, []
    threads = torch.get_num_threads()
    torch.set_num_threads(question.threads or threads)
    try:
        for stream, finer in enumerate((1, 2)):
            steps = max(2, round(question.time / question.step)) * finer
            run = torchsde_states(
                question.process,
                question.starts(20 + stream, paths),
                step=question.time / steps,
                steps=steps,
                paths=paths,
                burn_in=steps - 1,
                seed=question.stream(20 + stream),
            )
            states.append(list(run)[-1][-1])
    finally:
        torch.set_num_threads(threads)
    setting = f"euler_maruyama, h = {2 * question.time / steps:.3g} and half of it"
    parts = (DERIVATIVES, "euler_maruyama")
    return sampled(question, "torchsde", states, parts, setting)


def torch_module(question: Question) -> list[Gap]:
    """A `torch.nn.Module` trained by `torch.optim.SGD` on the samples the core's kernel drew: the same weights."""
    neuron = question.process.landscape
    if not isinstance(neuron, sde.FiniteSum) or neuron.name != "neuron":
        raise NotTaken("only the neuron exists as a torch module")
    eta, start = 2 * question.process.constant_temperature, question.starts(30, 1)[0]
    run = sde.sgd(
        neuron, start, learning_rate=eta, batch_size=1, steps=_UPDATES, save_every=1, seed=question.seed
    )  # fmt: skip
    ours = np.stack([run[name].values[0] for name in neuron.variables], axis=-1)
    picks = sde.sample_indices(neuron.samples, batch_size=1, steps=_UPDATES, seed=question.seed)
    theirs = replay_sgd(
        picks, neuron.data["x"], neuron.data["y"], start,
        learning_rate=eta, weight_decay=neuron.parameters["weight_decay"],
    )  # fmt: skip
    where = np.unravel_index(int(np.abs(ours - theirs).argmax()), ours.shape)
    one, other = float(ours[where]), float(theirs[where])
    about = made_of((PHILOX, "kernel of SGD"), ("autograd", PHILOX))
    setting = f"{_UPDATES} updates, b = 1, η = {eta:g}"
    pair = "SGD – torch module"
    gap = Gap("weights", pair, one, other, abs(one - other), 0.0, 0.0, 0.0, 0.0, _ROUNDING, **about, setting=setting)
    return [gap]
