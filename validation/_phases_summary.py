"""What runs of the phases come to: crossings, events beside them, compression, growth; a number for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ._phases_events import Crossing, crossing, falls_to, passes, peak, smoothed
from ._phases_growth import Comparison, compared, local_exponents
from .measures_noise import batch_share

Runs = Mapping[str, Sequence[xr.Dataset]]  # by kind: one per seed
SMOOTH = 5  # records
AT_CAP = 0.01  # bits
EVENTS = {
    "loss": "the loss has nine tenths of its fall behind it",
    "fit": "99 % of the training samples are right",
    "sharpness": "λ_max of the Hessian is largest",
    "memory": "the cosine with w₀ is halfway down to its last value",
    "saturation": "half of the final saturation is reached",
    "compression": "I(X;T) in bins, mean over layers, is largest",
}


def ratio(run: xr.Dataset, layer: int | None = None, batch: int | None = None) -> NDArray[np.float64]:
    """(step,) |g|/√tr D_b of a layer, None: of all weights; `batch` None: the batch size of the settings."""
    gradient, noise = run["statistics"].values[:, :, 0] ** 2, run["statistics"].values[:, :, 1] ** 2
    size = run.attrs["noise_size"] if batch is None else batch
    share = batch_share(size, run.attrs["samples"], "reshuffling")
    if layer is None:
        gradient, noise = gradient.sum(1), noise.sum(1)
    else:
        gradient, noise = gradient[:, layer], noise[:, layer]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(gradient / (share * noise))


def crossing_of(run: xr.Dataset, layer: int | None = None, batch: int | None = None) -> Crossing:
    """`crossing` of the ratio, a geometric mean over five neighbouring records."""
    return crossing(run["step"].values, smoothed(ratio(run, layer, batch), SMOOTH))


def layers_apart(run: xr.Dataset) -> float:
    """ln of the latest over the earliest last fall through 1 among the layers; NaN if it comes in none.

    A layer that is never above 1 counts as falling at step 1, one that ends above as at twice the last step: where
    only some of the layers cross, the number is large.
    """
    where = np.array([crossing_of(run, layer).last for layer in range(run.sizes["layer"])])
    if not ((where > 0) & np.isfinite(where)).any():
        return float("nan")
    return float(np.ptp(np.log(np.clip(where, 1.0, 2.0 * float(run["step"].values[-1])))))


def drift(run: xr.Dataset, batch: int | None = None) -> float:
    """Mean of ln SNR over the steps until the loss has nine tenths of its fall behind it; NaN if it does not fall."""
    steps, end = run["step"].values, falls_to(run["step"].values, run["loss"].values, 0.1)
    if not end > 0:
        return float("nan")
    log, before = np.log(ratio(run, batch=batch)), steps < end
    values = np.append(log[before], np.interp(end, steps, log))
    return float(np.trapezoid(values, np.append(steps[before], end)) / end)


def late(run: xr.Dataset) -> float:
    """Mean of ln SNR over the last tenth of the records."""
    log = np.log(ratio(run))
    return float(log[-max(1, len(log) // 10) :].mean())


def bits(run: xr.Dataset, estimator: str, quantity: str = "inputs") -> NDArray[np.float64]:
    """(plane_step, hidden) information in bits by an estimator."""
    return run["information"].sel(estimator=estimator, quantity=quantity).values


def at(run: xr.Dataset, step: float, estimator: str, quantity: str = "inputs") -> float:
    """Information, mean over hidden layers, at a step: straight in ln(step + 1) between records."""
    return float(np.interp(np.log1p(step), np.log1p(run["plane_step"].values), bits(run, estimator, quantity).mean(1)))


def change(run: xr.Dataset, step: float, estimator: str, quantity: str = "inputs") -> float:
    """Information at the end less that at `step`, mean over hidden layers; bits, below 0 for compression."""
    return float(bits(run, estimator, quantity)[-1].mean()) - at(run, step, estimator, quantity)


def since(kind: str, run: xr.Dataset, tanh: xr.Dataset) -> float:
    """The step from which on compression is asked for: the last crossing of tanh, SGD, of the same seed; for relu,
    with another η, where its own loss has nine tenths of its fall behind it. NaN where that does not come.
    """
    step = events(run)["loss"] if kind == "relu" else crossing_of(tanh).last
    return step if np.isfinite(step) else float("nan")


def capped(run: xr.Dataset, estimator: str) -> float:
    """The share of hidden layers whose I(X;T) stands at log₂ n, within 0.01 bits, at the end."""
    return float((bits(run, estimator)[-1] > np.log2(run.attrs["plane_samples"]) - AT_CAP).mean())


def events(run: xr.Dataset) -> dict[str, float]:
    """The steps of EVENTS that this run has; NaN where it does not come to one."""
    steps = run["step"].values
    found = {
        "loss": falls_to(steps, run["loss"].values, 0.1),
        "fit": steps_to_fit(run),
        "sharpness": peak(run["sharp_step"].values, run["sharpness"].values),
        "memory": falls_to(steps, run["cosine"].values, 0.5),
    }
    if "information" in run:
        when, saturated = run["plane_step"].values, run["saturated"].values.mean(1)
        if saturated[-1] > 0:
            found["saturation"] = passes(when, saturated, saturated[-1] / 2)
        found["compression"] = peak(when, bits(run, "bins").mean(1))
    return found


def apart(run: xr.Dataset, batch: int | None = None) -> dict[str, float]:
    """ln(step of an event over that of the last fall of the SNR through 1); NaN where one of them is not there."""
    when = crossing_of(run, batch=batch).last
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: float(np.log(step / when)) if 0 < when < np.inf and step > 0 else float("nan")
                for name, step in events(run).items()}  # fmt: skip


def kept(run: xr.Dataset) -> float:
    """w·w₀/|w₀|² at the end over that at the crossing: what is left of the start since then; NaN without a crossing."""
    when, share = crossing_of(run).last, run["projection"].values
    if not np.isfinite(when):
        return float("nan")
    return float(share[-1] / np.interp(np.log1p(when), np.log1p(run["step"].values), share))


def growth(run: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and distances from the start, from the end of the first epoch on."""
    steps = run["step"].values
    after = steps >= run.attrs["per_epoch"]
    return steps[after].astype(float), run["distance"].values[after]


def laws(run: xr.Dataset) -> Comparison:
    """The two laws of growth on a run."""
    return compared(*growth(run))


def exponents(run: xr.Dataset) -> NDArray[np.float64]:
    """Local exponents of the growth over the thirds of its records."""
    return local_exponents(*growth(run))


def displacement_alone(run: xr.Dataset) -> NDArray[np.float64]:
    """|w₀|/√(|w₀|² + |w − w₀|²): the cosine with w₀ had the way been perpendicular to it."""
    start = run["norm"].values[0]
    return start / np.hypot(start, run["distance"].values)


def steps_to_fit(run: xr.Dataset, level: float = 0.99) -> float:
    """The step at which the training accuracy reaches `level`; NaN if it does not."""
    return passes(run["step"].values, run["accuracy"].values, level)
