r"""
One minimum, three most likely places
=====================================

A network of two weights, :math:`p = \tanh(wx + c)`, learns one class of Fisher's iris. Its loss has one minimum. At
:math:`T = \eta/2b = 0.2` the steady density of SGD has three modes, none of them a critical point of the loss:

.. math::

   \Phi = -T\log\rho \neq f \quad\text{where}\quad D(x) = \frac{1}{N}\sum_k g_k g_k^\top - g\, g^\top
   \quad\text{is not a multiple of } I.
"""

import sde_sgd as sde

neuron = sde.landscapes.get("neuron")
minimum = neuron.critical_points()
print(minimum.kind.values, "at", minimum.w.values.round(3), minimum.c.values.round(3))

# %%
# The density on 100 × 100 cells: no path is needed.

process = neuron.sgd_process(learning_rate=0.4, batch_size=1)
fp = sde.FokkerPlanck(process, sde.Grid((-2.5, -2.5), (2.5, 2.5), (100, 100)))
modes = sde.potential.modes(fp.log_steady_state())
for w, c, ratio in zip(modes.w.values, modes.c.values, modes.log_ratio.values):
    print(f"({w:+.2f}, {c:+.2f})  log ρ/ρ_max = {ratio:.2f}")

# %%
# What SGD follows minus the loss it was given. One colour all over would mean that SGD sees the loss.

parts = sde.decompose(fp)
loss = parts.potential.copy(data=neuron.loss(fp.grid.centers()))
difference = sde.figures.plot_potential_against_loss(parts, loss, minimum, modes)

# %%
# The real recursion, 4000 replicas with batches of one flower, on the same cells. At this learning rate it is not yet
# the differential equation: its density is close to the solved one, and visibly another.

real = sde.sgd(
    neuron, (0.15, -0.32), learning_rate=0.4, batch_size=1, steps=2000, replicas=4000,
    observables=sde.Histogram(fp.grid, burn_in=100),
)  # fmt: skip
panels = sde.figures.plot_densities(
    {"Fokker–Planck": fp.steady_state(), "mini-batch SGD": sde.Histogram.extract(real).density}
)
