"""What a time-stepping scheme declares; the checks, the documentation and the tests of convergence read these facts."""

from collections.abc import Callable
from dataclasses import dataclass

from ._model import Model


@dataclass(frozen=True)
class Scheme:
    """A one-step scheme of dx = b dt + √(2T D) dW.

    Orders are in the step h: `strong_order` of a path on given noise (for `noise` other than constant; None where it
    has no meaning) and `strong_order_additive` for constant D, `weak_order` of expectations at a fixed time,
    `measure_order` of the steady density, under `condition`. `noise` are the kinds of D it takes: constant, diagonal
    (D_ii a function of x_i alone), general. `increments` are normal, two_point or three_point, `normals` of them per
    step and dimension; `drifts` evaluations of b per step.

    `lanes(model)` are the lane lines that give y0… from x0…, h, T, T_end, root = √(2Th) and z0…. With `lookahead`
    z0… are of the next step and w0… of this one. `loops(model)` are step lines before them, `begin(model)` lines once
    per chunk, `scratch(model)` the rows these use.
    """

    name: str
    weak_order: float
    measure_order: float
    noise: tuple[str, ...]
    source: str
    lanes: Callable[[Model], list[str]]
    strong_order: float | None = None
    strong_order_additive: float | None = None
    condition: str = "any drift"
    increments: str = "normal"
    normals: int = 1
    drifts: int = 1
    lookahead: bool = False
    underdamped: bool = False
    scratch: Callable[[Model], tuple[str, ...]] = lambda model: ()
    begin: Callable[[Model], list[str]] = lambda model: []
    loops: Callable[[Model], list[str]] = lambda model: model.sweep()
