"""Peaks of spectra: what chance and smooth backgrounds do, what an injected line does, and known sources."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import xarray as xr

import sde_sgd as sde
from sde_sgd import figures

evidence = pytest.mark.evidence
NULLS = {
    "white": ([0.0], [1.0]),
    "one scale": ([0.9], [1.0]),
    "slow": ([0.99], [1.0]),
    "mixed scales": ([0.5, 0.9, 0.99, 0.999], [1.0, 1.0, 1.0, 1.0]),
    "very mixed scales": ([0.3, 0.7, 0.95, 0.98, 0.9999], [1.0, 1.0, 1.0, 1.0, 1.0]),
    "random walk": ([1.0], [1.0]),
    "walk and noise": ([1.0, 0.9, 0.5], [0.05, 1.0, 1.0]),
}


def mixture(phis, weights, rng, samples, seeds):
    """Sums (seeds, samples) of stationary AR(1) processes, φ = 1 a random walk."""
    total = np.zeros((seeds, samples))
    for phi, weight in zip(phis, weights):
        e = rng.normal(size=(seeds, samples)) * (np.sqrt(1 - phi**2) or 1.0)
        e[:, 0] /= np.sqrt(1 - phi**2) or 1.0
        total += weight * scipy.signal.lfilter([1.0], [1.0, -phi], e, axis=1)
    return total


def double_wells(rng, samples, seeds):
    """A Metropolis chain (seeds, samples) in a double well: reversible, far from Gaussian."""
    x, series = np.ones(seeds), np.empty((samples, seeds))
    noise, draw = rng.normal(0, 0.7, (samples, seeds)), np.log(rng.random((samples, seeds)))
    for k in range(samples):
        new = x + noise[k]
        x = np.where(draw[k] < (x * x - 1) ** 2 - (new * new - 1) ** 2, new, x)
        series[k] = x
    return series.T


def peaks_of(series, **options):
    return sde.spectral_peaks(series[:, None], dt=1.0, **options)


# chance and backgrounds ------------------------------------------------------------------------------------


def test_a_line_is_found_where_it_is():
    """a·cos(2πft) on noise of several scales: f within a bin, a within 10 %, and nothing else among 5 observables."""
    rng = np.random.default_rng(0)
    x = mixture(*NULLS["mixed scales"], rng, 16384, 5).T
    x[:, 2] += 0.3 * np.cos(2 * np.pi * 0.0633 * np.arange(16384) + 1.0)
    found = sde.spectral_peaks(x, dt=0.5, segment=512)
    assert found.peak_observable.values.tolist() == ["x2"] and float(found.peak_p_value[0]) < 1e-6
    assert float(found.peak_frequency[0]) == pytest.approx(2 * 0.0633, abs=1 / 256)
    assert float(found.peak_amplitude[0]) == pytest.approx(0.3, rel=0.1)
    assert "noisy focus" in str(found.interpretation[0].values)
    assert found.attrs["tests"] == 5 * 249 and 0.9 < found.attrs["scatter"] < 1.1
    # the threshold is where the p-value is the level
    at = found.isel(frequency=slice(8, None))
    peaks = (at.spectrum > at.threshold).values
    np.testing.assert_array_equal(peaks, at.p_value.values <= 0.01 / found.attrs["tests"])


def test_counterexample_other_backgrounds_call_a_mixture_a_peak():
    """White and AR(1) backgrounds, the same χ² and Bonferroni: alarms of at least half; the local one: none of 20."""
    x = mixture(*NULLS["mixed scales"], np.random.default_rng(1), 8192, 20)
    alarms = {"white": 0, "one AR(1)": 0, "local": 0}
    for series in x:
        found = peaks_of(series, segment=256)
        f, p = found.frequency.values[8:], found.spectrum.values[0, 8:]
        centred = series - series.mean()
        phi = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
        red = 2 * series.var() * (1 - phi**2) / (1 - 2 * phi * np.cos(2 * np.pi * f) + phi**2)
        nu = found.attrs["degrees_of_freedom"]
        for name, level in (("white", np.full_like(p, p.mean())), ("one AR(1)", red)):
            alarms[name] += scipy.stats.chi2.sf(nu * p / level, nu).min() * len(p) < 0.01
        alarms["local"] += float(found.p_value_smallest) < 0.001  # false alarm 2 % for 20
    assert alarms["white"] == 20 and alarms["one AR(1)"] >= 8 and alarms["local"] == 0, alarms


def test_sizes_quickly():
    """60 seeds of a mixture and of a walk at 10 %: 6 ± 2.3 alarms; 0 … 14 leaves out 1 in 1000."""
    for k, kind in enumerate(("mixed scales", "random walk")):
        x = mixture(*NULLS[kind], np.random.default_rng(2 + k), 2048, 60)
        assert sum(float(peaks_of(series, segment=128).p_value_smallest) <= 0.1 for series in x) <= 14
    white = peaks_of(np.random.default_rng(4).normal(size=8192), segment=256)  # ∫ of the density is the variance
    assert float(white.spectrum.mean()) / 2 == pytest.approx(1, abs=0.05)


@evidence(table="spectral_peaks_size")
def test_sizes(table):
    """2000 seeds for each process without a cycle: at 1 %, between 0.3 and 2 % raise an alarm."""
    rows = []
    for kind in (*NULLS, "double wells", "3 observables", "8 chains"):
        long = kind in ("mixed scales", "random walk", "double wells")
        for samples, segment in ((4096, 256), (8192, 512))[: 1 + long]:
            p, scatter = np.empty(2000), []
            for start in range(0, 2000, 100):
                rng = np.random.default_rng([20, start, samples])
                if kind == "double wells":
                    x = double_wells(rng, samples, 100)[..., None]
                elif kind == "3 observables":
                    x = mixture(*NULLS["mixed scales"], rng, samples, 300).reshape(100, 3, samples).transpose(0, 2, 1)
                elif kind == "8 chains":
                    x = mixture(*NULLS["random walk"], rng, samples // 8, 800).reshape(100, 8, samples // 8, 1)
                else:
                    x = mixture(*NULLS[kind], rng, samples, 100)[..., None]
                length = segment // 4 if kind == "8 chains" else segment
                for k, chain in enumerate(x):
                    found = sde.spectral_peaks(chain, dt=1.0, segment=length)
                    p[start + k] = float(found.p_value_smallest)
                    scatter.append(found.attrs["scatter"])
            five, one = (p <= 0.05).mean(), (p <= 0.01).mean()
            rows.append((kind, samples, length, f"{100 * five:.2f} %", f"{100 * one:.2f} %", f"{np.mean(scatter):.3f}"))
            assert 0.003 <= one <= 0.02, rows[-1]
    table(
        "False alarms of spectral_peaks",
        ["process", "samples", "segment", "at 5 %", "at 1 %", "mean scatter"],
        rows,
        "2000 seeds each. Mixtures of AR(1) processes with φ = 0.3 … 0.9999, random walks, and a Metropolis chain in a "
        "double well, none with a cycle. Standard error 0.5 % and 0.2 %.",
    )


@evidence(table="spectral_peaks_power")
def test_power(table):
    """A line of ratio r over the background per bin makes P a noncentral χ²: the power follows from that law."""
    rows, samples, segment = [], 8192, 512
    for kind in ("white", "mixed scales"):
        level = {"white": 2.0, "mixed scales": None}[kind]
        for ratio in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0):
            hits, sizes = [], []
            rng = np.random.default_rng([21, int(10 * ratio)])
            x = mixture(*NULLS[kind], rng, samples, 300)
            if level is None:
                phis, weights = NULLS[kind]
                z = np.exp(-2j * np.pi * 40 / segment)
                level_here = sum(2 * w**2 * (1 - q**2) / abs(1 - q * z) ** 2 for q, w in zip(phis, weights))
            else:
                level_here = level
            # the line's power in its bin is a²/2 · segment/1.5, 1.5 bins the noise bandwidth of the window
            a = np.sqrt(ratio * level_here * 2 * 1.5 / segment)
            x += a * np.cos(2 * np.pi * 40 / segment * np.arange(samples) + rng.uniform(0, 6.28, (300, 1)))
            for series in x:
                found = peaks_of(series, segment=segment)
                hit = np.abs(found.peak_frequency.values - 40 / segment) < 1.5 / segment
                hits.append(bool(hit.any()))
                sizes += found.peak_amplitude.values[hit].tolist()
            nu, tests = found.attrs["degrees_of_freedom"], found.attrs["tests"]
            critical = float((found.threshold / found.background)[0, 40])
            law = float(scipy.stats.ncx2.sf(critical * nu, nu, max(ratio * nu, 1e-9)))
            size = f"{np.mean(sizes) / a:.2f}" if ratio and sizes else "–"
            rows.append((kind, ratio, f"{a / x.std(axis=1).mean():.3f}", f"{np.mean(hits):.3f}", f"{law:.3f}", size))
            assert abs(np.mean(hits) - law) < 0.1, rows[-1]
            assert tests == segment // 2 - 7
    table(
        "Power of spectral_peaks at 1 %",
        ["background", "ratio r", "a/σ", "found", "noncentral χ²", "amplitude/a"],
        rows,
        "a·cos(2πft + φ) of random phase, f = 40/512 per sample, in 8192 samples, 31 segments of 512; "
        "r = a²·512/(3·S(f)) is the line's power over the background in its bin, σ the standard deviation of the "
        "series. 300 seeds, standard error at most 0.03.",
    )


# sources ---------------------------------------------------------------------------------------------------


def test_a_noisy_focus_has_a_peak_and_no_cycle():
    """dx = −x + 6Jx: a resonance at ω/2π; the area says that it turns, and the words that this is no cycle."""
    rng = np.random.default_rng(3)
    e = np.exp(-0.05) * np.exp(0.3j)
    noise = (rng.normal(size=(8, 8192)) + 1j * rng.normal(size=(8, 8192))) * np.sqrt((1 - abs(e) ** 2) / 2)
    z = scipy.signal.lfilter([1.0], [1.0, -e], noise, axis=1)
    x = np.stack([z.real, z.imag], -1)
    found = sde.spectral_peaks(x, dt=0.05, burn_in=200, segment=512)
    assert float(found.peak_frequency[0]) == pytest.approx(6 / 2 / np.pi, abs=0.1)
    assert "without any cycle" in str(found.interpretation[0].values)
    assert float(sde.area_production(x, dt=0.05, burn_in=200, flips=199).p_value[0]) < 0.01
    short = sde.spectral_peaks(x, dt=0.05, burn_in=200, segment=128)  # its bin 6 has no neighbours below
    assert "take a longer segment" in str(short.interpretation[0].values)


@pytest.mark.parametrize(
    ("step", "momentum", "nesterov", "words"),
    [(1.95, 0.0, False, "overshooting"), (0.3, 0.95, False, "swing of momentum"), (0.05, 0.98, True, "swing of mom")],
)
def test_sources_of_sgd_are_named(step, momentum, nesterov, words):
    """w' along an eigenvector, with noise: z² − (1+μ−ηh)z + μ, or Nesterov's, whose root gives the frequency."""
    left, noise = 1 - step, np.random.default_rng(5).normal(size=(4, 16384))
    second = [1, -(1 + momentum) * left, momentum * left] if nesterov else [1, -(left + momentum), momentum]
    w = scipy.signal.lfilter([1.0], second, noise, axis=1)[..., None]
    options = dict(dt=0.1, burn_in=500, segment=512, learning_rate=0.1, momentum=momentum, nesterov=nesterov)
    found = sde.spectral_peaks(w, curvature=[0.01, step / 0.1], **options)
    exact = np.abs(np.angle(np.roots(second))).max() / 2 / np.pi
    assert float(found.peak_frequency[0]) * 0.1 == pytest.approx(exact, abs=0.01)
    assert words in str(found.interpretation[0].values)
    assert words not in str(sde.spectral_peaks(w, **options).interpretation[0].values)


def test_a_wide_source_explains_nothing_far_from_it():
    """ηh = 1.05 forgets within a step: a half width of 0.48, of all frequencies 0.5. It is not what makes a line."""
    x = scipy.signal.lfilter([1.0], [1.0, 0.05], np.random.default_rng(10).normal(size=8192))
    line = np.cos(2 * np.pi * 0.1 * np.arange(8192))
    found = peaks_of(x + line, learning_rate=1.0, curvature=1.05, segment=512)
    assert float(found.peak_frequency[0]) == pytest.approx(0.1, abs=1e-3)
    assert str(found.interpretation[0].values).startswith("none of the known sources")


def test_amplitude_at_the_highest_frequency():
    """(−1)ⁿa has the power a², a cosine of amplitude √2·a; a line just below, a²/2."""
    x, n = np.random.default_rng(11).normal(size=8192), np.arange(8192)
    for line, amplitude in ((0.5 * (-1.0) ** n, np.sqrt(0.5)), (0.5 * np.cos(np.pi * (1 - 12 / 256) * n), 0.5)):
        found = peaks_of(x + line, segment=512)
        assert float(found.peak_amplitude[0]) == pytest.approx(amplitude, rel=0.05)


def reshuffled(eta, samples, batch, epochs, replicas, rng):
    """x' = x − η(x − mean of the batch), batches of a permutation made anew each epoch."""
    c = rng.normal(size=samples)
    noise = np.stack([rng.permuted(np.tile(c, (epochs, 1)), axis=1) for _ in range(replicas)])
    batches = noise.reshape(replicas, -1, batch).mean(-1)
    return scipy.signal.lfilter([eta], [1.0, eta - 1], batches - c.mean(), axis=1)


def test_the_epoch_is_named():
    """Batches exhaust the data each 15 steps: x² has that period where curvature is low, x a knee below it."""
    x = reshuffled(0.02, 60, 4, 2000, 4, np.random.default_rng(6))
    both = np.stack([x, x**2], axis=-1)
    options = dict(dt=0.02, burn_in=2000, segment=512, learning_rate=0.02, variables=["x", "square"])
    found = sde.spectral_peaks(both, samples=60, batch_size=4, **options)
    assert found.peak_observable.values[0] == "square" and float(found.peak_ratio[0]) > 4
    assert all("the epoch of 15 steps" in words for words in found.interpretation.values)
    assert float(found.peak_frequency[0]) * 0.02 == pytest.approx(1 / 15, abs=0.002)
    assert str(found.interpretation[0].values).startswith("the epoch of 15 steps, harmonic 1")
    # a run of sgd says so itself; saved every second step, harmonic 1 is where it was
    time = np.arange(both.shape[1])[::2]
    run = xr.Dataset(
        {"square": (("replica", "time"), both[:, ::2, 1])},
        coords={"time": 0.02 * time, "step": ("time", time)},
        attrs={"learning_rate": 0.02, "batch_size": 4, "sampling": "reshuffling", "epoch_steps": 15, "momentum": 0.0},
    )
    found = sde.spectral_peaks(run, burn_in=1000, segment=512)
    assert float(found.peak_frequency[0]) * 0.02 == pytest.approx(1 / 15, abs=0.002)
    assert "harmonic 1" in str(found.interpretation[0].values)
    run.attrs["sampling"] = "with_replacement"  # then there is no epoch, unless one says so
    assert "epoch" not in str(sde.spectral_peaks(run, burn_in=1000, segment=512).interpretation[0].values)
    said = sde.spectral_peaks(run, burn_in=1000, segment=512, samples=60)
    assert "harmonic 1" in str(said.interpretation[0].values)


def test_principal_components_come_from_the_first_quarter():
    x = mixture(*NULLS["mixed scales"], np.random.default_rng(7), 8192, 6).T
    x[:, :2] += 3 * np.stack([np.cos(0.5 * np.arange(8192)), np.sin(0.5 * np.arange(8192))], -1)
    found = sde.spectral_peaks(x, dt=1.0, principal=2, segment=256)
    assert found.observable.values.tolist() == ["pc1", "pc2"] and found.attrs["samples"] == 6144
    assert set(found.peak_observable.values) == {"pc1", "pc2"}
    assert float(found.peak_frequency[0]) == pytest.approx(0.5 / 2 / np.pi, abs=1 / 256)


# figures and faults ----------------------------------------------------------------------------------------


def test_figure_of_peaks():
    x = mixture(*NULLS["one scale"], np.random.default_rng(8), 4096, 2).T
    x[:, 1] += np.cos(0.8 * np.arange(4096))
    found = sde.spectral_peaks(x, dt=1.0)
    ax = figures.plot_spectral_peaks(found)
    assert "spectrum of x1" in ax.get_legend().get_texts()[0].get_text() and ax.texts[0].get_text() == "0.127"
    assert not figures.plot_spectral_peaks(found, "x0").texts
    with pytest.raises(ValueError, match="observable must be one of x0, x1"):
        figures.plot_spectral_peaks(found, "y")
    with pytest.raises(ValueError, match="no spectral peaks"):
        figures.plot_spectral_peaks(found.drop_vars("threshold"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(level=1.5), "level must be a probability below 1"),
        (dict(segment=32), "segment must be a whole number >= 64"),
        (dict(segment=512), "hold 2 half-overlapping segments of 512; 8 are needed"),
        (dict(neighbours=3), "neighbours must be a whole number >= 10"),
        (dict(curvature=1.0), "curvature tells .* only with learning_rate"),
        (dict(curvature=-1.0, learning_rate=0.1), "eigenvalues of the Hessian at a minimum"),
        (dict(learning_rate=0.3), "dt must be a whole number of steps"),
        (dict(momentum=1.0), "momentum must be at least 0 and below 1"),
        (dict(nesterov=2), "nesterov must be True or False"),
        (dict(samples=10), "give both, or neither"),
        (dict(samples=10, batch_size=20), "batch_size must be a whole number from 1 to 10"),
        (dict(principal=2), "principal must be a whole number from 1 to 1"),
    ],
)
def test_faults_in_words(options, words):
    x = np.random.default_rng(9).normal(size=(800, 1))
    with pytest.raises(ValueError, match=words):
        sde.spectral_peaks(x, dt=1.0, **options)


def test_a_variable_that_rests_has_no_spectrum():
    with pytest.raises(ValueError, match="'x0' does not move"):
        peaks_of(np.ones(1000))
