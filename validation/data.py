"""Handwritten digits that need no download."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from sde_sgd import _checks

from ._numbers import LARGEST_SEED, from_zero


class Digits(NamedTuple):
    """Images (n, 1, size, size) in [0, 1] and labels (n,) counted from 0, split once."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def digits(
    size: int = 7,
    classes: Iterable[int] = (0, 1, 2, 3, 4),
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    dtype: torch.dtype = torch.float64,
) -> Digits:
    """The 8 × 8 digits bundled with scikit-learn, averaged to ``size`` × ``size``, with a fixed split.

    Grey values are divided by 16; a 7 × 7 image is the area average of the 8 × 8 one. Labels are positions
    in ``classes``. One permutation drawn from ``seed`` splits off the last ``test_fraction``.

    Parameters
    ----------
    size : 7 or 8.
    classes : distinct digits 0 … 9, at least two; about 180 images each.
    test_fraction : in [0, 1), leaving at least one image to train on.
    dtype : torch.float32 or torch.float64.

    Raises
    ------
    ValueError
        An argument outside its range.

    References
    ----------
    Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI). The 7 × 7, five-class form
    follows tiny-fc of Chaudhari & Soatto 2018, which pools MNIST; figures on MNIST are not comparable
    digit by digit.
    """
    size = _checks.whole("size", size, 7, 8, "the images are 8 × 8")
    if not isinstance(classes, Iterable):
        raise ValueError(f"classes must be a sequence of digits, got {classes!r}")
    classes = tuple(_checks.whole("a class", digit, 0, 9, "it is a digit") for digit in classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes={classes}: at least two distinct digits from 0 to 9")
    test_fraction = from_zero("test_fraction", test_fraction, below=1.0)
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: choose torch.float32 or torch.float64")

    from sklearn.datasets import load_digits  # a second of import that other users of this module are spared

    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images).to(torch.float64).reshape(-1, 1, 8, 8) / 16.0
    labels = torch.from_numpy(labels)
    chosen = torch.isin(labels, torch.tensor(classes))
    images, labels = images[chosen], labels[chosen]
    if size != 8:
        images = torch.nn.functional.interpolate(images, size=(size, size), mode="area")
    targets = torch.empty_like(labels)
    for position, digit in enumerate(classes):
        targets[labels == digit] = position
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, targets = images[order].to(dtype), targets[order]
    kept = len(images) - round(test_fraction * len(images))
    if kept == 0:
        raise ValueError(f"test_fraction={test_fraction} of {len(images)} images leaves none to train on: lower it")
    return Digits(images[:kept], targets[:kept], images[kept:], targets[kept:])
