"""Attributes as netCDF can hold them, and back: what it has no type or no free name for is kept as JSON."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_JSON = "json:"
# Names that the CF conventions, xarray or HDF5 act upon: an attribute so called would change the numbers, or vanish.
_TAKEN = frozenset(
    {
        "_Encoding", "_FillValue", "_Unsigned", "add_offset", "calendar", "coordinates", "dtype", "missing_value",
        "scale_factor", "units",
        "CLASS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST", "_NCProperties", "_Netcdf4Coordinates", "_Netcdf4Dimid",
        "_nc3_strict",
    }
)  # fmt: skip


def encode(attributes: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """`attributes` of `where` in the types and under the names that come back from netCDF as they were.

    Numbers and text stay readable; the rest is "json:…", the name too where `json:"units"` must not act as units.
    Raises ValueError, naming the attribute, for a value that is no number, text, list or table.
    """
    return {_name(name, where): _value(value, f"attribute {name!r} of {where}") for name, value in attributes.items()}


def decode(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What `encode` was given, lists for arrays."""
    return {str(_restored(name)): _restored(value) for name, value in attributes.items()}


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"attribute {name!r} of {where} cannot be saved: its name must be text")
    return name if name and name not in _TAKEN and _is_plain_text(name) else _JSON + json.dumps(name)


def _value(value: Any, what: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        if value.dtype.kind in "mMV":  # a date would become a number, a record a list
            raise ValueError(f"{what} cannot be saved: convert {value.dtype} to numbers or text")
        value = value.tolist()
    if isinstance(value, str):
        direct = _is_plain_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        direct = -(2**63) <= value < 2**63
    else:
        direct = isinstance(value, float)
    if direct:
        return value
    _check_table(value, what)
    try:
        return _JSON + json.dumps(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} cannot be saved: {value!r} is not a number, text, list or table") from None


def _is_plain_text(text: str) -> bool:
    """Whether netCDF holds `text` as it is: no NUL, no stray bytes, not a text that means JSON."""
    return not text.startswith(_JSON) and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _check_table(value: Any, what: str) -> None:
    """JSON would turn the key 1 of a table into "1"."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{what} cannot be saved: the key {key!r} of a table must be text")
            _check_table(item, what)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_table(item, what)


def _restored(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_JSON):
        return json.loads(value.removeprefix(_JSON))
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
