"""A loss that is a mean over data: f = (1/N) Σ_k f_k, whose gradient noise is its own."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from sde_sgd import _checks

from ._codegen import TEMPERATURE, canonical, derivative, straight_line
from ._evaluator import Field, SampleEvaluator
from ._landscape import Landscape
from ._lanes import LaneCode
from ._names import check_names
from ._parser import parse

if TYPE_CHECKING:
    from ._function_sum import FunctionSum
    from ._linear_model import LinearModel

SAMPLING = ("with_replacement", "without_replacement", "reshuffling")


class FiniteSum(Landscape):
    r"""f(x) = (1/N) Σ_k f_k(x) with the diffusion matrix of its own per-sample gradients,

    D(x) = (1/N) Σ_k g_k g_kᵀ − g gᵀ,   g_k = ∇f_k,  g = ∇f   (population covariance, batch size not absorbed).

    Parameters
    ----------
    variables : names or SymPy symbols of the weights.
    sample_loss : f_k as a string or SymPy expression over variables, data symbols and parameters.
    data : mapping from data symbol to an array of shape (N,), N ≥ 2, finite.
    parameters, potential, q, known_fixed_points, default_temperature, domain, name : as in `Landscape`.

    Everything `Landscape` offers works here; `sample_gradients` gives the g_k. For a few weights and any N: the
    symbolic derivatives make tens of weights slow; `FiniteSum.linear_model` and `FiniteSum.from_functions` are for
    those. Chaudhari & Soatto (2018), eq. (3) and Appendix A.
    """

    def __init__(
        self,
        variables,
        sample_loss,
        data,
        *,
        parameters=None,
        potential=None,
        q=None,
        known_fixed_points=None,
        default_temperature=None,
        domain=None,
        name=None,
    ):
        self._set_symbols(variables, parameters, domain, name)
        if not isinstance(data, Mapping) or not data:
            raise ValueError("data must be a non-empty mapping from a data symbol's name to its array of shape (N,)")
        self.data: dict[str, np.ndarray] = {}
        for word, values in zip(check_names("data symbol", data, taken=self._symbols), data.values()):
            array = _checks.finite_array(f"data[{word!r}]", values).copy()
            if array.ndim != 1 or len(array) < 2:
                raise ValueError(f"data[{word!r}] must have shape (N,) with N >= 2, got {array.shape}")
            array.flags.writeable = False  # the definition is fixed; a changed array would change the loss under it
            self.data[word] = array
        sizes = {k: len(v) for k, v in self.data.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"data arrays must have one length N, got {sizes}")
        self._data_symbols = {k: sp.Symbol(k, real=True) for k in self.data}
        known = self._known() | self._data_symbols
        self._sample_loss = parse(sample_loss, known, "sample_loss")
        self._potential = (
            None if potential is None else parse(potential, self._known() | {"T": TEMPERATURE}, "potential")
        )
        self._annotate(q=q, known_fixed_points=known_fixed_points, default_temperature=default_temperature)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for array in self.data.values():
            array.flags.writeable = False  # pickling forgets it

    @staticmethod
    def linear_model(X, y, loss, *, weight_decay=0.0, variables=None, domain=None, name=None) -> "LinearModel":
        r"""f(w) = (1/N) Σ_k ℓ(x_k·w, y_k) + (λ/2)|w|²: one linear predictor with hundreds of weights.

        Parameters
        ----------
        X : inputs, (N, d), N ≥ 2, one row per sample; an intercept is a column of ones of your own.
        y : targets, (N,).
        loss : ℓ(p, y): "squared" ½(p − y)²; "logistic" log(1 + e^{−yp}) with y = ±1; or an expression in p and y,
            e.g. ``"log(cosh(p - y))"``, parsed as in `Landscape`.
        weight_decay : λ ≥ 0, part of the loss; a parameter, so that `with_parameters(weight_decay=…)` changes it.
        variables : d names; default w0, w1, …   domain, name : as in `Landscape`.

        All derivatives, D and div D are exact and computed by products with X in blocks that bound memory: one D
        costs 2Nd² operations. X and y are copied. `minimizer()` solves the squared loss. Raises ValueError for wrong
        shapes, values that are not finite, labels other than ±1. The decay is part of every f_k and so has no noise.
        """
        from ._linear_model import LinearModel

        return LinearModel(X, y, loss, weight_decay=weight_decay, variables=variables, domain=domain, name=name)

    @staticmethod
    def from_functions(
        sample_gradient: Callable,
        data,
        *,
        variables,
        sample_loss: Callable | None = None,
        finite_difference: bool = False,
        domain=None,
        name=None,
    ) -> "FunctionSum":
        r"""f(x) = (1/N) Σ_k f_k(x) with g_k = ∇f_k written as a function, for any model and any number of weights.

        Parameters
        ----------
        sample_gradient : ``sample_gradient(x, row, out)`` writes the d values of g_k(x) into `out` and returns nothing;
            x (d,), row = data[k] (m,) and out (d,) are float64 arrays, x and row are not to be changed, out is not
            cleared before the call. It must compile under numba.njit (or be so compiled, without a signature):
            loops and NumPy are fine.
        data : (N, m), or (N,) for m = 1; N ≥ 2: put inputs and label of a sample into one row.
        variables : d names.
        sample_loss : ``sample_loss(x, row)`` returning f_k(x); without it `loss` raises ValueError.
        finite_difference : True allows `hessian` and `diffusion_divergence` by central differences of the gradient
            (2d gradients of every sample; about 1e-9 accurate where it is smooth); otherwise they raise ValueError.
        domain, name : as in `Landscape`.

        Writing into `out` makes no array per call: at 100 weights and a few samples a step, allocation would cost as
        much as the gradient. The functions are called once here, uncompiled: ValueError says what they break, also
        where the gradient is not that of the loss. To pickle, define them in a module. Kernels are compiled anew in
        each process. Torch tensors pass through NumPy and cannot be differentiated.
        """
        from ._function_sum import FunctionSum

        return FunctionSum(
            sample_gradient,
            data,
            variables=variables,
            sample_loss=sample_loss,
            finite_difference=finite_difference,
            domain=domain,
            name=name,
        )

    @property
    def samples(self) -> int:
        """N, the number of samples."""
        return len(next(iter(self.data.values())))

    def latex(self) -> dict[str, str]:
        """LaTeX of f_k and its gradient; the loss is their mean, D their covariance."""
        gradient = sp.Matrix(self._sample_group("gradient")[0])
        return {
            "sample_loss": sp.latex(self._sample_loss),
            "sample_gradient": sp.latex(gradient),
            "loss": r"\frac{1}{N}\sum_k f_k",
            "diffusion": r"\frac{1}{N}\sum_k g_k g_k^\top - g g^\top",
        }

    def _group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        if name == "potential":
            return [self._potential], ()
        raise KeyError(name)  # everything else is a mean over the samples

    def _sample_group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        match name:
            case "loss":
                return [self._sample_loss], ()
            case "gradient":
                return [derivative(self._sample_loss, v, "sample_loss") for v in self.symbols], (self.dim,)
            case "hessian":
                return self._derivatives(self._sample_group("gradient")[0], "sample_loss"), (self.dim, self.dim)
        raise KeyError(name)

    def _build_evaluator(self, namespace) -> SampleEvaluator:
        parameters = self._parameter_symbols()
        samples = Field(namespace, [*self.symbols, *self._data_symbols.values()], parameters, self._sample_group)
        return SampleEvaluator(namespace, Field(namespace, self.symbols, parameters, self._group), self.data, samples)

    def sample_gradients(self, x) -> np.ndarray:
        """g_k(x) of every sample: (..., d) → (..., N, d)."""
        return self.evaluator().samples("gradient", self._points(x))

    def evaluator(self, namespace=np) -> SampleEvaluator:
        """As `Landscape.evaluator`, with `.samples(name, x)` for the loss, gradient or Hessian of every sample."""
        evaluator = super().evaluator(namespace)
        assert isinstance(evaluator, SampleEvaluator)
        return evaluator

    def constant_diffusion(self) -> np.ndarray | None:
        """None: D follows from the data at every x."""
        return None

    def _check_diffusion(self) -> None:
        """Nothing to check: a covariance is symmetric and positive semi-definite."""

    def sgd_process(self, learning_rate: float, batch_size: int, sampling: str = "with_replacement"):
        """The `Process` whose temperature matches mini-batches of size b at learning rate η.

        With replacement T = η/2b; without (a fresh subset each step) T = (η/2b)(N−b)/(N−1), exactly.
        Reshuffling has no temperature: its noise is anti-correlated over an epoch, so ValueError says so.
        """
        learning_rate = _checks.positive("learning_rate", learning_rate)
        sampling = _checks.choice("sampling", sampling, SAMPLING)
        batch_size = _checks.whole("batch_size", batch_size, 1, self.samples, f"the data has {self.samples} samples")
        if sampling == "reshuffling":
            raise ValueError(
                "epoch reshuffling has no single temperature: its gradient noise is anti-correlated over "
                "an epoch, which no white noise matches. Use 'with_replacement' or 'without_replacement'"
            )
        temperature = learning_rate / (2 * batch_size)
        if sampling == "without_replacement":
            if batch_size == self.samples:
                raise ValueError(
                    f"batch_size {batch_size} is the whole data set: without replacement there is no "
                    f"noise and no temperature; take at most {self.samples - 1}"
                )
            temperature *= (self.samples - batch_size) / (self.samples - 1)
        return self.at_temperature(temperature)

    def lane_code(self, real: str = "float64") -> LaneCode:
        """Straight-line scalar code of one sample's gradient for the path and SGD kernels, in float64 or float32."""
        names = canonical(self.symbols, list(self._parameter_symbols()), list(self._data_symbols.values()))
        gradient = {f"g{i}": e for i, e in enumerate(self._sample_group("gradient")[0])}
        return LaneCode(
            dim=self.dim,
            lines=tuple(straight_line(gradient, names, real)),
            parameters=tuple(self._parameters.values()),
            data=tuple(self.data.values()),
        )
