"""Weak Euler: Euler–Maruyama with ξ_i = ±1, equally likely, in place of a normal: the same weak order at a fraction of
the noise's cost. Single paths and tails mean nothing."""

from ._euler_maruyama import EULER_MARUYAMA
from ._scheme import Scheme

WEAK_EULER = Scheme(
    name="weak_euler",
    weak_order=1.0,
    measure_order=1.0,
    noise=("constant", "diagonal", "general"),
    increments="two_point",
    source="Kloeden & Platen (1992), §14.1",
    lanes=lambda model: EULER_MARUYAMA.lanes(model),
)
