"""Linear drift and constant noise in any number of variables: the Ornstein–Uhlenbeck process as a landscape."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from sde_sgd import _checks

from ._evaluator import Evaluator
from ._landscape import Landscape
from ._lanes import UNROLLED, LaneCode, RowCode


class LinearLandscape(Landscape):
    r"""dx = −F(x − c) dt + √(2T D) dW with constant D, in any number of variables.

    The loss is f = ½ (x−c)ᵀ H (x−c) with H = (F + Fᵀ)/2, the circulation −A(x−c) with A = (F − Fᵀ)/2. Where F is
    stable (every eigenvalue has a positive real part), Φ = ½ (x−c)ᵀ Σ⁻¹ (x−c) with FΣ + ΣFᵀ = 2D, at every T, and
    TΣ is the stationary covariance (Kwon, Ao & Thouless 2005).

    Parameters
    ----------
    F : (d, d), finite; a number for d = 1. It need not be symmetric, nor stable.
    diffusion : (d, d), symmetric and positive semi-definite; None is the identity; a number for d = 1.
    center : c, (d,); None is the origin.
    variables : d names; default x0, x1, …
    domain, name : as in `Landscape`; no periodic axis, on which the drift would jump.

    Raises ValueError naming what is wrong. It has no symbolic parameters: make another one instead.
    """

    def __init__(self, F, diffusion=None, *, center=None, variables=None, domain=None, name=None):
        matrix = _square("F", F)
        d = len(matrix)
        if variables is None:
            variables = [f"x{i}" for i in range(d)]
        self._set_symbols(variables, None, domain, name or "linear")
        if self.dim != d:
            raise ValueError(f"variables must have one name per row of F: {d}, got {self.dim}")
        if any(self.domain.periodic):
            axis = self.variables[self.domain.periodic.index(True)]
            raise ValueError(f"a linear drift jumps where the axis {axis!r} closes; leave 'periodic' out of its domain")
        noise = np.eye(d) if diffusion is None else _square("diffusion", diffusion, d)
        gap = np.abs(noise - noise.T)
        if gap.max() > 1e-10 * np.abs(noise).max():
            i, j = np.unravel_index(gap.argmax(), gap.shape)
            raise ValueError(
                f"diffusion is not symmetric: entry [{i}][{j}] is {noise[i, j]:g}, [{j}][{i}] is {noise[j, i]:g}; "
                "D is a covariance"
            )
        noise = 0.5 * (noise + noise.T)
        _checks.semidefinite("diffusion", noise)
        self._f, self._d = matrix, noise
        self._c = np.zeros(d) if center is None else np.atleast_1d(_checks.finite_array("center", center))
        if self._c.shape != (d,):
            raise ValueError(f"center must have shape ({d},), got {self._c.shape}")
        self._freeze()

    def _freeze(self) -> None:
        for array in (self._f, self._d, self._c):
            array.flags.writeable = False  # the definition is fixed

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._freeze()  # pickling forgets it

    @property
    def F(self) -> np.ndarray:
        """The matrix F (d, d) of the drift −F(x − c), read-only."""
        return self._f

    @property
    def center(self) -> np.ndarray:
        """c (d,), read-only."""
        return self._c

    def _check_diffusion(self) -> None:
        """There is no parameter to change."""

    def constant_diffusion(self) -> np.ndarray:
        """D (d, d)."""
        return self._d.copy()

    def _precision(self) -> np.ndarray | None:
        """Σ⁻¹ with FΣ + ΣFᵀ = 2D; None where F is not stable or Σ is singular (there is no density then)."""
        if "precision" not in self._cache:
            precision = None
            if np.linalg.eigvals(self._f).real.min() > 0:
                sigma = scipy.linalg.solve_continuous_lyapunov(self._f, 2 * self._d)
                values, vectors = np.linalg.eigh(0.5 * (sigma + sigma.T))
                if values[0] > 1e-13 * values[-1]:
                    precision = (vectors / values) @ vectors.T
            self._cache["precision"] = precision
        return self._cache["precision"]

    def potential(self, x, temperature: float | None = None) -> np.ndarray | None:
        """Φ(x) = ½ (x−c)ᵀ Σ⁻¹ (x−c), the same at every T: (..., d) → (...); None without a stationary density."""
        if self._precision() is None:
            return None
        return self.evaluator().potential(self._points(x))

    def _potential_gradient(self, x: np.ndarray, temperature: float) -> np.ndarray | None:
        precision = self._precision()
        return None if precision is None else (x - self._c) @ precision

    def q(self, x, temperature: float | None = None) -> np.ndarray | None:
        """In two variables the constant q = (FΣ − D)₁₂ of Q = q[[0, 1], [−1, 0]]: (..., 2) → (...); else None."""
        x, precision = self._points(x), self._precision()
        if self.dim != 2 or precision is None:
            return None
        return np.full(x.shape[:-1], (self._f @ np.linalg.inv(precision) - self._d)[0, 1])

    def known_fixed_points(self, temperature: float | None = None) -> np.ndarray:
        """The center, (1, d)."""
        return self._c[None].copy()

    def equilibrium_potential(self) -> Callable | None:
        """x ↦ ½ (x−c)ᵀ D⁻¹F (x−c) where D is definite and FD is symmetric in every digit (then j = 0), else None."""
        product = self._f @ self._d
        if not np.array_equal(product, product.T) or np.linalg.eigvalsh(self._d)[0] <= 1e-13 * np.trace(self._d):
            return None
        precision = np.linalg.solve(self._d, self._f)
        return lambda x: _form(np, self._points(x) - self._c, 0.5 * (precision + precision.T))

    def latex(self) -> dict[str, str]:
        """LaTeX of the definition; c is the center."""
        return {
            "loss": r"\tfrac{1}{2}(x-c)^\top \tfrac{F+F^\top}{2} (x-c)",
            "gradient": r"\tfrac{F+F^\top}{2}(x-c)",
            "circulation": r"-\tfrac{F-F^\top}{2}(x-c)",
            "diffusion": "D",
        }

    def _build_evaluator(self, namespace) -> "_Evaluator":
        return _Evaluator(namespace, self._f, self._d, self._c, self._precision)

    def lane_code(self, real: str = "float64") -> LaneCode:
        """Code of the drift, F and c as parameters: per coordinate up to 16 variables, and with arrays for any."""
        d = self.dim
        lines: list[str] = []
        if d <= UNROLLED:
            lines = [f"u{i} = x{i} - p{d * d + i}" for i in range(d)]
            lines += [f"b{i} = -({' + '.join(f'p{i * d + j} * u{j}' for j in range(d))})" for i in range(d)]
        return LaneCode(
            dim=d,
            lines=tuple(lines),
            parameters=(*self._f.ravel().tolist(), *self._c.tolist()) if lines else (),
            constant_diffusion=self.constant_diffusion(),
            rows=RowCode("linear", (self._f, self._c)),
        )


class _Evaluator(Evaluator):
    """Products with F, H and Σ⁻¹ on arrays of numpy or torch."""

    def __init__(self, namespace, f: np.ndarray, d: np.ndarray, c: np.ndarray, precision: Callable):
        self._namespace = namespace
        own = (lambda a: a) if namespace is np else (lambda a: namespace.asarray(a.copy()))  # torch wants to write
        self._f, self._h, self._d, self._c = own(f), own(0.5 * (f + f.T)), own(d), own(c)
        self._precision = lambda: own(precision())

    def _everywhere(self, matrix, x):
        """The constant matrix at every point, NaN where a coordinate is."""
        return matrix + (0.0 * x.sum(-1))[..., None, None]

    def loss(self, x):
        return _form(self._namespace, x - self._c, self._h)

    def gradient(self, x):
        return (x - self._c) @ self._h

    def hessian(self, x):
        return self._everywhere(self._h, x)

    def diffusion(self, x):
        return self._everywhere(self._d, x)

    def diffusion_divergence(self, x):
        return 0.0 * x

    def drift(self, x, temperature: float | None = None):
        return -((x - self._c) @ self._f.T)

    def jacobian(self, x, temperature: float | None = None):
        return self._everywhere(-self._f, x)

    def potential(self, x, temperature: float | None = None):
        return _form(self._namespace, x - self._c, self._precision())


def _form(namespace, u, matrix):
    """½ uᵀMu: (..., d) → (...), M symmetric."""
    return 0.5 * namespace.einsum("...i,...i->...", u, u @ matrix)


def _square(name: str, value, d: int | None = None) -> np.ndarray:
    """A fresh square matrix, d×d where d is given; a number counts as 1×1."""
    array: Sequence | np.ndarray = _checks.finite_array(name, value)
    matrix = np.ascontiguousarray(np.atleast_2d(array))
    size = len(matrix) if d is None else d
    if matrix.shape != (size, size) or not size:
        wanted = "(d, d)" if d is None else f"({d}, {d})"
        raise ValueError(f"{name} must be a matrix of shape {wanted}, got {np.shape(value)}")
    return matrix
