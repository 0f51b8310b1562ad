"""How the gradient noise of a small real network changes while it trains."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn.utils import vector_to_parameters

from sde_sgd import _checks

from ._numbers import LARGEST_SEED
from .data import digits
from .gradient_noise import GradientNoise
from .training import tiny_fc, train_sgd


def digits_spectra(
    *,
    epochs: int = 50,
    stages: Iterable[float] = (0.2, 0.4, 1.0),
    learning_rate: float = 0.05,
    batch_size: int = 32,
    momentum: float = 0.9,
    sampling: str = "reshuffling",
    hidden: int = 16,
    seed: int = 0,
) -> xr.Dataset:
    """Eigenvalues and ranks of D for tiny-fc (49-16-5) on the digits 0–4 at stages of its training.

    D = (1/N) Σ g_k g_kᵀ − g gᵀ over the training images at the weights reached after each fraction in
    ``stages`` of ``epochs`` epochs of SGD (Nesterov where momentum > 0), in float64.

    Returns
    -------
    xarray.Dataset
        Over ``stage``: ``epoch``, ``loss``, ``accuracy`` (training set), ``test_accuracy``, ``eigenvalues``
        (stage, index) with index from 1, descending, min(d, N − 1) of them; ``mean_eigenvalue`` and
        ``std_eigenvalue`` over all d; ``trace`` summed without eigenvalues; and every number of
        :func:`~sde_sgd.validation.rank_measures`. attrs hold d, N, the gradients' float type and settings.

    Raises
    ------
    ValueError
        Stages that are not distinct fractions in (0, 1], and all that ``train_sgd`` refuses.

    References
    ----------
    Chaudhari & Soatto 2018, figure 1 (20, 40, 100 % of training; Nesterov momentum 0.9). They use MNIST
    and networks with batch norm: compare shapes, not figures.
    """
    epochs = _checks.whole("epochs", epochs, 1)
    hidden = _checks.whole("hidden", hidden, 1)
    seed = _checks.whole("seed", seed, 0, LARGEST_SEED)
    if not isinstance(stages, Iterable):
        raise ValueError(f"stages must be a sequence of fractions, got {stages!r}")
    stages = tuple(_checks.positive("a stage", stage) for stage in stages)
    if not stages or len(set(stages)) < len(stages) or max(stages) > 1:
        raise ValueError(f"stages={stages}: distinct fractions of the training, above 0 and at most 1")
    reached = {stage: round(stage * epochs) for stage in sorted(stages)}
    if len(set(reached.values())) < len(stages) or 0 in reached.values():
        raise ValueError(f"stages={stages} of epochs={epochs} fall on one epoch or on 0: train for longer")
    data = digits(7, range(5), seed=seed)
    model = tiny_fc(hidden=hidden, seed=seed)
    training = train_sgd(
        model,
        data.inputs,
        data.targets,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        sampling=sampling,
        momentum=momentum,
        nesterov=momentum > 0,
        snapshots=reached.values(),
        seed=seed,
    )
    rows = []
    for epoch in reached.values():
        snapshot = training.sel(epoch=epoch)
        vector_to_parameters(torch.from_numpy(snapshot["weights"].values.copy()), model.parameters())
        noise = GradientNoise(model, nn.CrossEntropyLoss(), (data.inputs, data.targets))
        with torch.no_grad():
            hits = model(data.test_inputs).argmax(1) == data.test_targets
        eigenvalues, size = noise.spectrum(), noise.parameters
        # Over all d eigenvalues, as the paper counts: those not listed are 0.
        mean = eigenvalues.sum() / size
        rows.append(
            {
                "epoch": epoch,
                "loss": float(snapshot["loss"]),
                "accuracy": float(snapshot["accuracy"]),
                "test_accuracy": float(hits.double().mean()),
                "eigenvalues": eigenvalues,
                "trace": noise.trace(),
                "mean_eigenvalue": mean,
                "std_eigenvalue": np.sqrt((eigenvalues**2).sum() / size - mean**2),
            }
            | noise.ranks()
        )
    constant = ("parameters", "samples", "gradient_dtype")
    measured = {
        name: (
            ("stage", "index") if name == "eigenvalues" else "stage",
            np.stack([row[name] for row in rows]),
        )
        for name in rows[0]
        if name not in constant
    }
    index = np.arange(1, len(rows[0]["eigenvalues"]) + 1)
    return xr.Dataset(
        measured,
        coords={"stage": list(reached), "index": index},
        attrs={name: rows[0][name] for name in constant}
        | {"network": f"tiny-fc 49-{hidden}-5", "dataset": "digits 0-4, 7x7", "epochs": epochs}
        | {key: value for key, value in training.attrs.items() if key != "samples"},
    )
