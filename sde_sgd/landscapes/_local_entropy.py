"""Local entropy: a loss smoothed by the mass that lies around each point, as a landscape of its own."""

from typing import Any, cast

import numpy as np

from sde_sgd import _checks, _memory

from ._definition import Definition
from ._landscape import Landscape
from ._lanes import LaneCode
from ._local_rules import Moments, MonteCarlo, Quadrature
from ._roots import stationary_points

_CHUNK = 1 << 19  # values of the loss held at once


def local_entropy(
    landscape: Landscape,
    gamma: float,
    *,
    temperature: float = 1.0,
    method: str = "auto",
    samples: int = 4096,
    seed: int = 0,
) -> "LocalEntropy":
    r"""f_γ(x) = −T log E_z exp(−f(x + √(γT) z)/T), z ~ N(0, I): a loss whose minima are wide valleys.

    At T = 1 it is −log(G_γ * e^{−f}), G_γ the Gaussian density of variance γ. ∇f_γ = (x − ⟨x'⟩)/γ, where ⟨·⟩ is the
    mean under exp(−[f(x') + |x' − x|²/2γ]/T); ∂f_γ/∂γ = −|∇f_γ|²/2 + TΔf_γ/2, with f at γ = 0. For f = xᵀAx/2 it is
    xᵀA(I + γA)⁻¹x/2 + (T/2) log det(I + γA); for T → 0 the Moreau envelope min f(x') + |x' − x|²/2γ.

    Parameters
    ----------
    landscape : the loss f. Diffusion matrix and domain are kept; the drift of the result is −∇f_γ, without any
        circulation, and a landscape that has one is refused.
    gamma : γ > 0, the scope: a length squared over an energy. Some texts write γ for its inverse, the coupling.
    temperature : T > 0 of the smoothing, the unit in which depth is weighed against width; no T of a process.
    method : "quadrature", the default in one and two variables: the trapezoid rule in z, its step halved until f_γ,
        ⟨z⟩ and Cov z change by less than 1e-9 (the error left is about the square of that where f is smooth), its reach
        widened until its ends weigh nothing. "monte_carlo", the default beyond: eight scrambled Sobol sets of `samples`
        points in all, the same for every x, so that f_γ is smooth and the gradient is its own; `.error(x)` tells its
        standard error.
    samples, seed : of "monte_carlo".

    Returns a `Landscape`: paths, densities and potentials of it are asked for as of any other (paths where f is one
    expression and in up to two variables). Points outside the domain along an axis that is not periodic take part with
    the formula of f there. Local entropy of a local entropy at the same T is that of γ₁ + γ₂, and is made as such.

    Raises
    ------
    ValueError
        γ or T that is not > 0; a circulation; f that is not a number at some x'; e^{−f/T} that the Gaussian does not
        make integrable, as where I + γ∇²f is not positive far out.
    NotConverged
        On use: a loss with too fine a structure for the rule in reach of √(γT).
    TooFewSamples
        On use: Monte-Carlo weights of fewer than 32 effective samples; take a smaller γ, more samples, or chains.

    Chaudhari, Choromanska, Soatto, LeCun, Baldassi, Borgs, Chayes, Sagun & Zecchina (2017), §3; Chaudhari, Oberman,
    Osher, Soatto & Carlier (2018) for the equation in γ. Not for networks of more than some tens of weights: all mass
    there sits where no draw from the Gaussian falls; sample ⟨x'⟩ by a chain. Not for valleys narrower than a tenth of
    √(γT): one that lies between all nodes, or all draws, goes unseen, and no change tells of it.

    >>> import sde_sgd as sde
    >>> smooth = sde.local_entropy(sde.Landscape("x", "2*x**2"), 0.5)
    >>> bool(np.isclose(smooth.loss([0.8]), 0.5 * 4 / 3 * 0.8**2 + 0.5 * np.log(3)))
    True
    """
    return LocalEntropy(landscape, gamma, temperature=temperature, method=method, samples=samples, seed=seed)


class LocalEntropy(Landscape):
    """f_γ of a landscape; made by `local_entropy`, which documents it."""

    inner: Landscape
    smoothing: dict[str, Any]

    def __init__(self, landscape, gamma, *, temperature=1.0, method="auto", samples=4096, seed=0):
        _checks.instance("landscape", landscape, Landscape)
        gamma = _checks.positive("gamma", gamma, "it is the variance of the smoothing over its temperature")
        temperature = _checks.positive("temperature", temperature, "it is the unit of f in the smoothing")
        _checks.choice("method", method, ("auto", "quadrature", "monte_carlo"))
        if isinstance(landscape, LocalEntropy):
            if landscape.smoothing["temperature"] != temperature:
                raise ValueError(
                    f"{landscape.name} is smoothed at the temperature {landscape.smoothing['temperature']:g}, and this "
                    f"asks for {temperature:g}: only scopes at one temperature add up"
                )
            gamma += landscape.smoothing["gamma"]
            landscape = landscape.inner
        if not _is_gradient(landscape):
            raise ValueError(
                f"{landscape.name} has a circulation, which is no part of its loss: give the landscape of the loss "
                "alone"
            )
        if "gamma" in landscape.variables or "gamma" in landscape.parameters:
            raise ValueError(f"{landscape.name} uses the name 'gamma', which is that of the scope; rename it")
        if method == "auto":
            method = "quadrature" if landscape.dim <= 2 else "monte_carlo"
        samples = _checks.whole("samples", samples, 64, remedy="eight sets of at least 8")
        _memory.refuse_beyond(8.0 * samples * landscape.dim, f"{samples} draws", "take fewer samples")
        self.inner = landscape
        self.smoothing = {
            "temperature": temperature, "method": method, "samples": samples,
            "seed": _checks.whole("seed", seed, 0),
        }  # fmt: skip
        parameters = {**landscape.parameters, "gamma": gamma}
        self._set_symbols(
            landscape.variables, parameters, landscape.domain, f"local entropy of {landscape.name}"
        )  # fmt: skip
        self.smoothing["gamma"] = gamma
        self._annotate(positive={"gamma": "it is the scope of the smoothing"})

    def with_parameters(self, **values: float) -> "LocalEntropy":
        """The local entropy with another `gamma`, or of the landscape with other parameters."""
        Definition.with_parameters(self, **values)  # refuses what there is not
        gamma = values.pop("gamma", self.smoothing["gamma"])
        inner = self.inner.with_parameters(**values) if values else self.inner
        return LocalEntropy(inner, **{**self.smoothing, "gamma": gamma})

    def _check_diffusion(self) -> None:
        """That of the inner landscape, which has checked it."""

    def constant_diffusion(self) -> np.ndarray | None:
        """D of the landscape whose loss is smoothed."""
        return self.inner.constant_diffusion()

    def mean(self, x) -> np.ndarray:
        """⟨x'⟩ = x − γ∇f_γ(x) under exp(−[f(x') + |x' − x|²/2γ]/T): (..., d) → (..., d)."""
        return self._points(x) - self.smoothing["gamma"] * self.gradient(x)

    def error(self, x) -> np.ndarray:
        """Standard error of `loss`, (..., d) → (...): over the eight sets of Monte Carlo; 0 for quadrature."""
        return self._means().error(self._points(x))

    def critical_points(self, box=None):
        """As of any landscape; what Newton's method meets where f_γ cannot be computed it leaves."""
        at = self._means()._at
        return stationary_points(
            lambda x: at(x, 1, search=True).gradient, lambda x: at(x, 2, search=True).hessian, self._box(box),
            self.variables, symmetric=True, period=self.domain.period, extra={"loss": self.loss},
        )  # fmt: skip

    def fixed_points(self, box=None, temperature: float | None = None):
        """As `critical_points`, of the drift −∇f_γ, with the eigenvalues of its Jacobian."""
        at = self._means()._at
        return stationary_points(
            lambda x: -at(x, 1, search=True).gradient, lambda x: -at(x, 2, search=True).hessian, self._box(box),
            self.variables, symmetric=False, period=self.domain.period, extra={"loss": self.loss},
        )  # fmt: skip

    def latex(self) -> dict[str, str]:
        """LaTeX of the definition in terms of the loss that is smoothed."""
        T = f"{self.smoothing['temperature']:g}"
        g = f"{self.smoothing['gamma']:g}"
        return {
            "loss": rf"-{T}\log E_z\, e^{{-f(x+\sqrt{{{g}\cdot {T}}}\,z)/{T}}}",
            "gradient": rf"(x-\langle x'\rangle)/{g}",
            **{k: v for k, v in self.inner.latex().items() if k == "diffusion"},
            "smoothed": self.inner.latex().get("loss", "f"),
        }

    def _means(self) -> "_Evaluator":
        return cast(_Evaluator, self.evaluator())

    def _build_evaluator(self, namespace) -> Any:
        if namespace is not np:
            return _ThroughNumPy(namespace, self._means())
        rules = {"quadrature": Quadrature, "monte_carlo": MonteCarlo}
        return _Evaluator(self.inner.evaluator(), self, rules[self.smoothing["method"]])

    def lane_code(self, real: str = "float64") -> LaneCode:
        """A jitted quadrature of ∇f_γ per step, where the loss is one expression of up to two variables."""
        from ._local_lanes import lane_code

        if real not in self._cache:
            self._cache[real] = lane_code(self, real)
        return self._cache[real]


def _is_gradient(landscape: Landscape) -> bool:
    """That no circulation adds to −∇f, by values: it may vanish without saying so."""
    low, high = np.clip(landscape.domain.lower, -1.0, 1.0), np.clip(landscape.domain.upper, -1.0, 1.0)
    points = low + (high - low) * np.random.default_rng(0).random((8, landscape.dim))
    try:
        slope = landscape.gradient(points)
        gap = np.nan_to_num(landscape.drift(points, 1.0) + slope)
    except ValueError:  # no derivative: the landscape will say so when it is asked for one
        return True
    return bool(np.abs(gap).max() <= 1e-10 * max(1.0, np.abs(np.nan_to_num(slope)).max()))


class _Evaluator:
    """f_γ and its derivatives by a rule; D of the landscape whose loss is smoothed."""

    def __init__(self, inner, landscape: LocalEntropy, rule):
        self._inner, self._gamma = inner, landscape.smoothing["gamma"]
        self._rule = rule(inner, landscape.dim, landscape.smoothing)

    def _at(self, x, order: int, search: bool = False) -> Moments:
        """Moments at every point, in chunks; `order` 0, 1 or 2 of derivative that is asked for."""
        flat = x.reshape(-1, x.shape[-1])
        step = max(1, _CHUNK // self._rule.nodes)
        parts = [self._rule(flat[i : i + step], order, search) for i in range(0, len(flat), step)]
        joined = [np.concatenate(column) for column in zip(*parts)] if parts else self._rule.empty()
        return Moments(*(part.reshape(x.shape[:-1] + part.shape[1:]) for part in joined))

    def loss(self, x):
        return self._at(x, 0).value

    def error(self, x):
        return self._at(x, 0).error

    def gradient(self, x):
        return self._at(x, 1).gradient

    def hessian(self, x):
        return self._at(x, 2).hessian

    def diffusion(self, x):
        return self._inner.diffusion(x)

    def diffusion_divergence(self, x):
        return self._inner.diffusion_divergence(x)

    def drift(self, x, temperature: float | None = None):
        return -self.gradient(x)

    def jacobian(self, x, temperature: float | None = None):
        return -self.hessian(x)

    def drift_and_diffusion(self, x, temperature: float | None = None):
        return self.drift(x), self.diffusion(x)


class _ThroughNumPy:
    """The same on torch tensors, by way of NumPy."""

    def __init__(self, namespace, inner: _Evaluator):
        self._namespace, self._inner = namespace, inner

    def __getattr__(self, name: str):
        function = getattr(self._inner, name)

        def called(x, *rest):
            if x.requires_grad:
                raise ValueError(f"{name} of a local entropy has no derivative for torch; pass x.detach()")
            found = function(x.cpu().numpy(), *rest)
            whole = found if isinstance(found, tuple) else (found,)
            moved = tuple(self._namespace.asarray(part).to(x.device) for part in whole)
            return moved if isinstance(found, tuple) else moved[0]

        return called
