"""Every registered experiment, killed twice in one stage and started again: result.nc bit for bit as without."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from sde_sgd import experiment
from sde_sgd._console import Console
from sde_sgd.results import Run, load, provenance
from sde_sgd.run_command import perform

from ._tiny import TINY

_LATENESS = (0.5, 0.2, 0.05, 0.0)  # of the stage's own time: tried in turn until the kill comes before its end


class Watch(Console):
    """A quiet console that notes how long each stage took."""

    def __init__(self):
        super().__init__(True)
        self.seconds = {}

    @contextmanager
    def stage(self, name):
        began = time.perf_counter()
        with super().stage(name) as progress:
            yield progress
        self.seconds[name] = time.perf_counter() - began


def differences(one, two):
    """Where two results differ, to the last bit; provenance (when, where, how it was called) set aside."""
    left, right = ({node.path: node.to_dataset(inherit=False) for node in tree.subtree} for tree in (one, two))
    found = [f"groups {sorted(left)} and {sorted(right)}"] if set(left) != set(right) else []
    for path in set(left) & set(right):
        a, b = left[path], right[path]
        for key in (set(a.attrs) | set(b.attrs)) - (set(provenance()) - {"settings"}):
            if key not in a.attrs or key not in b.attrs or not np.array_equal(a.attrs[key], b.attrs[key]):
                found.append(f"{path} attribute {key}")
        if set(a.variables) != set(b.variables):
            found.append(f"{path} variables {sorted(a.variables)} and {sorted(b.variables)}")
        for name in set(a.variables) & set(b.variables):
            x, y = a[name], b[name]
            text = x.dtype.kind in "OUT"  # not bytes of addresses
            alike = x.values.tolist() == y.values.tolist() if text else x.values.tobytes() == y.values.tobytes()
            if (x.dims, x.shape, x.dtype) != (y.dims, y.shape, y.dtype) or not alike:
                found.append(f"{path}/{name}")
    return found


def test_a_difference_in_the_last_bit_is_seen():
    tree = xr.DataTree.from_dict({"/a": xr.Dataset({"x": ("n", [1.0, np.nan]), "s": ("n", ["p", "q"])})})
    assert differences(tree, tree.copy(deep=True)) == []
    for change in ({"x": ("n", [np.nextafter(1.0, 2.0), np.nan])}, {"s": ("n", ["p", "r"])}, {"more": 1.0}):
        other = xr.DataTree.from_dict({"/a": tree["a"].to_dataset().assign(change)})
        assert len(differences(tree, other)) == 1
    signed = xr.DataTree.from_dict({"/a": tree["a"].to_dataset().assign_attrs(l=3)})
    assert differences(tree, signed) == ["/a attribute l"]


def test_every_experiment_has_a_tiny_form():
    assert set(TINY) == set(experiment.registered())
    for name, given in TINY.items():
        assert experiment.get(name).resolve(given) | given == experiment.get(name).resolve(given), name


def killed(name, root):
    """One row: the stage in which it was killed twice, what was there of it, the stages kept, identical numbers."""
    chosen = experiment.get(name)
    given = TINY[name]
    run, watch = Run(name, chosen.resolve(given), root=root / "whole"), Watch()
    perform(run, chosen, watch)
    whole, order = run.result(), list(watch.seconds)
    victim = max(order[1:], key=watch.seconds.get)  # the first leaves nothing to go on from
    words = [f"--{k.replace('_', '-')}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in given.items()]
    words = [word.replace("=True", "=true").replace("=False", "=false") for word in words]
    for share in _LATENESS:
        folder = root / f"cut-{share}"
        command = [sys.executable, "-m", "sde_sgd.cli", "run", name, *words, "--root", str(folder)]
        first = kill_in(command, victim, share * watch.seconds[victim], folder)
        kept = None if first is None else kill_in(command, victim, 0.6 * share * watch.seconds[victim], folder)
        if kept is not None:
            break
    else:
        raise AssertionError(f"{name}: {victim} was over before it could be killed")
    begun, (cut,) = len(list(work_of(folder))), folder.iterdir()
    again = subprocess.run(command, capture_output=True, text=True, env=one_thread())
    assert again.returncode in (0, 1) and f"{victim} …" in again.stderr, again.stderr  # verdicts are open at this size
    assert first == kept == {path: path.stat().st_mtime_ns for path in kept}, "a finished stage was computed again"
    result = load(cut / "result.nc")
    assert differences(whole, result) == [], name
    numbers = sum(
        variable.size for node in result.subtree for variable in node.to_dataset(inherit=False).variables.values()
    )
    return [name, victim, begun, f"{len(kept)} of {len(order)}", numbers]


def kill_in(command, victim, delay, folder):
    """SIGKILL when the stage has kept something, at the latest `delay` seconds after it began.

    Gives the stages then kept, or None if the victim is among them.
    """
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=one_thread()
    ) as child:
        told = []
        for line in child.stderr:
            told.append(line)
            if line.strip() == f"{victim} …":
                wait_for_work(folder, delay)
                child.send_signal(signal.SIGKILL)
                break
        told.append(child.stderr.read())
    assert child.returncode in (-signal.SIGKILL, 0, 1), f"{command}: {''.join(told)}"
    if child.returncode != -signal.SIGKILL or (found := kept_stages(folder, victim)) is None:
        return None
    return found


def wait_for_work(folder, seconds):
    """Until a file of the unfinished stage is new or another one, but no longer."""
    end, before = time.monotonic() + seconds, set(work_of(folder))
    while time.monotonic() < end and set(work_of(folder)) <= before:
        time.sleep(0.005)


def work_of(folder):
    """(file, when it was written) of the stage at work, whole ones."""
    for path in folder.glob("*/work/**/*"):
        try:
            if path.is_file() and path.suffix != ".partial":
                yield path, path.stat().st_mtime_ns
        except FileNotFoundError:  # replaced meanwhile
            pass


def kept_stages(folder, victim):
    (run,) = folder.iterdir()
    assert not (run / "result.nc").exists()
    kept = {path: path.stat().st_mtime_ns for path in (run / "stages").glob("*.nc")}
    return None if any(path.stem == victim.replace(" ", "-", 1) for path in kept) or not kept else kept


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.evidence(table="experiments_killed")
def test_every_experiment_goes_on_with_the_same_bits(table, tmp_path, undrawn):
    rows = [killed(name, tmp_path / name) for name in experiment.registered()]
    table(
        "Experiments killed in the middle of a stage and continued",
        ["experiment", "killed in", "files of a stage at work", "stages kept", "numbers that are identical"],
        rows,
        "kill −9 in the longest stage after the first, and again when it had been taken up, of tiny configurations; "
        "every number and text of result.nc, compared bit for bit with a run that was not disturbed.",
    )
    assert max(row[2] for row in rows) >= 1  # not all were killed before their stage had left anything
