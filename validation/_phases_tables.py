"""Numbers of several seeds as text: means ± intervals, geometric means with intervals, and who is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd.report import number

from ._sentences import shown as shown_of_all
from ._sentences import student


def shown(values: Iterable[float], resolution: float = 0.0) -> str:
    """Mean ± half of the 95 % interval, at least `resolution`, over the seeds that have the number; how many, where
    not all do.
    """
    numbers = np.array(list(values), dtype=float)
    there = numbers[np.isfinite(numbers)]
    if not len(there):
        return "never" if np.isposinf(numbers).any() else "–"
    lost = "" if len(there) == len(numbers) else f" ({len(there)} of {len(numbers)} seeds)"
    return shown_of_all(there, resolution=resolution) + lost


def times(values: Iterable[float], resolution: float = 0.0) -> str:
    """Geometric mean (ends of its 95 % interval, Student's of the logarithms, at least `resolution` to either side)
    over the seeds whose number is > 0 and finite; how many are 0, ∞ ("never") or not there.
    """
    numbers = np.array(list(values), dtype=float)
    there = numbers[np.isfinite(numbers) & (numbers > 0)]
    others = {"0": (numbers == 0).sum(), "never": np.isposinf(numbers).sum(), "–": np.isnan(numbers).sum()}
    if not len(there) and max(others.values()) == len(numbers):
        return max(others, key=lambda word: others[word])
    rest = [f"{word} in {count}" for word, count in others.items() if count]
    if len(there):
        mean, low, high = student(np.log(there))
        ends = min(low, mean - resolution), max(high, mean + resolution)
        centre, low, high = (float(np.exp(value)) for value in (mean, *ends))
        text = number(centre) if len(there) == 1 else f"{number(centre)} ({number(low)} to {number(high)})"
        rest = [f"{text} in {len(there)}", *rest] if rest else [text]
    return ", ".join(rest)


def ranged(values: Iterable[float]) -> str:
    """Least to largest over the seeds; ∞ is "never"."""
    numbers = np.array(list(values), dtype=float)
    least, most = ("never" if np.isposinf(end) else number(end) for end in (numbers.min(), numbers.max()))
    return least if least == most else f"{least} to {most}"


def resolution_of(runs: Sequence[xr.Dataset], samples: str = "samples") -> float:
    """3/n of a share of n samples, all seeds together: what an accuracy of 0 or 1 cannot be told from."""
    return 3.0 / sum(run.attrs[samples] for run in runs)


def spacing(config: Mapping[str, Any], runs: Sequence[xr.Dataset]) -> float:
    """ln of the factor between neighbouring records late in a run, which are even in the logarithm of the steps."""
    return float(np.log(runs[0].attrs["steps"]) / (config["records"] - 1))


def spacing_of(event: str, config: Mapping[str, Any], runs: Sequence[xr.Dataset]) -> float:
    """The same between the records in which an event is looked for: λ_max and information are taken in fewer."""
    fewer = {"sharpness": "sharp_every", "saturation": "plane_every", "compression": "plane_every"}
    return spacing(config, runs) * (config[fewer[event]] if event in fewer else 1)
