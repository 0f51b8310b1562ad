r"""
SGD that turns
==============

The mean loss of the spiral is :math:`(r^2-1)^2/4`: it looks the same from every angle. Its samples do not,

.. math::

   f_k = \frac{1}{4} (r^2-1)^2 + r^2\cos(\theta + \kappa\ln r + 2\pi k/3),

and their noise carries a twist. In the limit of small steps the mean angular velocity is exactly :math:`-T\kappa`,
:math:`T = \eta/2b`: a steady rotation that no gradient drives.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde

learning_rate, steps = 0.1, 400
temperature = learning_rate / 2


def mean_angle(kappa):
    """Time, mean angle turned over 4000 replicas of mini-batch SGD with batches of one, its standard error."""
    spiral = sde.landscapes.get("spiral", kappa=kappa)
    run = sde.sgd(
        spiral, (1.0, 0.0), learning_rate=learning_rate, batch_size=1, steps=steps, replicas=4000, save_every=1
    )
    z = run.x.values + 1j * run.y.values
    angle = np.cumsum(np.angle(z[:, 1:] / z[:, :-1]), axis=1)
    return run.time.values[1:], angle.mean(axis=0), angle.std(axis=0) / np.sqrt(len(angle))


# %%
# Three twists, one loss. Dashed lines are the predictions −Tκt.

with plt.style.context(sde.figures.STYLE):
    figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for kappa in (-1.0, 0.0, 1.0):
        time, angle, error = mean_angle(kappa)
        (line,) = ax.plot(time, angle, label=f"κ = {kappa:g}")
        ax.fill_between(time, angle - 2 * error, angle + 2 * error, color=line.get_color(), alpha=0.2, lw=0)
        ax.plot(time, -temperature * kappa * time, color="0.2", ls="--", lw=1)
    ax.set(xlabel="time, η × steps", ylabel="mean angle turned")
    ax.legend()

# %%
# The loss, its gradient and its Hessian know nothing of κ; the covariance of the gradients does. Its part that mixes
# radius and angle is r²κ/2:

for kappa in (0.0, 1.0):
    noise = sde.landscapes.get("spiral", kappa=kappa).diffusion(np.array([1.0, 0.0]))
    print(f"κ = {kappa:g}: D at (1, 0) =", noise.round(3).tolist())
