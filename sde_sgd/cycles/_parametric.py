"""A field that depends on a number λ: values, ∂v/∂x and ∂v/∂λ at points (n, d) with λ (n,)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.landscapes._codegen import derivative
from sde_sgd.landscapes._evaluator import Field as Expressions
from sde_sgd.landscapes._landscape import Landscape

from ._field import Field, as_field


@dataclass(frozen=True)
class Parametric:
    """ẋ = v(x; λ) for λ between `low` and `high`: `value` (n, d), `jacobian` (n, d, d + 1), its last column ∂v/∂λ."""

    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    jacobian: Callable[[np.ndarray, np.ndarray], np.ndarray]
    domain: Domain
    parameter: str
    low: float
    high: float
    at: Callable[[float], Field]


def parametric(system: Any, parameter: str, bounds: Any, box: Any, temperature: float | None) -> Parametric:
    """From a landscape and the name of a parameter, or a function λ ↦ field."""
    low, high = (float(b) for b in _checks.finite_array("bounds", bounds, (2,)))
    if not low < high:
        raise ValueError(f"bounds of {parameter} need lower < upper, got ({low:g}, {high:g})")
    if isinstance(system, Landscape):
        if parameter not in system.parameters:
            system.with_parameters(**{parameter: low})  # which says what there is

        def at(value: float) -> Field:
            return as_field(system.with_parameters(**{parameter: value}), box, temperature=temperature)

        if type(system)._group is Landscape._group:
            return _symbolic(system, parameter, low, high, at, temperature)
    elif callable(system):
        if temperature is not None:
            raise ValueError("temperature: a function of the parameter has its own; leave temperature out")

        def at(value: float) -> Field:
            return as_field(system(value), box)
    else:
        raise ValueError(f"system must be a Landscape or a function of {parameter}, got {type(system).__name__}")
    return _by_differences(at, parameter, low, high)


def _symbolic(
    landscape: Landscape, parameter: str, low: float, high: float, at: Callable, temperature: float | None
) -> Parametric:
    """Everything differentiated in closed form, compiled once for all values of the parameter."""
    symbols = landscape._parameter_symbols()
    symbol = next(s for s in symbols if s.name == parameter)
    d, fixed = landscape.dim, {s: v for s, v in symbols.items() if s is not symbol}
    rates = landscape._group("drift")[0]

    def groups(name: str):
        if name == "drift":
            return rates, (d,)
        along = [*landscape.symbols, symbol]
        return [derivative(rate, s, "drift") for rate in rates for s in along], (d, d + 1)

    compiled = Expressions(np, [*landscape.symbols, symbol], fixed, groups)
    heat = landscape.default_temperature if temperature is None else _checks.positive("temperature", temperature)

    def evaluate(name: str, x: np.ndarray, value: np.ndarray) -> np.ndarray:
        return compiled(name, np.concatenate([x, value[:, None]], axis=1), heat)

    return Parametric(
        lambda x, value: evaluate("drift", x, value),
        lambda x, value: evaluate("jacobian", x, value),
        at(low).domain,
        parameter,
        low,
        high,
        at,
    )


def _by_differences(at: Callable[[float], Field], parameter: str, low: float, high: float) -> Parametric:
    """∂v/∂λ by central differences of fourth order, of step 1e-4 of the bounds; one field per value that is met."""
    step = 1e-4 * (high - low)
    recent: dict[float, Field] = {}

    def field(value: float) -> Field:
        if value not in recent:
            if len(recent) > 64:
                recent.clear()
            recent[value] = at(value)
        return recent[value]

    def each(x: np.ndarray, values: np.ndarray, function: Callable[[Field, np.ndarray], np.ndarray], shape: tuple):
        result = np.empty((len(x), *shape))
        for value in np.unique(values):
            rows = values == value
            result[rows] = function(field(float(value)), x[rows])
        return result

    def value(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        return each(x, values, lambda f, p: f.value(p), x.shape[1:])

    def jacobian(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        d = x.shape[1]
        inner = each(x, values, lambda f, p: f.jacobian(p), (d, d))
        near = value(x, values + step) - value(x, values - step)
        far = value(x, values + 2 * step) - value(x, values - 2 * step)
        return np.concatenate([inner, ((8 * near - far) / (12 * step))[..., None]], axis=-1)

    return Parametric(value, jacobian, at(low).domain, parameter, low, high, at)
