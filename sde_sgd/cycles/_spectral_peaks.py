"""Peaks in the spectra of a trajectory that its own smooth background does not explain."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import TooFewSamples

from ._series import Series, series_of
from ._series_sources import interpretation, settings, sources
from ._series_spectrum import GUARD, LOWEST, Background, Spectrum, background, welch

_SHORTEST = 64
_SEGMENTS = 31  # half-overlapping, of an automatic segment


def spectral_peaks(
    trajectory: Any,
    *,
    variables: str | Sequence[str] | None = None,
    dt: float | None = None,
    burn_in: int = 0,
    principal: int | None = None,
    segment: int | None = None,
    neighbours: int = 32,
    level: float = 0.01,
    learning_rate: float | None = None,
    curvature: Any = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    r"""Frequencies at which the Welch spectrum P(f) exceeds its local background beyond chance, and likely causes.

    P is a mean over half-overlapping Hann segments, with χ²_ν/ν scatter, ν = 2·segments less what the overlap costs.
    The background at f is a parabola through log P over log sin²(πf·dt) of up to `neighbours` bins on either side, a
    guard of 3 bins left out; P/background has an F(ν, ν₂) law, and p-values are multiplied by the number of
    frequencies and observables (Bonferroni). Neither white noise nor one AR(1) process is a valid background for
    several scales of time: both call the smooth rise of a mixture a peak.

    Parameters
    ----------
    trajectory, variables, dt, burn_in : as in `area_production`; one variable is enough.
    principal : k looks at the k leading principal components in place of the variables; their directions come from the
        first quarter of the times, which is then left out.
    segment : samples in a segment; it resolves frequencies 1/(segment·dt) apart, and a peak should not be much wider
        than that: take shorter segments for an oscillation that loses its phase soon. By default the longest power
        of two with 31 segments. Frequencies below 8/(segment·dt) have no background and are not tested.
    level : chance of any false peak.
    learning_rate, curvature, momentum, nesterov, samples, batch_size : of the run, η, eigenvalues of the Hessian, …;
        read from a Dataset of `sgd` where they are in its attributes. They name harmless sources: a step with ηh > 1
        overshoots, momentum swings, an epoch repeats each ⌈N/b⌉ steps (known to a run with reshuffling). Times count
        η per step.

    Returns
    -------
    Dataset over (observable, frequency), in cycles per time: `spectrum`, one-sided density, `background`, `threshold`
    (power above it is a peak), `p_value` of each bin alone; and over `peak`, most significant first: `peak_frequency`
    (centroid), `peak_observable`, `peak_ratio` of power to background, `peak_p_value` adjusted, `peak_amplitude` a of
    the sinusoid a·cos(2πft) of that power a²/2, `interpretation` in words. Scalar `p_value_smallest` is adjusted: no
    oscillation at all. `attrs["scatter"]` of log P about its background is near 1 where the law holds: beyond 1.1 the
    series is too far from Gaussian over a segment, or the spectrum has more structure than neighbours show.

    A peak is not a cycle: a stable focus with noise has one as well, which is what `interpretation` says. Raises
    ValueError for bad arguments, `TooFewSamples` for fewer than 8 segments. Not for a line that the window of
    neighbours cannot hold (wider than `neighbours` bins), nor below 8 bins. Welch (1967); Vaughan (2005), Astron.
    Astrophys. 431.
    """
    series = series_of(trajectory, variables, dt, burn_in)
    level = _checks.positive("level", level)
    if level >= 1:
        raise ValueError(f"level must be a probability below 1, got {level:g}")
    neighbours = _checks.whole("neighbours", neighbours, 2 * GUARD + 4)
    given = dict(
        learning_rate=learning_rate, curvature=curvature, momentum=momentum, nesterov=nesterov, samples=samples,
        batch_size=batch_size,
    )  # fmt: skip
    known, every = settings(series.attrs, given, series.spacing, series.steps)
    if principal is not None:
        series = _principal(series, _checks.whole("principal", principal, 1, len(series.variables)))
    still = [name for name, v in zip(series.variables, np.ptp(series.values, axis=1).T) if not v.min() > 0]
    if still:
        raise ValueError(f"{still[0]!r} does not move in some chain, so that it has no spectrum; leave it out")
    segment = _segment(series, segment)
    spectrum = welch(series.values, series.spacing, segment)
    tests = (len(spectrum.frequency) - LOWEST) * len(series.variables)
    found = background(spectrum, series.spacing, neighbours, level / tests)
    explained = sources(**known, every=every, bins=len(spectrum.frequency))
    peaks = _peaks(series, spectrum, found, tests, level)
    resolution = float(spectrum.frequency[1])
    widest = resolution * neighbours / 2
    for peak in peaks:
        if peak["cut"]:
            peak["interpretation"] = (
                f"reaches below {LOWEST * resolution:.3g}, the lowest frequency tested: its own is not known; take "
                "a longer segment"
            )
        else:
            frequency = peak["peak_frequency"]
            peak["interpretation"] = interpretation(frequency, resolution, series.spacing, every, explained, widest)
    dims = ("observable", "frequency")
    arrays: dict[str, Any] = {
        "spectrum": (dims, spectrum.power),
        "background": (dims, found.level),
        "threshold": (dims, found.threshold),
        "p_value": (dims, found.p_value),
        "p_value_smallest": ((), min(1.0, float(np.nanmin(found.p_value)) * tests)),
    }
    for name, kind in (
        ("peak_frequency", float), ("peak_observable", str), ("peak_ratio", float), ("peak_p_value", float),
        ("peak_amplitude", float), ("interpretation", str),
    ):  # fmt: skip
        arrays[name] = (("peak",), np.array([peak[name] for peak in peaks], dtype=kind))
    attrs = {
        **series.attrs,
        "method": "Welch spectrum against a local background",
        "chains": series.values.shape[0],
        "samples": series.values.shape[0] * series.values.shape[1],
        "spacing": series.spacing,
        "segment": segment,
        "segments": spectrum.segments,
        "degrees_of_freedom": float(spectrum.freedom[LOWEST]),
        "neighbours": neighbours,
        "level": level,
        "tests": tests,
        "scatter": found.scatter,
        "burn_in": burn_in,
    }
    coords = {"frequency": spectrum.frequency, "observable": list(series.variables)}
    return xr.Dataset(arrays, coords=coords, attrs=attrs)


def _principal(series: Series, count: int) -> Series:
    quarter = series.values.shape[1] // 4
    if quarter < 2:
        raise TooFewSamples(f"principal directions need a quarter of at least 8 states, got {series.values.shape[1]}")
    pilot = series.values[:, :quarter]
    pilot = (pilot - pilot.mean(axis=(0, 1))).reshape(-1, pilot.shape[-1])
    _, _, directions = np.linalg.svd(pilot, full_matrices=False)
    if len(directions) < count:
        raise TooFewSamples(f"{len(pilot)} states give {len(directions)} principal directions, {count} are asked for")
    names = tuple(f"pc{k + 1}" for k in range(count))
    values = series.values[:, quarter:] @ directions[:count].T
    return Series(values, series.spacing, names, series.steps, series.attrs)


def _segment(series: Series, segment: int | None) -> int:
    chains, samples, _ = series.values.shape
    if segment is None:
        segment = _SHORTEST
        while 2 * segment <= samples and chains * (samples // segment - 1) >= _SEGMENTS:
            segment *= 2
    segment = _checks.whole("segment", segment, _SHORTEST)
    count = 0 if segment > samples else chains * (1 + (samples - segment) // (segment - segment // 2))
    if count < 8:
        raise TooFewSamples(
            f"{chains} × {samples} saved states hold {count} half-overlapping segments of {segment}; 8 are needed: "
            "save more states or take a shorter segment"
        )
    return segment


def _peaks(series: Series, spectrum: Spectrum, found: Background, tests: int, level: float) -> list[dict[str, Any]]:
    """Runs of significant bins, gaps within the guard bridged, each at the centroid around its highest bin."""
    peaks = []
    resolution = float(spectrum.frequency[1])
    twins = spectrum.freedom / spectrum.freedom[LOWEST]  # half at the highest frequency, where the power was doubled
    for o, name in enumerate(series.variables):
        bins = np.flatnonzero(found.p_value[o] * tests <= level)
        for run in np.split(bins, np.flatnonzero(np.diff(bins) > GUARD) + 1) if bins.size else []:
            top = run[np.argmax(spectrum.power[o, run] / found.level[o, run])]
            around = slice(max(run[0] - 2, LOWEST), run[-1] + 3)
            power = ((spectrum.power[o, around] - found.level[o, around]) * twins[around]).sum() * resolution
            near = np.arange(max(top - 2, LOWEST), min(top + 3, len(spectrum.frequency)))
            excess = np.maximum(spectrum.power[o, near] - found.level[o, near], 0.0)
            peaks.append(
                {
                    "peak_frequency": float((excess * spectrum.frequency[near]).sum() / excess.sum()),
                    "cut": bool(top == LOWEST),
                    "peak_observable": name,
                    "peak_ratio": float(spectrum.power[o, top] / found.level[o, top]),
                    "peak_p_value": min(1.0, float(found.p_value[o, run].min()) * tests),
                    "peak_amplitude": float(np.sqrt(2 * max(power, 0.0))),
                }
            )
    return sorted(peaks, key=lambda peak: (peak["peak_p_value"], -peak["peak_ratio"]))
