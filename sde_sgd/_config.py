"""A resolved configuration: reduced to plain values, as canonical text to hash, and as TOML to read."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def reduced(value: Any, leaf: Callable[[Any, str], Any], key: Callable[[Any, str], str], where: str = "") -> Any:
    """`value` with NumPy scalars and arrays as Python numbers and lists, tuples as lists, mappings as dicts.

    `leaf(value, where)` is what stands for anything else, `key(key, where)` for a key of a mapping; `where` is the
    dotted path of keys down to it.
    """
    if hasattr(value, "tolist"):  # as NumPy's, without importing it
        value = value.tolist()
    if isinstance(value, Mapping):
        names = {k: key(k, where) for k in value}
        return {n: reduced(value[k], leaf, key, f"{where}.{n}" if where else n) for k, n in names.items()}
    if isinstance(value, list | tuple):
        return [reduced(item, leaf, key, where) for item in value]
    return leaf(value, where)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with NumPy scalars and arrays as Python numbers and lists, tuples as lists, and None left out.

    Raises ValueError, naming the key, for anything that is not a number, text, a boolean, a list or a table.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a configuration is a table of names and values, got {config!r}")
    return reduced(_without_none(config), _leaf, _key_text)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value


def _leaf(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return _unicode(value, where)
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(f"{where}: a configuration holds numbers, text, booleans, lists and tables, got {value!r}")


def _key_text(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a key of a configuration must be text, got {key!r}{f' in {where}' if where else ''}")
    return _unicode(key, where)


def _unicode(text: str, where: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{where or 'a key'}: {text!r} holds bytes that are no Unicode text; a configuration is UTF-8")
    return text


def canonical(config: Mapping[str, Any]) -> str:
    """One text for one question: JSON with sorted keys, and one spelling of equal numbers (2 for 2.0, 0 for -0.0).

    >>> canonical({"steps": 10.0, "grid": {"shape": (64, 64), "box": None}})
    '{"grid":{"shape":[64,64]},"steps":10}'
    """
    alike = reduced(plain(config), lambda value, _: _one_spelling(value), lambda key, _: key)
    return json.dumps(alike, sort_keys=True, separators=(",", ":"))


def _one_spelling(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
