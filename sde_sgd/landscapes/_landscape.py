"""One symbolic definition of a loss and its noise; every compiled form is derived from it."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import sympy as sp

from sde_sgd import _checks
from sde_sgd._domain import Domain

from ._codegen import TEMPERATURE, canonical, derivative, straight_line
from ._definition import Definition
from ._evaluator import Evaluator, Field
from ._lanes import LaneCode
from ._parser import parse
from ._roots import stationary_points

if TYPE_CHECKING:
    from ._linear import LinearLandscape


class Landscape(Definition):
    r"""A loss f(x), its diffusion matrix D(x) and an optional circulation: drift b = −∇f + circulation.

    The SDE of this package is dx = b dt + √(2T D(x)) dW (Itô), the temperature T > 0 being given later by
    `at_temperature` or `sgd_process`.

    Parameters
    ----------
    variables : names or SymPy symbols, e.g. ("x", "y"). Names of results are taken: time, path, step, T …
    loss : string, number or SymPy expression over variables and parameters. Strings go through a whitelist
        (+ − * / **, exp log sqrt sin cos tan sinh cosh tanh atan erf erfc abs); nothing is evaluated.
    diffusion : d×d nested sequence of such expressions, symmetric and positive semi-definite; None is the identity.
    circulation : d expressions added to −∇f; may contain the temperature T.
    parameters : mapping name → number; they stay symbols, so that changing them recompiles nothing.
    potential : the exact Φ where e^{−Φ/T} is known to be stationary; may contain T.
    q : in 2-D, the exact q of j = −Q∇Φ + T div Q with Q = q[[0, 1], [−1, 0]]; may contain T, needs `potential`.
    known_fixed_points : points with b = 0 in closed form, each d expressions of the parameters (and T).
    default_temperature : T > 0 that `at_temperature()` takes where none is given.
    domain : mapping variable → (lower, upper) or (lower, upper, "periodic"), or one such entry per variable.

    Points x have shape (..., d); results have the same leading shape. All functions are float64.
    Faults raise ValueError: unknown symbols, an asymmetric D, a constant D that is not positive semi-definite.
    A D that depends on x is checked by the solvers where they use it. For a loss that is a mean over data, whose
    D follows from the data, use `FiniteSum`. Conventions: Chaudhari & Soatto (2018), eq. (3)–(5), with D not
    containing the batch size.
    """

    # A kind of landscape that sets its own attributes has these until `_annotate` gives others.
    _circulation: list[sp.Expr] | None = None
    _potential: sp.Expr | None = None
    _q: sp.Expr | None = None
    _known_fixed_points: list[list[sp.Expr]] | None = None
    default_temperature: float | None = None

    def __init__(
        self,
        variables,
        loss,
        *,
        diffusion=None,
        circulation=None,
        parameters=None,
        potential=None,
        q=None,
        known_fixed_points=None,
        default_temperature=None,
        domain=None,
        name=None,
    ):
        self._set_symbols(variables, parameters, domain, name)
        known = self._known()
        self._loss = parse(loss, known, "loss")
        self._diffusion = sp.eye(self.dim) if diffusion is None else self._matrix(diffusion, known)
        with_temperature = known | {"T": TEMPERATURE}
        if circulation is not None:
            parts = _checks.sequence("circulation", circulation, self.dim, "components, one per variable")
            self._circulation = [parse(c, with_temperature, f"circulation[{i}]") for i, c in enumerate(parts)]
        self._potential = None if potential is None else parse(potential, with_temperature, "potential")
        self._check_diffusion()
        self._annotate(q=q, known_fixed_points=known_fixed_points, default_temperature=default_temperature)

    @staticmethod
    def linear(F, diffusion=None, *, center=None, variables=None, domain=None, name=None) -> "LinearLandscape":
        """dx = −F(x − c) dt + √(2T D) dW with constant D in any number of variables: see `LinearLandscape`."""
        from ._linear import LinearLandscape

        return LinearLandscape(F, diffusion, center=center, variables=variables, domain=domain, name=name)

    @staticmethod
    def manufactured(variables, potential, diffusion=None, q=None, *, parameters=None, domain=None, name=None):
        """b = −(D + Q)∇Φ + T div(D + Q), whose steady state is e^{−Φ/T} by design: see `ManufacturedLandscape`."""
        from ._manufactured import ManufacturedLandscape

        settings = dict(parameters=parameters, domain=domain, name=name)
        return ManufacturedLandscape(variables, potential, diffusion, q, **settings)

    # -- definition ------------------------------------------------------------------------------------------

    def _annotate(
        self, *, q=None, known_fixed_points=None, default_temperature=None, positive=None, not_negative=None
    ) -> Self:
        """Set what is known beside the potential; the landscape itself, for use where it is made.

        `positive`, `not_negative`: mapping from a parameter that must be so to the reason, for `get` and every copy.
        """
        self._positive, self._not_negative = dict(positive or self._positive), dict(not_negative or self._not_negative)
        self._check_parameters()
        if default_temperature is not None:
            self.default_temperature = _checks.positive("default_temperature", default_temperature)
        if q is not None:
            if self.dim != 2:
                raise ValueError(f"q is the one entry of Q in two dimensions, {self.name} has {self.dim}; leave it out")
            if self._potential is None:
                raise ValueError("q says what the remainder j = −Q∇Φ + T div Q is; give the potential Φ too")
            self._q = parse(q, self._known() | {"T": TEMPERATURE}, "q")
        if known_fixed_points is not None:
            points = known_fixed_points
            if isinstance(points, str) or not hasattr(points, "__len__") or not len(points):
                raise ValueError("known_fixed_points must be a sequence of points, at least one; or leave it out")
            known = {k: self._symbols[k] for k in self._parameters} | {"T": TEMPERATURE}
            self._known_fixed_points = []
            for i, point in enumerate(points):
                point = _checks.sequence(f"known_fixed_points[{i}]", point, self.dim, "coordinates")
                self._known_fixed_points.append([parse(e, known, f"known_fixed_points[{i}]") for e in point])
        return self

    def _matrix(self, diffusion, known) -> sp.Matrix:
        rows = diffusion.tolist() if isinstance(diffusion, sp.MatrixBase | np.ndarray) else diffusion
        rows = _checks.sequence("diffusion", rows, self.dim, "rows, one per variable")
        rows = [_checks.sequence(f"diffusion[{i}]", row, self.dim, "entries") for i, row in enumerate(rows)]
        return sp.Matrix(
            [[parse(e, known, f"diffusion[{i}][{j}]") for j, e in enumerate(row)] for i, row in enumerate(rows)]
        )

    def _check_diffusion(self) -> None:
        """Symmetry, by values at points spread over the domain; definiteness where D is constant."""
        if self._diffusion != self._diffusion.T:
            near = np.clip(self.domain.lower, -2.0, 2.0), np.clip(self.domain.upper, -2.0, 2.0)
            points = np.random.default_rng(0).uniform(near[0], np.maximum(near[0] + 1e-3, near[1]), (64, self.dim))
            with np.errstate(all="ignore"):
                d = self.evaluator().diffusion(points)
            gap = np.abs(d - np.swapaxes(d, -1, -2)) > 1e-10 * np.abs(d).max((-1, -2), keepdims=True)
            if gap.any():
                k, i, j = np.argwhere(gap)[0]
                raise ValueError(
                    f"diffusion is not symmetric: at {tuple(points[k].round(3).tolist())} entry [{i}][{j}] is "
                    f"{d[k, i, j]:g}, [{j}][{i}] is {d[k, j, i]:g}; D is a covariance"
                )
        constant = self.constant_diffusion()
        if constant is not None:
            _checks.semidefinite("diffusion", constant)

    def latex(self) -> dict[str, str]:
        """LaTeX of the definition: loss, gradient, diffusion, and circulation, potential and q where there are any."""
        parts = {
            "loss": self._loss,
            "gradient": sp.Matrix(self._group("gradient")[0]),
            "diffusion": self._diffusion,
        }
        if self._circulation is not None:
            parts["circulation"] = sp.Matrix(self._circulation)
        if self._potential is not None:
            parts["potential"] = self._potential
        if self._q is not None:
            parts["q"] = self._q
        return {k: sp.latex(v) for k, v in parts.items()}

    # -- evaluation ------------------------------------------------------------------------------------------

    def _group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        x, d = self.symbols, self.dim
        match name:
            case "loss":
                return [self._loss], ()
            case "gradient":
                return [derivative(self._loss, v, "loss") for v in x], (d,)
            case "hessian":
                return self._derivatives(self._group("gradient")[0], "loss"), (d, d)
            case "diffusion":
                return list(self._diffusion), (d, d)
            case "diffusion_divergence":
                rows = [[derivative(self._diffusion[i, j], x[j], "diffusion") for j in range(d)] for i in range(d)]
                return [sp.Add(*row) for row in rows], (d,)
            case "drift":
                circulation = self._circulation or [sp.Integer(0)] * d
                return [c - g for g, c in zip(self._group("gradient")[0], circulation)], (d,)
            case "jacobian":
                return self._derivatives(self._group("drift")[0], "drift"), (d, d)
            case "potential":
                return [self._potential], ()
        raise KeyError(name)

    def _derivatives(self, components: Iterable[sp.Expr], what: str) -> list[sp.Expr]:
        return [derivative(c, v, what) for c in components for v in self.symbols]

    def evaluator(self, namespace=np) -> Evaluator:
        """The functions of this landscape on arrays of `namespace`: the module numpy (default) or torch."""
        key = getattr(namespace, "__name__", "")
        if key not in ("numpy", "torch"):
            raise ValueError(f"namespace must be the module numpy or torch, got {namespace!r}")
        if key not in self._cache:
            self._cache[key] = self._build_evaluator(namespace)
        return self._cache[key]

    def _build_evaluator(self, namespace) -> Evaluator:
        return Evaluator(Field(namespace, self.symbols, self._parameter_symbols(), self._group))

    def _points(self, x) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise ValueError(f"x must be real numbers, got {x.dtype}")
        x = x.astype(np.float64, copy=False)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(
                f"x must have shape (..., {self.dim}) for the variables {', '.join(self.variables)}, got {x.shape}"
            )
        return x

    def loss(self, x) -> np.ndarray:
        """f(x): (..., d) → (...)."""
        return self.evaluator().loss(self._points(x))

    def gradient(self, x) -> np.ndarray:
        """∇f(x): (..., d) → (..., d)."""
        return self.evaluator().gradient(self._points(x))

    def hessian(self, x) -> np.ndarray:
        """∂²f/∂x_i∂x_j: (..., d) → (..., d, d). A kink of abs() counts as 0."""
        return self.evaluator().hessian(self._points(x))

    def diffusion(self, x) -> np.ndarray:
        """D(x): (..., d) → (..., d, d)."""
        return self.evaluator().diffusion(self._points(x))

    def diffusion_divergence(self, x) -> np.ndarray:
        """(div D)_i = Σ_j ∂_j D_ij: (..., d) → (..., d)."""
        return self.evaluator().diffusion_divergence(self._points(x))

    def drift(self, x, temperature: float | None = None) -> np.ndarray:
        """b = −∇f + circulation: (..., d) → (..., d); `temperature` where the circulation contains T."""
        return self.evaluator().drift(self._points(x), _temperature(temperature))

    def potential(self, x, temperature: float | None = None) -> np.ndarray | None:
        """The exact Φ(x) up to a constant, (..., d) → (...), or None where it is not known in closed form."""
        if self._potential is None:
            return None
        return self.evaluator().potential(self._points(x), _temperature(temperature))

    def _exact(self, name: str, x, temperature: float | None) -> np.ndarray:
        """What is known in closed form, by name; apart from `_group`, which a finite sum has its own of."""
        if "exact" not in self._cache:
            self._cache["exact"] = Field(np, self.symbols, self._parameter_symbols(), self._exact_group)
        return self._cache["exact"](name, x, temperature)

    def _exact_group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        match name:
            case "potential's gradient":
                return [derivative(self._potential, v, "potential") for v in self.symbols], (self.dim,)
            case "q":
                return [self._q], ()
            case "known fixed points":
                points = self._known_fixed_points or []
                return [e for point in points for e in point], (len(points), self.dim)
        raise KeyError(name)

    def _potential_gradient(self, x: np.ndarray, temperature: float) -> np.ndarray | None:
        """∇Φ of the exact potential at checked points, or None."""
        return None if self._potential is None else self._exact("potential's gradient", x, temperature)

    def remainder(self, x, temperature: float) -> np.ndarray | None:
        """j = b + D∇Φ − T div D of the exact potential: (..., d) → (..., d), or None where Φ is not known.

        j is the current over the density of the steady state, J_ss/ρ_ss; 0 is detailed balance.
        """
        x, temperature = self._points(x), _checks.positive("temperature", temperature)
        slope = self._potential_gradient(x, temperature)
        if slope is None:
            return None
        b, d = self.evaluator().drift_and_diffusion(x, temperature)
        return b + (d @ slope[..., None])[..., 0] - temperature * self.evaluator().diffusion_divergence(x)

    def q(self, x, temperature: float | None = None) -> np.ndarray | None:
        """The exact q(x) with j = −Q∇Φ + T div Q, Q = q[[0, 1], [−1, 0]]: (..., 2) → (...), or None.

        (div Q)_i = Σ_j ∂_j Q_ij, so that j = (T ∂_y q − q ∂_yΦ, q ∂_xΦ − T ∂_x q); T q ρ_ss is the stream function.
        """
        x, temperature = self._points(x), _temperature(temperature)
        return None if self._q is None else self._exact("q", x, temperature)

    def known_fixed_points(self, temperature: float | None = None) -> np.ndarray | None:
        """Points with b(x) = 0 in closed form, (number, d), or None; there may be others: `fixed_points` searches.

        Those that are not real at these parameters are left out; periodic axes are wrapped into the domain.
        """
        if self._known_fixed_points is None:
            return None
        points = self._exact("known fixed points", np.zeros(self.dim), _temperature(temperature))
        points = points[np.isfinite(points).all(-1)]
        low, period = self.domain.lower, self.domain.period
        outside = np.isfinite(period) & ((points < low) | (points > self.domain.upper))
        with np.errstate(invalid="ignore"):
            return np.where(outside, low + np.mod(points - low, period), points)

    def constant_diffusion(self) -> np.ndarray | None:
        """D as a d×d array where it does not depend on x, else None."""
        if self._diffusion.free_symbols & set(self.symbols):
            return None
        return self.diffusion(np.zeros(self.dim))

    def critical_points(self, box: Sequence[tuple[float, float]] | None = None):
        """All x in the box with ∇f(x) = 0, found by Newton's method from a lattice of starts, and their kind.

        `box`: (lower, upper) per variable; default the domain, which must then be finite.
        Returns an xarray Dataset over `point` (lowest loss first): one variable per coordinate, `loss`,
        `eigenvalue` (point, mode) of the Hessian, ascending, and `kind` ∈ minimum, saddle, maximum, degenerate.
        A root whose basin is smaller than the lattice (33 starts per axis in 2-D) can be missed. d ≤ 3.
        """
        return stationary_points(
            self.gradient,
            self.hessian,
            self._box(box),
            self.variables,
            symmetric=True,
            period=self.domain.period,
            extra={"loss": self.loss},
        )

    def fixed_points(self, box: Sequence[tuple[float, float]] | None = None, temperature: float | None = None):
        """All x in the box with b(x) = 0, as `critical_points`, with the eigenvalues of ∂b/∂x (complex allowed).

        `kind` ∈ stable, saddle, unstable, degenerate: by the real parts.
        """
        jacobian = self.evaluator().jacobian
        return stationary_points(
            lambda x: self.drift(x, temperature),
            lambda x: jacobian(x, temperature),
            self._box(box),
            self.variables,
            symmetric=False,
            period=self.domain.period,
            extra={"loss": self.loss},
        )

    def _box(self, box) -> tuple[np.ndarray, np.ndarray]:
        domain = self.domain if box is None else Domain.parse(box, self.variables)
        if not np.isfinite(domain.upper - domain.lower).all():
            raise ValueError(f"{self.name} has no finite domain; pass box=((lower, upper), …), one pair per variable")
        return domain.lower, domain.upper

    def at_temperature(self, temperature=None):
        """The `Process` dx = b dt + √(2T D) dW at T > 0, a number or a schedule; None takes `default_temperature`."""
        from sde_sgd.process import Process

        if temperature is None:
            temperature = self.default_temperature
        if temperature is None:
            raise ValueError(
                f"{self.name} has no default temperature; pass one, at_temperature(T) with T = η/2b > 0, or use "
                "sgd_process(learning_rate, batch_size)"
            )
        return Process.of(self, temperature)

    def sgd_process(self, learning_rate: float, batch_size: int):
        """The `Process` at the temperature T = η/2b of SGD with learning rate η and batch size b."""
        learning_rate = _checks.positive("learning_rate", learning_rate)
        return self.at_temperature(learning_rate / (2 * _checks.whole("batch_size", batch_size, 1)))

    def equilibrium_potential(self):
        """x ↦ f(x)/c where D = cI is constant and there is no circulation (then Φ = f/c exactly), else None."""
        constant = self.constant_diffusion()
        if self._circulation is not None or constant is None or constant[0, 0] <= 0:
            return None
        if not np.array_equal(constant, constant[0, 0] * np.eye(self.dim)):
            return None
        return lambda x: self.loss(x) / constant[0, 0]

    def lane_code(self, real: str = "float64") -> LaneCode:
        """Straight-line scalar code of drift and diffusion for the path kernels, in float64 or float32."""
        names = canonical(self.symbols, list(self._parameter_symbols()))
        drift = {f"b{i}": e for i, e in enumerate(self._group("drift")[0])}
        constant = self.constant_diffusion()
        diffusion = (
            {}
            if constant is not None
            else {f"d{i}_{j}": self._diffusion[i, j] for i in range(self.dim) for j in range(i + 1)}
        )
        return LaneCode(
            dim=self.dim,
            lines=tuple(straight_line(drift | diffusion, names, real)),
            parameters=tuple(self._parameters.values()),
            constant_diffusion=constant,
        )


def _temperature(value: float | None) -> float | None:
    return None if value is None else _checks.positive("temperature", value)
