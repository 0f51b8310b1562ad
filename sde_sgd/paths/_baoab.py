"""BAOAB for dx = v dt, dv = −∇f dt − γ v dt + √(2γT D) dW: half a kick, half a drift, the exact friction-and-noise step
v ← e^{−γh} v + √(T(1 − e^{−2γh})) L ξ, half a drift, half a kick; the last force serves the next step.

It is taken where the next step begins, inside the domain: a run that begins there finds the same bits."""

from ._frame import wrap_rows
from ._model import Model
from ._scheme import Scheme


def _scratch(model: Model) -> tuple[str, ...]:
    return tuple(f"{kind}{i}" for kind in f"FQU{_end(model)}" for i in range(model.dim))


def _end(model: Model) -> str:
    """The rows of the positions at the step's end: those of Q, or on periodic axes a copy that is wrapped."""
    return "P" if any(model.periodic) else "Q"


def _begin(model: Model) -> list[str]:
    at = [*model.each("x{i} = X{i}[j]"), *model.evaluate, *model.each("F{i}[j] = b{i}")]
    return [*model.sweep(noisy=False), *model.over_lanes(at)]


def _loops(model: Model) -> list[str]:
    half = model.number(0.5)
    kick = [
        *model.each(f"U{{i}}[j] = X{{d+i}}[j] + {half} * h * F{{i}}[j]"),
        *model.each(f"Q{{i}}[j] = X{{i}}[j] + {half} * h * U{{i}}[j]"),
    ]
    middle = [
        *model.each("x{i} = Q{i}[j]"),
        *(model.evaluate if model.constant is None else []),
        *model.increments.values,
        *model.noise("kick"),
        *model.each("U{i}[j] = decay * U{i}[j] + n{i}"),
        *model.each(f"Q{{i}}[j] = Q{{i}}[j] + {half} * h * U{{i}}[j]"),
    ]
    noisy, end = model.sweep("Q") if model.constant is None else [], _end(model)
    if end == "P":
        middle += model.each("P{i}[j] = Q{i}[j]")
    wrap = wrap_rows(f"at_{end}0", model.periodic)
    return [*model.over_lanes(kick), *noisy, *model.over_lanes(middle), *wrap, *model.sweep(end, noisy=False)]


def _lanes(model: Model) -> list[str]:
    half = model.number(0.5)
    return [
        *model.each(f"x{{i}} = {_end(model)}{{i}}[j]"),
        "T = T_end",
        *model.evaluate,
        "T = T_start",
        *model.each("F{i}[j] = b{i}"),
        *model.each("y{i} = Q{i}[j]"),
        *model.each(f"y{{d+i}} = U{{i}}[j] + {half} * h * b{{i}}"),
        *model.each("x{i} = X{i}[j]"),
    ]


BAOAB = Scheme(
    name="baoab",
    weak_order=2.0,
    measure_order=2.0,
    noise=("constant", "general"),
    condition="underdamped; second order for constant D",
    source="Leimkuhler & Matthews (2013)",
    lanes=_lanes,
    underdamped=True,
    scratch=_scratch,
    begin=_begin,
    loops=_loops,
)
