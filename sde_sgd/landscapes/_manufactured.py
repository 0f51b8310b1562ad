"""Landscapes made to measure: a drift whose steady state is given beforehand."""

from collections.abc import Callable

import numpy as np
import sympy as sp

from sde_sgd import _checks

from ._codegen import TEMPERATURE, derivative
from ._landscape import Landscape
from ._parser import parse

_TRIAL_TEMPERATURE = 0.7  # at which Q is tested, should it contain T


class ManufacturedLandscape(Landscape):
    r"""b = −(D + Q)∇Φ + T div(D + Q) with Q antisymmetric: e^{−Φ/T} is stationary at every T, by construction.

    The remainder is j = −Q∇Φ + T div Q, the current J = j e^{−Φ/T} = T div(Q e^{−Φ/T}), whose divergence is 0
    because Q is antisymmetric; (div M)_i = Σ_j ∂_j M_ij. Any Φ, D and Q will do, so that solvers can be tested on
    cases nobody chose.

    Parameters
    ----------
    variables : names or SymPy symbols.
    potential : Φ, an expression over variables and parameters, without T.
    diffusion : D as in `Landscape`, which may depend on x; None is the identity.
    q : the entries of Q, expressions that may contain T. In two variables the one entry of Q = q[[0, 1], [−1, 0]], in
        three q = (q23, q31, q12), so that Qv = v × q and J = T curl(q e^{−Φ/T}); in any number ≥ 2 the whole
        antisymmetric d×d matrix. None is Q = 0, detailed balance, and all there is in one variable.
    parameters, domain, name : as in `Landscape`.

    `loss` is Φ, and `circulation` the rest, b + ∇Φ: the drift is a gradient of nothing in general, so that no loss is
    nearer to it. `potential`, `remainder` and `q` are exact. The potential is used by solvers only where Q = 0
    (`equilibrium_potential`); elsewhere they see b and D alone.

    Walls: across a reflecting wall j must not flow, so that along every wall Q e^{−Φ/T} has to be constant (its
    entries with the normal, that is; in three variables their divergence along the wall has to vanish). Nothing is
    added to make it so. Where the box does not end far outside the mass, multiply q by a bump that vanishes on the
    walls, such as (1 − x²)²(1 − y²)² on [−1, 1]². Along a periodic axis Φ, D and Q must agree at both ends.

    Raises ValueError for D that is not symmetric (or, where it is constant, not positive semi-definite), for Q of
    another shape or not antisymmetric, for a potential with T, and for a jump at a periodic seam.
    Source: the form of the drift is that of Ao (2004), in the Itô convention: Chaudhari & Soatto (2018), Theorem 22.
    """

    def __init__(self, variables, potential, diffusion=None, q=None, *, parameters=None, domain=None, name=None):
        name = name or "manufactured"
        self._set_symbols(variables, parameters, domain, name)
        known = self._known()
        if "T" in {str(s) for s in parse(potential, known | {"T": TEMPERATURE}, "potential").free_symbols}:
            raise ValueError(
                "potential contains T, but Φ is also the loss of this landscape, which has no temperature; for one "
                "that changes with T make the landscape anew at each T"
            )
        super().__init__(
            variables,
            potential,
            diffusion=diffusion,
            parameters=parameters,
            potential=potential,
            domain=domain,
            name=name,
        )
        self._q_matrix = self._antisymmetric(q)
        if self.dim == 2:
            self._q = self._q_matrix[0, 1]
        x, d = self.symbols, self.dim
        slope = [derivative(self._loss, v, "potential") for v in x]

        def flow(matrix: sp.Matrix, what: str) -> list[sp.Expr]:
            """−M∇Φ + T div M."""
            pairs = [(i, j) for i in range(d) for j in range(d)]
            parts = {(i, j): TEMPERATURE * derivative(matrix[i, j], x[j], what) for i, j in pairs}
            return [sp.Add(*(parts[i, j] - matrix[i, j] * slope[j] for j in range(d))) for i in range(d)]

        self._j = flow(self._q_matrix, "q")
        self._drift = [a + b for a, b in zip(flow(self._diffusion, "diffusion"), self._j)]
        self._circulation = [b + g for b, g in zip(self._drift, slope)]
        self._cache = {}
        self._check_antisymmetry()
        self._check_seams()

    # -- definition ------------------------------------------------------------------------------------------

    def _antisymmetric(self, q) -> sp.Matrix:
        """Q from what was given for it."""
        d = self.dim
        known = self._known() | {"T": TEMPERATURE}
        if q is None:
            return sp.zeros(d, d)
        if d == 1:
            raise ValueError("q must be None in one variable: an antisymmetric 1×1 matrix is 0, there is no j")
        if isinstance(q, sp.MatrixBase | np.ndarray):
            q = q.tolist()
        if isinstance(q, str | sp.Expr) or not hasattr(q, "__len__"):
            if d != 2:
                wanted = "(q23, q31, q12) or the 3×3 matrix" if d == 3 else f"the {d}×{d} matrix"
                raise ValueError(f"q is one expression, which is all of Q in two variables; for {d} give {wanted}")
            entry = parse(q, known, "q")
            return sp.Matrix([[0, entry], [-entry, 0]])
        rows = list(q)
        if rows and all(isinstance(row, str | sp.Expr) or not hasattr(row, "__len__") for row in rows):
            if d != 3 or len(rows) != 3:
                wanted = {2: "one expression", 3: "three, (q23, q31, q12)"}.get(d, f"the {d}×{d} matrix")
                raise ValueError(f"q has {len(rows)} entries; for {d} variables give {wanted}")
            a, b, c = (parse(e, known, f"q[{i}]") for i, e in enumerate(rows))
            return sp.Matrix([[0, c, -b], [-c, 0, a], [b, -a, 0]])
        rows = _checks.sequence("q", rows, d, "rows, one per variable")
        rows = [_checks.sequence(f"q[{i}]", row, d, "entries") for i, row in enumerate(rows)]
        return sp.Matrix([[parse(e, known, f"q[{i}][{j}]") for j, e in enumerate(row)] for i, row in enumerate(rows)])

    def _sample(self) -> np.ndarray:
        """Points spread over the domain, or near the origin where it has no ends."""
        low = np.where(np.isfinite(self.domain.lower), self.domain.lower, np.minimum(-2.0, self.domain.upper - 4.0))
        high = np.where(np.isfinite(self.domain.upper), self.domain.upper, np.maximum(2.0, low + 4.0))
        return np.random.default_rng(0).uniform(low, high, (64, self.dim))

    def _check_antisymmetry(self) -> None:
        if self._q_matrix == -self._q_matrix.T:
            return
        points = self._sample()
        q = self.q_matrix(points, _TRIAL_TEMPERATURE)
        gap = np.abs(q + np.swapaxes(q, -1, -2)) > 1e-10 * np.abs(q).max((-1, -2), keepdims=True)
        if gap.any():
            k, i, j = np.argwhere(gap)[0]
            raise ValueError(
                f"q is not antisymmetric: at {tuple(points[k].round(3).tolist())} entry [{i}][{j}] is "
                f"{q[k, i, j]:g}, [{j}][{i}] is {q[k, j, i]:g}; without Q = −Qᵀ e^(−Φ/T) is not stationary"
            )

    def _check_seams(self) -> None:
        for axis in np.flatnonzero(self.domain.periodic):
            left, right = self._sample(), self._sample()
            left[:, axis], right[:, axis] = self.domain.lower[axis], self.domain.upper[axis]
            for what, function in (
                ("potential", self.loss),
                ("diffusion", self.diffusion),
                ("q", lambda x: self.q_matrix(x, _TRIAL_TEMPERATURE)),
            ):
                a, b = function(left), function(right)
                size = max(np.abs(values).max() for values in (a, b, function(self._sample())))
                if np.abs(a - b).max() > 1e-8 * size:
                    raise ValueError(
                        f"{what} jumps by {np.abs(a - b).max():g} where the periodic axis {self.variables[axis]!r} "
                        "closes; make it a function of that period"
                    )

    def _check_diffusion(self) -> None:
        super()._check_diffusion()
        if "_q_matrix" in self.__dict__:  # not yet made where the base class calls this first
            self._check_antisymmetry()
            self._check_seams()

    def _group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        return (self._drift, (self.dim,)) if name == "drift" else super()._group(name)

    def _exact_group(self, name: str) -> tuple[list[sp.Expr], tuple[int, ...]]:
        match name:
            case "remainder":
                return self._j, (self.dim,)
            case "matrix Q":
                return list(self._q_matrix), (self.dim, self.dim)
        return super()._exact_group(name)

    def latex(self) -> dict[str, str]:
        """LaTeX of the definition, with the remainder j, and Q where it is not one number."""
        parts = super().latex() | {"remainder": sp.latex(sp.Matrix(self._j))}
        return parts if self.dim <= 2 else parts | {"q": sp.latex(self._q_matrix)}

    # -- what is known exactly -------------------------------------------------------------------------------

    def remainder(self, x, temperature: float) -> np.ndarray:
        """j = −Q∇Φ + T div Q from Q itself, with no cancellation against D∇Φ: (..., d) → (..., d)."""
        return self._exact("remainder", self._points(x), _checks.positive("temperature", temperature))

    def q_matrix(self, x, temperature: float | None = None) -> np.ndarray:
        """Q(x): (..., d) → (..., d, d), antisymmetric; `temperature` where it contains T."""
        temperature = None if temperature is None else _checks.positive("temperature", temperature)
        return self._exact("matrix Q", self._points(x), temperature)

    def q(self, x, temperature: float | None = None) -> np.ndarray | None:
        """The entries of Q: in 2-D q₁₂, (..., 2) → (...); in 3-D (q23, q31, q12), (..., 3) → (..., 3); else None."""
        if self.dim not in (2, 3):
            return None
        matrix = self.q_matrix(x, temperature)
        if self.dim == 2:
            return matrix[..., 0, 1]
        return np.stack([matrix[..., 1, 2], matrix[..., 2, 0], matrix[..., 0, 1]], -1)

    def equilibrium_potential(self) -> Callable | None:
        """Φ where Q = 0, then b = −D∇Φ + T div D in every symbol; else None."""
        return self.loss if self._q_matrix.is_zero_matrix else None
