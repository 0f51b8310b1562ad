"""Every registered experiment, killed in the middle of a stage and started again: result.nc bit for bit as without."""

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

TINY = {  # what is not named here runs in its quick form
    "diffusion-matrix": {"networks": ["tiny-fc", "small-fc"], "samples": 60, "epochs": 5,
                         "statistics_samples": 24, "batches": 40},
    "long-trajectory": {"epochs": 300, "burn_in_epochs": 10, "pilot_epochs": 5, "surrogates": 2, "gradients": 5,
                        "chunk": 20, "blocks": 16, "directions": 3, "area_lags": [1, 4], "every": 3},
    "potential-vs-loss": {"learning_rates": [0.1, 0.05], "seeds": 1, "domain": False, "burn_in_time": 60.0,
                          "settle_time": 5.0, "pilot_time": 20.0, "run_time": 300.0, "snapshots": 1, "directions": 3,
                          "area_lags": [1, 4], "blocks": 16, "losses": 50, "surrogates": 19, "surrogate_states": 8192,
                          "isotropic_tanh": [1e-9], "isotropic_relu": [1e-6], "isotropic_steps": 1000,
                          "divergence_probes": 2, "estimate_steps": 10_000},
    "sampling-modes": {"epochs": 64, "burn_in_epochs": 10, "pilot_epochs": 5, "relax_epochs": 2, "blocks": 8,
                       "directions": 3},
    "sgd-vs-sde": {"learning_rates": [0.1, 0.4], "batch_size": 2, "fixed_batch_size": 3, "time": 1.6, "saves": 2,
                   "replicas": 8, "substeps": 2, "samples": 16, "hidden": 2, "warm_up_time": 1.0, "directions": 2},
    "validity-map": {"learning_rates": [0.1, 0.4], "batch_sizes": [2, 4], "order": 2, "time": 0.8, "replicas": 8,
                     "samples": 16, "hidden": 2, "warm_up_time": 1.0},
}  # fmt: skip
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


def killed(name, root):
    """One row: the stage in which it was killed, the stages kept until then, the numbers that are the same."""
    chosen = experiment.get(name)
    given = TINY.get(name, dict(chosen.quick))
    run, watch = Run(name, chosen.resolve(given), root=root / "whole"), Watch()
    perform(run, chosen, watch)
    whole, order = run.result(), list(watch.seconds)
    victim = max(order[1:], key=watch.seconds.get)  # the first leaves nothing to go on from
    words = [f"--{k.replace('_', '-')}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in given.items()]
    words = [word.replace("=True", "=true").replace("=False", "=false") for word in words]
    for share in _LATENESS:
        folder = root / f"cut-{share}"
        command = [sys.executable, "-m", "sde_sgd.cli", "run", name, *words, "--root", str(folder)]
        kept = kill_in(command, victim, share * watch.seconds[victim], folder)
        if kept is not None:
            break
    else:
        raise AssertionError(f"{name}: {victim} was over before it could be killed")
    again = subprocess.run(command, capture_output=True, text=True, env=one_thread())
    assert again.returncode in (0, 1) and f"{victim} …" in again.stderr, again.stderr  # verdicts are open at this size
    (cut,) = folder.iterdir()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished stage was computed again"
    result = load(cut / "result.nc")
    assert differences(whole, result) == [], name
    numbers = sum(
        variable.size for node in result.subtree for variable in node.to_dataset(inherit=False).variables.values()
    )
    return [name, victim, f"{len(kept)} of {len(order)}", numbers]


def kill_in(command, victim, delay, folder):
    """SIGKILL `delay` seconds after the stage began; the stages then kept, or None if the victim is among them."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=one_thread()
    ) as child:
        told = []
        for line in child.stderr:
            told.append(line)
            if line.strip() == f"{victim} …":
                time.sleep(delay)
                child.send_signal(signal.SIGKILL)
                break
        told.append(child.stderr.read())
    assert child.returncode in (-signal.SIGKILL, 0, 1), f"{command}: {''.join(told)}"
    if child.returncode != -signal.SIGKILL or (found := kept_stages(folder, victim)) is None:
        return None
    return found


def kept_stages(folder, victim):
    (run,) = folder.iterdir()
    assert not (run / "result.nc").exists()
    kept = {path: path.stat().st_mtime_ns for path in (run / "stages").glob("*.nc")}
    return None if any(path.stem == victim.replace(" ", "-", 1) for path in kept) or not kept else kept


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.evidence(table="experiments_killed")
def test_every_experiment_goes_on_with_the_same_bits(table, tmp_path):
    rows = [killed(name, tmp_path / name) for name in experiment.registered()]
    assert {row[0] for row in rows} >= set(TINY)
    table(
        "Experiments killed in the middle of a stage and continued",
        ["experiment", "killed in", "stages kept", "numbers that are identical"],
        rows,
        "kill −9 in the longest stage after the first, of tiny configurations; every number and text of result.nc, "
        "compared bit for bit with a run that was not disturbed.",
    )
