"""Losses of one linear predictor: regression and classification with hundreds of weights and millions of samples."""

import keyword

import numpy as np
import sympy as sp

from sde_sgd import _checks, _memory

from ._blocks import BLOCK, BlockEvaluator
from ._codegen import compile_functions, derivative, straight_line
from ._finite_sum import FiniteSum
from ._lanes import UNROLLED, LaneCode, RowCode
from ._parser import parse

_P, _Y = sp.Symbol("p", real=True), sp.Symbol("y", real=True)
_MARGIN = _Y * _P
# ℓ, ℓ', ℓ'' by p. The logistic ones never overflow, and ℓ', ℓ'' keep their relative accuracy at any margin.
_LOSSES = {
    "squared": ((_P - _Y) ** 2 / 2, _P - _Y, sp.Integer(1)),
    "logistic": (
        sp.log(1 + sp.exp(-sp.Abs(_MARGIN))) + (sp.Abs(_MARGIN) - _MARGIN) / 2,
        -_Y / (1 + sp.exp(_MARGIN)),
        _Y**2 / ((1 + sp.exp(_MARGIN)) * (1 + sp.exp(-_MARGIN))),
    ),
}


class LinearModel(FiniteSum):
    r"""f(w) = (1/N) Σ_k ℓ(x_k·w, y_k) + (λ/2)|w|², made by `FiniteSum.linear_model`, which documents it.

    g_k = ℓ'_k x_k + λw,   H = mean(ℓ''_k x_k x_kᵀ) + λI,   D = mean(δg_k δg_kᵀ),
    div D = mean([ℓ''_k x_k·δg_k + ℓ'_k (ℓ''_k|x_k|² − mean(ℓ''|x|²))] x_k),   δg_k = g_k − g.
    """

    def __init__(self, X, y, loss, *, weight_decay=0.0, variables=None, domain=None, name=None):
        if not hasattr(X, "shape"):
            X = _checks.finite_array("X", X)
        shape = np.shape(X)
        if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
            raise ValueError(f"X must have shape (N, d) with N >= 2 samples and d >= 1 weights, got {shape}")
        _memory.refuse_beyond(8.0 * shape[0] * shape[1], "a copy of X", "give fewer samples")
        if variables is None:
            variables = [f"w{i}" for i in range(shape[1])]
        self._set_symbols(variables, {"weight_decay": weight_decay}, domain, name or "linear_model")
        self._annotate(not_negative={"weight_decay": "it is λ in (λ/2)|w|²"})
        if self.dim != shape[1]:
            raise ValueError(f"variables must have one name per column of X: {shape[1]}, got {self.dim}")
        inputs = np.ascontiguousarray(_checks.finite_array("X", X))
        targets = np.ascontiguousarray(_checks.finite_array("y", y, (shape[0],)))
        known = isinstance(loss, str) and loss in _LOSSES
        if known and loss == "logistic" and not (np.abs(targets) == 1).all():
            k = int(np.argmax(np.abs(targets) != 1))
            raise ValueError(
                f"y must be -1 or +1 for the logistic loss, got {targets[k]:g} at index {k}; for labels 0 and 1 "
                "pass 2*y - 1"
            )
        for array in (inputs, targets):
            array.flags.writeable = False  # the definition is fixed
        self.data = {"X": inputs, "y": targets}
        self.loss_kind = loss if known else "expression"
        self._scalar_loss = _LOSSES[loss][0] if known else _expression(loss)

    def _scalar(self, order: int) -> sp.Expr:
        """ℓ and its first two derivatives by p; derived when first asked for."""
        if self.loss_kind in _LOSSES:
            return _LOSSES[self.loss_kind][order]
        return self._scalar_loss if order == 0 else derivative(self._scalar(order - 1), _P, "loss")

    @property
    def weight_decay(self) -> float:
        """λ."""
        return self._parameters["weight_decay"]

    def latex(self) -> dict[str, str]:
        """LaTeX of f_k and its gradient, p = x_k·w; the loss is their mean, D their covariance."""
        return {
            "sample_loss": sp.latex(self._scalar(0)) + r" + \tfrac{\lambda}{2}|w|^2,\quad p = x_k \cdot w",
            "sample_gradient": rf"\left({sp.latex(self._scalar(1))}\right) x_k + \lambda w",
            "loss": r"\frac{1}{N}\sum_k f_k",
            "diffusion": r"\frac{1}{N}\sum_k g_k g_k^\top - g g^\top",
        }

    def _build_evaluator(self, namespace) -> "_Evaluator":
        functions = [
            lambda p, y, order=order: self._function(namespace, order)(p, y)[0] + 0.0 * p for order in (0, 1, 2)
        ]
        return _Evaluator(namespace, self.data["X"], self.data["y"], self.weight_decay, functions)

    def _function(self, namespace, order: int):
        key = f"{namespace.__name__} scalar {order}"
        if key not in self._cache:
            self._cache[key] = compile_functions([_P, _Y], [self._scalar(order)], namespace)
        return self._cache[key]

    def minimizer(self, start=None) -> np.ndarray:
        """The w (d,) with ∇f(w) = 0 of the squared loss, the one nearest to `start` (default 0) where there are many.

        For λ = 0 it is X⁺y + (I − X⁺X) start, which is where gradient descent from `start` ends (Zhang et al. 2017);
        for λ > 0 it is unique. By QR in blocks of rows and the singular values of R, those below 1e-12 of the largest
        counting as 0. Other losses raise ValueError.
        """
        if self.loss_kind != "squared":
            raise ValueError(f"the minimizer is in closed form for loss 'squared', not for {self.loss_kind!r}")
        d, (inputs, targets) = self.dim, self.data.values()
        start = np.zeros(d) if start is None else _checks.finite_array("start", start, (d,))
        root = np.sqrt(self.samples * self.weight_decay)
        r = np.hstack([root * np.eye(d), -root * start[:, None]])  # (λ/2)|w|² as d more rows
        step = max(d + 1, BLOCK // (d + 1))
        for i in range(0, self.samples, step):
            x = inputs[i : i + step]
            rest = (targets[i : i + step] - x @ start)[:, None]
            r = np.asarray(np.linalg.qr(np.vstack([r, np.hstack([x, rest])]), mode="r"))
        return start + np.linalg.lstsq(r[:, :d], r[:, d], rcond=1e-12)[0]

    def lane_code(self, real: str = "float64") -> LaneCode:
        """Code of one sample's gradient: per coordinate up to 16 weights, and with arrays for any number."""
        key = f"lane {real}"
        if key not in self._cache:
            self._cache[key] = self._lane_code(real)
        return self._cache[key]

    def _lane_code(self, real: str) -> LaneCode:
        d, (inputs, targets) = self.dim, self.data.values()
        names = {_P: sp.Symbol("prediction"), _Y: sp.Symbol("target")}
        slope = straight_line({"slope": self._scalar(1)}, names, real)
        lines: list[str] = []
        columns: tuple[np.ndarray, ...] = ()
        if d <= UNROLLED:
            lines = ["prediction = " + " + ".join(f"a{i} * x{i}" for i in range(d)), f"target = a{d}", *slope]
            lines += [f"g{i} = slope * a{i} + p0 * x{i}" for i in range(d)]
            columns = (*(np.ascontiguousarray(inputs[:, i]) for i in range(d)), targets)
        return LaneCode(
            dim=d,
            lines=tuple(lines),
            parameters=(self.weight_decay,),
            data=columns,
            rows=RowCode("linear_model", (inputs, targets), tuple(slope)),
        )


class _Evaluator(BlockEvaluator):
    """Everything through products with X; ℓ, ℓ', ℓ'' are functions of (p, y)."""

    def __init__(self, namespace, inputs: np.ndarray, targets: np.ndarray, decay: float, functions):
        super().__init__(namespace, *inputs.shape)
        own = (lambda a: a) if namespace is np else (lambda a: namespace.asarray(a.copy()))  # torch wants to write
        self._x, self._y, self._decay = own(inputs), own(targets), decay
        self._squares = namespace.einsum("ki,ki->k", self._x, self._x)
        self._loss, self._slope, self._curvature = functions

    def _pick(self, function, points, rows: slice):
        """ℓ, ℓ' or ℓ'' of the samples `rows`: (P, n)."""
        with np.errstate(all="ignore"):  # NaN and infinities are the caller's to find, with their place
            return function(points @ self._x[rows].T, self._y[rows])

    def _mean_gradient(self, points):
        """mean(ℓ'x), without weight decay: (P, d)."""
        return sum(self._pick(self._slope, points, k) @ self._x[k] for k in self._blocks()) / self._size

    def _vector(self, reduce, x, shape: tuple[int, ...]):
        return self._batched(reduce, x, min(self._size, BLOCK // self._dim), shape)

    def _matrix(self, reduce, x):
        d = self._dim
        return self._batched(lambda p: self._symmetric(reduce(p)), x, min(self._size * d, BLOCK), (d, d))

    def loss(self, x):
        def mean(points):
            total = sum(self._pick(self._loss, points, k).sum(-1) for k in self._blocks())
            return total / self._size + 0.5 * self._decay * (points * points).sum(-1)

        return self._vector(mean, x, ())

    def gradient(self, x):
        return self._vector(lambda p: self._mean_gradient(p) + self._decay * p, x, (self._dim,))

    def hessian(self, x):
        def mean(points):
            weights = ((self._pick(self._curvature, points, k)[..., None], self._x[k]) for k in self._blocks())
            total = sum((c * rows).swapaxes(-1, -2) @ rows for c, rows in weights)
            return total / self._size + self._decay * self._namespace.eye(self._dim, dtype=total.dtype)

        return self._matrix(mean, x)

    def diffusion(self, x):
        return self._matrix(lambda points: self._covariance_about(points, self._mean_gradient(points)), x)

    def _covariance_about(self, points, mean):
        total = 0.0
        for k in self._blocks():
            deviation = self._pick(self._slope, points, k)[..., None] * self._x[k] - mean[:, None]
            total = total + deviation.swapaxes(-1, -2) @ deviation
        return total / self._size

    def diffusion_divergence(self, x):
        def divergence(points):
            mean = self._mean_gradient(points)
            trace = sum(self._pick(self._curvature, points, k) @ self._squares[k] for k in self._blocks()) / self._size
            total = 0.0
            for k in self._blocks():
                slope, curvature = self._pick(self._slope, points, k), self._pick(self._curvature, points, k)
                along = slope * self._squares[k] - mean @ self._x[k].T  # x_k·δg_k
                centred = curvature * self._squares[k] - trace[:, None]
                total = total + (curvature * along + slope * centred) @ self._x[k]
            return total / self._size

        return self._vector(divergence, x, (self._dim,))

    def drift_and_diffusion(self, x, temperature: float | None = None):
        return -self.gradient(x), self.diffusion(x)

    def samples(self, name: str, x):
        """The loss, gradient or Hessian of every sample: (..., N), (..., N, d) or (..., N, d, d)."""
        shape = (self._size,) + (self._dim,) * ("loss", "gradient", "hessian").index(name)
        every = slice(0, self._size)

        def values(points):
            if name == "loss":
                decay = 0.5 * self._decay * (points * points).sum(-1)
                return self._pick(self._loss, points, every) + decay[:, None]
            if name == "gradient":
                slope = self._pick(self._slope, points, every)[..., None]
                return slope * self._x + self._decay * points[:, None]
            outer = self._x[:, :, None] * self._x[:, None, :]
            identity = self._namespace.eye(self._dim, dtype=outer.dtype)
            return self._pick(self._curvature, points, every)[..., None, None] * outer + self._decay * identity

        return self._batched(values, x, int(np.prod(shape)), shape)


def _expression(loss) -> sp.Expr:
    if isinstance(loss, str) and loss.isidentifier() and not keyword.iskeyword(loss) and loss not in ("p", "y"):
        _checks.choice("loss (or an expression in p and y)", loss, list(_LOSSES))
    result = parse(loss, {"p": _P, "y": _Y}, "loss")
    if _P not in result.free_symbols:
        raise ValueError(f"loss must depend on the prediction p, got {result}; without p it has no gradient")
    return result
