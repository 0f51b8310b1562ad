"""Generated kernel modules on disk: named by a hash of what they contain, so an edit never meets old machine code."""

import hashlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import llvmlite
import numba
import numpy as np

from sde_sgd.landscapes._lanes import LaneCode

HEADER = """# Generated; named by a hash of its own text.
import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
"""
_MARKER = "# -- fragment --\n"
_loaded: dict[str, ModuleType] = {}
_lock = threading.Lock()


def imports(fragments: Iterable[str], text: str) -> list[str]:
    """The lines that import what `text` uses of fragment files of this package, each of which may use those before it.

    What lies below a file's marker becomes a generated module of its own, whose functions are compiled once and merged
    into every kernel by LLVM: typing and lowering them anew took a third of each kernel's compilation.
    """
    homes = _homes(tuple(fragments))
    used: dict[str, list[str]] = {}
    for name in sorted(set(re.findall(r"\b_\w+", text)) & homes.keys()):
        used.setdefault(homes[name], []).append(name)
    return [f"from {home} import {', '.join(names)}" for home, names in used.items()]


@cache
def _homes(fragments: tuple[str, ...]) -> dict[str, str]:
    """The generated module of every name that the fragments define."""
    if not fragments:
        return {}
    text = (Path(__file__).parent / f"{fragments[-1]}.py").read_text(encoding="utf-8").split(_MARKER, 1)[1]
    text = text.replace("@njit(", "@njit(cache=True, ")
    module = load("\n".join([HEADER, *imports(fragments[:-1], text), text]), kind=f"fragment{fragments[-1]}")
    before = _homes(fragments[:-1])
    return before | {name: module.__name__ for name in vars(module).keys() - before.keys() if name[:2] != "__"}


def cache_folder() -> Path:
    """The folder of generated kernels: $SDE_SGD_CACHE_DIR, else the user's cache, else a private temporary folder.

    It must belong to this user and be closed to others, because what lies in it is executed. A folder named in
    $SDE_SGD_CACHE_DIR that does not serve is an error, not passed over.
    """
    named = os.environ.get("SDE_SGD_CACHE_DIR")
    if named:
        if not _usable(Path(named)):
            raise ValueError(
                f"SDE_SGD_CACHE_DIR={named!r} cannot hold compiled kernels: it must be a folder that belongs to "
                "you, that you can write to and others cannot; unset it to use the default"
            )
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    shared = Path(tempfile.gettempdir()) / f"sde-sgd-kernels-{user}"
    for folder in (Path(base) / "sde-sgd" / "kernels", shared):
        if _usable(folder):
            return folder
    return _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sde-sgd-kernels-"))


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return False
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def load(source: str, lane: LaneCode | None = None, kind: str = "kernel") -> ModuleType:
    """The module of `source`, imported from the cache folder, where Numba keeps its machine code beside it.

    Where `lane` brings opaque jitted functions the module is compiled in memory only, once per lane code.
    """
    functions = lane.functions if lane is not None else {}
    versions = f"{sys.version_info[:2]} {numba.__version__} {llvmlite.__version__} {np.__version__}"
    if functions:
        source = source.replace("cache=True", "cache=False")
    name = f"{kind}_" + hashlib.blake2b(f"{versions}\n{source}".encode(), digest_size=12).hexdigest()
    known = lane.modules if lane is not None and functions else _loaded
    with _lock:
        if name in known:
            return known[name]
        file = cache_folder() / f"{name}.py"
        if not file.exists() or file.read_text(encoding="utf-8") != source:
            _write(file, source)
        spec = importlib.util.spec_from_file_location(f"sde_sgd_{name}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        module.__dict__.update(functions)
        sys.modules[spec.name] = module  # Numba finds a function's home by its module's name
        spec.loader.exec_module(module)
        known[name] = module
        return module


def _write(file: Path, source: str) -> None:
    """Whole or not at all; with a fixed time stamp, because Numba takes a newer file for a changed one."""
    handle, partial = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(source)
    os.utime(partial, (1_000_000_000, 1_000_000_000))
    os.replace(partial, file)
