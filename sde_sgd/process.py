"""The one thing every solver takes: drift, diffusion, temperature."""

from collections.abc import Callable, Sequence

import numpy as np
import sympy as sp

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.landscapes._codegen import TEMPERATURE
from sde_sgd.landscapes._landscape import Landscape
from sde_sgd.landscapes._lanes import LaneCode
from sde_sgd.landscapes._parser import parse


class Process:
    r"""The Itô diffusion dx = b(x) dt + √(2T D(x)) dW.

    Its density obeys ∂ρ/∂t = −div J, J_i = b_i ρ − T Σ_j ∂_j(D_ij ρ).

    Usually made by `landscape.at_temperature(T)` or `landscape.sgd_process(…)`; directly:

    Parameters
    ----------
    drift : d expressions (strings or SymPy, T allowed), or a function of d coordinates that returns d values,
        e.g. ``lambda x, y: (-x, -y)``. A function must work on NumPy arrays and compile under numba.njit.
    diffusion : d×d expressions, or such a function returning d rows of d values.
    temperature : number > 0, or a function of time t (arrays, vectorised) with values > 0, e.g. from `schedules`:
        for paths only; a steady state needs a number.
    variables : names.
    diffusion_divergence : function returning the d values Σ_j ∂_j D_ij; required with a diffusion function (use
        ``lambda x, y: (0*x, 0*y)`` for a constant one). For expressions it is derived.
    finite_difference : True takes the divergence of a diffusion function by central differences instead, of step
        6e-6 · max(1, |x|): accurate to about 1e-10 where D is smooth, wrong where it has a kink.
    domain : as in `Landscape`; fixes which axes are periodic.

    Raises ValueError naming the fault. A function is opaque: kernels made from it are compiled anew per process.
    """

    def __init__(
        self,
        drift,
        diffusion,
        temperature: float,
        *,
        variables: Sequence[str],
        diffusion_divergence=None,
        finite_difference: bool = False,
        domain=None,
        parameters=None,
        name=None,
    ):
        if callable(drift) != callable(diffusion):
            raise ValueError("drift and diffusion must both be expressions or both be functions")
        if callable(drift):
            if parameters:
                raise ValueError("parameters go with expressions; a function carries its own")
            if (diffusion_divergence is None) != bool(finite_difference):
                raise ValueError(
                    "diffusion is a function: pass either diffusion_divergence, a function returning the values "
                    "Σ_j ∂_j D_ij, or finite_difference=True"
                )
            model: Landscape = _FunctionModel(variables, drift, diffusion, diffusion_divergence, domain, name)
        else:
            if diffusion_divergence is not None or finite_difference:
                raise ValueError(
                    "diffusion is symbolic: its divergence is derived; leave diffusion_divergence and "
                    "finite_difference out"
                )
            model = _DriftModel(variables, drift, diffusion, parameters, domain, name)
        self._bind(model, temperature)

    @classmethod
    def of(cls, landscape: Landscape, temperature: float) -> "Process":
        """The process of a landscape at a temperature T > 0."""
        self = object.__new__(cls)
        self._bind(landscape, temperature)
        return self

    def _bind(self, model: Landscape, temperature: float) -> None:
        self.landscape = model
        self.temperature = _temperature(temperature)
        self.variables = model.variables
        self.domain = model.domain

    @property
    def dim(self) -> int:
        return len(self.variables)

    @property
    def beta(self) -> float:
        """1/T."""
        return 1.0 / self.constant_temperature

    @property
    def constant_temperature(self) -> float:
        """T where it is a number; ValueError where it is a schedule, at which nothing is steady."""
        if callable(self.temperature):
            raise ValueError(
                f"the temperature of {self.landscape.name} is a schedule of time, and this needs a number; make the "
                "process at_temperature(T) for the T in question"
            )
        return self.temperature

    def temperature_at(self, t) -> np.ndarray:
        """T(t), an array like t; ValueError where a schedule gives anything but finite values > 0."""
        t = np.asarray(t, float)
        if not callable(self.temperature):
            return np.full(t.shape, self.temperature)
        try:
            values = np.asarray(self.temperature(t), float)
        except (TypeError, ValueError) as fault:
            raise ValueError(
                "temperature must be a function of an array of times that gives one number each (np.where for a case "
                f"distinction): {fault}"
            ) from fault
        if values.shape not in ((), t.shape):
            raise ValueError(f"the temperature schedule gave shape {values.shape} for times of shape {t.shape}")
        values = np.broadcast_to(values, t.shape)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            where = tuple(np.argwhere(bad)[0])
            raise ValueError(
                f"the temperature schedule gave {values[where]:g} at t = {t[where]:g}; it must be finite and > 0"
            )
        return values

    def drift(self, x) -> np.ndarray:
        """b(x): (..., d) → (..., d)."""
        return self.landscape.drift(x, self.constant_temperature)

    def diffusion(self, x) -> np.ndarray:
        """D(x): (..., d) → (..., d, d)."""
        return self.landscape.diffusion(x)

    def diffusion_divergence(self, x) -> np.ndarray:
        """(div D)_i = Σ_j ∂_j D_ij: (..., d) → (..., d)."""
        return self.landscape.diffusion_divergence(x)

    def potential(self, x) -> np.ndarray | None:
        """The exact Φ at this temperature, up to a constant, or None."""
        return self.landscape.potential(x, self.constant_temperature)

    @property
    def equilibrium_potential(self) -> Callable | None:
        """x ↦ Φ(x) with b = −D∇Φ + T div D exactly, where that is known from the definition alone; else None."""
        return self.landscape.equilibrium_potential()

    def evaluator(self, namespace=np):
        """`.drift(x, T)`, `.diffusion(x)`, `.drift_and_diffusion(x, T)` on arrays of numpy (default) or torch."""
        return self.landscape.evaluator(namespace)

    @property
    def settings(self) -> dict[str, float | str]:
        """What defines it, as plain values for `attrs`."""
        return {
            "landscape": self.landscape.name,
            "temperature": self.temperature if not callable(self.temperature) else _described(self.temperature),
            **{f"parameter_{k}": v for k, v in self.landscape.parameters.items()},
        }

    def __repr__(self) -> str:
        temperature = self.settings["temperature"]
        shown = temperature if isinstance(temperature, str) else f"{temperature:g}"
        return f"<{type(self).__name__} {self.landscape.name}({', '.join(self.variables)}) at T={shown}>"


def _temperature(value):
    """A positive number, or a function of time, whose values are checked where they are taken."""
    if callable(value):
        return value
    return _checks.positive("temperature", value, "T = η/2b is positive; it scales the noise")


def _described(schedule: Callable) -> str:
    return repr(schedule) if not hasattr(schedule, "__name__") else f"function {schedule.__name__}"


class Underdamped(Process):
    r"""The momentum process dx = v dt, dv = b(x) dt − γ v dt + √(2γT D(x)) dW of a landscape, b = −∇f + circulation.

    For D = cI without circulation its steady density is exactly e^{−(f + |v|²/2)/(cT)}: positions as without momentum,
    velocities Gaussian with variance cT, independent of the friction γ. It is the continuous limit of SGD with momentum
    μ = e^{−γh}. Variables are the landscape's, then `velocity_<name>` of each.

    Parameters
    ----------
    landscape : its loss, diffusion matrix D and circulation.
    temperature : T > 0, or a schedule as in `Process`. friction : γ > 0.

    As a `Process` its drift is (v, b − γv) and its diffusion matrix is γD in the velocities and 0 in the positions:
    singular, so that a density on a grid is of first order only. Raises ValueError for bad numbers. Langevin (1908);
    Kramers (1940).
    """

    def __init__(self, landscape: Landscape, temperature, friction: float):
        _checks.instance("landscape", landscape, Landscape)
        self.friction = _checks.positive("friction", friction, "without friction nothing is dissipated")
        self._bind(landscape, temperature)
        names = tuple(f"velocity_{v}" for v in landscape.variables)
        taken = [name for name in names if name in landscape.variables]
        if taken:
            raise ValueError(f"the variable {taken[0]!r} is the name of a velocity; rename it")
        self.variables = (*landscape.variables, *names)
        self.domain = Domain.parse(landscape.domain.spec(), self.variables)

    def drift(self, x) -> np.ndarray:
        """(v, b(x) − γ v): (..., 2d) → (..., 2d)."""
        position, velocity = self._halves(x)
        return np.concatenate([velocity, super().drift(position) - self.friction * velocity], axis=-1)

    def diffusion(self, x) -> np.ndarray:
        """γ D(x) in the velocities, 0 in the positions: (..., 2d) → (..., 2d, 2d)."""
        position, _ = self._halves(x)
        d = position.shape[-1]
        matrix = np.zeros((*position.shape[:-1], 2 * d, 2 * d))
        matrix[..., d:, d:] = self.friction * super().diffusion(position)
        return matrix

    def diffusion_divergence(self, x) -> np.ndarray:
        """0: the noise of the velocities depends on positions only."""
        return np.zeros_like(np.concatenate(self._halves(x), axis=-1))

    def potential(self, x) -> np.ndarray | None:
        """Φ(x) + ½ vᵀD⁻¹v where D is constant and b = −D∇Φ, as (f + |v|²/2)/c for D = cI; else None."""
        position, velocity = self._halves(x)
        equilibrium, constant = self.landscape.equilibrium_potential(), self.landscape.constant_diffusion()
        if equilibrium is None or constant is None:
            return None
        return equilibrium(position) + 0.5 * (velocity * np.linalg.solve(constant, velocity[..., None])[..., 0]).sum(-1)

    @property
    def equilibrium_potential(self) -> None:
        """None: b = −D∇Φ + T div D holds for no underdamped process, whose currents never vanish."""
        return None

    def evaluator(self, namespace=np):
        """Refused: solvers of a non-degenerate diffusion matrix do not apply."""
        raise ValueError(
            "an Underdamped process has noise in its velocities only, and this solver needs it in every "
            "variable; simulate it, or take the landscape at_temperature(T)"
        )

    @property
    def settings(self) -> dict[str, float | str]:
        return super().settings | {"friction": self.friction}

    def _halves(self, x) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(x, float)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., {self.dim}) for {', '.join(self.variables)}, got {x.shape}")
        return x[..., : self.dim // 2], x[..., self.dim // 2 :]


class _DriftModel(Landscape):
    """A drift given by expressions rather than as the gradient of a loss."""

    def __init__(self, variables, drift, diffusion, parameters, domain, name):
        super().__init__(variables, 0, diffusion=diffusion, parameters=parameters, domain=domain, name=name or "drift")
        drift = [drift] if isinstance(drift, str | sp.Expr) and self.dim == 1 else drift
        parts = _checks.sequence("drift", drift, self.dim, "components, one per variable")
        known = self._known() | {"T": TEMPERATURE}
        self._circulation = [parse(b, known, f"drift[{i}]") for i, b in enumerate(parts)]


class _FunctionModel(Landscape):
    """Drift and diffusion as opaque functions of the coordinates."""

    def __init__(self, variables, drift, diffusion, divergence, domain, name):
        self._set_symbols(variables, None, domain, name or "functions")
        self._functions = {"drift": drift, "diffusion": diffusion}
        if divergence is not None:
            self._functions["diffusion_divergence"] = divergence
        self._potential = None
        # One call at a point inside says what is wrong before any solver does.
        low, high = np.clip(self.domain.lower, -1.0, 1.0), np.clip(self.domain.upper, -1.0, 1.0)
        point = np.array([0.4 * a + 0.6 * b for a, b in zip(low, high)])
        evaluator = self.evaluator()
        for function in (evaluator.drift, evaluator.diffusion, evaluator.diffusion_divergence):
            function(np.stack([point, 0.5 * (low + high)]))
        d = evaluator.diffusion(point)
        if np.isfinite(d).all() and np.abs(d - d.T).max() > 1e-10 * np.abs(d).max():
            raise ValueError(
                f"diffusion is not symmetric: at {tuple(point.tolist())} it is {d.tolist()}; D is a covariance"
            )

    def _build_evaluator(self, namespace):
        return _FunctionEvaluator(namespace, self._functions, self.dim)

    def constant_diffusion(self) -> None:
        return None

    def equilibrium_potential(self) -> None:
        return None

    def lane_code(self, real: str = "float64") -> LaneCode:
        if real not in self._cache:  # jitted once, so that a second run does not compile again
            self._cache[real] = self._lane_code(real)
        return self._cache[real]

    def _lane_code(self, real: str) -> LaneCode:
        import numba

        names = ", ".join(f"x{i}" for i in range(self.dim))
        lines = [f"drift_values = drift({names})", f"diffusion_values = diffusion({names})"]
        lines += [f"b{i} = np.{real}(drift_values[{i}])" for i in range(self.dim)]
        lines += [f"d{i}_{j} = np.{real}(diffusion_values[{i}][{j}])" for i in range(self.dim) for j in range(i + 1)]
        functions = {
            k: f if hasattr(f, "py_func") else numba.njit(error_model="numpy")(f)
            for k, f in self._functions.items()
            if k != "diffusion_divergence"
        }
        return LaneCode(dim=self.dim, lines=tuple(lines), functions=functions)


class _FunctionEvaluator:
    def __init__(self, namespace, functions, dim: int):
        self._namespace, self._functions, self._dim = namespace, functions, dim

    def _call(self, name: str, x, shape: tuple[int, ...]):
        wanted = "one value per variable" if len(shape) == 1 else "one row of values per variable"
        try:
            values = self._functions[name](*(x[..., i] for i in range(self._dim)))
        except (TypeError, ValueError) as fault:
            raise ValueError(
                f"{name} must be a function of {self._dim} coordinates that works on arrays (np.where for a case "
                f"distinction): {fault}"
            ) from fault
        rows = _checks.sequence(name, values, self._dim, f"entries, {wanted},")
        if len(shape) == 2:
            rows = [v for row in rows for v in _checks.sequence(name, row, self._dim, "values in each row")]
        stacked = self._namespace.stack([v + 0.0 * x[..., 0] for v in rows], -1)
        return stacked.reshape(*x.shape[:-1], *shape)

    def drift(self, x, temperature=None):
        return self._call("drift", x, (self._dim,))

    def diffusion(self, x):
        return self._call("diffusion", x, (self._dim, self._dim))

    def diffusion_divergence(self, x):
        if "diffusion_divergence" in self._functions:
            return self._call("diffusion_divergence", x, (self._dim,))
        total = 0.0 * x
        for j in range(self._dim):
            step = np.zeros_like(x)
            step[..., j] = 6e-6 * np.maximum(1.0, np.abs(x[..., j]))  # ε^(1/3): rounding and curvature in balance
            change = self.diffusion(x + step)[..., j] - self.diffusion(x - step)[..., j]
            total = total + change / (2 * step[..., j : j + 1])
        return total

    def drift_and_diffusion(self, x, temperature=None):
        return self.drift(x), self.diffusion(x)
