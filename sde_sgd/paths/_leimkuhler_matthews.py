"""Leimkuhler–Matthews: x' = x + h b(x) + √(2T h) L (ξ_n + ξ_{n+1})/2: the cost of Euler–Maruyama, and a steady density
of second order where the process is reversible with constant D. Its transient is of first order."""

from ._model import Model
from ._scheme import Scheme


def _lanes(model: Model) -> list[str]:
    half = model.number(0.5)
    return [
        *model.evaluate,
        *model.each(f"m{{i}} = {half} * (w{{i}} + z{{i}})"),
        *model.noise(normals="m"),
        *model.each("y{i} = x{i} + h * b{i} + n{i}"),
    ]


LEIMKUHLER_MATTHEWS = Scheme(
    name="leimkuhler_matthews",
    weak_order=1.0,
    measure_order=2.0,
    noise=("constant",),
    condition="reversible: b = −D∇Φ",
    source="Leimkuhler & Matthews (2013)",
    lanes=_lanes,
    lookahead=True,
)
