"""The linear theory in discrete time: the recursion of SGD at a quadratic minimum, solved exactly."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.linalg as la
import xarray as xr

from . import _checks
from ._linear_theory import (
    center_of,
    covariance,
    density_hessian,
    frozen,
    names_of,
    reachable,
    rising,
    stack,
    symmetric,
)
from ._stationary_moments import Epoch, Recursion, carried
from .landscapes import FiniteSum
from .ornstein_uhlenbeck import OrnsteinUhlenbeck

_SAMPLING = ("with_replacement", "without_replacement", "reshuffling")


class DiscreteSGD:
    r"""The stationary law of v' = μv + g, x' = x − ηv', g = H(x − c) + ε, Cov ε from D, without any limit η → 0.

    Covariance S of x for μ = 0:  HS + SH − ηHSH = (η/b) D,  and in H's eigenvectors with heavy-ball momentum

        S_ij = (η/b) D_ij (1 − μ²) / [(1−μ)²(1+μ)(h_i+h_j) + η(μ(h_i−h_j)² − (1−μ)² h_i h_j)],

    which is not the covariance at T/(1−μ) unless ημ(h_i−h_j)² is small against (1−μ)²(h_i+h_j): momentum decouples
    directions of different curvature. Matrices come as read-only arrays (d, d).

    Parameters
    ----------
    H : (d, d), symmetric; a number for d = 1; at most 2000 variables.   D : (d, d), the covariance of the per-sample
        gradients (population covariance, batch size not in it).
    learning_rate : η > 0, ηh < 2(1 + μ), for Nesterov 2(1 + μ)/(1 + 2μ).   batch_size : b.
    samples : N, needed by the last two of
    sampling : "with_replacement", Cov ε = D/b; "without_replacement", D (N−b)/(b(N−1)); "reshuffling", epochs of
        ⌈N/b⌉ steps through a fresh permutation, the last batch averaged over its own size. Then every moment here is
        the mean over the phases of an epoch, and `phase_covariance` has each; the noise is that of offsets, the same
        at every x.
    momentum : 0 ≤ μ < 1.   nesterov : x' = x − η(g + μv') instead; needs μ > 0.
    weight_decay : λ ≥ 0, added to H; c is then the minimum of the loss and its decay together.
    center : c; None is the origin.   variables : d names.

    Exact for a quadratic loss with noise that does not depend on x; `from_finite_sum` for noise that does. Raises
    ValueError without a steady state: flat or negative directions (along the kernel of H nothing is stationary, also
    for D = cH; `restricted` leaves out what no noise reaches), η beyond its limit, no noise at all. Mandt, Hoffman &
    Blei (2017) for μ = 0; Liu, Ziyin & Ueda (2021).
    """

    def __init__(
        self,
        H,
        D,
        learning_rate: float,
        batch_size: int,
        *,
        samples: int | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        sampling: str = "with_replacement",
        center=None,
        variables: Sequence | None = None,
    ):
        self.H = symmetric("H", H, "a Hessian is symmetric")
        self.D = covariance("D", D, self.dim)
        self.learning_rate = _checks.positive("learning_rate", learning_rate)
        self.momentum = _checks.not_negative("momentum", momentum)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum:g}")
        if not isinstance(nesterov, bool | np.bool_):
            raise ValueError(f"nesterov must be True or False, got {nesterov!r}")
        if nesterov and not self.momentum:
            raise ValueError("nesterov=True looks ahead along the velocity; give momentum > 0")
        self.nesterov = bool(nesterov)
        self.weight_decay = _checks.not_negative("weight_decay", weight_decay)
        self._set_sampling(sampling, batch_size, samples)
        self.center, self.variables = center_of(center, self.dim), names_of(variables, self.dim)
        self.basis = np.eye(self.dim)
        self.center_diffusion, self.feedback = self.D, 0.0
        rates, self._vectors = la.eigh(self.H + self.weight_decay * np.eye(self.dim))
        self._recursion = Recursion(rates, self.learning_rate, self.momentum, self.nesterov)
        self._require_stable()
        frozen(self.H, self.D, self.center, self.basis)

    def _set_sampling(self, sampling: str, batch_size: int, samples: int | None) -> None:
        self.sampling = _checks.choice("sampling", sampling, _SAMPLING)
        self.samples = None if samples is None else _checks.whole("samples", samples, 2)
        whose = "" if self.samples is None else f"the data has {self.samples} samples"
        self.batch_size = _checks.whole("batch_size", batch_size, 1, self.samples, whose)
        self.noise_share = 1.0 / self.batch_size
        if self.sampling == "with_replacement":
            return
        if self.samples is None:
            raise ValueError(f"sampling={self.sampling!r} needs the number of samples N; pass samples=N")
        if self.samples == self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is the whole data set, and {self.sampling!r} then has no noise: nothing "
                f"is random; take at most {self.samples - 1}"
            )
        others = self.samples - 1
        if self.sampling == "without_replacement":
            self.noise_share = (self.samples - self.batch_size) / (self.batch_size * others)
        else:  # the mean over the batches of an epoch, the last of which may be smaller
            full, rest = divmod(self.samples, self.batch_size)
            sizes = np.array([self.batch_size] * full + [rest] * (rest > 0))
            self.noise_share = float((self.samples / sizes - 1).mean() / others)

    def _require_stable(self) -> None:
        h, eta, limit = self._recursion.rates, self.learning_rate, self._recursion.limit
        if h[0] <= 1e-12 * max(abs(h[-1]), abs(h[0])):
            flat = int((h <= 1e-12 * np.abs(h).max()).sum())
            raise ValueError(
                f"H has {flat} of {self.dim} directions without positive curvature (lowest eigenvalue {h[0]:g}): along "
                "the kernel of H nothing is stationary, and a negative curvature repels; add weight_decay, or take "
                "DiscreteSGD.restricted(H, D, …), the span that the noise reaches"
            )
        if eta * h[-1] >= limit:
            raise ValueError(
                f"learning_rate {eta:g} is not stable: η·h must be below {limit:g} at momentum {self.momentum:g}, and "
                f"is {eta * h[-1]:g} for the largest curvature {h[-1]:g}; take η below {limit / h[-1]:g}"
            )

    @classmethod
    def from_finite_sum(
        cls,
        quadratic: FiniteSum,
        learning_rate: float,
        batch_size: int,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        sampling: str = "with_replacement",
    ) -> Self:
        r"""A finite sum of quadratics f_k = ½(x−c_k)ᵀH_k(x−c_k), whose noise grows with the distance from the minimum.

        E D(x) = D(c) + mean(δH_k S δH_k) with δH_k = H_k − H closes the second moments: `D` is that mean, exactly the
        constant noise whose moments are those of the run, `center_diffusion` is D(c), and `feedback` the spectral
        radius of what the noise feeds back into itself through S. Means are exactly c. PEARSON's variance
        (η²D(c)/b)/(1−(1−ηā)²−η²A/b) is the case d = 1, μ = 0.

        ValueError where a sample's loss is not quadratic; for feedback ≥ 1, where E|x|² grows without bound though the
        mean converges; and for sampling="reshuffling", whose later batches depend on the earlier ones in products of
        matrices: exact are "with_replacement" and "without_replacement". Up to 16 variables by the d²×d² matrix of the
        feedback, beyond by Krylov spaces: d² numbers a vector; every sample's H_k is kept, but for
        `FiniteSum.linear_model` with its squared loss.
        """
        from ._quadratic_sums import QuadraticSum

        _checks.instance("quadratic", quadratic, FiniteSum, "pass H and D to DiscreteSGD itself")
        if sampling == "reshuffling":
            raise ValueError(
                "reshuffling with noise that depends on x has no closed second moments, its batches within an epoch "
                "being dependent; exact are 'with_replacement' and 'without_replacement', or "
                "DiscreteSGD(H, D, …, sampling='reshuffling') for the noise at the minimum"
            )
        decay = _checks.not_negative("weight_decay", weight_decay)
        parts = QuadraticSum.of(quadratic, decay)
        settings: dict[str, Any] = dict(
            samples=quadratic.samples, momentum=momentum, nesterov=nesterov, weight_decay=decay, sampling=sampling,
            center=parts.center, variables=quadratic.variables,
        )  # fmt: skip
        first = cls(parts.hessian, parts.diffusion, learning_rate, batch_size, **settings)
        response = first._recursion.white()[0, :, 0]
        noise, feedback = parts.mean_noise(response, first._vectors, first.noise_share)
        result = cls(parts.hessian, noise, learning_rate, batch_size, **settings)
        result.center_diffusion, result.feedback = first.D, feedback
        return result

    @classmethod
    def restricted(cls, H, D, learning_rate: float, batch_size: int, **settings) -> Self:
        """The recursion on span{√D, H√D, …}, in coordinates y with x = c + basis·y; `basis` (d, k) is orthonormal.

        What starts on the span never leaves it: for D = cH it is the complement of the flat directions. Settings as in
        the class, but for center and variables, which are y0, y1, …
        """
        for name in ("center", "variables"):
            if name in settings:
                raise ValueError(
                    f"{name} belongs to x; restricted has coordinates y0, y1, … from the center: leave it out"
                )
        hessian = symmetric("H", H, "a Hessian is symmetric")
        noise = covariance("D", D, len(hessian))
        basis = reachable(hessian, noise)
        if not basis.shape[1]:
            raise ValueError("D is 0: there is no noise, and no span that it reaches")
        inner, projected = basis.T @ hessian @ basis, basis.T @ noise @ basis
        names = [f"y{i}" for i in range(basis.shape[1])]
        projected = 0.5 * (projected + projected.T)
        result = cls(0.5 * (inner + inner.T), projected, learning_rate, batch_size, variables=names, **settings)
        result.basis = basis
        frozen(basis)
        return result

    # -- clock and temperature -----------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return len(self.H)

    @property
    def clock(self) -> float:
        """η/(1 − μ): the time of the SDE that one step stands for."""
        return self.learning_rate / (1 - self.momentum)

    @property
    def temperature(self) -> float:
        """T = (η/2) Cov ε/D / (1 − μ) of the SDE on that clock; ValueError for reshuffling, which has none."""
        if self.sampling == "reshuffling":
            raise ValueError(
                "epoch reshuffling has no temperature: its noise is anti-correlated over an epoch, which no white "
                "noise matches; take another sampling"
            )
        return 0.5 * self.clock * self.noise_share

    @property
    def continuous(self) -> OrnsteinUhlenbeck:
        """The Ornstein–Uhlenbeck process of η → 0: F = H + λ, noise D(c), T as `temperature`, time as `clock`."""
        hessian = self.H + self.weight_decay * np.eye(self.dim)
        return OrnsteinUhlenbeck.at_minimum(
            hessian, self.center_diffusion, self.temperature, center=self.center, variables=self.variables
        )

    @property
    def epoch_steps(self) -> int:
        """⌈N/b⌉ for reshuffling, else 1: after so many steps the law repeats."""
        return -(-self.samples // self.batch_size) if self.sampling == "reshuffling" and self.samples else 1

    # -- second moments ------------------------------------------------------------------------------------------

    @cached_property
    def _epoch(self) -> Epoch:
        assert self.samples is not None  # checked with the sampling
        return Epoch(self._recursion, self.samples, self.batch_size)

    @cached_property
    def _moments(self) -> np.ndarray:
        """Per unit of D_ij, (2, d, 2, d)."""
        if self.sampling == "reshuffling":
            return self._epoch.average()
        return self.noise_share * self._recursion.white()

    @cached_property
    def _noise(self) -> np.ndarray:
        """D in the eigenvectors of H."""
        return self._vectors.T @ self.D @ self._vectors

    def _rotated(self, per_unit: np.ndarray) -> np.ndarray:
        return self._vectors @ (per_unit * self._noise) @ self._vectors.T

    @cached_property
    def covariance(self) -> np.ndarray:
        """S = E[(x−c)(x−c)ᵀ]; for reshuffling the mean over an epoch."""
        return self._symmetric(self._moments[0, :, 0])

    @cached_property
    def velocity_covariance(self) -> np.ndarray:
        """E[vvᵀ], v after the step as `sgd` returns it; without momentum it is the batch gradient just used."""
        return self._symmetric(self._moments[1, :, 1])

    @cached_property
    def cross_covariance(self) -> np.ndarray:
        """E[(x−c) vᵀ] after the same step; −(η/2) E[vvᵀ] where H and D commute, the heavy ball."""
        result = self._rotated(self._moments[0, :, 1])
        frozen(result)
        return result

    @property
    def joint_covariance(self) -> np.ndarray:
        """The covariance (2d, 2d) of (x, v)."""
        cross = self.cross_covariance
        return np.block([[self.covariance, cross], [cross.T, self.velocity_covariance]])

    def phase_covariance(self, phase: int) -> np.ndarray:
        """S after `phase` steps of an epoch, 0 ≤ phase < epoch_steps; 0 is the epoch's end and beginning."""
        phase = _checks.whole("phase", phase, 0, self.epoch_steps - 1, "phases count the steps of one epoch")
        if self.sampling != "reshuffling":
            return self.covariance
        return self._symmetric(self._epoch.at(phase)[0, :, 0])

    def _symmetric(self, per_unit: np.ndarray) -> np.ndarray:
        result = self._rotated(per_unit)
        result = 0.5 * (result + result.T)
        frozen(result)
        return result

    @cached_property
    def potential_hessian(self) -> np.ndarray:
        """U = T S⁻¹ at `temperature`: the Hessian of the Φ whose e^{−Φ/T} has covariance S; not for a singular S."""
        return density_hessian(self.covariance, self.temperature, "take DiscreteSGD.restricted(H, D, …), ")

    def lag_covariance(self, steps) -> xr.DataArray:
        """C(k) = E[δx_{t+k} δx_tᵀ] at increasing lags of k ≥ 0 steps: (time, variable, variable_2), time = kη.

        For reshuffling it holds the anti-correlation of an epoch's noise, and is a mean over t in the epoch.
        """
        lags = rising("steps", steps)
        if lags[0] < 0 or (lags != np.floor(lags)).any():
            raise ValueError(f"steps must be whole numbers >= 0, got {lags.tolist()}; C(−k) is the transpose of C(k)")
        lags = lags.astype(np.int64)
        result = stack("lag_covariance", "step", lags, self._at_lag, self.variables, self._attributes())
        return result.assign_coords(time=("step", lags * self.learning_rate)).swap_dims(step="time")

    def _at_lag(self, lag: int) -> np.ndarray:
        per_unit = carried(self._recursion.power(int(lag)), self._moments)
        if self.sampling == "reshuffling":
            per_unit = per_unit + self._epoch.memory(int(lag))
        return self._rotated(per_unit)

    @cached_property
    def irreversibility(self) -> np.ndarray:
        """½E[x_t Δx_tᵀ − Δx_t x_tᵀ]/clock, the area swept per time; → TQ as η → 0; (HS − SH)/2 for μ = 0."""
        ahead = self._at_lag(1)
        result = (ahead.T - ahead) / (2 * self.clock)
        frozen(result)
        return result

    @cached_property
    def gradient_statistics(self) -> xr.Dataset:
        r"""Stationary means that a training run can log, g_t being the batch gradient at x_t (with decay), x from c.

        gradient_square          E|g|²
        consecutive_product      E[g_t·g_{t+1}]; −tr(H²S) for μ = 0 and white noise
        consecutive_correlation  the same over E|g|²; −ηh/2 in one direction, independent of b
        position_gradient        E[x·∇f]; (η/2)E|g|² for μ = 0 and white noise (Yaida 2019)
        position_batch_gradient  E[x·g]; (η/2)(1+μ)E|v|² for the heavy ball in every sampling mode. With reshuffling x
                                 and g share an epoch, and E[x·∇f] is another number
        velocity_square          E|v|²
        loss_excess              E f − f(c) = ½ tr(HS), decay included
        """
        h, eta, recursion = self._recursion.rates, self.learning_rate, self._recursion
        noise = self._noise.diagonal()
        xx, xv, vv = (self._moments[a, :, b].diagonal() * noise for a, b in ((0, 0), (0, 1), (1, 1)))
        now = later = np.zeros((2, self.dim))
        following = 0.0  # E[ε_t ε_{t+1}] per D
        if self.sampling == "reshuffling":
            now, later = (table * noise for table in self._epoch.noise_with_state())
            n = self._epoch.steps
            following = -(n - 1) / n / (self._epoch.samples - 1)
        xg, vg = h * xx + now[0], h * xv + now[1]
        gg = h * h * xx + 2 * h * now[0] + self.noise_share * noise
        moved = xg - eta * (recursion.alpha * gg + recursion.gamma * vg)  # E[x_{t+1} g_t]
        product = float((h * moved + h * later[0] + following * noise).sum())
        square = float(gg.sum())
        values = {
            "gradient_square": square,
            "consecutive_product": product,
            "consecutive_correlation": product / square if square else np.nan,
            "position_gradient": float((h * xx).sum()),
            "position_batch_gradient": float(xg.sum()),
            "velocity_square": float(vv.sum()),
            "loss_excess": 0.5 * float((h * xx).sum()),
        }
        return xr.Dataset(values, attrs=self._attributes())

    def _attributes(self) -> dict:
        known = {} if self.samples is None else {"samples": self.samples}
        return {
            "learning_rate": self.learning_rate, "batch_size": self.batch_size, "sampling": self.sampling,
            "momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay,
            "method": "exact", **known,
        }  # fmt: skip

    def __repr__(self) -> str:
        momentum = f", momentum {self.momentum:g}" if self.momentum else ""
        return (
            f"<DiscreteSGD in {self.dim} variables, learning rate {self.learning_rate:g}, batch size "
            f"{self.batch_size} {self.sampling}{momentum}>"
        )
