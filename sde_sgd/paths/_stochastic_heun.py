"""Stochastic Heun, constant D: x̂ = x + h b(x) + n, x' = x + (h/2)(b(x) + b(x̂)) + n, n = √(2T h) L ξ.

T of the noise is its mean over the step, so that schedules keep the second order.
"""

from ._model import Model
from ._scheme import Scheme


def _lanes(model: Model) -> list[str]:
    half = model.number(0.5)
    return [
        *model.evaluate,
        *model.noise("mean_root"),
        *model.each("k{i} = b{i}"),
        *model.each("x{i} = x{i} + h * b{i} + n{i}"),
        *_at_end(model.evaluate),
        *model.each("x{i} = X{i}[j]"),
        *model.each(f"y{{i}} = x{{i}} + {half} * h * (k{{i}} + b{{i}}) + n{{i}}"),
    ]


def _at_end(lines: list[str]) -> list[str]:
    """The same lines at the temperature of the step's end."""
    return ["T = T_end", *lines, "T = T_start"]


STOCHASTIC_HEUN = Scheme(
    name="stochastic_heun",
    strong_order_additive=1.0,
    weak_order=2.0,
    measure_order=2.0,
    noise=("constant",),
    drifts=2,
    source="Kloeden & Platen (1992), §15.1",
    lanes=_lanes,
)

WEAK_HEUN = Scheme(
    name="weak_heun",
    weak_order=2.0,
    measure_order=2.0,
    noise=("constant",),
    increments="three_point",
    drifts=2,
    source="Kloeden & Platen (1992), §14.2, three-point increments",
    lanes=_lanes,
)
