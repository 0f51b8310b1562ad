"""What the linear theory predicts for SGD around given weights of a network, and how a trajectory compares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import nn

import sde_sgd as sde
from sde_sgd import _checks
from sde_sgd.results import provenance

from ._numbers import LARGEST_SEED, from_zero
from ._prediction_space import Space, leading_space, whole_space
from .curvature import Curvature
from .gradient_noise import GradientNoise

Array = NDArray[np.float64]
_WHOLE = 2_000  # the largest d whose matrices are taken whole; the core's limit too
_TOP, _SHOWN = 50, 12


class LocalPrediction:
    r"""Stationary law of mini-batch SGD around weights w, from the Hessian H and the noise D at w alone.

    In discrete time, with the weight decay λ in H and no limit η → 0, the covariance S of the weights solves

        HS + SH − ηHSH = (η/b) D

    (momentum, Nesterov and the other ways of sampling as `sde_sgd.DiscreteSGD`). Along directions V (k, d), one a row:

    ==========================  ==================================================================================
    ``covariance``              Σ = V S Vᵀ
    ``potential_hessian``       U = T Σ⁻¹, of Φ = −T log p along V, p the density of the projections
    ``loss_hessian``            (V H⁻¹ Vᵀ)⁻¹, what U would be for D = 1 and η → 0; V H Vᵀ for eigenvectors of H
    ``Q``                       V Q Vᵀ as η → 0: Q_ij = D_ij (h_i − h_j)/(h_i + h_j) in the eigenvectors of H
    ``area(lags)``              A(τ) = (C(τ)ᵀ − C(τ))/2τ, exact for these steps; → TQ as η, τ → 0
    ==========================  ==================================================================================

    Parameters
    ----------
    model, loss, dataset : as of `GradientNoise`; w are the weights the model has now. Take the mean of a pilot run,
        which is where the cloud of iterates is, not its last weights.
    learning_rate, batch_size, momentum, nesterov, sampling : of the run predicted.
    weight_decay : λ, added to H. D has no part in it.
    directions : (k, d), independent; default the 12 steepest of H. Fixed before the run: principal directions of the
        run itself have larger variances by their choice.
    top : None takes all weights for d ≤ 2,000 and otherwise 50. A number k takes the span of the k leading
        eigenvectors of H, those of D, and the directions: exact if neither H nor D leads out of it, of which
        ``outside`` and ``coupling`` tell.
    statistics : "eval" or "full", of batch norm.

    Attributes
    ----------
    law : the `DiscreteSGD` in that space, whose coordinates are along the rows of ``basis`` (m, d), eigenvectors of H
        within it; ``curvature`` (m,) its eigenvalues, λ included.
    outside : share of tr D beyond the space.   unstable : directions left out for H + λ ≤ 0, which never settle.
    coupling : |(1 − P) H P|/|HP|, P the projection on the space.
    unseen : (k,) share of each direction, |(1 − P)v|²/|v|², that lies beyond the space: where it is not small, the
        variance predicted along v is too small.

    Raises
    ------
    ValueError
        as `GradientNoise`, `Curvature` and `DiscreteSGD`: no positive curvature, η beyond 2/h, batches larger than
        the data; directions that are dependent or of another shape; on use: a Σ that is singular.

    Not for weights that still move: H has negative eigenvalues there, and the gradient, which is ignored here, is not
    small. Not where D changes over the cloud: that is what comparison with a trajectory shows. Mandt, Hoffman & Blei
    (2017), eq. 11 as η → 0; Liu, Ziyin & Ueda (2021).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable,
        dataset,
        *,
        learning_rate: float,
        batch_size: int,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        nesterov: bool = False,
        sampling: str = "with_replacement",
        directions: ArrayLike | None = None,
        top: int | None = None,
        statistics: str = "eval",
        device=None,
        seed: int = 0,
    ):
        _checks.choice("statistics", statistics, ("eval", "full"))
        decay = from_zero("weight_decay", weight_decay)
        noise = GradientNoise(model, loss, dataset, statistics=statistics, device=device)
        curvature = Curvature(model, loss, dataset, statistics=statistics, device=device)
        size, seed = noise.parameters, _checks.whole("seed", seed, 0, LARGEST_SEED)
        rows = _rows(directions, size)
        if top is None and size <= _WHOLE:
            space = whole_space(curvature.matrix(), noise.matrix(), decay)
        else:
            top = _checks.whole("top", _TOP if top is None else top, 1, min(size, _WHOLE // 3))
            space = leading_space(curvature, noise, top, rows, decay, seed)
        settings = {"momentum": momentum, "nesterov": nesterov, "sampling": sampling}
        self._settle(space, rows, noise.samples, learning_rate, batch_size, decay, top, settings)

    @classmethod
    def from_matrices(
        cls,
        H: ArrayLike,
        D: ArrayLike,
        *,
        learning_rate: float,
        batch_size: int,
        samples: int | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        nesterov: bool = False,
        sampling: str = "with_replacement",
        directions: ArrayLike | None = None,
    ) -> LocalPrediction:
        """The same from symmetric matrices (d, d), such as means of H and D over the snapshots of a pilot run."""
        hessian = _checks.finite_array("H", H)
        if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or len(hessian) > _WHOLE:
            raise ValueError(f"H must have shape (d, d) with d <= {_WHOLE}, got {hessian.shape}")
        noise = _checks.finite_array("D", D, hessian.shape)
        for name, matrix in (("H", hessian), ("D", noise)):
            if np.abs(matrix - matrix.T).max() > 1e-9 * max(float(np.abs(matrix).max()), 1e-300):
                raise ValueError(f"{name} is not symmetric: pass ({name} + {name}.T)/2 if that is what you mean")
        decay = from_zero("weight_decay", weight_decay)
        result = cls.__new__(cls)
        settings = {"momentum": momentum, "nesterov": nesterov, "sampling": sampling}
        rows = _rows(directions, len(hessian))
        space = whole_space(hessian, noise, decay)
        result._settle(space, rows, samples, learning_rate, batch_size, decay, None, settings)
        return result

    def _settle(self, space: Space, rows, samples, learning_rate, batch_size, decay, top, settings: dict) -> None:
        self.basis, self.curvature, self.noise = space.basis, space.curvature, space.noise
        self.outside, self.unstable, self.coupling = space.outside, space.unstable, space.coupling
        self.directions = self.basis[::-1][: min(_SHOWN, len(self.basis))].copy() if rows is None else rows
        self.law = sde.DiscreteSGD(
            np.diag(self.curvature), self.noise, learning_rate, batch_size, samples=samples, **settings
        )
        self._along = self.directions @ self.basis.T  # (k, m)
        self.unseen = np.maximum(0.0, 1.0 - (self._along**2).sum(1) / (self.directions**2).sum(1))
        self.settings = {
            "learning_rate": self.law.learning_rate, "batch_size": self.law.batch_size, "weight_decay": decay,
            "momentum": self.law.momentum, "nesterov": int(self.law.nesterov), "sampling": self.law.sampling,
            "top": 0 if top is None else top, "parameters": self.basis.shape[1],
        }  # fmt: skip

    def _seen(self, matrix: Array) -> Array:
        return self._along @ matrix @ self._along.T

    # What is predicted --------------------------------------------------------------------------------------

    @property
    def temperature(self) -> float:
        """T = η/2b (momentum: over 1 − μ); ValueError for reshuffling, which has none."""
        return self.law.temperature

    @functools.cached_property
    def covariance(self) -> Array:
        """(k, k) Σ = V S Vᵀ, for reshuffling the mean over an epoch."""
        return self._seen(self.law.covariance)

    @functools.cached_property
    def loss_hessian(self) -> Array:
        """(k, k) (V H⁻¹ Vᵀ)⁻¹, λ included: T times it is the inverse covariance of isotropic noise as η → 0."""
        return _inverse(self._seen(np.diag(1.0 / self.curvature)), "V H⁻¹ Vᵀ")

    @functools.cached_property
    def potential_hessian(self) -> Array:
        """(k, k) U = T Σ⁻¹; ValueError for reshuffling, which has no T, and for a singular Σ."""
        return self.temperature * _inverse(self.covariance, "the covariance along the directions")

    @functools.cached_property
    def Q(self) -> Array:
        """(k, k) V Q Vᵀ of the continuous theory, antisymmetric; 0 where H and D commute."""
        h = self.curvature
        return self._seen(self.noise * (h[:, None] - h[None, :]) / (h[:, None] + h[None, :]))

    def area(self, lags: int | Sequence[int] | NDArray[np.int64] = 1) -> Array:
        """(lags, k, k) A(τ) = ½E[x_i(t)x_j(t+τ) − x_j(t)x_i(t+τ)]/τ after so many steps, per time τ = η × steps.

        What `sde_sgd.area_production` estimates from the projections of a run, exact for every η and lag; the mean
        over an epoch for reshuffling.
        """
        steps = np.atleast_1d(_checks.finite_array("lags", lags))
        if steps.ndim != 1 or (steps < 1).any() or (np.diff(steps) <= 0).any():
            raise ValueError(f"lags are whole numbers of steps >= 1, increasing, got {lags!r}")
        found = []
        for step, ahead in zip(steps, self.law.lag_covariance(steps).values):
            seen = self._seen(ahead)
            found.append((seen.T - seen) / (2 * step * self.law.learning_rate))
        return np.stack(found)

    def dataset(self) -> xr.Dataset:
        """All of it over (direction, direction_2), with what lies outside as attributes."""
        pair = ("direction", "direction_2")
        found = xr.Dataset(
            {
                "covariance": (pair, self.covariance),
                "loss_hessian": (pair, self.loss_hessian),
                "noise": (pair, self._seen(self.noise)),
                "Q": (pair, self.Q),
                "area": (pair, self.area(1)[0]),
                "directions": (("direction", "weight"), self.directions),
                "unseen": ("direction", self.unseen),
                "curvature": ("eigenvector", self.curvature[::-1].copy()),
            },
            attrs={"outside": self.outside, "unstable": self.unstable, "coupling": self.coupling},
        )
        if self.law.sampling != "reshuffling":
            found["potential_hessian"] = (pair, self.potential_hessian)
            found.attrs["temperature"] = self.temperature
        return found.assign_attrs(provenance(self.settings))

    # Against a run ------------------------------------------------------------------------------------------

    def compare(
        self,
        trajectory: xr.Dataset,
        lags: int | Sequence[int] = 1,
        *,
        every: int = 1,
        burn_in: int = 0,
        blocks: int = 64,
        seed: int = 0,
    ) -> xr.Dataset:
        """Variances and areas of a run along the directions, beside those predicted, with errors from its blocks.

        Parameters
        ----------
        trajectory : `state` (replica, time, variable) with ``time`` in η × steps, as `trajectory` and `sde_sgd.sgd`
            give it: the projections on ``directions``, in that order.
        every : steps between its states.   lags : in states.   burn_in, blocks, seed : of `sde_sgd.area_production`.

        Returns
        -------
        xarray.Dataset
            Over direction: ``variance`` with ``variance_error``, ``predicted_variance``, ``ratio`` and
            ``ratio_error``. Over (lag, …) what `sde_sgd.area_production` gives with ``expected``: ``slope``,
            ``correlation``, ``p_value`` of "no current" and the rest. Errors are standard errors: the scatter of blocks
            about their mean, over √blocks. They hold where a block spans many correlation times; what drifts for
            longer than a block is not in them.
        """
        every = _checks.whole("every", every, 1)
        states = np.atleast_1d(np.asarray(lags))
        found = compared(
            trajectory, self.covariance, self.area(states * every), states, burn_in=burn_in, blocks=blocks, seed=seed
        )
        return found.assign_attrs(provenance(self.settings) | found.attrs)

    def __repr__(self) -> str:
        return (
            f"<LocalPrediction along {len(self.directions)} directions, in {len(self.basis)} of "
            f"{self.basis.shape[1]} dimensions, learning rate {self.law.learning_rate:g}, batch size "
            f"{self.law.batch_size}>"
        )


def compared(
    trajectory: xr.Dataset, covariance: Array, areas: Array, lags, *, burn_in: int, blocks: int, seed: int
) -> xr.Dataset:
    """`LocalPrediction.compare` for a covariance and areas that are given."""
    state = trajectory[["state"]]
    if state.sizes["variable"] != len(covariance):
        raise ValueError(
            f"the run has {state.sizes['variable']} variables and the prediction {len(covariance)} directions"
        )
    lags = [int(lag) for lag in lags]
    area = sde.area_production(state, lags, burn_in=burn_in, blocks=blocks, expected=areas, seed=seed)
    variance, error = block_variance(state["state"].values[:, burn_in:], blocks)
    predicted = covariance.diagonal()
    return area.assign(
        variance=("direction", variance),
        variance_error=("direction", error),
        predicted_variance=("direction", predicted),
        ratio=("direction", variance / predicted),
        ratio_error=("direction", error / predicted),
    )


def _rows(directions, size: int) -> Array | None:
    if directions is None:
        return None
    rows = np.atleast_2d(_checks.finite_array("directions", directions))
    if rows.ndim != 2 or rows.shape[1] != size or not 1 <= len(rows) <= size:
        raise ValueError(f"directions must have shape (k, {size}) with k from 1 to {size}, got {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1)
    if not (lengths > 0).all() or np.linalg.svd(rows / lengths[:, None], compute_uv=False)[-1] < 1e-8:
        raise ValueError("directions must be independent: one of them is a combination of the others, or 0")
    return rows


def _inverse(matrix: Array, what: str) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if not values[0] > 1e-13 * values[-1]:
        raise ValueError(
            f"{what} is singular (eigenvalues from {values[0]:g} to {values[-1]:g}): leave out directions that "
            "no noise reaches or that lie outside the space"
        )
    return (vectors / values) @ vectors.T


def block_variance(values: Array, blocks: int) -> tuple[Array, Array]:
    """Variance of (replica, time, k) about the mean of all, and its error from blocks of equal length in time."""
    per_replica = max(1, -(-blocks // len(values)))
    length = values.shape[1] // per_replica
    if length < 2 or per_replica * len(values) < 2:
        raise ValueError(f"{values.shape[1]} states cannot be parted into {per_replica} blocks: take fewer blocks")
    used = values[:, : length * per_replica]
    centre = used.mean(axis=(0, 1))
    pieces = used.reshape(-1, length, used.shape[2])
    each = np.stack([((piece - centre) ** 2).mean(axis=0) for piece in pieces])
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(each))
