"""What the commands on one landscape share: a TOML file, options that overrule it, and parameters in words."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .process import Process


def read(path: Path) -> dict[str, Any]:
    """The settings of a TOML file."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except ValueError as fault:
        raise ValueError(f"{path} is not TOML: {fault}") from None


def merged(
    file: Mapping[str, Any], options: Mapping[str, Any], parameters: Mapping[str, Any], known: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked, and the landscape's parameters: the options, else the file's.

    Raises ValueError for a setting of the file that is not among `known`, or for a file of another landscape.
    """
    from . import _checks

    for key in file:
        if key not in known:
            raise ValueError(f"the configuration has no setting {key!r}{_checks.nearest(key, known)}")
    if file.get("landscape", options["landscape"]) != options["landscape"]:
        raise ValueError(f"the configuration is of {file['landscape']!r}, and {options['landscape']!r} was asked for")
    kept = file.get("parameters", {})
    if not isinstance(kept, Mapping):
        raise ValueError(f"parameters must be a table of names and values, got {kept!r}")
    return {**file, **{key: value for key, value in options.items() if value is not None}}, {**kept, **parameters}


def spelled_out(landscape: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the entry's defaults, so that naming a default asks the same question."""
    from .landscapes._catalogue import _ENTRIES

    defaults = {name: p.default for name, p in inspect.signature(_ENTRIES[landscape]).parameters.items()}
    return {**defaults, **parameters}


def start_of(process: "Process", given: Any) -> list[float]:
    """The start as a list: the one given, or the known fixed point nearest to the centre of the domain, or the centre.

    Where the drift is not defined at the centre, it is a point an eighth of the domain away from it.
    """
    import numpy as np

    from .paths._ensemble import starts

    low, high = process.domain.lower, process.domain.upper
    if given is not None:
        return starts(given, 1, process.dim, process.domain).ravel().tolist()
    bounded = np.isfinite(low) & np.isfinite(high)
    centre = np.where(bounded, (np.where(bounded, low, 0.0) + np.where(bounded, high, 0.0)) / 2, np.clip(0, low, high))
    known = process.landscape.known_fixed_points(process.constant_temperature)
    if known is not None and len(known):
        inside = known[((known >= low) & (known <= high)).all(-1)]
        if len(inside):
            return inside[np.linalg.norm(inside - centre, axis=-1).argmin()].tolist()
    with np.errstate(all="ignore"):
        if np.isfinite(process.drift(centre)).all():
            return centre.tolist()
    return (centre + np.where(bounded, np.where(bounded, high - low, 0.0) / 8, 1.0)).tolist()


def assignment(text: str) -> tuple[str, Any]:
    """NAME=VALUE: a number, several parted by commas, true or false."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"a parameter is given as NAME=VALUE, got {text!r}")
    words = {"true": True, "false": False}
    if value.strip().lower() in words:
        return name.strip(), words[value.strip().lower()]
    parsed = numbers(value, f"parameter {name.strip()}")
    return name.strip(), parsed if "," in value else parsed[0]


def numbers(text: str, what: str = "start") -> list[int | float]:
    """Numbers parted by commas; whole ones stay whole."""
    try:
        return [int(part) if part.strip().lstrip("+-").isdecimal() else float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what} must be numbers parted by commas, got {text!r}") from None
