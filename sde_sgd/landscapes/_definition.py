"""The names and numbers a landscape is made of: variables, parameters, domain; and how it is copied and pickled."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import sympy as sp

from sde_sgd import _checks
from sde_sgd._domain import Domain

from ._names import check_names


class Definition:
    """Variables, parameters, domain and name. A copy with other parameters keeps every symbol, so all code stays."""

    variables: tuple[str, ...]
    domain: Domain
    name: str
    _parameters: dict[str, float]
    _symbols: dict[str, sp.Symbol]
    _cache: dict[str, Any]
    # Parameter → why it must be > 0, or >= 0.
    _positive: Mapping[str, str] = MappingProxyType({})
    _not_negative: Mapping[str, str] = MappingProxyType({})

    def _set_symbols(self, variables, parameters, domain, name) -> None:
        names = check_names("variable", [variables] if isinstance(variables, str | sp.Symbol) else variables)
        if not names:
            raise ValueError("variables is empty; give at least one name")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise ValueError(f"parameters must be a mapping from name to number, got {type(parameters).__name__}")
        values = dict(zip(check_names("parameter", parameters or {}, taken=names), (parameters or {}).values()))
        self.variables = tuple(names)
        self._parameters = {k: float(_checks.finite_array(f"parameter {k}", v, ())) for k, v in values.items()}
        self.domain = Domain.parse(domain, self.variables)
        self.name = name or type(self).__name__.lower()
        self._symbols = {n: sp.Symbol(n, real=True) for n in (*names, *self._parameters)}
        self._cache = {}

    @property
    def parameters(self) -> Mapping[str, float]:
        """The values of the parameters; `with_parameters` makes a landscape with others."""
        return MappingProxyType(self._parameters)

    @property
    def dim(self) -> int:
        return len(self.variables)

    @property
    def symbols(self) -> tuple[sp.Symbol, ...]:
        """The variables as SymPy symbols."""
        return tuple(self._symbols[v] for v in self.variables)

    def _known(self) -> dict[str, sp.Symbol]:
        return dict(self._symbols)

    def _parameter_symbols(self) -> dict[sp.Symbol, float]:
        return {self._symbols[k]: v for k, v in self._parameters.items()}

    def with_parameters(self, **values: float) -> Self:
        """The same landscape with some parameters changed; path kernels are not recompiled."""
        unknown = [k for k in values if k not in self.parameters]
        if unknown:
            raise ValueError(
                f"{self.name} has no parameter {unknown[0]!r}"
                f"{_checks.nearest(unknown[0], list(self.parameters))}; "
                f"it has: {', '.join(self.parameters) or 'none'}"
            )
        other = object.__new__(type(self))
        other.__dict__ |= self.__getstate__()
        other._cache = {}
        changed = {k: float(_checks.finite_array(f"parameter {k}", v, ())) for k, v in values.items()}
        other._parameters = self._parameters | changed
        other._check_diffusion()
        other._check_parameters()
        return other

    def _check_parameters(self) -> None:
        """Signs without which what the landscape says of itself is untrue; again whenever a parameter changes."""
        for name, why in self._positive.items():
            _checks.positive(name, self._parameters[name], why)
        for name, why in self._not_negative.items():
            _checks.not_negative(name, self._parameters[name], why)

    def _check_diffusion(self) -> None:
        """Faults of D that another value of a parameter may bring."""

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_cache"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._cache = {}

    def __repr__(self) -> str:
        settings = "".join(f", {k}={v:g}" for k, v in self.parameters.items())
        kind = next(c.__name__ for c in type(self).__mro__ if not c.__name__.startswith("_"))
        return f"<{kind} {self.name}({', '.join(self.variables)}{settings})>"
