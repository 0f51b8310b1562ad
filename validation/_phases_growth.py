"""How a distance grows: c·t^α against a + c·ln t, by exponents, by AIC, and by predicting what was not fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from sde_sgd import _checks

LAWS = ("power", "logarithm")
AHEAD = 0.6  # of the records are fitted where the rest is predicted
LEAST = 10  # records
_LARGEST = 3.0  # exponents sought from −3 to 3


@dataclass(frozen=True)
class Fit:
    """d(t) = scale·t^exponent, or offset + scale·ln t, by least squares in d; `squares` Σ(d − fit)²."""

    law: str
    offset: float
    scale: float
    exponent: float
    squares: float

    def __call__(self, times: ArrayLike) -> NDArray[np.float64]:
        """The law at `times`."""
        t = np.asarray(times, dtype=float)
        return self.scale * t**self.exponent if self.law == "power" else self.offset + self.scale * np.log(t)


def fit(law: str, times: ArrayLike, distances: ArrayLike) -> Fit:
    """The law, "power" or "logarithm", that fits best by least squares in d; both have two parameters.

    times : (n,) > 0, at least three, increasing. Records even in ln t weigh every octave alike.
    """
    _checks.choice("law", law, LAWS)
    t, d = _series(times, distances)
    log = np.log(t)
    if law == "logarithm":
        slope, offset = np.polyfit(log - log.mean(), d, 1)
        offset = float(offset - slope * log.mean())
        return Fit(law, offset, float(slope), float("nan"), float(((d - offset - slope * log) ** 2).sum()))
    centred = log - log.mean()  # t^α over its geometric mean: no overflow

    def scale_of(exponent: float) -> float:
        shape = np.exp(exponent * centred)
        return float((d * shape).sum() / (shape**2).sum())

    def squares(exponent: float) -> float:
        return float(((d - scale_of(exponent) * np.exp(exponent * centred)) ** 2).sum())

    grid = np.linspace(-_LARGEST, _LARGEST, 121)
    best = grid[int(np.argmin([squares(a) for a in grid]))]
    width = grid[1] - grid[0]
    found = minimize_scalar(squares, bounds=(best - width, best + width), method="bounded", options={"xatol": 1e-12})
    exponent = float(found.x)
    return Fit(law, 0.0, scale_of(exponent) * float(np.exp(-exponent * log.mean())), exponent, float(found.fun))


def local_exponents(times: ArrayLike, distances: ArrayLike, parts: int = 3) -> NDArray[np.float64]:
    """d ln d/d ln t over `parts` of the records, by regression: equal for c·t^α, c/d and so falling for a + c ln t."""
    t, d = _series(times, distances, 3 * parts)
    if (d <= 0).any():
        raise ValueError("distances must be > 0 for exponents: leave the start out")
    pieces = np.array_split(np.arange(len(t)), parts)
    return np.array([np.polyfit(np.log(t[p]), np.log(d[p]), 1)[0] for p in pieces])


@dataclass(frozen=True)
class Comparison:
    """Two laws of one run: fits to all, ΔAIC = n ln(Σ²_power/Σ²_log), and errors on what was not fitted.

    `ahead`, ln(rms error of the power law over that of the logarithm) on the later records, fitted to the earlier;
    `between`, the same on every second record, fitted to the others. Positive numbers speak for the logarithm, which
    may yet be wrong: `misses`, (power, logarithm), are the rms errors ahead over the rms of what they predict.

    ΔAIC takes residuals for independent, and along one run they are not: its size says little, its sign over seeds
    more. Between neighbours both laws interpolate; only `ahead` tells what they promise apart.
    """

    power: Fit
    logarithm: Fit
    aic: float
    ahead: float
    between: float
    misses: tuple[float, float]


def compared(times: ArrayLike, distances: ArrayLike, share: float = AHEAD) -> Comparison:
    """The two laws on one run of at least ten records; `ahead` is fitted to the first `share` of them."""
    t, d = _series(times, distances, LEAST)
    whole = {law: fit(law, t, d) for law in LAWS}
    cut = int(share * len(t))
    first = np.arange(len(t)) < cut
    even = np.arange(len(t)) % 2 == 0
    tiny = np.finfo(float).tiny
    ratio = (whole["power"].squares + tiny) / (whole["logarithm"].squares + tiny)
    ahead, between = _errors(t, d, first), _errors(t, d, even)
    size = float(np.sqrt((d[~first] ** 2).mean()))
    gain, inner = (float(np.log((one + tiny) / (other + tiny))) for one, other in (ahead, between))
    return Comparison(
        whole["power"], whole["logarithm"], float(len(t) * np.log(ratio)), gain, inner,
        (ahead[0] / size, ahead[1] / size),
    )  # fmt: skip


def _errors(t: NDArray, d: NDArray, fitted: NDArray) -> tuple[float, float]:
    """Rms errors of both laws on the records that they were not fitted to."""
    power, logarithm = (
        float(np.sqrt(((fit(law, t[fitted], d[fitted])(t[~fitted]) - d[~fitted]) ** 2).mean())) for law in LAWS
    )
    return power, logarithm


def _series(times: ArrayLike, distances: ArrayLike, least: int = 3) -> tuple[NDArray, NDArray]:
    t, d = _checks.finite_array("times", times), _checks.finite_array("distances", distances)
    if t.ndim != 1 or t.shape != d.shape or len(t) < least:
        raise ValueError(f"times and distances must be as many, at least {least}, got {t.shape} and {d.shape}")
    if t[0] <= 0 or not (np.diff(t) > 0).all():
        raise ValueError("times must be > 0 and increase")
    return t, d
