"""Runs that stop and go on: the same bits after Ctrl-C, a kill, by hand, with other threads; files whole or absent."""

import _thread
import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

import sde_sgd as sde
from sde_sgd import schedules
from sde_sgd.paths import _ensemble
from sde_sgd.paths._checkpoint import Checkpoint

WELL = sde.Landscape("x", "(x**2 - 1)**2/4")
GRID = sde.Grid(-3.0, 3.0, 24)


def paths(**changes):
    settings = dict(step=0.01, steps=400, paths=9000, seed=7, save_every=100) | changes
    return sde.simulate(WELL.at_temperature(0.3), -1.0, observables=sde.Histogram(GRID, burn_in=50), **settings)


def exits(**changes):
    settings = dict(step=0.01, max_steps=400, paths=9000, seed=7) | changes
    return sde.exit_times(WELL.at_temperature(0.3), -1.0, "x < 0", **settings)


def same(one, other):
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


@pytest.fixture
def small(monkeypatch):
    """Three groups of paths, each in as many segments as steps."""
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-6)  # one step each


def interrupted(monkeypatch, calls, run):
    """Run until a Ctrl-C arrives while the main thread waits for the kernel's `calls`-th call."""
    count, kernel = [0], _ensemble.Run._call

    def call(self, *arguments):
        kernel(self, *arguments)
        count[0] += 1
        if count[0] == calls:
            time.sleep(0.05)
            _thread.interrupt_main()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(_ensemble.Run, "_call", call)
            with pytest.raises(KeyboardInterrupt, match="the same call goes on from") as caught:
                run()
    finally:
        signal.signal(signal.SIGINT, handler)
    return str(caught.value)


@pytest.mark.parametrize("run", [paths, exits])
def test_a_run_goes_on_after_ctrl_c(run, monkeypatch, small, tmp_path):
    """Interrupted in each of its groups in turn, continued with other threads: all states, series, counts and exits."""
    reference, file = run(), tmp_path / "run.npz"
    begun = []
    for calls in (5, 600, 300):  # after steps 5, 605 and 905 of 3 · 400
        interrupted(monkeypatch, calls, lambda: run(checkpoint=file, threads=1))
        assert os.listdir(tmp_path) == ["run.npz"]
        with np.load(file) as kept:
            begun.append((int(kept["at"][0]), int(kept["at"][1])))
    assert begun == [(0, 5), (1, 205), (2, 105)]
    seen = []
    same(run(checkpoint=file, threads=3, progress=lambda *at: seen.append(at)), reference)
    assert os.listdir(tmp_path) == []
    total = 3 * 400
    assert begun[-1][0] * 400 + begun[-1][1] < seen[0][0] and seen[-1] == (total, total)


def test_progress_never_goes_back_and_ends_at_the_total(small):
    for run in (paths, exits, lambda **c: exits(max_steps=100_000, paths=100, **c)):  # the last: all leave early
        seen = []
        run(progress=lambda *at, seen=seen: seen.append(at))
        done, totals = np.array(seen).T
        assert (np.diff(done) >= 0).all() and len(seen) > 5
        assert (totals == totals[0]).all() and done[-1] == totals[0] and done[0] < totals[0]


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from sde_sgd.paths import _checkpoint, _ensemble
_checkpoint.Checkpoint.seconds, _ensemble._SEGMENT_SECONDS = 0.0, 0.002
import sde_sgd as sde
well = sde.Landscape("x", "(x**2 - 1)**2/4").at_temperature(0.3)
sde.simulate(well, -1.0, step=0.01, steps=120_000, paths=300, seed=7, save_every=1000, checkpoint={file!r})
"""


def test_a_run_goes_on_after_a_kill(tmp_path):
    """SIGKILL while the file is rewritten every few milliseconds: it is whole, and the bits are the same."""
    well, file = WELL.at_temperature(0.3), tmp_path / "run.npz"
    settings = dict(step=0.01, steps=120_000, paths=300, seed=7, save_every=1000)
    reference = sde.simulate(well, -1.0, **settings)
    script = SCRIPT.format(folder=os.getcwd(), file=str(file))
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        while not file.exists() and child.poll() is None:
            time.sleep(0.002)
        time.sleep(0.03)
        assert child.poll() is None, "the run was over before it could be killed"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with np.load(file) as kept:
        done = int(kept["at"][1])
    assert 0 < done < 120_000
    seen = []
    same(sde.simulate(well, -1.0, checkpoint=file, progress=lambda *at: seen.append(at), **settings), reference)
    assert seen[0][0] > done and not file.exists()


class Stop(Exception):
    pass


def halted(run, file, monkeypatch):
    """Leave a checkpoint of `run` behind."""

    def stop(done, total):
        if done > 2:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Checkpoint, "seconds", 0.0)
        patch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-6)
        run(checkpoint=file, progress=stop)
    assert file.exists()


@functools.cache
def by_function(rate):
    unit, zero = (lambda x: ((1.0 + 0 * x,),)), (lambda x: (0 * x,))
    return sde.Process(lambda x: (-rate * x,), unit, 0.5, variables=("x",), diffusion_divergence=zero)


def watched(limit, **changes):
    settings = dict(step=0.1, max_steps=30, paths=99, bridge=False) | changes
    return sde.exit_times(WELL.at_temperature(0.3), -1.0, lambda x: x[..., 0] < limit, **settings)


def below(x, limit):
    return x[..., 0] < limit


class Below:
    def __init__(self, limit):
        self.limit = limit

    def __call__(self, x):
        return below(x, self.limit)


def watched_by(region, **changes):
    return sde.exit_times(
        WELL.at_temperature(0.3), -1.0, region, step=0.1, max_steps=30, paths=99, bridge=False, **changes
    )


def observed(observable, **changes):
    settings = dict(step=0.01, steps=400, paths=64, save_every=0) | changes
    return sde.simulate(WELL.at_temperature(0.3), -1.0, observables=observable, **settings)


LAST = np.full(2000, 0.01)
LAST[1777] = 0.011  # one step in two thousand
OTHERS = {
    "seed": (paths, lambda **c: paths(seed=8, **c)),
    "steps": (paths, lambda **c: paths(steps=500, **c)),
    "saving": (paths, lambda **c: paths(save_every=None, **c)),
    "path": (paths, lambda **c: paths(first_path=1, **c)),
    "scheme": (paths, lambda **c: paths(scheme="euler_maruyama", **c)),
    "one step": (
        lambda **c: paths(step=np.full(2000, 0.01), steps=2000, paths=64, **c),
        lambda **c: paths(step=LAST, steps=2000, paths=64, **c)),
    "region": (exits, lambda **c: sde.exit_times(
        WELL.at_temperature(0.3), -1.0, "x < 0.1", step=0.01, max_steps=400, paths=9000, seed=7, **c)),
    "region by function": (lambda **c: watched(0.0, **c), lambda **c: watched(0.1, **c)),
    "region by a function and its argument": (
        lambda **c: watched_by(functools.partial(below, limit=0.0), **c),
        lambda **c: watched_by(functools.partial(below, limit=0.1), **c)),
    "region by an object": (lambda **c: watched_by(Below(0.0), **c), lambda **c: watched_by(Below(0.1), **c)),
    "region by a method": (
        lambda **c: watched_by(Below(0.0).__call__, **c), lambda **c: watched_by(Below(0.1).__call__, **c)),
    "times of an observable": (
        lambda **c: observed(sde.FirstPassage("x > 0", times=[1.0, 2.0]), **c),
        lambda **c: observed(sde.FirstPassage("x > 0", times=[1.0, 3.0]), **c)),
    "blocks of an observable": (
        lambda **c: observed(sde.Moments(blocks=8), **c), lambda **c: observed(sde.Moments(blocks=16), **c)),
    "temperature": (paths, lambda **c: sde.simulate(
        WELL.at_temperature(0.31), -1.0, step=0.01, steps=400, paths=9000, seed=7, save_every=100,
        observables=sde.Histogram(GRID, burn_in=50), **c)),
    "drift by function": (
        lambda **c: sde.simulate(by_function(1.0), 0.0, step=0.01, steps=400, **c),
        lambda **c: sde.simulate(by_function(2.0), 0.0, step=0.01, steps=400, **c)),
}  # fmt: skip


KERNELS_OF_THEIR_OWN = ("region by a function and its argument", "region by an object", "region by a method")


@pytest.mark.parametrize(
    "what", [pytest.param(k, marks=pytest.mark.evidence) if k in KERNELS_OF_THEIR_OWN else k for k in OTHERS]
)
def test_another_question_is_refused(what, tmp_path, monkeypatch):
    """Its checkpoint stays as it was, and the run it belongs to ends with its own bits."""
    run, other = OTHERS[what]
    file = tmp_path / "run.npz"
    halted(run, file, monkeypatch)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"is the checkpoint of another run .* delete it to start anew"):
        other(checkpoint=file)
    assert file.read_bytes() == before
    same(run(checkpoint=file), run())


@pytest.mark.parametrize("content", [b"", b"nothing of ours", b"PK\x03\x04 cut", "half", "array", "folder"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path, monkeypatch):
    file = tmp_path / "run.npz"
    if content == "half":
        halted(paths, file, monkeypatch)
        content = file.read_bytes()[: file.stat().st_size // 2]
    if content == "array":
        np.save(tmp_path / "a.npy", np.zeros(3))
        content = (tmp_path / "a.npy").read_bytes()
    if content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint of this package; name another file"):
        paths(checkpoint=file)
    with pytest.raises(ValueError, match="checkpoint must be the name of a file, got 5"):
        paths(checkpoint=5)


def test_nothing_half_written_takes_the_place_of_a_checkpoint(tmp_path, monkeypatch):
    """A disk that fills up while writing leaves the file that was there."""
    file = tmp_path / "run.npz"
    halted(paths, file, monkeypatch)
    before = file.read_bytes()

    def full(stream, **arrays):
        stream.write(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        patch.setattr(Checkpoint, "seconds", 0.0)
        with pytest.raises(OSError, match="no space left"):
            paths(checkpoint=file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["run.npz"]


# -- by hand -----------------------------------------------------------------------------------------------------


def a_process(scheme):
    landscape = sde.Landscape("x", "(x**2 - 1)**2/4", diffusion=[["1 + x**2/4"]] if scheme == "milstein" else None)
    cooling = schedules.Annealing(0.5, 0.1, 0.4)
    if sde.SCHEMES[scheme].underdamped:
        return sde.Underdamped(landscape, cooling, 0.7), np.array([-1.0, 0.2])
    return landscape.at_temperature(cooling), np.array([-1.0])


LONG = ("milstein", "sra1", "stochastic_heun")  # they keep nothing between steps that euler_maruyama does not


@pytest.mark.parametrize(
    "scheme",
    [pytest.param(name, marks=pytest.mark.evidence) if name in LONG else name for name in sorted(sde.SCHEMES)],
)
def test_a_run_is_continued_by_hand(scheme):
    """17 steps, then 23 more from the last state, under a falling temperature and growing steps; at the wrong
    first_step the bits differ."""
    process, start = a_process(scheme)
    clock = 0.01 * 1.02 ** np.arange(40)
    settings = dict(paths=70, seed=3, scheme=scheme)
    whole = sde.simulate(process, start, step=clock, steps=40, save_every=1, **settings)
    first = sde.simulate(process, start, step=clock[:17], steps=17, **settings)
    state = np.stack([first[v] for v in process.variables], -1)
    second = sde.simulate(process, state, step=clock, steps=23, first_step=17, save_every=1, **settings)
    for v in process.variables:
        np.testing.assert_array_equal(second[v], whole[v][:, 17:])
    np.testing.assert_array_equal(second.time, whole.time[17:])
    np.testing.assert_array_equal(second.step, np.arange(17, 41))
    late = sde.simulate(process, state, step=clock[:39], steps=23, first_step=16, **settings)
    assert not np.array_equal(late[process.variables[0]], whole[process.variables[0]][:, -1])


def test_a_run_that_left_its_domain_is_continued_by_hand():
    small = sde.Landscape("x", "x**2/2", domain={"x": (-1, 1)}).at_temperature(0.5)
    settings = dict(step=0.1, paths=200, seed=3)
    whole, first = sde.simulate(small, 0.0, steps=40, **settings), sde.simulate(small, 0.0, steps=17, **settings)
    assert float(abs(first.x).max()) > 1
    second = sde.simulate(small, first.x.values[:, None], steps=23, first_step=17, **settings)
    np.testing.assert_array_equal(second.x, whole.x)
    for changes in ({}, {"first_step": 17, "walls": "reflect"}):
        with pytest.raises(ValueError, match="outside the domain"):
            sde.simulate(small, first.x.values[:, None], steps=23, **settings, **changes)


def test_one_path_of_many_is_replayed():
    many = paths(save_every=100)
    one = sde.simulate(
        WELL.at_temperature(0.3), -1.0, step=0.01, steps=400, paths=1, first_path=7777, save_every=50, seed=7
    )
    np.testing.assert_array_equal(one.x[0, ::2], many.x[7777])


@pytest.mark.parametrize("scheme", ["euler_maruyama", "sra1", "leimkuhler_matthews"])
@pytest.mark.parametrize("m", [2, 5])
def test_coarse_increments_are_sums_of_fine_ones(m, scheme):
    """A free Brownian motion at step h with m substeps is, to rounding, its own path at h/m; without them it is not."""
    free, fine = sde.Landscape("x", "0").at_temperature(0.5), 1 / 64
    settings = dict(paths=100, seed=2, scheme=scheme)
    walk = sde.simulate(free, 0.0, step=fine, steps=10 * m, save_every=m, **settings).x
    coarse = sde.simulate(free, 0.0, step=m * fine, steps=10, substeps=m, save_every=1, **settings).x
    other = sde.simulate(free, 0.0, step=m * fine, steps=10, save_every=1, **settings).x
    if scheme != "leimkuhler_matthews":
        np.testing.assert_allclose(coarse, walk, atol=1e-13)
    else:  # its path is shifted by half an increment at each end: sums of halves of the same increments
        increments = sde.simulate(free, 0.0, step=m * fine, steps=11, substeps=m, save_every=1, **settings | EULER).x
        moves = np.diff(increments, axis=1)
        np.testing.assert_allclose(np.diff(coarse, axis=1), 0.5 * (moves[:, 1:] + moves[:, :-1]), atol=1e-13)
    assert np.abs(other - walk).max() > 0.1


EULER = dict(scheme="euler_maruyama")


@pytest.mark.evidence
def test_double_integrals_coarsen_with_their_increments():
    """dx = dW, dy = x dt: SRA1 gives y = ∫x dt exactly at every step, so coarse and fine agree to rounding on the same
    noise; Euler's y does not."""
    pair = sde.Landscape(("x", "y"), "0", circulation=["0", "x"], diffusion=[[1, 0], [0, 0]]).at_temperature(0.5)
    settings = dict(paths=100, seed=2)
    for scheme, agrees in (("sra1", True), ("euler_maruyama", False)):
        fine = sde.simulate(pair, (0, 0), step=1 / 32, steps=40, save_every=4, scheme=scheme, **settings)
        coarse = sde.simulate(pair, (0, 0), step=1 / 8, steps=10, substeps=4, save_every=1, scheme=scheme, **settings)
        np.testing.assert_allclose(coarse.x, fine.x, atol=1e-12)
        assert (np.abs(coarse.y - fine.y).max() < 1e-12) == agrees
    var = float(sde.simulate(pair, (0, 0), step=1.0, steps=1, scheme="sra1", paths=200_000, seed=3).y.var())
    assert var == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 200_000) / 3)  # Var ∫₀¹ W dt
