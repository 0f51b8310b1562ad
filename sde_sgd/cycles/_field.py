"""Any of the ways to give a vector field, as one: values and Jacobian at points (n, d), a box, periodic axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.interpolate import NdBSpline, make_interp_spline

from sde_sgd import _checks
from sde_sgd._domain import Domain
from sde_sgd.landscapes._landscape import Landscape
from sde_sgd.process import Process, Underdamped, _FunctionModel

STEP = 3e-4  # of the box: a difference of fourth order balances h⁴ against ε/h


@dataclass(frozen=True)
class Field:
    """ẋ = v(x) in a box: `value` and `jacobian` of points (n, d), (n, d) and (n, d, d).

    `sampled`: v interpolates values on a grid, so that it is what was meant only up to the error of those.
    """

    value: Callable[[np.ndarray], np.ndarray]
    jacobian: Callable[[np.ndarray], np.ndarray]
    domain: Domain
    sampled: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        return self.domain.variables

    @property
    def dim(self) -> int:
        return len(self.domain.variables)

    @property
    def lower(self) -> np.ndarray:
        return self.domain.lower

    @property
    def upper(self) -> np.ndarray:
        return self.domain.upper

    @property
    def size(self) -> float:
        """The diagonal of the box, the unit of every length below."""
        return float(np.linalg.norm(self.upper - self.lower))

    def gap(self, difference: np.ndarray) -> np.ndarray:
        """A difference of points (..., d), the shorter way round on periodic axes."""
        period = self.domain.period
        wraps = np.isfinite(period)
        turns = np.round(difference / np.where(wraps, period, 1.0))
        return difference - np.where(wraps, turns * np.where(wraps, period, 1.0), 0.0)

    def inside(self, x: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """True where x (..., d) is in the box, widened on every side by `margin` box widths."""
        reach = margin * (self.upper - self.lower)
        within = (x >= self.lower - reach) & (x <= self.upper + reach)
        return (within | np.isfinite(self.domain.period)).all(-1)

    def scaled(self) -> "Field":
        """The same field in units of the box, u = (x − lower)/(upper − lower), so that lengths can be compared."""
        low, width = self.lower, self.upper - self.lower
        spec = {
            name: (0.0, 1.0, "periodic") if wraps else (0.0, 1.0)
            for name, wraps in zip(self.variables, self.domain.periodic)
        }
        return Field(
            lambda u: self.value(low + u * width) / width,
            lambda u: self.jacobian(low + u * width) * (width / width[:, None]),
            Domain.parse(spec, self.variables),
            self.sampled,
        )

    def wrap(self, x: np.ndarray) -> np.ndarray:
        """Points brought back into the box along periodic axes."""
        period = self.domain.period
        wraps = np.isfinite(period)
        length = np.where(wraps, period, 1.0)
        return np.where(wraps, self.lower + np.mod(x - self.lower, length), x)


def as_field(field: Any, box: Any, variables: Sequence[str] | None = None, temperature: float | None = None) -> Field:
    """A `Field` of a Process or Landscape (its drift), a function (..., d) → (..., d), or values on a grid."""
    if isinstance(field, Field):
        return field
    if isinstance(field, xr.DataArray):
        _none(temperature=temperature, variables=variables)
        return _of_grid(field, box)
    if isinstance(field, Process):
        _none(temperature=temperature, variables=variables)
        return _of_process(field, box)
    if isinstance(field, Landscape):
        _none(variables=variables)
        return _of_landscape(field, box, temperature)
    if callable(field):
        _none(temperature=temperature)
        return _of_function(field, box, variables)
    raise ValueError(
        "the field must be a Process, a Landscape, a function (..., d) → (..., d), or a DataArray over a grid with "
        f"the last dimension component, got {type(field).__name__}"
    )


def _none(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: the field given has its own; leave {name} out")


def box_domain(box: Any, known: Domain) -> Domain:
    """The box as a finite domain; None takes the field's own. A whole periodic axis of it stays periodic."""
    if box is None:
        result = known
    else:
        entries = _checks.sequence("box", box, len(known.variables), "pairs (lower, upper), one per variable")
        spec = {}
        for name, entry, bounds, wraps in zip(known.variables, entries, known.bounds, known.periodic):
            low, high = _checks.finite_array(f"box of {name!r}", entry, (2,))
            if not low < high:
                raise ValueError(f"box of {name!r} needs lower < upper, got ({low:g}, {high:g})")
            if wraps and not np.allclose((low, high), bounds, rtol=1e-12):
                raise ValueError(
                    f"{name!r} is periodic on ({bounds[0]:g}, {bounds[1]:g}); a box must take all of it, got "
                    f"({low:g}, {high:g})"
                )
            spec[name] = (float(low), float(high), "periodic") if wraps else (float(low), float(high))
        result = Domain.parse(spec, known.variables)
    if not np.isfinite(result.upper - result.lower).all():
        raise ValueError("the field has no finite domain; pass box=((lower, upper), …), one pair per variable")
    return result


def _of_process(process: Process, box) -> Field:
    domain = box_domain(box, process.domain)
    if isinstance(process, Underdamped) or isinstance(process.landscape, _FunctionModel):
        return Field(process.drift, differences(process.drift, domain), domain)
    evaluator, temperature = process.evaluator(), process.constant_temperature
    return Field(lambda x: evaluator.drift(x, temperature), lambda x: evaluator.jacobian(x, temperature), domain)


def _of_landscape(landscape: Landscape, box, temperature) -> Field:
    domain, evaluator = box_domain(box, landscape.domain), landscape.evaluator()
    heat = landscape.default_temperature if temperature is None else _checks.positive("temperature", temperature)
    field = Field(lambda x: evaluator.drift(x, heat), lambda x: evaluator.jacobian(x, heat), domain)
    field.value(0.5 * (domain.lower + domain.upper)[None])  # a missing temperature is said here
    return field


def _of_function(function: Callable, box, variables) -> Field:
    if box is None:
        raise ValueError("a function has no domain; pass box=((lower, upper), …), one pair per variable")
    dim = len(box) if hasattr(box, "__len__") else 0
    if not dim:
        raise ValueError(f"box must be pairs (lower, upper), one per variable, got {box!r}")
    names = tuple(variables) if variables is not None else ("x", "y", "z")[:dim]
    if variables is None and dim > 3:
        names = tuple(f"x{i}" for i in range(dim))
    domain = Domain.parse(box, names) if len(names) == dim else None
    if domain is None:
        raise ValueError(f"variables must have one name per pair of the box: {dim}, got {len(names)}")
    if not np.isfinite(domain.upper - domain.lower).all():
        raise ValueError("the box must be finite on every side")

    def value(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(x), float)

    points = np.stack([domain.lower, 0.4 * domain.lower + 0.6 * domain.upper, domain.upper])
    shape = value(points).shape
    if shape != points.shape:
        raise ValueError(
            f"the field must be a function (..., d) → (..., d): for points of shape {points.shape} it gave {shape}"
        )
    return Field(value, differences(value, domain), domain)


def differences(value: Callable, domain: Domain) -> Callable:
    """∂v_i/∂x_j by central differences of fourth order, of step 3e-4 of the box."""
    steps = STEP * (domain.upper - domain.lower)
    if not np.isfinite(steps).all():
        raise ValueError("a Jacobian by differences needs a finite box; pass box=((lower, upper), …)")
    d = len(steps)
    offsets = np.concatenate([k * np.diag(steps) for k in (1, -1, 2, -2)])  # (4d, d)

    def jacobian(x: np.ndarray) -> np.ndarray:
        v = value(x[..., None, :] + offsets).reshape(*x.shape[:-1], 4, d, d)  # (…, shift, j, i)
        near, far = v[..., 0, :, :] - v[..., 1, :, :], v[..., 2, :, :] - v[..., 3, :, :]
        return np.swapaxes((8 * near - far) / (12 * steps[:, None]), -1, -2)

    return jacobian


def _of_grid(values: xr.DataArray, box) -> Field:
    """The cubic spline through the values; NaN beyond the outermost ones."""
    if not values.dims or values.dims[-1] != "component":
        raise ValueError(f"a field on a grid has the last dimension component, got {values.dims}")
    names = tuple(str(d) for d in values.dims[:-1])
    if values.sizes["component"] != len(names) or not names:
        raise ValueError(f"the field over {', '.join(names)} must have {len(names)} components, one per variable")
    table = _checks.finite_array("the field", values.to_numpy())
    given = [()] * len(names) if box is None else _checks.sequence("box", box, len(names), "pairs, one per variable")
    knots, spec = [], {}
    for i, (name, entry) in enumerate(zip(names, given)):
        axis = _checks.finite_array(f"coordinate {name}", values[name])
        steps = np.diff(axis)
        if len(axis) < 4 or not np.all(steps > 0):
            raise ValueError(f"{name} needs at least 4 ascending coordinates for a cubic spline, got {len(axis)}")
        if not hasattr(entry, "__len__"):
            raise ValueError(f"box must be pairs (lower, upper), one per variable, got {box!r}")
        wraps = len(entry) == 3 and entry[2] == "periodic"
        if wraps:
            period = float(entry[1]) - float(entry[0])
            if not np.isclose(period, len(axis) * steps.mean(), rtol=1e-9):
                own = len(axis) * steps.mean()
                raise ValueError(
                    f"the {len(axis)} values along {name} close after {own:g}, not after the box's {period:g}"
                )
            axis = np.append(axis, axis[0] + period)
            table = np.concatenate([table, np.take(table, [0], axis=i)], axis=i)
        spline = make_interp_spline(axis, table, 3, axis=i, bc_type="periodic" if wraps else None)
        table = np.moveaxis(spline.c, 0, i)  # coefficients lie along the first axis
        knots.append(spline.t)
        spec[name] = (float(axis[0]), float(axis[-1]), "periodic") if wraps else (float(axis[0]), float(axis[-1]))
    own = Domain.parse(spec, names)
    pairs = None if box is None else [own.bounds[i] if p else given[i] for i, p in enumerate(own.periodic)]
    domain = box_domain(pairs, own)
    if (domain.lower < own.lower - 1e-12).any() or (domain.upper > own.upper + 1e-12).any():
        raise ValueError(f"the box reaches beyond the values, which span {own.bounds}; make it smaller")
    spline = NdBSpline(tuple(knots), table, (3,) * len(names), extrapolate=False)
    wrap = Field(spline, spline, own).wrap
    first = np.eye(len(names), dtype=int)

    def jacobian(x: np.ndarray) -> np.ndarray:
        return np.stack([spline(wrap(x), nu=nu) for nu in first], -1)

    return Field(lambda x: spline(wrap(x)), jacobian, domain, sampled=True)
