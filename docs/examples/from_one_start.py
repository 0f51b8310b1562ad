r"""
Ten optimisers, one start
=========================

SGD, momentum, Nesterov, AdaGrad, RMSprop, Adam, SVRG, Entropy-SGD, Parle and Elastic-SGD, from the same weights and on
as many mini-batches. Where do they end: in different basins? The loss on the straight line from the end of SGD to
that of another, above the chord through both ends, tells how high the wall between them is:

.. math::

   B = \max_{0\le\alpha\le 1}\; f((1-\alpha)\,u + \alpha v) - (1-\alpha)\,f(u) - \alpha f(v).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import sde_sgd as sde
from sde_sgd.validation import OPTIMISERS, digits, optimise, tiny_fc

data, loss, alpha = digits(7, range(5)), torch.nn.functional.cross_entropy, np.linspace(0, 1, 21)
rates = dict(momentum=0.03, nesterov=0.03, adagrad=0.1, rmsprop=0.003, adam=0.01)  # of the others 0.3
chains = {"entropy-sgd": dict(inner_steps=20, tether=0.1), "parle": dict(inner_steps=20, tether=0.1, elastic=0.1)}
ADAPTIVE = ("adagrad", "rmsprop", "adam")


def end(name, start, seed=0):
    run = optimise(
        tiny_fc(seed=start), data.inputs, data.targets, optimiser=name, learning_rate=rates.get(name, 0.3),
        batch_size=16, steps=400, seed=seed, **chains.get(name, {}),
    )  # fmt: skip
    return run.weights.values[-1]


def along(u, v):
    """f on the line from u to v."""
    model, found = tiny_fc(), []
    for a in alpha:
        torch.nn.utils.vector_to_parameters(torch.from_numpy((1 - a) * u + a * v), model.parameters())
        with torch.no_grad():
            found.append(float(loss(model(data.inputs), data.targets)))
    return np.array(found)


# %%
# Three starts. Besides the others, SGD goes once more from each start on other mini-batches, and its ends from two
# starts are compared.

lines = {name: [] for name in (*OPTIMISERS, "sgd, another start")}
for start in range(3):
    plain = end("sgd", start)
    for name in OPTIMISERS:
        lines[name].append(along(plain, end(name, start, seed=int(name == "sgd"))))
    lines["sgd, another start"].append(along(plain, end("sgd", start + 10)))
lines = {name: np.array(several) for name, several in lines.items()}
walls = {name: (f - np.outer(f[:, 0], 1 - alpha) - np.outer(f[:, -1], alpha)).max(axis=1) for name, f in lines.items()}

# %%
# Left, the lines from the first start; right, the walls from all three.

with plt.style.context(sde.figures.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.7), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    kinds = {"adaptive": colours[1], "another start": "0.15", "the others": colours[0]}
    order = sorted(walls, key=lambda name: walls[name].mean())
    for row, name in enumerate(order):
        kind = "adaptive" if name in ADAPTIVE else "another start" if "start" in name else "the others"
        left.plot(alpha, lines[name][0], color=kinds[kind], lw=1.4, ls="--" if "start" in name else "-")
        right.plot(np.maximum(walls[name], 1e-3), np.full(3, row), "o", color=kinds[kind], ms=5)
    for kind, colour in kinds.items():
        left.plot([], [], color=colour, ls="--" if "start" in kind else "-", label=kind)
    left.set(xlabel="from SGD's end (0) to another's (1)", ylabel="training loss", yscale="log")
    right.legend(*left.get_legend_handles_labels(), loc="lower right")
    right.set_yticks(range(len(order)), ["sgd, other batches" if name == "sgd" else name for name in order])
    right.set(xlabel="height of the wall B", xscale="log")
    right.set_xticks([1e-3, 1e-2, 1e-1, 1], ["≤ 0.001", "0.01", "0.1", "1"])
    right.grid(True, axis="x")

# %%

others = np.concatenate([walls[name] for name in OPTIMISERS if name not in ADAPTIVE])
for name in ADAPTIVE:
    print(f"{name}: walls of {walls[name].min():.3f} to {walls[name].max():.3f}")
print(f"the others from the start of SGD: at most {others.max():.3f}")
print(f"SGD from another start: {walls['sgd, another start'].min():.3f} at least")

# %%
# The learning rates are set by hand here; ``sde-sgd run optimisers`` tunes each, and looks at H, D and local entropy.
