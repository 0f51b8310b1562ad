"""Landscapes with a name: toy losses whose answers are known, and a real data set."""

import inspect
from collections.abc import Callable

from sde_sgd import _checks

from ._entries_driven import example_19, hopf, quadratic, ring, sheared_double_well
from ._entries_equilibrium import (
    bumpy_valley,
    double_well,
    himmelblau,
    mueller_brown,
    multiplicative_well,
    rosenbrock,
    saddle,
    sharp_flat,
)
from ._entries_finite_sums import neuron, neuron_two_inputs, pearson, scale_invariant, spiral
from ._landscape import Landscape

_ENTRIES: dict[str, Callable[..., Landscape]] = {
    entry.__name__: entry
    for entry in (
        *(quadratic, double_well, example_19, sheared_double_well, spiral, ring, hopf, pearson, multiplicative_well),
        *(mueller_brown, himmelblau, rosenbrock, scale_invariant, sharp_flat, bumpy_valley, saddle),
        *(neuron, neuron_two_inputs),
    )
}


def catalogue() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_ENTRIES)


def get(name: str, **parameters) -> Landscape:
    """The named landscape; `parameters` are those of its entry, e.g. ``get("spiral", kappa=2.0)``.

    Raises ValueError with the nearest name, or with the parameters the entry has.
    """
    entry = _ENTRIES[_checks.choice("landscape", name, catalogue())]
    known = list(inspect.signature(entry).parameters)
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"{name} has no parameter {parameter!r}{_checks.nearest(parameter, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    return entry(**parameters)


def describe(name: str) -> str:
    """The entry's own paragraph."""
    return inspect.getdoc(_ENTRIES[_checks.choice("landscape", name, catalogue())]) or ""
