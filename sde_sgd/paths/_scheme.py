"""What a time-stepping scheme declares; the documentation and the tests of convergence read these facts."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """A one-step scheme of dx = b dt + √(2T D) dW.

    Orders are in the step h: `strong_order` for general and `strong_order_additive` for constant noise,
    `weak_order` for expectations, `measure_order` for the steady density. `normals` per step and dimension.
    `update(i)` is the lane code of component i's new value from x, b, h and the noise n.
    """

    name: str
    strong_order: float
    strong_order_additive: float
    weak_order: float
    measure_order: float
    noise: tuple[str, ...]
    normals: int
    source: str
    update: Callable[[int], str]
