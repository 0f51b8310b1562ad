"""What the theory says of SGD on a network, and whether its SDE describes the run: the numbers of `diagnose`."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parameters_to_vector

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd._console import Console
from sde_sgd.results import Run

from ._numbers import LARGEST_SEED, from_zero
from ._prediction_space import joint_span, leading_pairs
from ._samples import check_loss, check_model, in_words, quietly
from ._svag import compared, svag_test
from ._training_mode import check_draws_nothing
from .curvature import Curvature
from .data import DATASETS, Split, load, usable_device
from .gradient_noise import GradientNoise
from .networks import check_maps, resolve
from .training import train_sgd

Array = NDArray[np.float64]
SAMPLINGS = ("with_replacement", "without_replacement", "reshuffling")
LOSSES = ("auto", "cross-entropy", "mse")
_FLAT = 1e-6  # curvature over the largest, from which on a direction has a stationary variance worth a prediction


@dataclass(frozen=True)
class Question:
    """What is asked of `sde-sgd diagnose`: the options of the command."""

    name: str
    data: str
    learning_rate: float
    batch_size: int
    directory: str | None = None
    size: int | None = None
    classes: list[int] | None = None
    samples: int | None = None
    loss: str = "auto"
    weights: str | None = None
    epochs: int = 0
    momentum: float = 0.0
    weight_decay: float = 0.0
    sampling: str = "reshuffling"
    top: int = 10
    svag: int = 4
    svag_steps: int = 200
    replicas: int = 64
    seed: int = 0
    device: str | None = None

    def checked(self) -> Question:
        """Itself; ValueError for a number out of range or an unknown word."""
        _checks.choice("data", self.data, DATASETS)
        _checks.choice("loss", self.loss, LOSSES)
        _checks.choice("sampling", self.sampling, SAMPLINGS)
        _checks.positive("learning_rate", self.learning_rate)
        from_zero("momentum", self.momentum, below=1.0)
        from_zero("weight_decay", self.weight_decay)
        for name, low, high in (
            ("batch_size", 1, None), ("epochs", 0, None), ("top", 1, 500), ("svag", 2, 1000), ("svag_steps", 0, 10**6),
            ("replicas", 4, 10**5), ("seed", 0, LARGEST_SEED // 4),
        ):  # fmt: skip
            _checks.whole(name, getattr(self, name), low, high)
        return self


@dataclass(frozen=True)
class Subject:
    """A model, its loss and its data, all of which fit together."""

    model: nn.Module
    loss: Callable
    data: Split
    loss_name: str

    def fingerprint(self) -> str:
        """Of the architecture in words, the weights and buffers: another model asks another question."""
        digest = hashlib.blake2b(repr(self.model).encode(), digest_size=8)
        for name, value in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def subject_of(question: Question) -> Subject:
    """Model, loss and data of a question, tried on a few samples: every fault of the user's is told here."""
    options: dict[str, Any] = {"seed": question.seed, "size": question.size, "directory": question.directory}
    options |= {"classes": question.classes, "samples": question.samples}
    data = load(question.data, **{name: value for name, value in options.items() if value is not None})
    count = len(data.inputs)
    _checks.whole("batch_size", question.batch_size, 1, count, f"there are {count} training samples")
    labels = not data.targets.is_floating_point()
    outputs = int(data.targets.max()) + 1 if labels else data.targets.shape[1]
    own = {} if ":" in question.name else {"seed": question.seed}
    with torch.random.fork_rng(devices=[]):  # a factory draws its start from the global stream
        torch.manual_seed(question.seed)
        model = resolve(question.name, data.inputs.shape[1:], outputs, **own)
    if question.weights is not None:
        model.load_state_dict(_state(question.weights, model))
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    if len(kinds) != 1:
        words = "no trainable weights" if not kinds else f"weights of several types, {sorted(map(str, kinds))}"
        raise ValueError(f"{question.name} makes a model with {words}; give trainable weights of one float type")
    if not kinds <= {torch.float32, torch.float64}:
        raise ValueError(f"{question.name} makes a model of {kinds.pop()}: D and H need model.float() or .double()")
    data = Split(*(part.to(next(iter(kinds))) if part.is_floating_point() else part for part in data))
    name = question.loss if question.loss != "auto" else ("cross-entropy" if labels else "mse")
    if (name == "cross-entropy") != labels:
        kind = "class labels" if labels else "real numbers"
        raise ValueError(f"the loss {name} does not fit {question.data}, whose targets are {kind}: take loss=auto")
    loss = nn.CrossEntropyLoss() if labels else nn.MSELoss()
    device = next(model.parameters()).device if question.device is None else usable_device(question.device)
    model.to(device).eval()
    data = data.to(device)
    check_draws_nothing(model, data.inputs)
    check_maps(model, data.inputs, outputs)
    check_model(model, data.inputs)
    check_loss(model, loss, data.inputs, data.targets)
    if question.epochs or question.svag_steps:
        _check_smallest_batch(question, model, data.inputs)
    return Subject(model, loss, data, name)


def _check_smallest_batch(question: Question, model: nn.Module, inputs: torch.Tensor) -> None:
    """ValueError where a batch of one would be met whose statistics batch norm cannot take."""
    count, b = len(inputs), question.batch_size
    if (count % b or b if question.sampling == "reshuffling" else b) > 1:
        return
    try:
        with quietly(inputs.device):
            copy.deepcopy(model).train()(inputs[:1])
    except (ValueError, RuntimeError) as fault:
        raise ValueError(
            f"batch_size={b} makes batches of 1 of the {count} samples, on which the model cannot be trained ({fault})"
            ": take another batch size, or sampling=without_replacement with more than 1"
        ) from None


def _state(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"there is no file of weights at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as fault:
        reason = " ".join(str(fault).split())[:160]
        raise ValueError(
            f"{path} holds no state dict that can be read safely ({reason}); save model.state_dict()"
        ) from None
    expected = model.state_dict()
    if not isinstance(state, dict) or set(state) != set(expected):
        if not isinstance(state, dict):
            raise ValueError(f"{path} holds a {type(state).__name__} and no state dict; save model.state_dict()")
        differing = sorted(map(str, set(state) ^ set(expected)))[:4]
        raise ValueError(f"{path} holds the weights of another model: they differ in {', '.join(differing)}")
    for name, value in expected.items():
        if not torch.is_tensor(state[name]):
            raise ValueError(f"{path}: {name!r} is a {type(state[name]).__name__} and no tensor")
        if tuple(state[name].shape) != tuple(value.shape):
            raise ValueError(f"{path}: {name!r} has shape {tuple(state[name].shape)}, the model's {tuple(value.shape)}")
    return state


def trained(question: Question, subject: Subject, progress=None) -> xr.Dataset:
    """Train the subject's model in place; the state that it then has is kept as one vector beside the losses."""
    data = subject.data
    if question.epochs:
        train_sgd(
            subject.model,
            data.inputs,
            data.targets,
            epochs=question.epochs,
            learning_rate=question.learning_rate,
            batch_size=question.batch_size,
            sampling=question.sampling,
            momentum=question.momentum,
            weight_decay=question.weight_decay,
            loss=subject.loss,
            snapshots=[question.epochs],
            seed=question.seed,
            progress=progress,
        )
    subject.model.eval()
    with torch.no_grad():
        value = float(subject.loss(subject.model(data.inputs), data.targets))
    state = torch.cat([value.double().flatten().cpu() for value in subject.model.state_dict().values()]).numpy()
    return xr.Dataset({"state": ("entry", state), "loss": value})


def restore(subject: Subject, kept: xr.Dataset) -> None:
    """Give the model the state of a finished training."""
    state, position = torch.from_numpy(kept["state"].values.copy()), 0
    with torch.no_grad():
        for value in subject.model.state_dict().values():
            value.copy_(state[position : position + value.numel()].reshape(value.shape))
            position += value.numel()
    subject.model.eval()


def noise_and_curvature(question: Question, subject: Subject, progress=lambda done, total: None) -> xr.Dataset:
    r"""D and H at the model's weights, and what they predict of SGD there.

    Numbers, C being the covariance of the batch gradient, D/b or, without replacement and within an epoch,
    D (N−b)/(b(N−1)): ``temperature`` T = η/(2b(1−μ)), without replacement times (N−b)/(N−1); ``trace`` tr D,
    ``gradient`` |∇f|, ``noise_to_signal`` √(tr C)/|∇f|, ``sharpness`` η(λ_max + λ) against its ``limit`` 2(1+μ),
    ``commutator`` |HD − DH|/|HD| in the joint space of the leading eigenvectors of both, whose share of tr D is
    ``inside`` and out of which H leads by ``coupling``, |(1−P)HP|/|HP|; ``diffusion_eigenvalues``,
    ``hessian_eigenvalues``. H + λ in that space has ``negative`` curvatures, and a steep part (above 1e-6 of the
    largest): there ``curvature`` and ``variance`` of the exact recursion `DiscreteSGD` for the question's sampling,
    ``current`` |TQ|/(T|D|) in Frobenius norms, Q of these steps, and ``away``, the root mean square of (w − w*)/σ along
    its directions, w* the minimum of the quadratic and σ² the variance: 1 in the steady state. The last four are
    empty or NaN where there is no steady state.
    """
    pair = subject.data[:2]
    noise = GradientNoise(subject.model, subject.loss, pair)
    hessian = Curvature(subject.model, subject.loss, pair)
    d_pairs = leading_pairs(noise, question.top)
    progress(1, 3)
    h_pairs = hessian.eigenpairs(min(question.top, hessian.parameters))
    progress(2, 3)
    rows = np.concatenate([h_pairs["vectors"].values, d_pairs["vectors"].values])
    basis, h, d, coupling = joint_span(hessian, noise, rows)
    mean = noise.mean_gradient().cpu().numpy()
    trace, gradient = float(noise.trace()), float(np.linalg.norm(mean))
    both = np.linalg.norm(h @ d)
    top = float(h_pairs["eigenvalues"][0])
    eta, mu, b, decay = question.learning_rate, question.momentum, question.batch_size, question.weight_decay
    finite = (noise.samples - b) / (noise.samples - 1)  # what drawing without replacement leaves
    step_noise = trace / b * (1.0 if question.sampling == "with_replacement" else finite)
    bent = h + decay * np.eye(len(h))
    numbers = {
        "temperature": eta / (2 * b * (1 - mu)) * (finite if question.sampling == "without_replacement" else 1.0),
        "trace": trace,
        "gradient": gradient,
        "noise_to_signal": float(np.sqrt(step_noise) / gradient) if gradient > 0 else np.inf,
        "sharpness": eta * (top + decay),
        "limit": 2 * (1 + mu),
        "commutator": float(np.linalg.norm(h @ d - d @ h) / both) if both > 0 else 0.0,
        "inside": float(np.trace(d)) / trace if trace > 0 else 1.0,
        "coupling": coupling,
        "negative": int((np.linalg.eigvalsh(bent) < -_FLAT * abs(top)).sum()),
    }
    progress(3, 3)
    weights = parameters_to_vector([p for p in subject.model.parameters() if p.requires_grad]).detach()
    pull = basis @ (mean + decay * weights.double().cpu().numpy())
    prediction = _predicted(question, noise.samples, bent, d, pull, numbers["temperature"])
    why = prediction.pop("why")
    arrays = {
        "diffusion_eigenvalues": ("index", d_pairs["eigenvalues"].values),
        "hessian_eigenvalues": ("index_2", h_pairs["eigenvalues"].values),
        "curvature": ("direction", prediction.pop("curvature")),
        "variance": ("direction", prediction.pop("variance")),
    }
    attrs = {"parameters": noise.parameters, "samples": noise.samples, "no_steady_state": why}
    attrs["batch_norm"] = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in subject.model.modules())
    attrs |= {"statistics": noise.statistics, "gradient_dtype": str(noise.dtype).removeprefix("torch.")}
    return xr.Dataset(numbers | prediction | arrays, attrs=attrs)


def _predicted(
    question: Question, samples: int, bent: Array, d: Array, pull: Array, temperature: float
) -> dict[str, Any]:
    """Variances and current of the exact recursion along the steep eigenvectors of H + λ in the joint space."""
    values, vectors = np.linalg.eigh(bent)
    steep = values > _FLAT * max(values.max(), 0.0)
    nothing = {"curvature": np.empty(0), "variance": np.empty(0), "current": np.nan, "away": np.nan}
    if values.max() <= 0:
        return {**nothing, "why": "no direction of the joint space has positive curvature"}
    values, vectors = values[steep][::-1], vectors[:, steep][:, ::-1]
    noise = vectors.T @ d @ vectors
    noise = (noise + noise.T) / 2
    try:
        exact = sde.DiscreteSGD(
            np.diag(values),
            noise,
            question.learning_rate,
            question.batch_size,
            samples=samples,
            momentum=question.momentum,
            sampling=question.sampling,
        )
        variance, turning = exact.covariance.diagonal(), exact.irreversibility
    except ValueError as fault:  # beyond the limit of stability, or without noise: told in its words
        return {**nothing, "why": str(fault)}
    shift = (vectors.T @ pull / values) ** 2
    reached = variance > 1e-12 * variance.max()  # the noise gets there
    return {
        "curvature": values,
        "variance": variance,
        "current": float(np.linalg.norm(turning) / (temperature * np.linalg.norm(noise))),
        "away": float(np.sqrt((shift[reached] / variance[reached]).mean())) if reached.any() else np.nan,
        "why": "",
    }


def against_svag(question: Question, subject: Subject, progress=lambda done, total: None) -> xr.Dataset:
    """`svag_test` of the question's run, and what `compared` says of it where all of its runs stayed finite."""
    found = svag_test(
        subject.model,
        subject.loss,
        subject.data.inputs,
        subject.data.targets,
        learning_rate=question.learning_rate,
        batch_size=question.batch_size,
        sampling=question.sampling,
        momentum=question.momentum,
        weight_decay=question.weight_decay,
        order=question.svag,
        steps=question.svag_steps,
        replicas=question.replicas,
        seed=question.seed,
        progress=progress,
    )
    gone = (~np.isfinite(found["loss"].values)).sum(axis=1)
    found = found.assign(diverged=("kind", gone))
    return found if gone.any() else found.assign(compared(found))


def diagnosed(question: Question, console: Console, *, root, fresh: bool = False) -> Run:
    """The finished run of this question, with its page; what is kept of it is not computed again."""
    from ._diagnose_report import page

    subject = subject_of(question.checked())
    start = subject.fingerprint()
    run = Run("diagnose", asdict(question) | {"loss": subject.loss_name, "start": start}, root=root, fresh=fresh)
    if not run.finished:

        def stage(name: str, title: str, compute: Callable) -> xr.Dataset:
            def announced() -> xr.Dataset:
                with console.stage(title) as progress:
                    return compute(progress)

            return run.stage(name, announced)  # type: ignore[return-value]

        kept = stage("training", f"{question.epochs} epochs", lambda p: trained(question, subject, p))
        restore(subject, kept)
        with in_words("the diagnosis cannot be computed for this model"):
            groups = {
                "/training": kept,
                "/local": stage("local", "D and H", lambda p: noise_and_curvature(question, subject, p)),
            }
            if question.svag_steps:
                groups["/svag"] = stage("svag", "SVAG test", lambda p: against_svag(question, subject, p))
        page(run, question, groups)
    return run
