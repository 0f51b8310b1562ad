"""Results: round trips, whole files only, resumption, and runs that share a folder."""

import math
import os
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from sde_sgd import _files, results
from sde_sgd._config import canonical, fingerprint, plain, to_toml
from sde_sgd.results import SCHEMA, Run, load, provenance, save


def dataset():
    return xr.Dataset(
        {"density": (("x", "y"), np.arange(6.0).reshape(2, 3)), "inside": ("x", [True, False])},
        coords={"x": [0.5, 1.5], "y": [-1.0, 0.0, 1.0], "kind": ("x", ["minimum", "saddle"])},
    )


def kept(data, folder):
    """What comes back of `data`."""
    save(data, folder / "a.nc")
    return load(folder / "a.nc")


# Round trips ----------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "yes": True, "none": None, "one": [1], "mixed": [1, "a", None, [2.5]], "empty": [], "nothing": "",
    "table": {"a": {"b": 1}}, "seed": 2**100, "small": -3, "real": 0.1, "greek": "β⁻¹ = η/2b",
    "tagged": "json:1", "nul": "a\0b", "infinite": math.inf,
}  # fmt: skip


def test_dataset_round_trip(tmp_path):
    data = dataset().assign_attrs(ATTRIBUTES)
    data["density"].attrs["normalised"] = True
    data["x"].attrs["walls"] = [None, "reflecting"]
    back = kept(data, tmp_path)
    assert back.attrs == {**ATTRIBUTES, "schema": SCHEMA}
    assert back.density.attrs["normalised"] is True and back.x.attrs["walls"] == [None, "reflecting"]
    assert back.drop_attrs().identical(data.drop_attrs())
    assert "schema" not in data.attrs and data.attrs["yes"] is True  # the caller's data is not touched


def test_numpy_attributes_become_plain(tmp_path):
    back = kept(xr.Dataset(attrs={"t": np.float64(0.5), "b": np.bool_(True), "a": np.arange(3)}), tmp_path).attrs
    assert back == {"t": 0.5, "b": True, "a": [0, 1, 2], "schema": SCHEMA} and type(back["t"]) is float


TAKEN = [
    "_FillValue", "missing_value", "scale_factor", "add_offset", "dtype", "units", "calendar", "coordinates",
    "_Unsigned", "_Encoding", "CLASS", "NAME", "DIMENSION_LIST", "_NCProperties", "grid_mapping", "bounds",
]  # fmt: skip


@pytest.mark.parametrize("name", [*TAKEN, "json:units", "", "a/b", "a\0b", "β", "\udcff"])
@pytest.mark.parametrize("value", ["days since 2000-01-01", "x", 1, 2.5])
def test_an_attribute_changes_no_number_whatever_its_name(tmp_path, name, value):
    data = dataset().assign_attrs({name: value})
    for variable in ("density", "x", "kind"):
        data[variable].attrs[name] = value
    assert kept(data, tmp_path).identical(data.assign_attrs(schema=SCHEMA))


def test_a_packing_left_over_from_another_file_is_not_used(tmp_path):
    data = xr.Dataset({"a": ("x", [0.12345, np.nan]), "when": ("x", np.array(["2000-01-01", "2030-06-01"], "M8[ns]"))})
    data["a"].encoding = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -9}
    data["when"].attrs["units"] = "days since 1900-01-01"
    back = kept(data, tmp_path)
    np.testing.assert_array_equal(back.a, data.a)
    np.testing.assert_array_equal(back.when, data.when)
    assert back.when.attrs == data.when.attrs and data["a"].encoding["scale_factor"] == 0.1


def test_kinds_of_numbers_come_back(tmp_path):
    kinds = {
        "complex": np.array([1 + 2j]), "bytes": np.array([b"ab"]), "bool": np.array([True]), "text": np.array(["β"]),
        "date": np.array(["2000-01-01T00:00:00.000000001"], "M8[ns]"), "span": np.array([5], "m8[ns]"),
        "large": np.array([2**64 - 1], np.uint64), "half": np.array([1.5], np.float16),
    }  # fmt: skip
    data = xr.Dataset({name: ("x", values) for name, values in kinds.items()})
    back = kept(data, tmp_path)
    for name, values in kinds.items():
        assert back[name].values.tolist() == values.tolist() and back[name].dtype.kind in (values.dtype.kind, "O")


def test_tree_round_trip(tmp_path):
    parts = {"/": xr.Dataset(attrs={"deep": [1]}), "/prediction": dataset(), "/comparison/l1": xr.Dataset({"d": 0.25})}
    tree = xr.DataTree.from_dict(parts)
    tree["prediction"].attrs["finished"] = False
    back = kept(tree, tmp_path)
    assert isinstance(back, xr.DataTree) and set(back.groups) == set(tree.groups)
    assert back["prediction"].to_dataset().identical(tree["prediction"].to_dataset())
    assert back.attrs == {"deep": [1], "schema": SCHEMA} and float(back["comparison/l1/d"]) == 0.25


def test_two_writes_are_the_same_bytes(tmp_path):
    for name in "ab":
        save(dataset(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def with_objects(*values):
    return xr.Dataset({"v": ("x", np.array(values, dtype=object))})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (xr.Dataset(attrs={"model": object()}), "attribute 'model' of the dataset"),
        (xr.Dataset({"a": ("x", [1.0], {"walls": {1, 2}})}), "attribute 'walls' of 'a'"),
        (xr.Dataset(attrs={1: "a"}), "attribute 1 .*name must be text"),
        (xr.Dataset(attrs={"table": [{1: "a"}]}), "the key 1 of a table"),
        (xr.Dataset(attrs={"day": np.datetime64("2000-01-01")}), "'day' .*datetime64"),
        (xr.Dataset(attrs={"schema": "mine"}), "'schema'"),
        (with_objects("a", None), "v cannot be saved: an array of objects must hold text only"),
        (with_objects("a", np.nan), "v cannot be saved"),
        (with_objects(1, 2), "v cannot be saved"),
        (xr.Dataset({"v": ("x", ["a\0b"])}), "NULLs"),
        (xr.Dataset({"v": ("x", ["\udcff"])}), "cannot be saved: .*surrogates"),
        (xr.Dataset({5: ("x", [1.0])}), "cannot be saved"),
        (xr.Dataset({"v": ("z", [1, 2])}, {"a": ("z", [0, 0]), "b": ("z", [0, 1])}).set_index(z=["a", "b"]),
         "z cannot be saved: netCDF has no MultiIndex"),
        ({"a": 1}, "Dataset or DataTree, got dict"),
        (None, "Dataset or DataTree, got NoneType"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        save(data, tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_variable_may_have_the_name_of_a_group(tmp_path):
    part = xr.Dataset({"density": ("x", [1.0, 2.0])}, {"x": [0.5, 1.5]})
    tree = xr.DataTree.from_dict({"/": xr.Dataset({"other": 1.0}), "/density": part, "/density/x2": part * 2})
    found = kept(tree, tmp_path)
    for name, factor in (("density", 1), ("density/x2", 2)):
        np.testing.assert_array_equal(found[name].to_dataset()["density"], [factor, 2.0 * factor])
        np.testing.assert_array_equal(found[name].to_dataset()["x"], [0.5, 1.5])


def test_loading_refuses(tmp_path):
    with pytest.raises(ValueError, match="no result at"):
        load(tmp_path / "absent.nc")
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "text.nc")
    dataset().to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="not written by sde-sgd"):
        load(tmp_path / "foreign.nc")
    dataset().assign_attrs(schema=SCHEMA + 1).to_netcdf(tmp_path / "newer.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}"):
        load(tmp_path / "newer.nc")


def test_a_truncated_file_is_a_clear_fault(tmp_path):
    save(dataset(), tmp_path / "a.nc")
    content = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="run again"):
        load(tmp_path / "a.nc")


def test_provenance():
    facts = provenance({"seed": 1, "grid": {"shape": (4, 4)}})
    assert all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in facts.values())
    assert facts["numpy"] == np.__version__ and facts["settings"] == '{"grid":{"shape":[4,4]},"seed":1}'
    assert facts["schema"] == SCHEMA and facts["created_at"].endswith("+00:00")


def test_a_command_line_that_is_no_text_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sde-sgd", "--root", "/tmp/\udcff é"])
    run = Run("demo", {}, tmp_path)
    assert run.stage("a", dataset).attrs["argv"] == "sde-sgd --root '/tmp/\\udcff é'"
    run.finish(dataset(), "<!doctype html>")
    with pytest.raises(ValueError, match=r"root: .*no Unicode"):
        Run("demo", {"root": "\udcff"}, tmp_path)


def test_provenance_does_not_import_torch():
    code = "import sys; from sde_sgd.results import provenance; provenance({}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Configurations -------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)  # fmt: skip
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3), max_leaves=6)
configs = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.one_of(values, st.dictionaries(st.text('abc .é"', max_size=4), values, max_size=3)),
    max_size=5,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(configs)
def test_toml_round_trip(config):
    back = tomllib.loads(to_toml(config))
    assert back == plain(config) and canonical(back) == canonical(config)


def test_hash_ignores_order_and_absence_only():
    assert fingerprint({"a": 1, "b": [2.0]}) == fingerprint({"b": (2.0,), "a": np.int64(1), "c": None})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2}) and len(fingerprint({})) == 12
    # One text for equal numbers, however they are written; True is no number.
    assert fingerprint({"a": 1, "b": [{"c": 0.0}]}) == fingerprint({"a": 1.0, "b": [{"c": -0.0}]})
    assert canonical({"a": 2.0**60, "b": math.inf, "c": 0.5}) == canonical({"a": 2**60, "b": math.inf, "c": 0.5})
    assert fingerprint({"a": 1}) != fingerprint({"a": True}) != fingerprint({"a": "1"})


def test_a_configuration_holds_plain_values_only():
    with pytest.raises(ValueError, match=r"grid\.box"):
        plain({"grid": {"box": object()}})
    with pytest.raises(ValueError, match="key"):
        plain({1: 2})
    with pytest.raises(ValueError, match="table"):
        plain([1])
    with pytest.raises(ValueError, match="walls"):
        plain({"walls": ["reflecting", None]})


# Runs -----------------------------------------------------------------------------------------------------


def test_a_run_resumes_and_finishes(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return dataset().assign_attrs(walls=(True, None))

    config = {"temperature": 0.1, "seed": None, "grid": {"shape": (4, 4)}}
    run = Run("demo", config, tmp_path)
    assert not run.finished and not run.has("density")
    first = run.stage("density", compute)
    again = Run("demo", dict(reversed(config.items())), tmp_path)
    assert again.folder == run.folder and again.has("density")
    assert again.stage("density", compute).identical(first) and len(calls) == 1
    assert first.attrs["walls"] == [True, None] and first.attrs["settings"] == canonical(config)

    figure = Figure()
    figure.subplots().plot([1, 2])
    run.finish(xr.DataTree.from_dict({"/prediction": first}), "<!doctype html>", {"line": figure})
    assert again.finished and again.result()["prediction"].to_dataset().density.identical(first.density)
    assert tomllib.loads((run.folder / "config.toml").read_text()) == plain(config)
    assert run.report_path.read_text() == "<!doctype html>"
    assert (run.folder / "figures" / "line.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.folder.rglob("*.partial")) == []

    fresh = Run("demo", config, tmp_path, fresh=True)
    assert not fresh.finished and not fresh.has("density")
    assert [f.name for f in fresh.folder.rglob("*") if f.is_file()] == ["config.toml"]


def test_starting_afresh_leaves_another_process_at_work(tmp_path):
    """At every moment of a stage: while it computes, while its file is half written, once it is there, while read."""
    run = Run("demo", {"seed": 1}, tmp_path)

    def afresh():
        Run("demo", {"seed": 1}, tmp_path, fresh=True)

    def compute():
        afresh()
        with _files.replacing(run.folder / "stages" / "other.nc") as partial:  # what another stage is writing
            partial.write_bytes(b"half")
            afresh()
        return dataset()

    kept = dataset().assign_attrs(schema=SCHEMA)
    assert run.stage("a", compute).drop_attrs().identical(kept.drop_attrs())
    assert run.has("a") and run.has("other")
    afresh()
    assert not run.has("a") and not run.has("other")


def test_a_stage_deleted_before_it_is_read_is_saved_again(tmp_path, monkeypatch):
    run, calls, real = Run("demo", {"seed": 1}, tmp_path), [], results.load

    def load_after_a_fresh_start(path):
        if len(calls) < 3:
            Run("demo", {"seed": 1}, tmp_path, fresh=True)
        calls.append("load")
        return real(path)

    monkeypatch.setattr(results, "load", load_after_a_fresh_start)
    computed = []
    found = run.stage("a", lambda: computed.append(1) or dataset())
    assert float(found.density.sum()) == 15.0 and len(computed) == 1 and len(calls) == 4


def test_a_file_replaced_while_it_is_read_is_read_whole(tmp_path):
    path = tmp_path / "a.nc"
    save(dataset(), path)
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            save(dataset(), path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert all(float(load(path).density.sum()) == 15.0 for _ in range(20))
    finally:
        stop.set()
        writer.join()


def test_another_question_is_another_folder(tmp_path):
    assert Run("demo", {"seed": 1}, tmp_path).folder != Run("demo", {"seed": 2}, tmp_path).folder


def test_a_failing_stage_leaves_nothing(tmp_path):
    run = Run("demo", {}, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run.stage("a", lambda: 1 / 0)
    with pytest.raises(ValueError, match="Dataset or DataTree, got NoneType"):
        run.stage("a", lambda: None)
    assert not run.has("a")


@pytest.mark.parametrize("name", ["../a", "", ".hidden", "a/b", "a\n", None])
def test_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ValueError):
        Run("demo", {}, tmp_path).stage(name, dataset)
    with pytest.raises(ValueError):
        Run(name, {}, tmp_path)


def test_abandoned_partial_files_are_swept(tmp_path):
    run = Run("demo", {}, tmp_path)
    with _files.replacing(run.folder / "mine.nc") as mine:  # its writer, this process, lives
        mine.write_bytes(b"")
        process, thread, serial = mine.name.removesuffix(".partial").rsplit("-", 3)[1:]
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        orphan = mine.with_name(mine.name.replace(f"-{process}-", f"-{int(gone.stdout)}-"))
        elsewhere = run.folder / f"a.nc.other-host-{process}-{thread}-{serial}.partial"
        old = run.folder / "b.nc.other-host-1-1-1.partial"
        for file in (orphan, elsewhere, old):
            file.write_bytes(b"half")
        os.utime(old, (time.time() - 2e5,) * 2)
        Run("demo", {}, tmp_path)
        assert mine.exists() and elsewhere.exists() and not orphan.exists() and not old.exists()


def test_threads_on_one_run_never_see_half_a_file(tmp_path):
    def work(_):
        return float(Run("demo", {"seed": 3}, tmp_path).stage("a", dataset).density.sum())

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(12))) == {15.0}


KILLED = """
import sys, numpy as np, xarray as xr
from sde_sgd.results import save
big = xr.Dataset({"a": ("x", np.full(1_000_000, 7.0))})
print("ready", flush=True)
while True:
    save(big, sys.argv[1])
"""


def test_a_kill_leaves_the_last_whole_file(tmp_path):
    target = Path(tmp_path) / "a.nc"
    for delay in (0.0, 0.013, 0.031, 0.047):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE)
        child.stdout.readline()
        deadline = time.monotonic() + 30
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        child.kill()
        child.wait()
        child.stdout.close()
        assert (load(target).a == 7.0).all()
        _files.sweep_partials(tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["a.nc"]
