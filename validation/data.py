"""Real data by name, split once: bundled with scikit-learn, or files of MNIST, CIFAR and Tiny ImageNet in a folder of
the user's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sde_sgd import _checks

from ._memory import require_memory
from ._numbers import LARGEST_SEED, from_zero
from ._readers import Arrays, Images, cifar, mnist, tiny_imagenet

IMAGES = ("digits", "mnist", "cifar-10", "cifar-100", "tiny-imagenet")
TABLES = ("breast-cancer", "wine", "diabetes")
DATASETS = (*IMAGES, *TABLES, "teacher-student")
_FILES = IMAGES[1:]


class Split(NamedTuple):
    """Inputs (n, …) and targets (n, …) to train on, and those held back; labels are counted from 0."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def to(self, device: torch.device | str) -> Split:
        """The same on a device, as `usable_device`."""
        place = usable_device(device)
        return Split(*(part.to(place) for part in self))


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name; ValueError where there is none here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as fault:
        reason = str(fault).partition("\n")[0]
        raise ValueError(f"device={str(name)!r} cannot be used here ({reason}): choose cpu, or another") from None


def require_folder(name: str, directory: str) -> None:
    """ValueError unless a folder is named for the data that are read from one, and for no others."""
    if name in _FILES and not directory:
        raise ValueError(f"data={name!r} is read from a folder of yours: give directory")
    if name not in _FILES and directory:
        raise ValueError(f"directory does not apply to {name}, which needs no files; leave it out")


def load(
    name: str,
    *,
    directory=None,
    classes: Iterable[int] | None = None,
    size: int | None = None,
    samples: int | None = None,
    label_noise: float = 0.0,
    test_fraction: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Split:
    """A data set by name, split, subset and scaled as asked; the same for the same `seed`.

    ==================  ==========================================================================================
    digits              1797 images (1, 8, 8), 10 classes; bundled with scikit-learn
    breast-cancer       569 rows of 30 numbers, 2 classes; bundled
    wine                178 rows of 13 numbers, 3 classes; bundled
    diabetes            442 rows of 10 numbers, targets (1,) real; bundled
    mnist               60,000 + 10,000 images (1, 28, 28), 10 classes; IDX files, gzipped or not, in `directory`
    cifar-10, -100      50,000 + 10,000 images (3, 32, 32), 10 or 100 classes; "python version" files in `directory`
    tiny-imagenet       100,000 + 10,000 pictures (3, 64, 64), 200 classes; `directory` as its archive unpacks
    teacher-student     512 rows of 16 numbers, from a random network: `teacher_student` with its defaults
    ==================  ==========================================================================================

    Grey values lie in [0, 1]; those in colour are centred and scaled per channel, the numbers of a table per column
    (diabetes' targets, too), by the training part. Tiny ImageNet is tested on its validation set, which has labels;
    only the pictures asked for are decoded, about 5000 a second.

    Parameters
    ----------
    directory : folder of the files of MNIST, CIFAR or Tiny ImageNet, which are never downloaded.
    classes : labels to keep, at least two; targets are then positions in `classes`.
    size : side of the images, averaged over areas; at most the original.
    samples : of the training part, the first after shuffling.
    label_noise : share of the training labels, rounded to whole samples, that are replaced by another class.
    test_fraction : of a bundled set, held back, 0.2 by default. Data from files have a test set of their own.
    dtype : torch.float32 or torch.float64.

    Raises ValueError for an unknown name, an option that does not apply to it, an argument outside its range, or files
    that are absent or are not what their names say.

    References: Alpaydin & Kaynak (1998), optical recognition of handwritten digits; LeCun et al. (1998); Krizhevsky
    (2009); Le & Yang (2015), Tiny ImageNet. Figures on the bundled digits are not comparable with those on MNIST.
    """
    _checks.choice("dataset", name, DATASETS)
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: choose torch.float32 or torch.float64")
    _refuse_what_does_not_apply(name, directory, classes, size, label_noise, test_fraction)
    share = from_zero("test_fraction", 0.2 if test_fraction is None else test_fraction, below=1.0)
    images: tuple[Images, Images] | None = None
    if name in _FILES:
        train, labels, test, test_labels = _read(name, directory)
        images = train, test
        positions, targets = _chosen(torch.arange(len(train)), torch.from_numpy(labels), classes)
        order = _order(len(positions), seed)
        split = Split(positions[order], targets[order],
                      *_chosen(torch.arange(len(test)), torch.from_numpy(test_labels), classes))  # fmt: skip
    elif name == "teacher-student":
        split = teacher_student(test_fraction=share, seed=seed)
    else:
        split = _parted(*_chosen(*_bundled(name), classes), share, seed)
    count = int(split.targets.max()) + 1 if label_noise else 0
    if samples is not None:
        samples = _checks.whole("samples", samples, 1, len(split.inputs), "that many are there to train on")
        split = split._replace(inputs=split.inputs[:samples], targets=split.targets[:samples])
    if images is not None:  # of the samples that are left
        asked = split.inputs, split.test_inputs
        _require_room(images, asked, dtype)
        read = [torch.from_numpy(of[at.numpy()]).to(dtype).div_(255.0) for of, at in zip(images, asked)]
        split = split._replace(inputs=read[0], test_inputs=read[1])
    if size is not None:
        split = split._replace(inputs=_pooled(split.inputs, size), test_inputs=_pooled(split.test_inputs, size))
    if name not in ("digits", "mnist", "teacher-student"):
        split = _standardised(split, targets=name == "diabetes")
    if label_noise:
        split = split._replace(targets=_relabelled(split.targets, count, label_noise, seed))
    return Split(*(part.to(dtype) if part.is_floating_point() else part for part in split))


def digits(
    size: int = 7,
    classes: Iterable[int] = (0, 1, 2, 3, 4),
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    dtype: torch.dtype = torch.float64,
) -> Split:
    """`load("digits", …)` in the form of tiny-fc: images pooled to 7 × 7, the first five classes.

    Chaudhari & Soatto 2018 pool MNIST in this way.
    """
    return load("digits", size=size, classes=classes, seed=seed, test_fraction=test_fraction, dtype=dtype)


def teacher_student(
    samples: int = 640,
    inputs: int = 16,
    hidden: int = 4,
    outputs: int = 1,
    *,
    noise: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Split:
    """Targets y = V tanh(W x) + `noise`·ξ of a random teacher: x, ξ normal, W and V normal, of variance 1/columns.

    `samples` in all, of which the last `test_fraction` is held back, without noise in its targets. ValueError for sizes
    below 1, a negative noise, a test part that leaves nothing.
    """
    samples, inputs, hidden, outputs = (
        _checks.whole(name, value, 1)
        for name, value in (("samples", samples), ("inputs", inputs), ("hidden", hidden), ("outputs", outputs))
    )
    noise = from_zero("noise", noise)
    test_fraction = from_zero("test_fraction", test_fraction, below=1.0)
    generator = torch.Generator().manual_seed(_checks.whole("seed", seed, 0, LARGEST_SEED))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first, second = normal(hidden, inputs) / inputs**0.5, normal(outputs, hidden) / hidden**0.5
    x = normal(samples, inputs)
    y = torch.tanh(x @ first.T) @ second.T
    kept = _kept(samples, test_fraction)
    noisy = y[:kept] + noise * normal(kept, outputs)
    return Split(*(part.to(dtype) for part in (x[:kept], noisy, x[kept:], y[kept:])))


def _refuse_what_does_not_apply(name: str, directory, classes, size, label_noise: float, test_fraction) -> None:
    labelled = name not in ("diabetes", "teacher-student")
    for option, given, applies, why in (
        ("directory", directory is not None, name in _FILES, "it comes with scikit-learn or is made"),
        ("test_fraction", test_fraction is not None, name not in _FILES, "it has a test set of its own"),
        ("size", size is not None, name in IMAGES, "its inputs are no images"),
        ("classes", classes is not None, labelled, "its targets are no classes"),
        ("label_noise", bool(label_noise), labelled, "its targets are no classes"),
    ):
        if given and not applies:
            raise ValueError(f"{option} does not apply to {name}: {why}; leave it out")


def _read(name: str, directory) -> Arrays:
    if name == "tiny-imagenet":
        return tiny_imagenet(directory)
    return mnist(directory) if name == "mnist" else cifar(directory, name)


def _require_room(images: tuple[Images, Images], asked: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """ValueError where the pictures asked for do not fit into memory, with as many again while they are scaled."""
    count = sum(len(at) * math.prod(of.shape[1:]) for of, at in zip(images, asked))
    require_memory(
        2 * dtype.itemsize * count, f"{sum(map(len, asked))} pictures as {str(dtype).removeprefix('torch.')}",
        "take fewer samples or classes, or dtype=torch.float32", torch.device("cpu"),
    )  # fmt: skip


def _bundled(name: str) -> tuple[Tensor, Tensor]:
    from sklearn import datasets  # a second of import that other users of this module are spared

    if name == "digits":
        images, labels = datasets.load_digits(return_X_y=True)
        return torch.from_numpy(images).to(torch.float64).reshape(-1, 1, 8, 8) / 16.0, torch.from_numpy(labels)
    rows, targets = getattr(datasets, f"load_{name.replace('-', '_')}")(return_X_y=True)
    targets = torch.from_numpy(targets)
    return torch.from_numpy(rows).to(torch.float64), targets[:, None].double() if name == "diabetes" else targets


def _chosen(inputs: Tensor, targets: Tensor, classes: Iterable[int] | None) -> tuple[Tensor, Tensor]:
    """Samples of some classes, labelled by their positions."""
    if classes is None:
        return inputs, targets
    highest = int(targets.max())
    if not isinstance(classes, Iterable):
        raise ValueError(f"classes must be a sequence of labels from 0 to {highest}, got {classes!r}")
    classes = tuple(_checks.whole("a class", label, 0, highest, "it is a label") for label in classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes={classes}: at least two distinct labels from 0 to {highest}")
    chosen = torch.isin(targets, torch.tensor(classes))
    inputs, targets = inputs[chosen], targets[chosen]
    positions = torch.empty_like(targets)
    for position, label in enumerate(classes):
        positions[targets == label] = position
    return inputs, positions


def _parted(inputs: Tensor, targets: Tensor, test_fraction: float, seed: int) -> Split:
    """One permutation, whose end is held back."""
    order = _order(len(inputs), seed)
    inputs, targets, kept = inputs[order], targets[order], _kept(len(inputs), test_fraction)
    return Split(inputs[:kept], targets[:kept], inputs[kept:], targets[kept:])


def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _kept(count: int, test_fraction: float) -> int:
    kept = count - round(test_fraction * count)
    if kept == 0:
        raise ValueError(f"test_fraction={test_fraction} of {count} samples leaves none to train on: lower it")
    return kept


def _pooled(images: Tensor, size: int) -> Tensor:
    side = images.shape[-1]
    size = _checks.whole("size", size, 2, side, f"the images are {side} × {side}")
    return images if size == side else nn.functional.interpolate(images, size=(size, size), mode="area")


def _standardised(split: Split, targets: bool) -> Split:
    """Mean 0 and deviation 1 of each channel or column of the training part; a constant one is only centred."""

    def scaled(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
        over = (0, *range(2, train.ndim))
        mean, deviation = train.mean(over, keepdim=True), train.std(over, correction=0, keepdim=True)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return (train - mean) / deviation, (test - mean) / deviation

    inputs, test_inputs = scaled(split.inputs, split.test_inputs)
    wanted = scaled(split.targets, split.test_targets) if targets else (split.targets, split.test_targets)
    return Split(inputs, wanted[0], test_inputs, wanted[1])


def _relabelled(targets: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """`share` of the labels replaced by another, each with the same probability."""
    share = from_zero("label_noise", share, below=1.0 + 1e-15)
    generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15) % 2**64)  # not the stream of the split
    rows = torch.randperm(len(targets), generator=generator)[: round(share * len(targets))]
    turn = torch.randint(1, classes, (len(rows),), generator=generator)
    targets = targets.clone()
    targets[rows] = (targets[rows] + turn) % classes
    return targets
