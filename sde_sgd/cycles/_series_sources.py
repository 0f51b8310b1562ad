"""Frequencies at which mini-batch SGD oscillates without any cycle of its drift."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sde_sgd import _checks

UNEXPLAINED = (
    "none of the known sources: a limit cycle, or a noisy focus, whose complex eigenvalues resonate without any cycle; "
    "find_cycles on the drift tells them apart"
)
_SHARE = 0.1  # of the frequencies that harmonics of the epoch may explain


@dataclass(frozen=True)
class Source:
    """An oscillation in cycles per step, its half width, and what makes it."""

    frequency: float
    half_width: float
    words: str


def sources(
    learning_rate: float | None,
    curvature: Any,
    momentum: float,
    nesterov: bool,
    epoch_steps: int | None,
    every: int,
    bins: int,
) -> list[Source]:
    """What is known to oscillate, for states saved each `every` steps and a spectrum of so many bins."""
    found = []
    for h in [] if curvature is None else np.unique(np.atleast_1d(curvature)):
        for root in _roots(learning_rate * h, momentum, nesterov):
            size, turn = abs(root), abs(np.angle(root)) / (2 * math.pi)
            if size >= 1 or turn == 0:
                continue
            kind = "an overshooting step, every other one on the other side" if turn == 0.5 else "the swing of momentum"
            width = -math.log(size) / (2 * math.pi) if size > 0 else 0.5
            found.append(Source(turn, width, f"{kind}: ηh = {learning_rate * h:.3g}, momentum {momentum:g}"))
    if epoch_steps is not None and epoch_steps > 1:
        # saved each `every` steps, harmonics fold onto a lattice; as many are named as leave most frequencies free
        lattice: dict[float, Source] = {}
        for m in range(1, min(epoch_steps // 2, 10_000) + 1):
            place = _folded(m / epoch_steps, every)
            if len(lattice) < max(1, int(_SHARE * bins / 3)) and round(place, 9) not in lattice:
                # noise that sums to 0 over an epoch is missing below 1/epoch, which leaves a knee near it
                width = 0.35 / epoch_steps if m == 1 else 0.0
                words = f"the epoch of {epoch_steps} steps, harmonic {m}: its batches exhaust the data"
                lattice[round(place, 9)] = Source(m / epoch_steps, width, words)
        found += lattice.values()
    return found


def interpretation(
    frequency: float, resolution: float, spacing: float, every: int, known: Sequence[Source], widest: float
) -> str:
    """The source within its half width and 1.5 bins of a frequency in cycles per time, or that there is none.

    A source wider than `widest` to either side is part of the background there, and explains what is near its centre.
    """
    for source in known:
        distance = abs(_folded(source.frequency, every) / spacing - frequency)
        if distance <= 1.5 * resolution + min(source.half_width * every / spacing, widest):
            return source.words
    if frequency * spacing > 0.5 - 1.5 * resolution * spacing:
        return (
            "alternates from one saved state to the next: a step beyond the curvature, ηh > 1, or a faster oscillation "
            "than the saved states show; give learning_rate and curvature, or save more often"
        )
    return UNEXPLAINED


def settings(attrs: dict, given: dict[str, Any], spacing: float, every: int | None) -> tuple[dict[str, Any], int]:
    """The settings of a run, from what is given or from its attributes, and the steps between two saved states."""
    rate = given["learning_rate"]
    if rate is None and isinstance(attrs.get("learning_rate"), float):
        rate = attrs["learning_rate"]
    rate = None if rate is None else _checks.positive("learning_rate", rate)
    curvature = given["curvature"]
    if curvature is not None:
        if rate is None:
            raise ValueError("curvature tells how the recursion oscillates only with learning_rate; give both")
        curvature = np.atleast_1d(_checks.finite_array("curvature", curvature))
        if not (curvature > 0).all():
            raise ValueError(f"curvature holds eigenvalues of the Hessian at a minimum, > 0, got {curvature.min():g}")
    momentum = float(attrs.get("momentum", 0.0)) if given["momentum"] is None else given["momentum"]
    momentum = _checks.not_negative("momentum", momentum)
    if momentum >= 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum:g}")
    nesterov = bool(attrs.get("nesterov", False)) if given["nesterov"] is None else given["nesterov"]
    if not isinstance(nesterov, bool | np.bool_):
        raise ValueError(f"nesterov must be True or False, got {nesterov!r}")
    samples, batch = given["samples"], given["batch_size"]
    if samples is not None and batch is None:
        batch = attrs.get("batch_size")
    if (samples is None) != (batch is None):
        raise ValueError("the epoch lasts samples/batch_size steps; give both, or neither")
    epoch = None
    if samples is not None:
        samples = _checks.whole("samples", samples, 1)
        epoch = -(-samples // _checks.whole("batch_size", batch, 1, samples))
    elif attrs.get("sampling") == "reshuffling" and "epoch_steps" in attrs:
        epoch = int(attrs["epoch_steps"])
    if every is None:
        every = 1
        if rate is not None:
            every = round(spacing / rate)
            if every < 1 or abs(every * rate / spacing - 1) > 1e-6:
                raise ValueError(
                    f"dt must be a whole number of steps of the learning rate {rate:g}, the time one step takes, got "
                    f"{spacing:g}"
                )
    values = dict(learning_rate=rate, curvature=curvature, momentum=momentum, nesterov=nesterov, epoch_steps=epoch)
    return values, every


def _roots(step: float, momentum: float, nesterov: bool) -> np.ndarray:
    """The roots z of the recursion along an eigenvector of the Hessian, ηh = step: w_n ∝ zⁿ."""
    left = 1 - step
    if momentum == 0:
        return np.array([complex(left)])
    if nesterov:
        return np.roots([1.0, -(1 + momentum) * left, momentum * left])
    return np.roots([1.0, -(left + momentum), momentum])


def _folded(frequency: float, every: int) -> float:
    """Cycles per saved state that a frequency in cycles per step shows as."""
    cycles = frequency * every
    return abs(cycles - round(cycles))
