"""Which names a user may give to variables, parameters and data."""

import keyword
from collections.abc import Iterable

import sympy as sp

from ._parser import CONSTANTS, FUNCTIONS, normal_name

# Dimensions, coordinates and variables of the results: a landscape variable of the same name would hide them.
RESERVED = (
    *("time", "path", "replica", "component", "step", "T", "state", "variable", "block", "point", "mode", "cells"),
    *("loss", "kind", "eigenvalue", "log_ratio", "density", "density_error", "counts", "outside"),
    *("potential", "remainder", "current", "harmonic_current", "divergence_j", "j_dot_grad_potential"),
    *("stream_function", "q"),
    *("mean", "mean_error", "covariance", "covariance_error", "effective_samples", "variable_2"),
    *("lag", "lag_time", "lag_covariance", "lag_covariance_error"),
    *("potential_error", "potential_resampled", "resample", "smoothing_bias", "smoothing_bias_error", "visits"),
    *("conditional_loss", "conditional_loss_error"),
    *("winding", "angular_velocity", "angular_velocity_error"),
    *("first_passage", "passage_time", "passage_time_error", "survival", "survival_error", "survival_time", "censored"),
    *(
        f"{v}_bias{e}"
        for v in ("density", "mean", "covariance", "lag_covariance", "angular_velocity")
        for e in ("", "_error")
    ),
)


def check_names(kind: str, names: Iterable, taken: Iterable[str] = ()) -> list[str]:
    """The names as text, each an identifier, not reserved, and declared once; otherwise ValueError."""
    if not hasattr(names, "__iter__"):
        raise ValueError(f"{kind} names must be a sequence of names, got {names!r}")
    found: list[str] = []
    for given in names:
        word = (
            normal_name(given.name if isinstance(given, sp.Symbol) else given)
            if isinstance(given, str | sp.Symbol)
            else given
        )
        if not isinstance(word, str) or not word.isidentifier() or keyword.iskeyword(word):
            raise ValueError(f"{kind} {word!r} is not a name; use letters, digits and underscores")
        if word in RESERVED or word in FUNCTIONS or word in CONSTANTS or word.endswith("_bin"):
            raise ValueError(
                f"{kind} name {word!r} is reserved; reserved: "
                f"{', '.join([*RESERVED, *CONSTANTS, *FUNCTIONS])} and names ending in _bin"
            )
        if word in found or word in taken:
            raise ValueError(f"{word!r} is declared twice; every name stands for one thing")
        found.append(word)
    return found
