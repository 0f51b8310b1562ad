"""What is measured along a training run, and when: each quantity has a schedule of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_sgd import _checks, _memory

from . import measures, measures_noise, measures_steps
from ._recursion import Recursion

MEASURES = {
    "loss": (measures.Loss, ()),
    "accuracy": (measures.Accuracy, ()),
    "gradient_norm": (measures.GradientNorm, ()),
    "noise_trace": (measures.NoiseTrace, ()),
    "noise_eigenvalues": (measures.NoiseEigenvalues, ("index",)),
    "hessian_eigenvalues": (measures.HessianEigenvalues, ("index",)),
    "noise_hessian_cosine": (measures_noise.NoiseHessianCosine, ()),
    "gradient_statistics": (measures_noise.GradientStatistics, ("layer", "statistic")),
    "gradient_cosine": (measures_steps.GradientCosine, ()),
    "gradient_products": (measures_steps.GradientProducts, ("product",)),
    "segment_loss": (measures_steps.SegmentLoss, ("alpha",)),
    "projections": (measures.Projections, ("direction",)),
    "norm": (measures.Norm, ()),
    "distance": (measures.Distance, ()),
    "weights": (measures.Weights, ("weight",)),
}


@dataclass(frozen=True)
class When:
    """Steps of a run: `When.every(steps=10)`, `When.every(epochs=2)`, `When.logarithmic(8)`, `When.at(epochs=[0, 5])`.

    Step 0 is the start, before any update; step n is after n updates.
    """

    kind: str
    values: tuple[int, ...]
    in_epochs: bool = False

    @classmethod
    def every(cls, *, steps: int | None = None, epochs: int | None = None) -> When:
        """0, n, 2n, … in steps or in epochs."""
        name, value = _one_of(steps, epochs)
        return cls("every", (_checks.whole(name, value, 1),), name == "epochs")

    @classmethod
    def logarithmic(cls, per_decade: int = 8) -> When:
        """0 and the whole numbers nearest to 10^{k/per_decade}, as far as the run goes, and its last step."""
        return cls("logarithmic", (_checks.whole("per_decade", per_decade, 1, 1000),))

    @classmethod
    def at(cls, *, steps: Iterable[int] | None = None, epochs: Iterable[int] | None = None) -> When:
        """The given steps or epochs; those beyond the end of the run are refused by the run."""
        name, value = _one_of(steps, epochs)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} must be a sequence of whole numbers, got {value!r}")
        return cls("at", tuple(sorted({_checks.whole(name, n, 0) for n in value})), name == "epochs")

    def steps(self, total: int, per_epoch: int) -> NDArray[np.int64]:
        """The steps, increasing, of a run of `total`; ValueError for none of them, or one beyond its end."""
        unit = per_epoch if self.in_epochs else 1
        if self.kind == "every":
            size = total // (self.values[0] * unit) + 1
            _memory.refuse_beyond(8.0 * size, f"{size} times of recording", "record less often")
            return np.arange(size, dtype=np.int64) * (self.values[0] * unit)
        if self.kind == "logarithmic":
            top = int(np.floor(np.log10(max(total, 1)) * self.values[0]))
            points = np.rint(10.0 ** (np.arange(top + 1) / self.values[0])).astype(np.int64)
            return np.unique(np.concatenate([[0, total], points[points <= total]]))
        found = np.array(self.values, np.int64) * unit
        if not len(found) or found[-1] > total:
            what, last = ("epochs", total // unit) if self.in_epochs else ("steps", total)
            raise ValueError(f"the {what} to record must be from 0 to {last}, got {list(self.values)[-3:] or 'none'}")
        return found


@dataclass(frozen=True)
class RunState:
    """What a measurement may look at besides the model: the data, the criterion, and where the run stands."""

    step: int
    epoch: float
    learning_rate: float  # of the next step; at the end of the run, of the last
    inputs: Tensor
    targets: Tensor
    test: tuple[Tensor, Tensor] | None
    loss: Callable
    start: Tensor  # (d,) the weights at step 0, in the order of `parameters_to_vector`
    recursion: Recursion
    replica: int
    velocity: Tensor | None = None  # (d,) v before the next step; None without momentum, at step 0, or where untold

    def batch(self, ahead: int = 0) -> NDArray[np.int64]:
        """The samples of the next step's batch, or of one `ahead` of it (negative: behind); (2, b) for SVAG."""
        step = self.step + ahead
        found = self.recursion.picks(step, 1, self.replica)[0, :, : self.recursion.size_of(step)]
        return found if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Recorder:
    """A quantity to measure along a run: `measure(model, state)` gives a number or an array, always of one shape.

    The model comes in eval mode and must be left as it is; `state` is a `RunState`. Random streams of torch, NumPy and
    Python are put back afterwards, so that measuring more, or less often, does not change a run. A `measure` with
    `state_dict()` and `load_state_dict(…)` of tensors and numbers has a memory, which a checkpoint keeps.

    name : an identifier; the result has the variable `name` over `<name>_step` and `dims`, by default `<name>_0`, ….
    """

    name: str
    when: When
    measure: Callable[[nn.Module, RunState], object]
    dims: tuple[str, ...] | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"the name of a recorder must be an identifier, got {self.name!r}")
        _checks.instance("when", self.when, When, "e.g. When.every(epochs=1)")
        if not callable(self.measure):
            raise ValueError(f"measure must be a function of (model, state), got {self.measure!r}")


def recorder(measure: str, when: When, *, name: str | None = None, **options) -> Recorder:
    """A ready-made `Recorder`, over all N samples in eval mode.

    =======================  ===================================================================================
    "loss", "accuracy"       f and the share of samples classified right; part="test" takes the test set
    "gradient_norm"          |∇f|
    "gradient_cosine"        g·g'/(|g||g'|) of the coming mini-batch gradient and the one after it
    "gradient_products"      (g·g', |g|², |g'|²) of the same two
    "gradient_statistics"    (layer, 4): |g|, √tr D, √tr D_b of one mini-batch, and the signal-to-noise ratio
                             |g|/√tr D_b, of each layer; batch_size, by default the run's
    "segment_loss"           f((1−α)w + αw') at `points` α from 0 to 1, w' the next iterate; part, and for batch
                             norm statistics="eval" or "full"
    "noise_trace"            tr D
    "noise_eigenvalues"      the `count` largest of D; `method`, `tolerance`, `seed` as of `GradientNoise.spectrum`
    "hessian_eigenvalues"    the `count` largest (algebraically) of ∇²f; options as of `Curvature.spectrum`
    "noise_hessian_cosine"   tr(DH)/(‖D‖‖H‖); options as of `GradientNoise.cosine`
    "projections"            w · u_i for `directions` (k, d)
    "norm", "distance"       |w|, |w − w₀|
    "weights"                w, in the order of `parameters_to_vector` over trainable weights
    =======================  ===================================================================================

    Mini-batch gradients and the next iterate are those that the run goes on to take, in training mode, dropout
    included, and do not contain weight decay; at the end of a run, those that would come next. The error is
    1 − accuracy. A layer is a module with weights of its own.
    ValueError for an unknown name or option.
    """
    kind, dims = MEASURES[_checks.choice("measure", measure, list(MEASURES))]
    try:
        made = kind(**options)
    except TypeError as fault:
        raise ValueError(f"recorder {measure!r}: {fault}") from None
    return Recorder(measure if name is None else name, when, made, dims)


def take(recorder: Recorder, model: nn.Module, state: RunState) -> NDArray:
    """One measurement, which leaves model and random streams as they were, as an array."""
    with undisturbed(model, recorder.name):
        value = recorder.measure(model, state)
    found = value.detach().cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"recorder {recorder.name!r} measures {type(value).__name__}: give a number or an array")
    if recorder.dims is not None and len(recorder.dims) != found.ndim:
        raise ValueError(f"recorder {recorder.name!r} has dims {recorder.dims} and measures shape {found.shape}")
    return found if found.dtype in (np.float32, np.float64, np.int64) else found.astype(np.float64)


def add_variable(found: xr.Dataset, recorder: Recorder, along: str, when: NDArray, rows: NDArray) -> xr.Dataset:
    """The Dataset with what a recorder measured, over `along` and its own dimensions."""
    name, dims = recorder.name, recorder.dims
    if dims is None:
        dims = tuple(f"{name}_{axis}" for axis in range(rows.ndim - 1))
    if any(found.sizes.get(dim, n) != n for dim, n in zip(dims, rows.shape[1:])):
        dims = tuple(f"{name}_{dim}" for dim in dims)  # another recorder has this dimension at another length
    return found.assign_coords({along: when}).assign({name: ((along, *dims), rows)})


@contextmanager
def undisturbed(model: nn.Module, who: str) -> Iterator[None]:
    """Eval mode; afterwards the modes and all random streams as before. ValueError where the model was changed."""
    modes = [(module, module.training) for module in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    versions = [tensor._version for tensor in tensors]
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    others = np.random.get_state(), random.getstate()  # noqa: NPY002
    model.eval()
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        np.random.set_state(others[0])  # noqa: NPY002
        random.setstate(others[1])
        for module, training in modes:
            module.training = training
    if versions != [tensor._version for tensor in tensors]:
        raise ValueError(f"{who} changes weights or buffers of the model: measure on a copy, as copy.deepcopy makes it")


def _one_of(steps, epochs):
    if (steps is None) == (epochs is None):
        raise ValueError("give either steps or epochs")
    return ("steps", steps) if epochs is None else ("epochs", epochs)
