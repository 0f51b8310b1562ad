"""A loss that is a mean over data: f = (1/N) Σ_k f_k, whose gradient noise is its own."""

from collections.abc import Mapping

import numpy as np
import sympy as sp

from sde_sgd import _checks

from ._codegen import TEMPERATURE, canonical, derivative, straight_line
from ._evaluator import Field, SampleEvaluator
from ._landscape import Landscape
from ._lanes import LaneCode
from ._names import check_names
from ._parser import parse

SAMPLING = ("with_replacement", "without_replacement", "reshuffling")


class FiniteSum(Landscape):
    r"""f(x) = (1/N) Σ_k f_k(x) with the diffusion matrix of its own per-sample gradients,

    D(x) = (1/N) Σ_k g_k g_kᵀ − g gᵀ,   g_k = ∇f_k,  g = ∇f   (population covariance, batch size not absorbed).

    Parameters
    ----------
    variables : names or SymPy symbols of the weights.
    sample_loss : f_k as a string or SymPy expression over variables, data symbols and parameters.
    data : mapping from data symbol to an array of shape (N,), N ≥ 2, finite.
    parameters, domain, name, potential : as in `Landscape`.

    Everything `Landscape` offers works here; `sample_gradients` gives the g_k. For a few weights and any N: the
    symbolic Hessian per sample makes hundreds of weights slow. Chaudhari & Soatto (2018), eq. (3) and Appendix A.
    """

    def __init__(self, variables, sample_loss, data, *, parameters=None, domain=None, name=None, potential=None):
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
        self._circulation = None

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

    def lane_code(self) -> LaneCode:
        """Straight-line scalar code of one sample's gradient for the path and SGD kernels."""
        names = canonical(self.symbols, list(self._parameter_symbols()), list(self._data_symbols.values()))
        gradient = {f"g{i}": e for i, e in enumerate(self._sample_group("gradient")[0])}
        return LaneCode(
            dim=self.dim,
            lines=tuple(straight_line(gradient, names)),
            parameters=tuple(self._parameters.values()),
            data=tuple(self.data.values()),
        )
