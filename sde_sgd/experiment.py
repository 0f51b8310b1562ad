"""Experiments: a name, settings with bounds, and a function that fills a `Study`; `sde-sgd run NAME` performs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from . import _checks
from .study import Study

GROUP = "sde_sgd.experiments"


@dataclass(frozen=True)
class Setting:
    """One setting: its default, whose type it keeps, what it is, and what is allowed.

    A tuple as default takes lists of the type of its entries. `low` and `high` bound numbers, or each of a list.
    """

    default: Any
    about: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def checked(self, name: str, value: Any) -> Any:
        """`value` in the type of the default; ValueError, naming it, where it is not allowed."""
        if isinstance(self.default, tuple):
            values = list(value) if isinstance(value, list | tuple) else [value]
            if not values:
                raise ValueError(f"{name} is empty; give at least one value")
            return [self._one(name, self.default[0], entry) for entry in values]
        return self._one(name, self.default, value)

    def _one(self, name: str, like: Any, value: Any) -> Any:
        if self.choices:
            return _checks.choice(name, value, self.choices)
        if isinstance(like, bool) or isinstance(value, bool):
            if not (isinstance(like, bool) and isinstance(value, bool)):
                wanted = "true or false" if isinstance(like, bool) else "a number"
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
            return value
        if isinstance(like, str):
            return _checks.instance(name, value, str)
        number = float(_checks.finite_array(name, value, ()))
        if isinstance(like, int):
            if not number.is_integer():
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            number = int(number)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            low, high = ("−∞" if self.low is None else f"{self.low:g}", "∞" if self.high is None else f"{self.high:g}")
            raise ValueError(f"{name} must be from {low} to {high}, got {value!r}")
        return number


@dataclass(frozen=True)
class Experiment:
    """What `sde-sgd run` performs.

    Parameters
    ----------
    title : of the report.
    perform : Study → nothing: stages that are kept, sections with figures and verdicts. Its docstring is the summary.
    settings : by name. quick : those that the two-minute form sets otherwise.
    check : further conditions between resolved settings; raises ValueError.
    """

    title: str
    perform: Callable[[Study], None]
    settings: Mapping[str, Setting]
    quick: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], None] | None = None

    def resolve(self, given: Mapping[str, Any], quick: bool = False) -> dict[str, Any]:
        """Every setting: the one given, else that of the quick form if asked for, else the default."""
        for name in given:
            if name not in self.settings:
                raise ValueError(f"there is no setting {name!r}{_checks.nearest(name, list(self.settings))}")
        asked = {**(self.quick if quick else {}), **given}
        resolved = {
            name: setting.checked(name, asked.get(name, setting.default)) for name, setting in self.settings.items()
        }
        if self.check is not None:
            self.check(resolved)
        return resolved


def registered() -> dict[str, EntryPoint]:
    """The installed experiments, by name, none of them loaded."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def get(name: str) -> Experiment:
    """The experiment of that name; ValueError for an unknown one."""
    known = registered()
    return _checks.instance(name, known[_checks.choice("experiment", name, list(known))].load(), Experiment)
