"""Milstein, diagonal noise: x_i' = x_i + h b_i + √(2T h D_ii) ξ_i + ½ T h D_ii'(x_i) (ξ_i² − 1).

The noise commutes where D is diagonal and D_ii depends on x_i alone; then no Lévy area is needed.
"""

import sympy as sp

from sde_sgd.landscapes._codegen import canonical, derivative, straight_line
from sde_sgd.landscapes._landscape import Landscape

from ._model import Model
from ._scheme import Scheme


def diagonal_derivatives(landscape: Landscape, real: str) -> tuple[str, ...] | None:
    """Lane lines of e_i = dD_ii/dx_i where D is diagonal and D_ii depends on x_i alone; else None."""
    matrix = getattr(landscape, "_diffusion", None)
    if not isinstance(matrix, sp.MatrixBase) or not matrix.is_diagonal():
        return None
    x = landscape.symbols
    if any(matrix[i, i].free_symbols & (set(x) - {x[i]}) for i in range(landscape.dim)):
        return None
    names = canonical(x, list(landscape._parameter_symbols()))
    outputs = {f"e{i}": derivative(matrix[i, i], x[i], "diffusion") for i in range(landscape.dim)}
    return tuple(straight_line(outputs, names, real))


def _lanes(model: Model) -> list[str]:
    correction = f"{model.number(0.5)} * T * h * e{{i}} * (z{{i}} * z{{i}} - {model.number(1)})"
    noise = model.evaluate + (model.each(f"e{{i}} = {model.number(0)}") if model.constant is not None else [])
    return [*noise, *model.extra, *model.noise(), *model.each(f"y{{i}} = x{{i}} + h * b{{i}} + n{{i}} + {correction}")]


MILSTEIN = Scheme(
    name="milstein",
    strong_order=1.0,
    strong_order_additive=1.0,
    weak_order=1.0,
    measure_order=1.0,
    noise=("constant", "diagonal"),
    source="Milstein (1974); Kloeden & Platen (1992), §10.3",
    lanes=_lanes,
)
