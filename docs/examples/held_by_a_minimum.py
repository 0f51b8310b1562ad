r"""
How long a minimum holds SGD
============================

Sharp minima are said to hold SGD within a radius inversely proportional to their curvature (Golmant 2018). What can be
proved is a mean exit time. For :math:`\mathrm{d}x = -hx\,\mathrm{d}t + \sqrt{2TD}\,\mathrm{d}W` from :math:`|x| < R`,

.. math::

   \tau = \frac{\sqrt\pi}{h}\int_0^{X} e^{u^2}\operatorname{erf}(u)\,\mathrm{d}u, \qquad X^2 = \frac{hR^2}{2TD},

and ``stability_radius`` is its inverse: the R that is kept for a given time. Where the noise of SGD grows with the
curvature, :math:`D = ch`, h drops out of X.
"""

import matplotlib.pyplot as plt
import numpy as np

import sde_sgd as sde
from sde_sgd.validation import stability_radius

temperature, c, time = 0.1, 0.5, 50.0
parabola = sde.Landscape(
    "x", "h*x**2/2", diffusion=[["d + 0*x"]], parameters={"h": 1.0, "d": 0.5}, domain=((-50, 50),), name="parabola"
)
curvatures = np.geomspace(0.5, 32, 7)
radii = [float(stability_radius(h, c * h, temperature, time).radius[0]) for h in curvatures]

# %%
# Paths from the bottom, 2000 at each curvature, until they are farther away than that radius: the mean time must be 50.

means = []
for h, radius in zip(curvatures, radii):
    process = parabola.with_parameters(h=h, d=c * h).at_temperature(temperature)
    exits = sde.exit_times(
        process, 0.0, f"x < {radius!r} and x > {-radius!r}", step=0.02 / h, paths=2000, max_steps=2_000_000, seed=3
    )
    means.append((float(exits.mean_exit_time), float(exits.mean_exit_time_error)))
means = np.array(means).T

# %%
# A well of fixed *depth* is another matter. Over the barrier of :math:`(hx^2-1)^2/8`, which has curvature h below and
# the depth 1/8 whatever h is, the exponent is :math:`\Delta f/(Tch)`: sharp wells are left exponentially sooner. With
# noise that does not know of the curvature it is :math:`\Delta f/(TD)` in all of them.

well = sde.Landscape(
    "x", "(h*x**2 - 1)**2/8", diffusion=[["d + 0*x"]], parameters={"h": 1.0, "d": 0.5}, domain=((-9, 9),), name="well"
)
sharpness, dwell = np.geomspace(0.5, 4, 7), {"D = c h": [], "D = c": []}
for h in sharpness:
    edge = 1 / np.sqrt(h)
    for name, noise in zip(dwell, (c * h, c)):
        process = well.with_parameters(h=h, d=noise).at_temperature(temperature)
        fp = sde.FokkerPlanck(process, sde.Grid(-2.5 * edge, 2.5 * edge, 1200))
        dwell[name].append(np.exp(float(fp.mean_exit_time("x < 0", log=True).interp(x=-edge))))

with plt.style.context(sde.figures.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained")
    left.plot(curvatures, radii, "o-", ms=4.5, label="kept for t = 50, D = c h")
    left.plot(curvatures, radii[0] * curvatures[0] / curvatures, "--", color="0.6", lw=1.2, label="∝ 1/h, as is said")
    left.set(xlabel="curvature h", ylabel="radius R", xscale="log", yscale="log")
    left.set_ylim(0.008, 4)
    inset = left.inset_axes((0.12, 0.07, 0.3, 0.2))
    inset.errorbar(curvatures, means[0], 2 * means[1], fmt="o", ms=3, lw=1)
    inset.axhline(time, color="0.15", lw=0.8)
    inset.set(xscale="log", ylim=(40, 60), xticks=[])
    inset.set_title("mean time of paths", fontsize=8)
    inset.minorticks_off()
    left.legend(loc="upper right")
    for name, times in dwell.items():
        right.plot(sharpness, times, "o-", ms=4.5, label=name)
    right.set(xlabel="curvature h of a well of depth 1/8", ylabel="mean time to the top", xscale="log", yscale="log")
    right.legend()
    for panel, ticks in ((left, (0.5, 2, 8, 32)), (right, (0.5, 1, 2, 4))):
        panel.minorticks_off()
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])

# %%

span = curvatures[-1] / curvatures[0]
print(f"h × {span:.0f}: R × {radii[-1] / radii[0]:.2f}, where ∝ 1/h says × {1 / span:.3f}")
print(f"paths: {means[0].min():.1f} to {means[0].max():.1f}, standard errors {means[1].mean():.1f}")
first, second = (times[0] / times[-1] for times in dwell.values())
print(
    f"well, h × {sharpness[-1] / sharpness[0]:.0f}: left {first:.0f} times sooner with D = c h, {second:.1f} with D = c"
)

# %%
# Saddles, and noise made to order on digits: ``sde-sgd run noise``.
