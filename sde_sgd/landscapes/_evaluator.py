"""A model's functions on arrays of any namespace with NumPy's vocabulary (numpy, torch)."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import sympy as sp

from ._codegen import TEMPERATURE, compile_functions

CHUNK = 1 << 16  # points × samples evaluated at once by NumPy: temporaries stay in the second-level cache


class Field:
    """Named groups of expressions over (x, parameters, T) that become functions of arrays x (..., d).

    `groups[name]` is a flat list of expressions with the trailing `shape`; scalars have shape ().
    """

    def __init__(
        self,
        namespace,
        variables: Sequence[sp.Symbol],
        parameters: Mapping[sp.Symbol, float],
        groups: Callable[[str], tuple[Sequence[sp.Expr], tuple[int, ...]]],
    ):
        self._namespace = namespace
        self._arguments = [*variables, *parameters, TEMPERATURE]
        self._dim = len(variables)
        # Numbers of the namespace: float64 arithmetic (NaN for a root of −1, not complex), and torch functions of them.
        self._scalar = np.float64 if namespace is np else lambda v: namespace.tensor(v, dtype=namespace.float64)
        self._values = [self._scalar(v) for v in parameters.values()]
        self._groups = groups
        self._compiled: dict[str, tuple] = {}

    def __call__(self, name: str, x, temperature: float | None = None):
        """The group `name` at x (..., d): an array (..., *shape)."""
        return self.at(name, [x[..., i] for i in range(self._dim)], temperature)

    def at(self, name: str, columns: Sequence, temperature: float | None = None):
        """The same, one broadcastable array per variable."""
        values, shape = self.values(name, columns, temperature)
        if not shape:
            return values[0]
        stacked = self._namespace.stack(values, -1)
        return stacked.reshape(*stacked.shape[:-1], *shape)

    def values(self, name: str, columns: Sequence, temperature: float | None = None) -> tuple[list, tuple[int, ...]]:
        """One array per expression of the group, and the group's shape."""
        if name not in self._compiled:
            expressions, shape = self._groups(name)
            needs = any(TEMPERATURE in e.free_symbols for e in expressions)
            self._compiled[name] = (
                compile_functions(self._arguments, expressions, self._namespace),
                shape,
                needs,
            )
        function, shape, needs_temperature = self._compiled[name]
        if needs_temperature and temperature is None:
            raise ValueError(f"the {name} of this landscape depends on the temperature T; pass temperature=…")
        zero = 0.0 * sum(columns)
        scalar = None if temperature is None else self._scalar(temperature)
        with np.errstate(all="ignore"):  # NaN and infinities are the caller's to find, with their place
            return [value + zero for value in function(*columns, *self._values, scalar)], shape


class Evaluator:
    """f, ∇f, ∇²f, D, div D, drift of a landscape in closed form."""

    def __init__(self, field: Field):
        self._field = field

    def loss(self, x):
        return self._field("loss", x)

    def gradient(self, x):
        return self._field("gradient", x)

    def hessian(self, x):
        return self._field("hessian", x)

    def diffusion(self, x):
        return self._field("diffusion", x)

    def diffusion_divergence(self, x):
        return self._field("diffusion_divergence", x)

    def drift(self, x, temperature: float | None = None):
        return self._field("drift", x, temperature)

    def jacobian(self, x, temperature: float | None = None):
        """∂b_i/∂x_j of the drift."""
        return self._field("jacobian", x, temperature)

    def potential(self, x, temperature: float | None = None):
        return self._field("potential", x, temperature)

    def drift_and_diffusion(self, x, temperature: float | None = None):
        """(b, D) together: one pass where they share work."""
        return self.drift(x, temperature), self.diffusion(x)


class SampleEvaluator(Evaluator):
    """The same for f = (1/N) Σ_k f_k: means over the samples, D by its definition, centred before it is squared."""

    def __init__(self, namespace, field: Field, data: Mapping[str, np.ndarray], sample_field: Field):
        super().__init__(field)
        self._sample_field = sample_field
        self._namespace = namespace
        self._data = [namespace.asarray(values.copy()) for values in data.values()]  # ours are read-only
        self._size = len(next(iter(data.values())))

    def _columns(self, x) -> list:
        return [*(x[..., None, i] for i in range(x.shape[-1])), *self._data]

    def samples(self, name: str, x):
        """The group `name` of every sample: (..., N, *shape)."""
        return self._sample_field.at(name, self._columns(x))

    def _centred_gradients(self, x) -> tuple[list, list]:
        """Per component: its mean over the samples (...), and the deviations (..., N), samples contiguous."""
        components, _ = self._sample_field.values("gradient", self._columns(x))
        means = [c.mean(-1) for c in components]
        return means, [c - m[..., None] for c, m in zip(components, means)]

    def _covariance(self, deviations: list):
        d, stack = len(deviations), self._namespace.stack
        entry = {(i, j): (deviations[i] * deviations[j]).mean(-1) for i in range(d) for j in range(i + 1)}
        return stack([stack([entry[max(i, j), min(i, j)] for j in range(d)], -1) for i in range(d)], -2)

    def _mean(self, reduce: Callable, x):
        """`reduce(points)` over chunks of points, so that points × N temporaries stay small."""
        if self._namespace is not np:
            return reduce(x)
        flat = x.reshape(-1, x.shape[-1])
        step = max(1, CHUNK // self._size)
        if len(flat) <= step:
            return reduce(x)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy works outside the interpreter lock
            parts = list(pool.map(lambda i: reduce(flat[i : i + step]), range(0, len(flat), step)))
        return np.concatenate(parts).reshape(*x.shape[:-1], *parts[0].shape[1:])

    def loss(self, x):
        return self._mean(lambda p: self.samples("loss", p).mean(-1), x)

    def gradient(self, x):
        return self._mean(lambda p: self.samples("gradient", p).mean(-2), x)

    def hessian(self, x):
        return self._mean(lambda p: self.samples("hessian", p).mean(-3), x)

    def diffusion(self, x):
        return self._mean(lambda p: self._covariance(self._centred_gradients(p)[1]), x)

    def diffusion_divergence(self, x):
        def divergence(points):
            # ∂_j mean(δg_i δg_j) = mean(δH δg)_i + mean(δg_i tr δH)
            _, g = self._centred_gradients(points)
            h, _ = self._sample_field.values("hessian", self._columns(points))
            h = [e - e.mean(-1)[..., None] for e in h]
            d = len(g)
            trace = sum(h[i * d + i] for i in range(d))
            parts = [(sum(h[i * d + j] * g[j] for j in range(d)) + g[i] * trace).mean(-1) for i in range(d)]
            return self._namespace.stack(parts, -1)

        return self._mean(divergence, x)

    def drift(self, x, temperature: float | None = None):
        return -self.gradient(x)

    def jacobian(self, x, temperature: float | None = None):
        return -self.hessian(x)

    def drift_and_diffusion(self, x, temperature: float | None = None):
        means, deviations = self._centred_gradients(x)
        return -self._namespace.stack(means, -1), self._covariance(deviations)
