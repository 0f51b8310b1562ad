"""Euler–Maruyama: x' = x + h b(x) + √(2T h) L(x) ξ with L Lᵀ = D, ξ ~ N(0, I)."""

from ._model import Model
from ._scheme import Scheme


def _lanes(model: Model) -> list[str]:
    return [*model.evaluate, *model.noise(), *model.each("y{i} = x{i} + h * b{i} + n{i}")]


EULER_MARUYAMA = Scheme(
    name="euler_maruyama",
    strong_order=0.5,
    strong_order_additive=1.0,
    weak_order=1.0,
    measure_order=1.0,
    noise=("constant", "diagonal", "general"),
    source="Maruyama (1955)",
    lanes=_lanes,
)
