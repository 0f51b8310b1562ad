"""The local entropy of a network at given weights, by Markov chains along a ladder of strengths of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._numbers import LARGEST_SEED
from ._samples import one_number

_POWER = 4  # λ_k = (k/K)^4: the mean loss changes fastest where the loss hardly counts
_ACCEPTED, _LEAPS = 0.7, 5


class LocalEntropyEstimate(NamedTuple):
    """f_γ with its standard error over chains; ⟨f⟩ under the local Gibbs measure; its KL from the Gaussian, in nats.

    f_γ = ⟨f⟩ + T·KL: how high the valley lies, and how narrow it is. `distance` is |w − ⟨w'⟩|, `accepted` the lowest
    share of accepted moves on the ladder. Numbers, or arrays (P,) for several points.
    """

    value: NDArray
    error: NDArray
    mean_loss: NDArray
    information: NDArray
    distance: NDArray
    accepted: NDArray


def sampled_local_entropy(
    losses: Callable[[Tensor], Tensor],
    weights: Tensor,
    *,
    spread: ArrayLike,
    temperature: float,
    chains: int = 4,
    steps: int = 60,
    rungs: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> LocalEntropyEstimate:
    """f_γ(w) = −T log E_z exp(−f(w + σz)/T), σ² = γT, in any number of weights: `sde_sgd.local_entropy`, sampled.

    Chains of e^{−λf/T} N(w, σ²I) at λ_k = (k/K)⁴, k = K, …, 1, by hybrid Monte Carlo, of which five kicks by λ∇f/T
    alternate with exact rotations of the Gaussian (Beskos, Pinski, Sanz-Serna & Stuart 2011), so that nothing is lost
    in many dimensions; and independent draws at λ = 0. The free energies between neighbouring rungs are Bennett's
    (1976), without a bias of discretisation. The standard error is the jackknife's over chains, which start at w: where
    they have not forgotten it, the error is too small, and `steps` are too few. The first third of each rung is
    burn-in, in which the size of the rotation is set.

    losses : function (n, d) → (n,) of f, differentiable.  weights : w (d,), or several (P, d), whose chains then go
        side by side.  spread : σ > 0, one for all or (P,).  temperature : T > 0; 1/N makes e^{−f/T} the likelihood of N
        samples.

    Raises ValueError for numbers outside their range; `NotConverged` where a rung accepts less than one move in
    twenty. Not a tool for large networks: each step is five gradients over all samples for each chain.
    """
    temperature = _checks.positive("temperature", temperature)
    chains, steps = _checks.whole("chains", chains, 2), _checks.whole("steps", steps, 30)
    rungs, seed = _checks.whole("rungs", rungs, 1), _checks.whole("seed", seed, 0, LARGEST_SEED)
    if weights.ndim not in (1, 2) or not weights.numel():
        raise ValueError(f"weights must have shape (d,) or (P, d), got {tuple(weights.shape)}")
    points = weights.detach().reshape(-1, weights.shape[-1])
    count = len(points)
    spreads = np.broadcast_to(_checks.finite_array("spread", spread), (count,))
    if not (spreads > 0).all():
        raise ValueError(f"spread must be > 0, got {spreads.min():g}")
    generator = torch.Generator().manual_seed(seed)
    centre = points.repeat_interleave(chains, 0)
    sigma = torch.from_numpy(spreads.copy()).to(points).repeat_interleave(chains)[:, None]

    def normals() -> Tensor:
        return torch.randn(tuple(centre.shape), generator=generator, dtype=torch.float64).to(centre)

    lambdas = (np.arange(rungs + 1) / rungs) ** _POWER
    burn, state, turn = steps // 3, centre.clone(), np.full(count, 0.3)
    energy, slope = _energy_and_slope(losses, state, temperature)
    found: dict[int, NDArray] = {}
    mean, accepted = torch.zeros_like(centre), np.ones(count)
    for k in range(rungs, 0, -1):
        kept, moves, strength = [], np.zeros(count), float(lambdas[k])
        for step in range(steps):
            speed = sigma * normals()
            begun = _hamiltonian(strength * energy, (state - centre) / sigma, speed / sigma)
            there, after, bent = state, energy, slope
            angle = turn * (0.8 + 0.4 * float(torch.rand((), generator=generator, dtype=torch.float64)))
            angles = torch.from_numpy(angle).to(centre).repeat_interleave(chains)[:, None]
            cos, sin, kick = angles.cos(), angles.sin(), 0.5 * strength * angles * sigma**2
            for _ in range(_LEAPS):
                speed = speed - kick * bent
                away = there - centre
                there, speed = centre + cos * away + sin * speed, cos * speed - sin * away
                after, bent = _energy_and_slope(losses, there, temperature)
                speed = speed - kick * bent
            ended = _hamiltonian(strength * after, (there - centre) / sigma, speed / sigma)
            draw = torch.rand(len(centre), generator=generator, dtype=torch.float64).log().to(energy)
            taken = draw < begun - ended  # never of a move that has left all numbers
            state, slope = (torch.where(taken[:, None], a, b) for a, b in ((there, state), (bent, slope)))
            energy = torch.where(taken, after, energy)
            share = taken.double().reshape(count, chains).mean(1).cpu().numpy()
            if step < burn:
                turn = np.clip(turn * np.exp(0.5 * (share - _ACCEPTED)), 1e-4, math.pi / 8)
                continue
            moves += share / (steps - burn)
            kept.append(energy.reshape(count, chains).cpu().numpy())
            if k == rungs:
                mean += state / (steps - burn)
        found[k], accepted = np.array(kept), np.minimum(accepted, moves)
        if moves.min() < 0.05:
            raise NotConverged(
                f"at the rung {k} of {rungs} only {moves.min():.3f} of moves are accepted: take more steps, in which "
                "the size of a move can adapt, or a smaller spread"
            )
        if progress is not None:
            progress(rungs - k + 1, rungs)
    with torch.no_grad():
        draws = [losses(centre + sigma * normals()).double() / temperature for _ in range(steps - burn)]
    found[0] = np.array([draw.reshape(count, chains).cpu().numpy() for draw in draws])

    def free_energy(point: int, rows: NDArray) -> float:
        return sum(
            bennett(found[k][:, point, rows].ravel(), found[k + 1][:, point, rows].ravel(), lambdas[k + 1] - lambdas[k])
            for k in range(rungs)
        )

    every = np.arange(chains)
    whole = np.array([free_energy(p, every) for p in range(count)])
    without = np.array([[free_energy(p, np.delete(every, c)) for c in every] for p in range(count)])
    error = np.sqrt((chains - 1) * without.var(axis=1))
    level = found[rungs].mean(axis=(0, 2))
    away = (points - mean.reshape(count, chains, -1).mean(1)).double().norm(dim=1).cpu().numpy()
    t = temperature
    parts = (t * whole, t * error, t * level, whole - level, away, accepted)
    return LocalEntropyEstimate(*(part if weights.ndim == 2 else part[0] for part in parts))


def _energy_and_slope(losses: Callable[[Tensor], Tensor], weights: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """f/T and its gradient for every chain."""
    leaf = weights.detach().requires_grad_()
    with torch.enable_grad():
        values = losses(leaf)
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach().double() / t, slope / t


def _hamiltonian(energy: Tensor, away: Tensor, speed: Tensor) -> Tensor:
    """Of potential and the two Gaussians, each in units of σ."""
    return energy + 0.5 * (away.double() ** 2 + speed.double() ** 2).sum(1)


def bennett(lower: NDArray, upper: NDArray, change: float) -> float:
    """F(λ + change) − F(λ) in units of T from energies f/T sampled at both: Σ s(w₀ − c) = Σ s(c − w₁), s logistic.

    `lower` are the energies at λ, `upper` those at λ + change, in equal numbers. Bennett (1976), eq. (12).
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    a, b = change * lower, change * upper
    low, high = min(a.min(), b.min()) - 1.0, max(a.max(), b.max()) + 1.0
    return float(brentq(lambda c: expit(c - a).sum() - expit(b - c).sum(), low, high, xtol=1e-12))


def losses_of(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The function (chains, d) → (chains,) of the mean loss of a network in eval mode over all its samples."""
    shapes = {n: p.shape for n, p in model.named_parameters() if p.requires_grad}
    model.eval()

    def one(weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in shapes.values()])
        named = {n: part.view(shape) for (n, shape), part in zip(shapes.items(), parts)}
        return one_number(loss(functional_call(model, named, (inputs,)), targets))

    return vmap(one)
