"""A run in flight on disk: whole or absent, tied to its question, continued with the same bits."""

import functools
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from sde_sgd._files import replacing

if TYPE_CHECKING:
    from ._ensemble import Columns


class Checkpoint:
    """The file of one run. It names the question by a hash, and another question's file is refused."""

    seconds = 60.0  # between two writings of a long run; an interruption writes one as well

    def __init__(self, path: str | os.PathLike, fingerprint: Callable[[], Sequence]):
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"checkpoint must be the name of a file, got {path!r}")
        self.path = Path(path)
        self._question = _hash(fingerprint())

    def save(self, group: int, done: int, columns: "Columns", results: Sequence[np.ndarray]) -> None:
        """Everything needed to go on: which group of paths, after how many steps, its columns, results so far."""
        with replacing(self.path) as partial, open(partial, "wb") as file:
            arrays = {
                "question": np.array(self._question),
                "at": np.array([group, done, columns.offset]),
                "state": columns.state,
                "kept": columns.kept,
                "places": columns.places,
                "ids": columns.ids,
            }
            arrays |= {f"result{i}": array for i, array in enumerate(results)}
            np.savez(file, allow_pickle=False, **arrays)

    def load(self, results: Sequence[np.ndarray]) -> tuple[int, int, "Columns"] | None:
        """Put the results back in place and return (group, steps done, columns), or None where there is no file."""
        from ._ensemble import Columns

        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                kept = dict(file)
            question = str(kept["question"])
        except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile):
            raise ValueError(f"{self.path} is not a checkpoint of this package; name another file") from None
        if question != self._question:
            raise ValueError(
                f"{self.path} is the checkpoint of another run (other settings, start, seed or version); "
                "delete it to start anew, or name another file"
            )
        for i, array in enumerate(results):
            array[...] = kept[f"result{i}"]
        group, done, offset = map(int, kept["at"])
        return group, done, Columns(kept["state"], kept["kept"], kept["places"], offset, kept["ids"])

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)


def _hash(parts: Sequence) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape} {part.dtype}".encode())
            if part.strides and not all(part.strides):  # a broadcast start: one row says it all
                part = part[:1]
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


_PLAIN = (str, bytes, int, float, complex, np.ndarray, np.generic)


def described(value: Any, depth: int = 4) -> Any:
    """What a function of the user does, for a fingerprint that is the same in another process: its code, constants,
    and the numbers, arrays and functions it reads from outside or is bound to; of other objects the type, and what of
    their attributes are numbers, text or arrays."""
    value = getattr(value, "py_func", value)
    if value is None or isinstance(value, _PLAIN):
        return _hash([np.asarray(value)]) if isinstance(value, np.ndarray | np.generic) else repr(value)
    if isinstance(value, tuple | list) and depth:
        return [described(v, depth - 1) for v in value]
    if isinstance(value, dict) and depth:
        return [[described(k), described(v, depth - 1)] for k, v in value.items()]
    if isinstance(value, functools.partial) and depth:
        return [described(v, depth) for v in (value.func, value.args, value.keywords)]
    if is_dataclass(value) and not isinstance(value, type) and depth:
        return [type(value).__qualname__, *(described(getattr(value, f.name), depth - 1) for f in fields(value))]
    if isinstance(value, CodeType) and depth:
        return [value.co_code, value.co_names, described(value.co_consts, depth)]
    code = getattr(value, "__code__", None)
    if code is None or not depth:
        name = f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__qualname__', '')}"
        own = {} if isinstance(value, type | ModuleType) else getattr(value, "__dict__", {})
        return [name, *((k, described(v)) for k, v in sorted(own.items()) if isinstance(v, _PLAIN))]
    inner = [cell.cell_contents for cell in value.__closure__ or ()]
    outer = [value.__globals__[name] for name in code.co_names if name in value.__globals__]
    read = [getattr(value, "__self__", None), value.__defaults__, value.__kwdefaults__, *inner, *outer]
    return [described(code, depth), *(described(v, depth - 1) for v in read)]
