"""Controls of `potential-vs-loss`: no current, isotropic noise, the shift of the mean, the trajectory alone."""

from __future__ import annotations

import numpy as np
import scipy.linalg as la
import scipy.optimize
import scipy.signal
import xarray as xr

import sde_sgd as sde

from ._mean_shift import along_axes, even_part, predicted_cloud
from ._prediction_runs import _LOSS, Array, Config, Progress, model_at, slopes, walker
from .curvature import Curvature
from .data import Split
from .gradient_noise import GradientNoise
from .local_prediction import LocalPrediction, block_variance

_DRAWS = 1000  # of the predicted cloud, and as many reflected


def reversible_null(config: Config, covariance: Array, rates: Array, step: float, progress: Progress) -> xr.Dataset:
    """p-values of `area_production` on processes in detailed balance: VAR(1) with the covariance and rates of the run.

    In whitened coordinates the propagator is diagonal, e^{−rate·step}, turned by a fixed rotation: symmetric, so that
    C(τ) is. ``p_value`` (surrogate) is uniform if the test has its nominal size.
    """
    generator = np.random.default_rng(config["seed"] + 17)
    d = len(rates)
    factors = np.exp(-np.maximum(rates, 1e-6) * step)
    turn = np.linalg.qr(generator.standard_normal((d, d)))[0]
    root = la.sqrtm(covariance).real @ turn
    p = []
    for number in range(config["surrogates"]):
        white = generator.standard_normal((config["surrogate_states"], d))
        first = generator.standard_normal(d)
        noise = white * np.sqrt(1 - factors**2)
        states = np.stack(
            [
                scipy.signal.lfilter([1.0], [1.0, -factor], noise[:, k], zi=[factor * first[k]])[0]
                for k, factor in enumerate(factors)
            ],
            axis=1,
        )
        area = sde.area_production(states[None] @ root.T, [1], dt=step, blocks=config["blocks"], seed=number, flips=199)
        p.append(float(area["overall_p_value"]))
        progress(number + 1, config["surrogates"])
    return xr.Dataset({"p_value": ("surrogate", p)})


def lowest_point(data: Split, start: Array, decay: float, activation: str) -> Array:
    """Where L-BFGS ends, for tanh refined by Newton's method until no weight's slope is beyond rounding.

    With ReLU the slope does not vanish where it ends: kinks, at which a sample's unit switches, are in the way.
    """
    f, best = slopes(data, decay, activation), start
    options = {"maxiter": 3000, "maxfun": 4000, "gtol": 1e-9, "ftol": 0.0, "maxcor": 40}
    for _ in range(3):
        best = scipy.optimize.minimize(f, best, jac=True, method="L-BFGS-B", options=options).x
    for _ in range(8 if activation == "tanh" else 0):
        slope = f(best)[1]
        if np.abs(slope).max() < 1e-14:
            break
        best = best - la.solve(_hessian(data, best, decay, activation), slope, assume_a="sym")
    return best


def _hessian(data: Split, weights: Array, decay: float, activation: str) -> Array:
    curvature = Curvature(model_at(weights, activation), _LOSS, (data.inputs, data.targets))
    return curvature.matrix() + decay * np.eye(weights.size)


def isotropic_control(
    config: Config, data: Split, start: Array, activation: str, temperature: float, progress: Progress
) -> xr.Dataset:
    """Full gradient and noise with D = 1, w' = w − η∇f + √(2ηT) ξ, about a minimum: the h that Var w means, over h.

    Var = 2T/(h(2 − ηh)) inverts to ``curvature`` = (1 − √(1 − 2ηT/Var))/η, which is U without the error of the step.
    Over direction: ``ratio`` to autograd's Hessian at the minimum; ``ratio_error`` is that of the variance, no less
    than the linear theory's. The run starts from the stationary law of that theory, so that flat directions need no
    burn-in; with ReLU half a run comes before it.
    """
    rate, decay = max(config["learning_rates"]), config["weight_decay"]
    best = lowest_point(data, start, decay, activation)
    values, vectors = la.eigh(_hessian(data, best, decay, activation))
    k, steps = config["directions"], config["isotropic_steps"]
    directions, h = vectors.T[::-1][:k], values[::-1][:k]
    if not h[-1] > 0:
        raise ValueError(f"only {int((h > 0).sum())} directions of the minimum are curved: take fewer directions")
    generator = np.random.default_rng([config["seed"], 23])
    settle = 0 if activation == "tanh" else config["isotropic_steps"] // 2  # ReLU slides along its kinks first
    sgd = walker(config, data, best, rate, 0, "without_replacement", activation, batch_size=len(data.inputs))
    spread = np.sqrt(temperature / np.maximum(values, decay))
    sgd.nudge(vectors @ (spread * generator.standard_normal(best.size)))
    states, kicks = np.empty((steps, k)), np.sqrt(2 * rate * temperature)
    for t in range(-settle, steps):
        sgd.run(1)
        sgd.nudge(kicks * generator.standard_normal(best.size))
        if t < 0:
            continue
        states[t] = directions @ (sgd.weights - best)
        if t % 500 == 0:
            progress(t, steps)
    variance, error = block_variance(states[None], 32)
    if activation == "tanh":  # the mean is known: where the linear theory holds, it is the minimum
        variance = (states**2).mean(axis=0)
    kept = (1 - rate * h) ** 2  # blocks shorter than a relaxation are alike: the error of the AR(1) with this h
    error = np.maximum(error, variance * np.sqrt(2 / steps * (1 + kept) / (1 - kept)))
    measured = (1 - np.sqrt(np.maximum(0.0, 1 - 2 * rate * temperature / variance))) / rate
    return xr.Dataset(
        {
            "ratio": ("direction", measured / h),
            "ratio_error": ("direction", error / variance * (2 - rate * h) / (2 * np.abs(1 - rate * h))),
            "hessian": ("direction", h),
        },
        attrs={
            "activation": activation,
            "temperature": temperature,
            "gradient": float(np.abs(slopes(data, decay, activation)(best)[1]).max()),
            "lowest": float(values[0]),
            "distance": float(np.linalg.norm(sgd.weights - best)),
        },
    )


def mean_shift(config: Config, data: Split, pilot: xr.Dataset, run: xr.Dataset, progress: Progress) -> xr.Dataset:
    """Where the mean w̄ of the iterates stands against the loss, along the directions, in units of weights.

    In a steady state E ∇f = 0, so that ∇f(w̄) = −E[∇f(w) − ∇f(w̄)], to second order −½ f‴:S. ``measured`` is
    v·∇f(w̄)/h, how far the mean stands uphill, with its ``error``; ``slope`` v·(mean of ∇f)/h, 0 in a steady state. All
    others are −v·(mean of `even_part`)/h, over different clouds about w̄: the iterates' ``own``; a ``gaussian`` one with
    their covariance; the ``predicted`` one, N(0, S) of `LocalPrediction` at w̄; and ``axes``, ½ f‴:S by `along_axes`.
    ``mode`` is −T v·div D/h, the shift of the mode of the Itô model from the minimum (complete in detailed balance,
    where div Q = 0): another number, since the density is skew, and not one that iterates in many dimensions show.
    """
    rate, decay = pilot.attrs["learning_rate"], config["weight_decay"]
    mean, directions = run["mean"].values, pilot["directions"].values
    model, pair = model_at(mean, config["activation"]), (data.inputs, data.targets)
    local = LocalPrediction(
        model, _LOSS, pair, learning_rate=rate, batch_size=config["batch_size"], weight_decay=decay,
        directions=directions,
    )  # fmt: skip
    f, generator = slopes(data, decay, config["activation"]), np.random.default_rng([config["seed"], 31])
    progress(0.2, 1)
    cloud = even_part(lambda w: f(w)[1], mean, predicted_cloud(local, _DRAWS, generator)) @ directions.T
    progress(0.5, 1)
    axes = directions @ along_axes(lambda w: f(w)[1], mean, local)
    progress(0.8, 1)
    div = GradientNoise(model, _LOSS, pair).divergence(probes=config["divergence_probes"], seed=config["seed"])
    h = local.loss_hessian.diagonal()
    along = {
        "measured": run["slope_at_mean"].values,
        "error": run["mean_slope_error"].values,
        "slope": run["mean_slope"].values,
        "own": -run["own_bend"].values,
        "gaussian": -run["gaussian_bend"].values,
        "predicted": -cloud.mean(axis=0),
        "predicted_error": cloud.std(axis=0, ddof=1) / np.sqrt(_DRAWS),
        "axes": -axes,
        "mode": -local.temperature * (directions @ div["divergence"].values),
    }
    return xr.Dataset(
        {name: ("direction", values / h) for name, values in along.items()}
        | {"deviation": ("direction", np.sqrt(local.covariance.diagonal()))},
        attrs={
            "temperature": local.temperature,
            "spread": float(run["spread"]),
            "predicted_spread": float(np.trace(local.law.covariance)),
            "unstable": local.unstable,
        },
    )


def from_trajectory(
    config: Config, data: Split, pilot: xr.Dataset, seed: int, mode: str, progress: Progress
) -> xr.Dataset:
    """Linear drift and constant noise of the projections, estimated from a stretch of the run's every step alone."""
    rate, b = pilot.attrs["learning_rate"], config["batch_size"]
    sgd = walker(config, data, pilot["end"].values, rate, 100 * seed + 3, mode)
    sgd.run(2000)
    states, _ = sgd.run(config["estimate_steps"], pilot["directions"].values)
    progress(1, 2)
    found = sde.estimate_drift_diffusion(
        states[None], None, kind="recursion", interval=rate, every=1, temperature=rate / (2 * b),
        epoch_steps=sgd.steps_per_epoch,
    )  # fmt: skip
    names = ("jacobian", "jacobian_error", "diffusion", "diffusion_error")
    return xr.Dataset(
        {name: (("direction", "direction_2"), found[name].values) for name in names},
        attrs={"verdict": str(found.attrs["verdict"]), "mode": mode, "steps": config["estimate_steps"]},
    )
