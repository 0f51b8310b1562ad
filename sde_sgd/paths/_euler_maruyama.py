"""Euler–Maruyama: x' = x + h b(x) + √(2T h) L(x) ξ with L Lᵀ = D, ξ ~ N(0, I)."""

from ._scheme import Scheme


def _update(i: int) -> str:
    return f"x{i} + h * b{i} + n{i}"


EULER_MARUYAMA = Scheme(
    name="euler_maruyama",
    strong_order=0.5,
    strong_order_additive=1.0,
    weak_order=1.0,
    measure_order=1.0,
    noise=("constant", "general"),
    normals=1,
    source="Maruyama (1955)",
    update=_update,
)
