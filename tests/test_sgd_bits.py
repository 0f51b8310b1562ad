"""SGD gives the same bits however a run is cut: into threads, segments, groups, replicas, or by an interruption."""

import numpy as np
import pytest

import sde_sgd as sde
from sde_sgd.paths import _checkpoint, _ensemble

NEURON = sde.landscapes.get("neuron")


def slopes(samples):
    """f_k = a_k x, a of any number of samples."""
    return sde.FiniteSum("x", "a*x", {"a": np.random.default_rng(0).normal(size=samples)})


def falling(n):
    return 0.5 / (1 + n / 300)


CASES = {
    "plain": {},
    "SVAG": {"svag": 3},
    "subset": {"sampling": "without_replacement", "momentum": 0.5},
    "SVAG of subsets": {"sampling": "without_replacement", "svag": 3},
    "epochs": {"sampling": "reshuffling", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "SVRG": {"sampling": "reshuffling", "svrg": 5, "momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
    "falling": {"learning_rate": falling},
}


def inside_an_epoch(finite_sum, options, **more):
    """A run of 40 steps from step 15, which is inside an epoch of 22 (or 13) and begins a window of SVRG."""
    settings = {"learning_rate": 0.2, "batch_size": 7, "steps": 40, "replicas": 300, "seed": 3, "first_step": 15}
    start = (0.2, 0.3)[: finite_sum.dim]
    return sde.sgd(finite_sum, start, **settings | options | more).drop_attrs()


LARGE = {f"{name}, N > 2¹⁶": {"sampling": name} for name in ("without_replacement", "reshuffling")}


@pytest.mark.parametrize(
    "finite_sum, options",
    [*((NEURON, case) for case in CASES.values()), *((slopes(70_000), case) for case in LARGE.values())],
    ids=[*CASES, *LARGE],
)
def test_bits_do_not_depend_on_how_a_run_is_cut(finite_sum, options, monkeypatch):
    whole = inside_an_epoch(finite_sum, options)
    velocity = ["velocity_" + v for v in finite_sum.variables] if options.get("momentum") else []
    assert set(whole.data_vars) == {*finite_sum.variables, *velocity}
    first = inside_an_epoch(finite_sum, options, steps=25)
    rest = {"start_velocity": np.stack([first[v] for v in velocity], -1)} if velocity else {}
    start = np.stack([first[v] for v in finite_sum.variables], -1)
    settings = {"learning_rate": 0.2, "batch_size": 7, "steps": 15, "replicas": 300, "seed": 3, "first_step": 40}
    assert sde.sgd(finite_sum, start, **settings | options | rest).drop_attrs().identical(whole)
    last = sde.sgd(finite_sum, start[299:], **settings | options | rest | {"replicas": 1, "first_replica": 299} | (
        {"start_velocity": rest["start_velocity"][299:]} if rest else {}))  # fmt: skip
    assert last.drop_attrs().identical(whole.isel(replica=[299]))
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    for threads in (1, 2, 3, 7):
        assert inside_an_epoch(finite_sum, options, threads=threads).identical(whole)
    saved = inside_an_epoch(finite_sum, options, save_every=8)
    assert saved.isel(time=-1, drop=True).identical(whole)

    # segments of a table's epochs end with the epoch; were they to end anywhere, the bits would be the same
    class Anywhere(_ensemble.Run):
        def __init__(self, *arguments, align, **settings):
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(_ensemble, "Run", Anywhere)
    assert inside_an_epoch(finite_sum, options, threads=2).identical(whole)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_bits_do_not_depend_on_groups(options, monkeypatch):
    whole = inside_an_epoch(NEURON, options, replicas=5000)
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    assert inside_an_epoch(NEURON, options, replicas=5000, threads=2).identical(whole)
    assert inside_an_epoch(NEURON, options).identical(whole.isel(replica=slice(300)))


def pulled(x, row, out):
    for i in range(x.size):
        out[i] = np.tanh(x[i] - row[0] * (1 + i))


@pytest.mark.parametrize(
    "case, dtype", [("epochs", "float32"), pytest.param("SVRG", "float64", marks=pytest.mark.evidence)]
)
def test_bits_of_many_weights(case, dtype, monkeypatch):
    rows = np.random.default_rng(3).normal(size=(19, 1))
    many = sde.FiniteSum.from_functions(pulled, rows, variables=[f"w{i}" for i in range(17)])
    options = {"start": np.zeros(17), "learning_rate": 0.2, "batch_size": 7, "seed": 3, "dtype": dtype} | CASES[case]
    whole = sde.sgd(many, steps=12, replicas=200, first_step=5, threads=1, **options).drop_attrs()
    first = sde.sgd(many, steps=5, replicas=200, first_step=5, **options)
    rest = {"start": first.state.values[150:], "start_velocity": first.velocity.values[150:], "first_replica": 150}
    assert (
        sde.sgd(many, steps=7, replicas=50, first_step=10, **options | rest)
        .drop_attrs()
        .identical(whole.isel(replica=slice(150, None)))
    )
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    assert sde.sgd(many, steps=12, replicas=200, first_step=5, threads=3, **options).drop_attrs().identical(whole)


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    options = {"momentum": 0.9, "sampling": "reshuffling", "svrg": 5, "replicas": 5000, "steps": 80}
    whole = inside_an_epoch(NEURON, options)
    monkeypatch.setattr(_ensemble, "_GROUP_BYTES", 1)
    monkeypatch.setattr(_ensemble, "_SEGMENT_SECONDS", 1e-9)
    monkeypatch.setattr(_checkpoint.Checkpoint, "seconds", -1.0)
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) in (3, 7):
            raise KeyboardInterrupt

    file = tmp_path / "run.npz"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            inside_an_epoch(NEURON, options, checkpoint=file, progress=stop)
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        inside_an_epoch(NEURON, options | {"start_velocity": 1.0 * np.ones(2)}, checkpoint=file)
    assert inside_an_epoch(NEURON, options, checkpoint=file).identical(whole) and not file.exists()


@pytest.mark.parametrize("case", ["plain", pytest.param("SVRG", marks=pytest.mark.evidence)])
def test_float32_follows_float64(case):
    wide, narrow = (inside_an_epoch(NEURON, CASES[case], steps=300, dtype=dtype) for dtype in ("float64", "float32"))
    for name in wide:
        assert narrow[name].dtype == np.float32
        np.testing.assert_allclose(narrow[name], wide[name], rtol=0, atol=1e-5)
