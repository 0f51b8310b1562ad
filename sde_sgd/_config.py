"""A resolved configuration: reduced to plain values, as canonical text to hash, and as TOML to read."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def plain(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`config` with NumPy scalars and arrays as Python numbers and lists, tuples as lists, and None left out.

    Raises ValueError, naming the key, for anything that is not a number, text, a boolean, a list or a table.
    """
    result = {}
    for key, value in config.items():
        if not isinstance(key, str):
            raise ValueError(f"a key of a configuration must be text, got {key!r}")
        if value is not None:
            result[key] = _plain(value, f"{where}.{key}" if where else key)
    return result


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, Mapping):
        return plain(value, where)
    raise ValueError(f"{where}: a configuration holds numbers, text, booleans, lists and tables, got {value!r}")


def canonical(config: Mapping[str, Any]) -> str:
    """One text for one question: JSON with sorted keys, whatever order the configuration was written in.

    >>> canonical({"steps": 10, "grid": {"shape": (64, 64), "box": None}})
    '{"grid":{"shape":[64,64]},"steps":10}'
    """
    return json.dumps(plain(config), sort_keys=True, separators=(",", ":"))


def fingerprint(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the BLAKE2b hash of the canonical text."""
    return hashlib.blake2b(canonical(config).encode("utf-8"), digest_size=6).hexdigest()


def to_toml(config: Mapping[str, Any]) -> str:
    """`config` as TOML; `tomllib.loads` gives `plain(config)` back.

    >>> print(to_toml({"steps": 10, "start": (0.0, -1.5), "grid": {"shape": [64, 64]}}), end="")
    steps = 10
    start = [0.0, -1.5]
    <BLANKLINE>
    [grid]
    shape = [64, 64]
    """
    return "\n".join(_table(plain(config), ())).strip("\n") + "\n"


def _table(table: Mapping[str, Any], above: tuple[str, ...]) -> list[str]:
    scalars = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    below = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            path = (*above, key)
            below += ["", f"[{'.'.join(map(_key, path))}]", *_table(value, path)]
    return scalars + below


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # TOML knows inf, -inf and nan
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(_value, value)) + "]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    # TOML's basic string is JSON's, except that TOML has no surrogate pairs and escapes DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
