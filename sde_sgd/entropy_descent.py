"""Entropy-SGD and Parle: descent on local entropy by inner chains around each iterate, for any gradient and array."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from . import _checks

__all__ = ["entropy_sgd", "parle", "parle_rounds"]

Gradient = Callable[[Any, int], Any]


def entropy_sgd(gradient: Gradient, start: Any, **options: Any) -> Any:
    r"""The end of y ← y − η[g(y) + γ(y − x)] + √η ε ξ, L times from y = x, then x ← x − s(x − z): Entropy-SGD.

    z is the running mean of the inner chain. On the average over long chains of small steps, x − z is the gradient of
    the local entropy of scope 1/γ at the temperature ε²/2 (the gradients' own noise adds to it), times 1/γ:
    `sde_sgd.local_entropy`. For f = xᵀAx/2 and ε = 0, x − z → x − (I + A/γ)⁻¹x.

    It is `parle` of one replica, without the axis of replicas: `start` (…, d), and the options but `elastic`. Chaudhari
    et al. (2017), algorithm 1, whose outer rate times γ is s. A short chain takes a part of that step; z starts with
    the first inner iterate, where the source starts with x, so that L = 1, γ = ε = 0, s = 1 is SGD. ValueError as of
    `parle`. Not where the gradient of f_γ itself is wanted: `local_entropy` has it in few variables, and without noise.
    """
    if "elastic" in options:
        raise ValueError("elastic couples several replicas: use parle")
    return parle(lambda y, k: gradient(y[0], k)[None], start[None], **options)[0]


def parle(gradient: Gradient, start: Any, *, rounds: int, **options: Any) -> Any:
    r"""The end of n replicas of Entropy-SGD that are drawn to their mean x̄: x ← x − s(x − z) − ηρ(x − x̄).

    Each round every replica makes L inner steps y ← y − η[g(y) + γ(y − x)] + √η ε ξ from y = x, whose running mean is
    z ← κz + (1 − κ)y, from z = y after the first. So L = 1, γ = 0, s = 1 is Elastic-SGD,
    x ← x − η[g(x) + ρ(x − x̄)]; ρ = 0 is n times Entropy-SGD; and both with n = 1 are SGD.

    Parameters
    ----------
    gradient : function (y, k) of the replicas' iterates, of the shape of `start`, and the number k = 0, 1, … of the
        inner step; the gradient of each replica, full or of a batch of its own. NumPy or torch, which `start` decides.
    start : (n, …, d), the replicas along the first axis.
    rounds : number of rounds. inner_steps : L ≥ 1. step : η > 0, a number or a function of the inner step k.
    tether : γ ≥ 0, strength of the coupling of a chain to its x; 1/γ is the scope. elastic : ρ ≥ 0.
    keep : κ in [0, 1), 0.75 in the source. pull : s in (0, 1].
    noise : ε ≥ 0; then `normals`, a function k ↦ ξ of the shape of `start`, is needed.

    Returns the replicas (n, …, d). `parle_rounds` gives them after every round. ValueError for numbers outside their
    range. The couplings are strengths, as in the talk; in the paper γ and ρ are their inverses. Not to be compared with
    SGD by rounds: one costs nL gradients.

    Chaudhari, Baldassi, Zecchina, Soatto, Talwalkar & Oberman (2017), §3; Zhang, Choromanska & LeCun (2015) for
    Elastic-SGD, there with a centre of its own.
    """
    end = start
    for end in parle_rounds(gradient, start, rounds=rounds, **options):  # noqa: B007
        pass
    return end


def parle_rounds(
    gradient: Gradient,
    start: Any,
    *,
    rounds: int,
    inner_steps: int = 1,
    step: float | Callable[[int], float],
    tether: float = 0.0,
    elastic: float = 0.0,
    keep: float = 0.75,
    pull: float = 1.0,
    noise: float = 0.0,
    normals: Callable[[int], Any] | None = None,
) -> Iterator[Any]:
    """The replicas (n, …, d) of `parle` after each round, its arguments checked before the first."""
    rounds = _checks.whole("rounds", rounds, 0)
    inner = _checks.whole("inner_steps", inner_steps, 1)
    tether, elastic = _checks.not_negative("tether", tether), _checks.not_negative("elastic", elastic)
    noise, keep = _checks.not_negative("noise", noise), _checks.not_negative("keep", keep)
    pull = _checks.positive("pull", pull)
    if keep >= 1 or pull > 1:
        name, value = ("keep", keep) if keep >= 1 else ("pull", pull)
        raise ValueError(f"{name}={value:g}: keep must be below 1, and pull at most 1")
    if (noise > 0) != (normals is not None):
        raise ValueError("noise > 0 and normals, the function that draws it, go together")
    constant = 0.0 if callable(step) else _checks.positive("step", step)
    if not hasattr(start, "shape") or len(start.shape) < 1 or not start.shape[0]:
        raise ValueError("start must be an array of one row per replica, at least one")

    def run() -> Iterator[Any]:
        x = start
        for k in range(rounds):
            y = z = x
            eta = 0.0
            for i in range(inner):
                number = k * inner + i
                eta = _checks.positive("step(k)", step(number)) if callable(step) else constant
                slope = gradient(y, number)
                if tether:
                    slope = slope + tether * (y - x)
                y = y - eta * slope
                if normals is not None:
                    y = y + math.sqrt(eta) * noise * normals(number)
                z = y if i == 0 else keep * z + (1 - keep) * y
            moved = z if pull == 1 else z + (1 - pull) * (x - z)
            x = moved - eta * elastic * (x - x.mean(0)) if elastic else moved
            yield x

    return run()
