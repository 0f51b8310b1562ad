"""Stochastic gradient descent as a stochastic process: paths, densities, potentials, and real networks.

Public names load when they are first used, so that `import sde_sgd` costs little more than Python itself.
The same names, for type checkers and for the loader, are listed in the stub beside this file.
"""

import lazy_loader as _lazy

_load, _names, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])


def __getattr__(name: str):
    if name == "__version__":  # reading the installed metadata takes longer than everything else here
        from importlib.metadata import version

        globals()["__version__"] = found = version("sde-sgd")  # one version in one process, whatever is installed later
        return found
    return _load(name)


def __dir__() -> list[str]:
    return list(__all__)
