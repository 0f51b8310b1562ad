"""A mean over data whose per-sample gradient is a function the user has written: any model, any number of weights."""

import functools
from collections.abc import Callable

import numpy as np

from sde_sgd import _checks

from ._blocks import BlockEvaluator
from ._evaluator import SampleEvaluator
from ._finite_sum import FiniteSum
from ._lanes import LaneCode, RowCode


class FunctionSum(FiniteSum):
    """f = (1/N) Σ_k f_k with g_k written by a function; made by `FiniteSum.from_functions`, which documents it."""

    def __init__(
        self, sample_gradient, data, *, variables, sample_loss=None, finite_difference=False, domain=None, name=None
    ):
        self._set_symbols(variables, None, domain, name or "functions")
        rows = _checks.finite_array("data", data)
        if rows.ndim not in (1, 2) or len(rows) < 2 or not rows.size:
            raise ValueError(f"data must have shape (N,) or (N, m) with N >= 2 samples, got {rows.shape}")
        rows = np.ascontiguousarray(rows.reshape(len(rows), -1))
        rows.flags.writeable = False  # the definition is fixed
        self.data = {"row": rows}
        if not callable(sample_gradient):
            raise ValueError(f"sample_gradient must be a function (x, row, out), got {type(sample_gradient).__name__}")
        self._functions = {"sample_gradient": sample_gradient}
        if _checks.function("sample_loss", sample_loss) is not None:
            self._functions["sample_loss"] = sample_loss
        self._finite_difference = bool(finite_difference)
        self._check_contract()

    def _check_contract(self) -> None:
        """Call the functions as written (not compiled) at a point inside, on three samples; say what is wrong."""
        low, high = self.domain.lower, self.domain.upper
        low = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2.0, -1.0))
        high = np.where(np.isfinite(high), high, low + 2.0)
        generator = np.random.default_rng(0)
        point = low + (high - low) * generator.uniform(0.3, 0.7, self.dim)
        along = generator.normal(size=self.dim)
        along *= 6e-6 * max(1.0, float(np.abs(point).max())) / np.linalg.norm(along)
        for k in sorted({0, self.samples // 2, self.samples - 1}):
            row = self.data["row"][k]
            gradient = self._call_gradient(point, row, k)
            again = self._call_gradient(point, row, k)
            if not np.array_equal(gradient, again):
                i = int(np.argmax(gradient != again))
                raise ValueError(
                    f"sample_gradient is no function of (x, row): two calls on data[{k}] gave out[{i}] = "
                    f"{gradient[i]:g} and {again[i]:g}; keep no state and draw no random number in it"
                )
            if "sample_loss" in self._functions:
                ends = [self._call_loss(point + sign * along, row) for sign in (1, -1)]
                change, expected = ends[0] - ends[1], 2 * float(gradient @ along)
                rounding = 1e-12 * (abs(ends[0]) + abs(ends[1]))
                tolerance = 1e-4 * 2 * np.linalg.norm(gradient) * np.linalg.norm(along) + rounding
                if np.isfinite(change) and abs(change - expected) > tolerance:
                    raise ValueError(
                        f"sample_gradient is not the gradient of sample_loss: on data[{k}] a small step changes the "
                        f"loss by {change:g}, the gradient says {expected:g}; correct one, or leave sample_loss out"
                    )

    def _call_gradient(self, point: np.ndarray, row: np.ndarray, k: int) -> np.ndarray:
        x, own, out = point.copy(), row.copy(), np.full(self.dim, np.nan)
        contract = (
            f"sample_gradient(x, row, out) must write the {self.dim} values of the gradient into out, from x of shape "
            f"({self.dim},) and row of shape ({len(row)},)"
        )
        try:
            returned = _plain(self._functions["sample_gradient"])(x, own, out)
        except Exception as fault:
            raise ValueError(f"{contract}: {type(fault).__name__}: {fault}") from fault
        if returned is not None:
            raise ValueError(f"{contract} and return nothing, got {type(returned).__name__}; write out[:] = … instead")
        if not (np.array_equal(x, point) and np.array_equal(own, row)):
            raise ValueError(f"{contract}; it also changed its argument {'row' if np.array_equal(x, point) else 'x'}")
        if not np.isfinite(out).all():
            i = int(np.argmax(~np.isfinite(out)))
            raise ValueError(
                f"{contract}: out[{i}] is {out[i]} on data[{k}] at x[{i}] = {x[i]:g}; out is not cleared before the "
                "call, so set every entry before adding to it; where the model is undefined there, give a domain"
            )
        return out

    def _call_loss(self, point: np.ndarray, row: np.ndarray) -> float:
        try:
            return float(_plain(self._functions["sample_loss"])(point.copy(), row.copy()))
        except Exception as fault:
            raise ValueError(
                f"sample_loss(x, row) must return one number, from x of shape ({self.dim},) and row of shape "
                f"({len(row)},): {type(fault).__name__}: {fault}"
            ) from fault

    def _compiled(self, name: str) -> Callable:
        """The function under numba.njit, compiled once per definition and process."""
        import numba

        function = self._functions[name]
        if hasattr(function, "py_func"):
            return function
        if name not in self._cache:
            self._cache[name] = numba.njit(error_model="numpy", nogil=True)(function)
        return self._cache[name]

    def _build_evaluator(self, namespace) -> SampleEvaluator:
        if namespace is not np:
            return _ThroughNumPy(namespace, self.evaluator())
        functions = {name: self._compiled(name) for name in self._functions}
        return _Evaluator(functions, self.data["row"], self.dim, self._finite_difference)

    def latex(self) -> dict[str, str]:
        """LaTeX of what is known: the functions are opaque."""
        return {"loss": r"\frac{1}{N}\sum_k f_k", "diffusion": r"\frac{1}{N}\sum_k g_k g_k^\top - g g^\top"}

    def lane_code(self, real: str = "float64") -> LaneCode:
        """The call of the jitted function; there is no form per coordinate."""
        if "lane" not in self._cache:
            rows = RowCode("functions", (self.data["row"],), ("sample_gradient(x, row, out)",))
            functions = {"sample_gradient": self._compiled("sample_gradient")}
            self._cache["lane"] = LaneCode(dim=self.dim, lines=(), functions=functions, rows=rows)
        return self._cache["lane"]


class _Evaluator(BlockEvaluator):
    """Gradients by compiled loops over points and samples; D from their deviations, products by BLAS."""

    def __init__(self, functions: dict[str, Callable], rows: np.ndarray, dim: int, finite_difference: bool):
        super().__init__(np, len(rows), dim)
        self._functions, self._table, self._differences = functions, rows, finite_difference

    def _values(self, name: str, points: np.ndarray, rows: slice) -> np.ndarray:
        """(P, n, d) gradients or (P, n) losses of the samples `rows`."""
        if name not in self._functions:
            raise ValueError(f"this finite sum was made without {name}; pass {name}=… to FiniteSum.from_functions")
        from numba.core.errors import NumbaError

        data = self._table[rows]
        shape = (len(points), len(data), self._dim)
        out: np.ndarray = np.empty(shape if name == "sample_gradient" else shape[:2])
        try:
            _loops()[name](self._functions[name], np.ascontiguousarray(points), data, out)
        except NumbaError as fault:
            told = [line for line in str(fault).splitlines() if line.strip() and not line.startswith("Failed in ")]
            reason = told[0] if told else type(fault).__name__
            raise ValueError(f"{name} cannot be compiled by Numba: {reason}") from fault
        return out

    def _sample_mean(self, name: str, points: np.ndarray) -> np.ndarray:
        return np.sum([self._values(name, points, k).sum(1) for k in self._blocks()], 0) / self._size

    def _deviations(self, points: np.ndarray):
        """Blocks (P, n, d) of g_k − g; gradients that do not fit in one block are computed twice."""
        blocks = self._blocks()
        whole = self._values("sample_gradient", points, blocks[0]) if len(blocks) == 1 else None
        mean = self._sample_mean("sample_gradient", points) if whole is None else whole.mean(1)
        for k in blocks:
            yield (self._values("sample_gradient", points, k) if whole is None else whole) - mean[:, None]

    def _each(self, reduce: Callable, x, shape: tuple[int, ...]):
        return self._batched(reduce, x, self._size * self._dim, shape)

    def loss(self, x):
        return self._each(lambda p: self._sample_mean("sample_loss", p), x, ())

    def gradient(self, x):
        return self._each(lambda p: self._sample_mean("sample_gradient", p), x, (self._dim,))

    def diffusion(self, x):
        def covariance(points):
            return self._symmetric(sum(g.swapaxes(-1, -2) @ g for g in self._deviations(points)) / self._size)

        return self._each(covariance, x, (self._dim, self._dim))

    def _steps(self, x, what: str):
        """Per variable: points a step above, points a step below, their distance."""
        if not self._differences:
            raise ValueError(
                f"the {what} needs second derivatives, which a gradient function does not give; pass "
                "finite_difference=True to FiniteSum.from_functions (right where the gradient is smooth)"
            )
        for j in range(self._dim):
            step = np.zeros_like(x)
            step[..., j] = 6e-6 * np.maximum(1.0, np.abs(x[..., j]))  # ε^(1/3): rounding and curvature in balance
            yield j, x + step, x - step, 2 * step[..., j : j + 1]

    def hessian(self, x):
        columns = [(self.gradient(a) - self.gradient(b)) / size for _, a, b, size in self._steps(x, "Hessian")]
        return self._symmetric(np.stack(columns, -1))

    def diffusion_divergence(self, x):
        def column(points, j):
            parts = ((g.swapaxes(-1, -2) @ g[..., j : j + 1])[..., 0] for g in self._deviations(points))
            return sum(parts) / self._size

        total = 0.0 * x
        for j, above, below, size in self._steps(x, "divergence of D"):
            ends = [self._each(functools.partial(column, j=j), end, (self._dim,)) for end in (above, below)]
            total = total + (ends[0] - ends[1]) / size
        return total

    def drift_and_diffusion(self, x, temperature: float | None = None):
        return -self.gradient(x), self.diffusion(x)

    def samples(self, name: str, x):
        """The loss or gradient of every sample: (..., N) or (..., N, d)."""
        if name == "hessian":
            raise ValueError("a sum of functions has no Hessian per sample; take the mean one, .hessian(x)")
        shape = (self._size, self._dim)[: 2 if name == "gradient" else 1]
        return self._each(lambda p: self._values(f"sample_{name}", p, slice(None)), x, shape)


class _ThroughNumPy(SampleEvaluator):
    """The same on torch tensors, by way of NumPy: opaque functions cannot be differentiated."""

    def __init__(self, namespace, inner: SampleEvaluator):
        self._namespace, self._inner = namespace, inner

    def _call(self, name: str, x, *first):
        if x.requires_grad:
            raise ValueError(f"{name} of a sum of functions has no derivative for torch; pass x.detach()")
        return self._namespace.asarray(getattr(self._inner, name)(*first, x.cpu().numpy())).to(x.device)

    def loss(self, x):
        return self._call("loss", x)

    def gradient(self, x):
        return self._call("gradient", x)

    def hessian(self, x):
        return self._call("hessian", x)

    def diffusion(self, x):
        return self._call("diffusion", x)

    def diffusion_divergence(self, x):
        return self._call("diffusion_divergence", x)

    def drift_and_diffusion(self, x, temperature: float | None = None):
        return -self.gradient(x), self.diffusion(x)

    def samples(self, name: str, x):
        return self._call("samples", x, name)


def _plain(function: Callable) -> Callable:
    """The Python function inside a jitted one."""
    return getattr(function, "py_func", function)


@functools.cache
def _loops() -> dict[str, Callable]:
    """Compiled loops over points and samples, specialised by Numba to the function passed in."""
    import numba

    @numba.njit(error_model="numpy", nogil=True)
    def gradients(function, points, rows, out):
        for p in range(points.shape[0]):
            for k in range(rows.shape[0]):
                function(points[p], rows[k], out[p, k])

    @numba.njit(error_model="numpy", nogil=True)
    def losses(function, points, rows, out):
        for p in range(points.shape[0]):
            for k in range(rows.shape[0]):
                out[p, k] = function(points[p], rows[k])

    return {"sample_gradient": gradients, "sample_loss": losses}
