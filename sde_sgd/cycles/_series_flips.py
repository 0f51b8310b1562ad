"""Is the mean of independent blocks zero? Their signs are flipped, which a symmetric law does not notice."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sde_sgd import _memory

_CHUNK = 2**23  # numbers held at a time


@dataclass(frozen=True)
class Flips:
    """p-values of the question whether the mean of the blocks is 0: of each group, of each entry, and of all."""

    groups: np.ndarray
    entries: np.ndarray
    overall: float


def sign_flips(blocks: np.ndarray, flips: int, seed: int) -> Flips:
    r"""Sign-flip test that E[a] = 0 for independent blocks a (block, group, entry) of symmetric law, a ~ −a.

    With t the studentised means, two statistics per group, max_k t_k² for a current in one pair and Σ_k t_k² for one
    spread over many, each compared with what `flips` random choices of the blocks' signs give; the smaller of the two
    ranks is compared with its own law under the same flips. Entries are adjusted for their number by the law of
    max t² (Westfall & Young 1993); `overall` is for all groups at once. Every p is at least 1/(flips + 1), and
    P(p ≤ α) ≤ α exactly, for any number of entries, however they depend on each other.
    """
    count, groups, entries = blocks.shape
    wanted = 8.0 * (flips + 1) * (count + 2 * groups + 4)
    _memory.refuse_beyond(wanted, f"{flips} random signs of {count} blocks", "take fewer flips or blocks")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips + 1, count))
    signs[0] = 1.0
    smallest = np.empty((groups, flips + 1))
    adjusted = np.empty((groups, entries))
    rows = max(1, _CHUNK // max(entries, 1))
    for g in range(groups):
        a = blocks[:, g]
        scale = np.sqrt((a**2).mean(axis=0))
        a = a / np.where(scale > 0, scale, 1.0)
        largest, total = np.empty(flips + 1), np.empty(flips + 1)
        for start in range(0, flips + 1, rows):
            mean2 = (signs[start : start + rows] @ a / count) ** 2
            t2 = (count - 1) * mean2 / np.maximum(1 - mean2, 1e-15)
            if start == 0:
                own = t2[0]
            largest[start : start + rows] = t2.max(axis=1, initial=0.0)
            total[start : start + rows] = t2.sum(axis=1)
        ordered = np.sort(largest)
        adjusted[g] = _share(ordered, own)
        smallest[g] = np.minimum(_share(ordered, largest), _share(np.sort(total), total))
    low = np.sort(smallest, axis=1)
    of_group = np.stack([1 - _share(row, values, "right") for row, values in zip(low, smallest)])
    best = of_group.min(axis=0)
    return Flips(of_group[:, 0], adjusted, float((best <= best[0]).mean()))


def _share(ordered: np.ndarray, values: np.ndarray, side: Literal["left", "right"] = "left") -> np.ndarray:
    """The share of `ordered` that is ≥ the values (with "right": > them), ties within rounding counted as equal."""
    slack = 1e-9 * np.abs(values) * (1 if side == "right" else -1)
    return 1 - np.searchsorted(ordered, values + slack, side=side) / len(ordered)
