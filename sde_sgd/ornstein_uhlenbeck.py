"""The linear theory in continuous time: the Ornstein–Uhlenbeck process in closed form."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.linalg as la
import xarray as xr

from . import _checks, _memory
from ._linear_theory import (
    Rates,
    center_of,
    covariance,
    density_hessian,
    frozen,
    names_of,
    reachable,
    require_reached,
    rising,
    square,
    stack,
    symmetric,
)

if TYPE_CHECKING:
    from .process import Process

_MAX_NAMED = 16  # beyond, samples are one data variable `state`, as those of `simulate`


class OrnsteinUhlenbeck:
    r"""dx = −F(x − c) dt + √(2TD) dW, stationary N(c, S):

        FS + SFᵀ = 2TD,   Φ = ½ (x−c)ᵀU(x−c),  U = (S/T)⁻¹,   Q = FS/T − D,   j = −QU(x−c),
        C(t) = E[δx(t) δx(0)ᵀ] = e^{−Ft} S,   ½E[x dxᵀ − dx xᵀ]/dt = TQ,   e_p = tr(D⁻¹QUQᵀ).

    Matrices come as read-only arrays (d, d), functions of time or frequency as DataArrays.

    Parameters
    ----------
    F : (d, d), every eigenvalue with a positive real part; a number for d = 1. At most 2000 variables.
    D : (d, d), symmetric, positive semi-definite, and with F reaching every direction.   temperature : T > 0.
    center : c, (d,); None is the origin.   variables : d names; default x0, x1, …

    Raises ValueError where there is no stationary density: F not stable, φ_i + φ_j = 0, D indefinite, or the Kalman
    rank of (F, √D) below d; `restricted` takes the span that the noise reaches. A symmetric F is solved in its
    eigenvectors, any other by its Schur form and one Newton step; `residual` is what is left of the Lyapunov equation.
    Uhlenbeck & Ornstein (1930); Kwon, Ao & Thouless (2005); Gardiner (2009), §4.5. Not for noise that depends on x, nor
    for learning rates that are not small against 2/h: `DiscreteSGD`.
    """

    def __init__(self, F, D, temperature: float, *, center=None, variables: Sequence | None = None):
        self.F = square("F", F)
        self.D = covariance("D", D, len(self.F))
        self.temperature = _checks.positive("temperature", temperature)
        self.center, self.variables = center_of(center, self.dim), names_of(variables, self.dim)
        self.basis = np.eye(self.dim)
        remedy = "OrnsteinUhlenbeck.restricted(F, D, temperature) is the process on the span that the noise reaches"
        self._rates = Rates(self.F)
        self._rates.require_stable(remedy + "; weight decay or a projection makes F stable otherwise")
        require_reached(self.F, self.D, remedy)
        frozen(self.F, self.D, self.center, self.basis)

    @classmethod
    def at_minimum(cls, H, D, temperature: float, *, center=None, variables: Sequence | None = None) -> Self:
        """F = H, the Hessian of a loss at a minimum c: S_ij = 2T D_ij/(h_i + h_j) in its eigenvectors."""
        hessian = symmetric("H", H, "a Hessian is symmetric; pass another drift to OrnsteinUhlenbeck itself")
        return cls(hessian, D, temperature, center=center, variables=variables)

    @classmethod
    def from_landscape(cls, landscape, point, temperature: float | None = None) -> Self:
        """The drift and the noise of a landscape or process linearised at a stable fixed point.

        F = −∂b/∂x and D there; `point` (d,) is polished by one Newton step, and refused where that moves it by more
        than 1e-6 (1 + |point|). `temperature`: T > 0; None takes that of a process, or the landscape's default.
        Exact as T → 0 in any well, and for linear drift with constant D.
        """
        from .landscapes import Landscape
        from .process import Process, Underdamped

        if isinstance(landscape, Underdamped):
            raise ValueError("an Underdamped process has noise in its velocities only; linearise its landscape")
        if isinstance(landscape, Landscape):
            process = landscape.at_temperature(temperature)
        else:
            process = _checks.instance("landscape", landscape, Process, "or pass a Landscape")
        evaluator = process.evaluator()
        if not hasattr(evaluator, "jacobian"):
            raise ValueError(
                "a drift given as a function has no derivative here; give expressions, or pass F and D themselves"
            )
        if temperature is not None:
            process = process.landscape.at_temperature(temperature)
        t = process.constant_temperature
        x = np.atleast_1d(_checks.finite_array("point", point)).astype(float)
        if x.shape != (process.dim,):
            raise ValueError(f"point must have shape ({process.dim},), got {x.shape}")
        drift, jacobian = process.drift(x), np.asarray(evaluator.jacobian(x, t))
        move = la.lstsq(jacobian, -drift)[0]
        if not np.isfinite(move).all() or la.norm(move) > 1e-6 * (1 + la.norm(x)):
            raise ValueError(
                f"point {x.tolist()} is no fixed point: the drift there is {drift.tolist()}, and Newton's step moves "
                f"it by {la.norm(move):g}; take one of landscape.fixed_points()"
            )
        x = x + move
        drifting = -np.asarray(evaluator.jacobian(x, t))
        if np.allclose(drifting, drifting.T, rtol=0, atol=1e-13 * np.abs(drifting).max()):
            drifting = 0.5 * (drifting + drifting.T)
        return cls(drifting, process.diffusion(x), t, center=x, variables=process.variables)

    @classmethod
    def restricted(cls, F, D, temperature: float) -> Self:
        """The process on span{√D, F√D, …}, in coordinates y with x = c + basis·y; `basis` (d, k) is orthonormal.

        From a start on the span the process never leaves it. Variables are y0, y1, …
        """
        matrix = square("F", F)
        noise = covariance("D", D, len(matrix))
        basis = reachable(matrix, noise)
        if not basis.shape[1]:
            raise ValueError("D is 0: there is no noise, and no span that it reaches")
        inner = basis.T @ matrix @ basis
        if np.array_equal(matrix, matrix.T):
            inner = 0.5 * (inner + inner.T)
        projected = basis.T @ noise @ basis
        names = [f"y{i}" for i in range(basis.shape[1])]
        result = cls(inner, 0.5 * (projected + projected.T), temperature, variables=names)
        result.basis = basis
        frozen(basis)
        return result

    @property
    def dim(self) -> int:
        return len(self.F)

    @property
    def rates(self) -> np.ndarray:
        """The eigenvalues φ (d,) of F: real parts relax, imaginary parts turn."""
        return self._rates.values.copy()

    @cached_property
    def covariance(self) -> np.ndarray:
        """S."""
        result = self._rates.lyapunov(2 * self.temperature * self.D)
        frozen(result)
        return result

    @property
    def residual(self) -> float:
        """|FS + SFᵀ − 2TD| / |2TD| in the Frobenius norm."""
        product, noise = self.F @ self.covariance, 2 * self.temperature * self.D
        return float(la.norm(product + product.T - noise) / la.norm(noise))

    @cached_property
    def potential_hessian(self) -> np.ndarray:
        """U = TS⁻¹, the Hessian of Φ; equal to F where D is the identity and F symmetric.

        ValueError where S is singular to rounding, its eigenvalues more than 14 digits apart.
        """
        return density_hessian(self.covariance, self.temperature)

    @cached_property
    def Q(self) -> np.ndarray:
        """FS/T − D, antisymmetric; F = (D + Q)U."""
        product = self.F @ self.covariance
        result = (product - product.T) / (2 * self.temperature)  # D is its symmetric part
        frozen(result)
        return result

    def spectral_Q(self) -> np.ndarray:
        """Q by the eigenvectors P of F: Q = PQ̃Pᵀ, Q̃_ij = (φ_i − φ_j)/(φ_i + φ_j) (P⁻¹DP⁻ᵀ)_ij.

        An independent road to `Q`. ValueError where the eigenvectors are nearly dependent (condition above 1e8).
        Kwon, Ao & Thouless (2005), eq. (16).
        """
        values, vectors = la.eigh(self.F) if self._rates.symmetric else la.eig(self.F)
        condition = np.linalg.cond(vectors)
        if condition > 1e8:
            raise ValueError(
                f"the eigenvectors of F are nearly dependent (condition {condition:.1g}), which leaves no digits; use Q"
            )
        inner = la.solve(vectors, la.solve(vectors, self.D).T)
        inner = inner * (values[:, None] - values) / (values[:, None] + values)
        return np.real(vectors @ inner @ vectors.T)

    @property
    def remainder_matrix(self) -> np.ndarray:
        """−QU, the matrix of j."""
        return -self.Q @ self.potential_hessian

    @property
    def irreversibility(self) -> np.ndarray:
        """TQ = ½E[x dxᵀ − dx xᵀ]/dt, the area that a trajectory sweeps per time in each plane."""
        return self.temperature * self.Q

    @property
    def detailed_balance(self) -> bool:
        """Whether FD = DFᵀ to rounding, which is j = 0; for F = H, whether H and D commute."""
        product = self.F @ self.D
        return bool(la.norm(product - product.T) <= 1e-12 * la.norm(self.F) * la.norm(self.D))

    @cached_property
    def entropy_production(self) -> float:
        """e_p = E[jᵀD⁻¹j]/T = tr(D⁻¹QUQᵀ) per time; also tr(FᵀD⁻¹Q) and tr(D⁻¹FSFᵀ)/T − tr F.

        ValueError where D is singular: paths and their reversals then live on different sets, and e_p is infinite.
        """
        weights, vectors = la.eigh(self.D)
        if weights[0] <= 1e-12 * weights[-1]:
            raise ValueError(
                f"D is singular (eigenvalues from {weights[0]:g} to {weights[-1]:g}): D⁻¹ and with it the entropy "
                "production is not defined"
            )
        turned = (vectors / np.sqrt(weights)).T @ self.Q @ la.cholesky(self.potential_hessian, lower=True)
        return float((turned**2).sum())

    def potential(self, x) -> np.ndarray:
        """Φ(x) = ½ (x−c)ᵀU(x−c): (..., d) → (...)."""
        u = self._from_center(x)
        return 0.5 * np.einsum("...i,...i->...", u, u @ self.potential_hessian)

    def remainder(self, x) -> np.ndarray:
        """j(x) = −QU(x−c): (..., d) → (..., d)."""
        return self._from_center(x) @ self.remainder_matrix.T

    def _from_center(self, x) -> np.ndarray:
        x = np.asarray(x, float)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., {self.dim}), got {x.shape}")
        return x - self.center

    def lag_covariance(self, times) -> xr.DataArray:
        """C(t) = E[δx(t) δx(0)ᵀ] = e^{−Ft}S at increasing t ≥ 0: (time, variable, variable_2), the first one later."""
        times = rising("times", times)
        if times[0] < 0:
            raise ValueError(f"times must be >= 0, got {times[0]:g}; C(−t) is the transpose of C(t)")
        attrs = {"temperature": self.temperature, "method": "exact"}
        matrices = lambda t: self._rates.propagator(t) @ self.covariance  # noqa: E731
        return stack("lag_covariance", "time", times, matrices, self.variables, attrs)

    def spectrum(self, frequencies) -> xr.DataArray:
        """(F + iω)⁻¹ 2TD (Fᵀ − iω)⁻¹ = ∫ C(t) e^{−iωt} dt over all t, at increasing angular frequencies ω.

        Two-sided: ∫ dω/2π over all ω is S. Hermitian and complex, (frequency, variable, variable_2); its imaginary
        part is 0 at every ω exactly under detailed balance. For a density per f = ω/2π on f > 0 double it.
        """
        root = _root(2 * self.temperature * self.D)

        def at(omega):
            half = la.solve(self.F + 1j * omega * np.eye(self.dim), root)
            return half @ half.conj().T

        attrs = {"temperature": self.temperature, "method": "exact", "convention": "two-sided, integral dω/2π = S"}
        return stack(
            "spectrum", "frequency", rising("frequencies", frequencies), at, self.variables, attrs, dtype=complex
        )

    def transition(self, time: float) -> xr.Dataset:
        """The exact update over a time: x(t) − c ~ N(propagator·(x(0) − c), covariance), (variable, variable_2).

        propagator = e^{−Ft}, covariance = ∫₀ᵗ e^{−Fs} 2TD e^{−Fᵀs} ds, to rounding at short and long times alike.
        """
        time = _checks.positive("time", time)
        propagator, accumulated = self._rates.accumulated(2 * self.temperature * self.D, time)
        dims = ("variable", "variable_2")
        return xr.Dataset(
            {"propagator": (dims, propagator), "covariance": (dims, accumulated)},
            {"variable": list(self.variables), "variable_2": list(self.variables)},
            {"temperature": self.temperature, "time": time, "method": "exact"},
        )

    def sample(self, steps: int, step: float, seed: int = 0, *, paths: int = 1, start=None) -> xr.Dataset:
        """Trajectories with the exact law at the times 0, step, 2·step, …, whatever the step: dims (path, time).

        Stationary, or from `start` (d,). The same seed gives the same paths. One data variable per variable; more than
        16 are one, `state` (path, time, variable). Costs O(log steps) products of the whole array with d×d matrices:
        x_n = Σ_k E^k ξ_{n−k} is summed by doubling.
        """
        steps, paths = _checks.whole("steps", steps, 1), _checks.whole("paths", paths, 1)
        step, seed = _checks.positive("step", step), _checks.whole("seed", seed, 0)
        _memory.refuse_beyond(32.0 * (steps + 1) * paths * self.dim, "these trajectories", "ask for fewer at a time")
        exact = self.transition(step)
        x = np.random.default_rng(seed).standard_normal((steps + 1, paths, self.dim))
        if start is None:
            x[0] = x[0] @ _root(self.covariance).T
        else:
            x[0] = self._from_center(_checks.finite_array("start", start, (self.dim,)))
        x[1:] = x[1:] @ _root(exact["covariance"].to_numpy()).T
        power, reach = exact["propagator"].to_numpy(), 1
        while reach <= steps and np.abs(power).max() > 1e-20:
            x[reach:] += x[:-reach] @ power.T
            power, reach = power @ power, 2 * reach
        columns = (x + self.center).transpose(1, 0, 2)
        settings = {"temperature": self.temperature, "time_step": step, "seed": seed, "paths": paths, "method": "exact"}
        dims = ("path", "time")
        if self.dim > _MAX_NAMED:
            data = xr.Dataset({"state": ((*dims, "variable"), columns)}, {"variable": list(self.variables)})
        else:
            data = xr.Dataset({name: (dims, columns[..., i]) for i, name in enumerate(self.variables)})
        count = np.arange(steps + 1)
        return data.assign_coords(time=step * count, step=("time", count)).assign_attrs(settings)

    def process(self) -> "Process":
        """The same as a `Process`, for every solver of the package."""
        from .landscapes import Landscape

        linear = Landscape.linear(self.F, self.D, center=self.center, variables=self.variables)
        return linear.at_temperature(self.temperature)

    def __repr__(self) -> str:
        return f"<OrnsteinUhlenbeck in {self.dim} variables at T={self.temperature:g}>"


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with RRᵀ = the covariance, whose least eigenvalues may round to below 0."""
    weights, vectors = la.eigh(covariance)
    return vectors * np.sqrt(np.maximum(weights, 0.0))
