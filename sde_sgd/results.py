"""Results on disk: what made them, saved whole, read back checked, and resumed after an interruption."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._config import canonical, fingerprint, plain, to_toml
from ._files import replacing, sweep_partials, write_text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SCHEMA = 1
_LIBRARIES = ("numpy", "scipy", "numba", "xarray", "torch")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_JSON = "json:"


# What made a result ---------------------------------------------------------------------------------------


def provenance(settings: Mapping[str, Any] | None = None) -> dict[str, str | int]:
    """Where a result comes from, as attributes any netCDF reader shows: text and one whole number.

    `settings` (a resolved configuration) is kept as canonical JSON under "settings". A library that is not
    installed has version "absent"; "git" is empty outside a checkout and ends in "+dirty" for edited sources.
    """
    found: dict[str, str | int] = {
        "schema": SCHEMA,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "sde_sgd": _version("sde-sgd"),
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    found |= {name: _version(name) for name in _LIBRARIES}
    return found | {
        "float_type": "float64",
        "argv": shlex.join(sys.argv),
        "settings": canonical(settings or {}),
    }


@cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)  # without importing it: torch takes seconds
    except metadata.PackageNotFoundError:
        return "absent"


@cache
def _git_state() -> str:
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""  # installed inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


# Saving and loading ---------------------------------------------------------------------------------------


def save(data: "xr.Dataset | xr.DataTree", path: str | os.PathLike) -> None:
    """Write a Dataset or DataTree to `path` as netCDF-4, whole or not at all.

    Attributes that netCDF has no type for (True, None, lists, tables, whole numbers beyond 64 bits) are
    written as "json:…" and read back as they were; arrays come back as lists. `data` itself is not changed.
    Raises ValueError for an attribute that is none of these, naming it.
    """
    written = _with_attributes(data, _encode)
    written.attrs["schema"] = SCHEMA
    with replacing(path) as partial:
        written.to_netcdf(partial, engine="h5netcdf")


def load(path: str | os.PathLike) -> "xr.Dataset | xr.DataTree":
    """Read into memory what `save` wrote: a DataTree if the file has groups, otherwise a Dataset.

    Raises ValueError if there is no such file, if it is not netCDF, or if it was not written by this schema.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no result at {path}")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            data = tree.load()
    except (OSError, KeyError, RuntimeError) as fault:
        raise ValueError(f"{path} cannot be read as a result ({fault}); delete it and run again") from fault
    schema = data.attrs.pop("schema", None)
    if schema is None:
        raise ValueError(f"{path} was not written by sde-sgd: it has no attribute 'schema'")
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}; this version of sde-sgd reads schema {SCHEMA}")
    data = _with_attributes(data if data.children else data.to_dataset(), _decode)
    data.attrs["schema"] = SCHEMA
    return data


def _with_attributes(data: Any, change: Callable[[Any, str], Any]) -> Any:
    """A shallow copy of a Dataset or DataTree in which every attribute went through `change(value, name)`."""
    import xarray as xr

    if isinstance(data, xr.DataTree):
        nodes = {node.path: node.to_dataset(inherit=False) for node in data.subtree}
        return xr.DataTree.from_dict({path: _with_attributes(node, change) for path, node in nodes.items()})
    if not isinstance(data, xr.Dataset):
        raise ValueError(f"a result is an xarray Dataset or DataTree, got {type(data).__name__}")
    copy = data.copy()
    holders: tuple[Any, ...] = (copy, *copy.variables.values())
    for holder in holders:
        holder.attrs = {name: change(value, name) for name, value in holder.attrs.items()}
    return copy


def _encode(value: Any, name: str) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, str):
        direct = not value.startswith(_JSON) and "\0" not in value
    elif isinstance(value, int) and not isinstance(value, bool):
        direct = -(2**63) <= value < 2**63
    else:
        direct = isinstance(value, float)
    if direct:
        return value
    try:
        return _JSON + json.dumps(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"attribute {name!r} cannot be saved: {value!r} is not a number, text, list or table"
        ) from None


def _decode(value: Any, name: str) -> Any:
    if isinstance(value, str) and value.startswith(_JSON):
        return json.loads(value.removeprefix(_JSON))
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


# Runs -----------------------------------------------------------------------------------------------------


class Run:
    """The folder `<root>/<verb>-<hash>` of one question; the hash is that of the resolved configuration.

    The same question always finds the same folder, in which every finished stage is kept, so that a run that
    was interrupted continues where it stopped, and one that is finished need not be repeated:

        run = Run("demo", config)
        if not run.finished:
            density = run.stage("density", lambda: compute(...))
            run.finish(tree, report.html(), {"density": figure})
        result = run.result()

    `fresh=True` forgets earlier stages and results of the same question (after an edit of the code, which the
    hash does not see). Two processes may work on one run: they repeat work but never see half a file.
    """

    def __init__(self, verb: str, config: Mapping[str, Any], root: str | os.PathLike = "runs", *, fresh: bool = False):
        self.verb = _checked_name("verb", verb)
        self.config = plain(config)
        self.folder = Path(root) / f"{verb}-{fingerprint(self.config)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_partials(self.folder)
        if fresh:
            self.result_path.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "stages", ignore_errors=True)
        write_text(self.folder / "config.toml", to_toml(self.config))  # first, so that the folder says what it is

    @property
    def result_path(self) -> Path:
        return self.folder / "result.nc"

    @property
    def report_path(self) -> Path:
        return self.folder / "report.html"

    @property
    def finished(self) -> bool:
        """True once everything `finish` writes is there: the result is written last."""
        return self.result_path.is_file()

    def has(self, name: str) -> bool:
        """True if stage `name` was finished, by this process or an earlier one."""
        return self._stage_path(name).is_file()

    def stage(self, name: str, compute: Callable[[], "xr.Dataset | xr.DataTree"]) -> "xr.Dataset | xr.DataTree":
        """The saved result of stage `name`, computed by `compute()` and saved if it is not there yet.

        What is returned was read from the file either way, so that a resumed run works with the same numbers
        and the same attributes as an uninterrupted one.
        """
        path = self._stage_path(name)
        if not path.is_file():
            save(self._signed(compute()), path)
        return load(path)

    def finish(
        self,
        tree: "xr.Dataset | xr.DataTree",
        report_html: str,
        figures: "Mapping[str, Figure] | None" = None,
    ) -> None:
        """Write figures/<name>.png, report.html and, last, result.nc with its provenance."""
        from .figures import save_png

        for name, figure in (figures or {}).items():
            save_png(figure, self.folder / "figures" / f"{_checked_name('figure', name)}.png")
        write_text(self.report_path, report_html)
        save(self._signed(tree), self.result_path)

    def result(self) -> "xr.Dataset | xr.DataTree":
        """The finished result; ValueError if there is none yet."""
        return load(self.result_path)

    def _signed(self, data: "xr.Dataset | xr.DataTree") -> "xr.Dataset | xr.DataTree":
        signed = data.copy()
        signed.attrs = {**data.attrs, **provenance(self.config)}
        return signed

    def _stage_path(self, name: str) -> Path:
        return self.folder / "stages" / f"{_checked_name('stage', name)}.nc"


def _checked_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a {what} is named by letters, digits, '.', '_' and '-', got {name!r}")
    return name
