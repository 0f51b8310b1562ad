"""The claims: every `Claim` that a module of this folder holds at its top level. The module is the topic."""

import importlib
import pkgutil
from types import ModuleType

from sde_sgd.theory.claim import Claim


def of(module: ModuleType) -> dict[str, Claim]:
    """The claims that a module defines, in its order, by name."""
    found: dict[str, Claim] = {}
    for value in vars(module).values():
        if isinstance(value, Claim) and found.setdefault(value.name, value) is not value:
            raise ValueError(f"two claims of {module.__name__} are called {value.name!r}; a name stands for one claim")
    return found


TOPICS: dict[str, dict[str, Claim]] = {
    name: of(importlib.import_module(f"{__name__}.{name}"))
    for name in sorted(part.name for part in pkgutil.iter_modules(__path__) if not part.name.startswith("_"))
}
CLAIMS: dict[str, Claim] = {}
for _topic, _members in TOPICS.items():
    for _name, _claim in _members.items():
        if CLAIMS.setdefault(_name, _claim) is not _claim:
            raise ValueError(f"{_topic} has a claim {_name!r}, and so has another topic; a name stands for one claim")
