"""Directives of the API pages, which read what a module declares public, so that they cannot fall behind.

``public`` documents every public name of a module; ``name-table`` lists the names of the top level with links.
"""

import importlib
import inspect
import types

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

HOMES = (
    "sde_sgd.landscapes", "sde_sgd.paths", "sde_sgd.fokker_planck", "sde_sgd.potential", "sde_sgd.cycles",
    "sde_sgd.jko", "sde_sgd.ornstein_uhlenbeck", "sde_sgd.discrete_sgd",
)  # fmt: skip


def setup(app):
    app.add_directive("public", Public)
    app.add_directive("name-table", NameTable)
    return {"parallel_read_safe": True}


def public_names(module) -> list[str]:
    """`__all__` without modules and dunder names; where there is none, what the module defines or re-exports."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and getattr(v, "__module__", "").startswith(module.__name__)
        ]
    return [n for n in names if not n.startswith("_") and not isinstance(getattr(module, n), types.ModuleType)]


def home_of(name: str) -> str:
    """Where a top-level name is documented."""
    return next((h for h in HOMES if name in public_names(importlib.import_module(h))), "sde_sgd")


def directive_for(qualified: str, value) -> list[str]:
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
        return [f".. {kind}:: {qualified}", "   :members:", ""]
    if callable(value):
        return [f".. autofunction:: {qualified}", ""]
    about = ["", "   The time-stepping schemes by name: :doc:`/schemes`."] if qualified.endswith(".SCHEMES") else []
    return [f".. py:data:: {qualified}", f"   :type: {type(value).__name__}", *about, ""]


class Public(SphinxDirective):
    """``.. public:: sde_sgd.paths``: its docstring, then every public name with its own."""

    required_arguments = 1
    has_content = False

    def run(self):
        module = importlib.import_module(self.arguments[0])
        lines = [f".. automodule:: {module.__name__}", ""]
        for name in public_names(module):
            if module.__name__ == "sde_sgd" and home_of(name) != "sde_sgd":
                continue
            lines += directive_for(f"{module.__name__}.{name}", getattr(module, name))
        return self.parse_text_to_nodes(StringList(lines, source=module.__name__))


class NameTable(SphinxDirective):
    """``.. name-table::``: every name of `import sde_sgd as sde` with its first sentence."""

    def run(self):
        import sde_sgd

        lines = [".. list-table::", "   :widths: 30 70", ""]
        for name in sorted(public_names(sde_sgd), key=str.lower):
            value, home = getattr(sde_sgd, name), home_of(name)
            documented = inspect.isclass(value) or callable(value)
            text = (inspect.getdoc(value) or "").split("\n\n")[0] if documented else "the time-stepping schemes by name"
            from plain_docstrings import _inline

            lines += [
                f"   * - :py:obj:`sde.{name} <{home}.{name}>`",
                f"     - {_inline(' '.join(text.split()))}",
            ]
        return self.parse_text_to_nodes(StringList(lines, source="sde_sgd"))
