"""Three processes with a current, each on its box: what several topics measure."""

from functools import cache

import numpy as np

import sde_sgd as sde

_REACH = {"Example 19": 4.0, "six kicks": 3.7, "sheared well": 5.0}


@cache
def process_named(name: str) -> sde.Process:
    """The paper's own example, a finite sum with D(x), and a true loss with constant D and div j = 0."""
    if name == "Example 19":
        return sde.landscapes.get("example_19", circulation=0.5).at_temperature(1.0)
    if name == "sheared well":
        return sde.landscapes.get("sheared_double_well").at_temperature(0.3)
    kick = np.array([1.7, -1.7, 0, 0, 0, 0])
    return sde.FiniteSum(
        ("x", "y"),
        "(x**2 - 1)**2/4 + y**2/2 + x*y/4 + a*x + b*y + c*x*y",
        {"a": kick, "b": np.roll(kick, 2), "c": np.roll(kick, 4) * 0.7},
        name="six kicks",
    ).at_temperature(0.5)


def generator(name: str, cells: int) -> sde.FokkerPlanck:
    """On n² cells, between walls where hardly any density is."""
    reach = _REACH[name]
    return sde.FokkerPlanck(process_named(name), sde.Grid((-reach, -reach), (reach, reach), (cells, cells)))
