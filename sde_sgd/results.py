"""Results on disk: what made them, saved whole, read back checked, and resumed after an interruption."""

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

from . import _attributes
from ._config import canonical, fingerprint, plain, to_toml
from ._files import replacing, sweep_partials, write_text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SCHEMA = 1
WORK = "work"  # folder of a run for what an interrupted stage goes on from
_LIBRARIES = ("numpy", "scipy", "numba", "xarray", "torch")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


# What made a result ---------------------------------------------------------------------------------------


def provenance(settings: Mapping[str, Any] | None = None, float_type: str = "float64") -> dict[str, str | int]:
    """Where a result comes from, as attributes any netCDF reader shows: text and one whole number.

    `settings` (a resolved configuration) is kept as canonical JSON under "settings". A library that is not
    installed has version "absent"; "git" is empty outside a checkout and ends in "+dirty" for edited sources;
    what is not Unicode in the command line is escaped in "argv".
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
        "float_type": float_type,
        "argv": shlex.join(sys.argv).encode("utf-8", "backslashreplace").decode("utf-8"),
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


class NoResult(ValueError):
    """There is no file where a result was looked for."""


def save(data: "xr.Dataset | xr.DataTree", path: str | os.PathLike) -> None:
    """Write a Dataset or DataTree to `path` as netCDF-4, whole or not at all.

    Numbers are written as they are: no packing, whatever an `encoding` says. Attributes that netCDF has no type
    for (True, None, lists, tables, whole numbers beyond 64 bits) or whose name has a meaning of its own there
    (units, scale_factor, _FillValue, …) are written as "json:…" and read back as they were; arrays come back as
    lists. The attribute "schema" of the root is the file format's own. `data` itself is not changed.
    Raises ValueError, naming it, for an attribute that is none of these, for an array of objects other than text,
    and for what netCDF cannot hold, such as a MultiIndex.
    """
    written = _written(_checked_result(data))
    if written.attrs.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"the attribute 'schema' is the file format's version, {SCHEMA}: give yours another name")
    written.attrs["schema"] = SCHEMA
    with replacing(path) as partial:
        try:
            written.to_netcdf(partial, engine="h5netcdf")
        except (NotImplementedError, TypeError, UnicodeError) as fault:
            raise ValueError(f"the result cannot be saved: {fault}") from fault


def load(path: str | os.PathLike) -> "xr.Dataset | xr.DataTree":
    """Read into memory what `save` wrote: a DataTree if the file has groups, otherwise a Dataset.

    Raises ValueError if there is no such file (`NoResult`), if it is not netCDF, or if it was not written by this
    schema.
    """
    import xarray as xr

    path = Path(path)
    try:
        # Opened once: whoever replaces or deletes the file meanwhile does not change what is read.
        with open(path, "rb") as file, xr.open_datatree(file, engine="h5netcdf", decode_timedelta=True) as tree:
            # Group by group: DataTree.load skips a variable that has the name of a group.
            data = xr.DataTree.from_dict({group.path: group.to_dataset(inherit=False).load() for group in tree.subtree})
    except FileNotFoundError:
        raise NoResult(f"there is no result at {path}") from None
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as fault:
        raise ValueError(f"{path} cannot be read as a result ({fault}); delete it and run again") from fault
    schema = data.attrs.pop("schema", None)
    if schema is None:
        raise ValueError(f"{path} was not written by sde-sgd: it has no attribute 'schema'")
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}; this version of sde-sgd reads schema {SCHEMA}")
    data = _with_attributes(
        data if data.children else data.to_dataset(), lambda attrs, where: _attributes.decode(attrs)
    )
    data.attrs["schema"] = SCHEMA
    return data


def _checked_result(data: Any) -> "xr.Dataset | xr.DataTree":
    import xarray as xr

    if not isinstance(data, xr.Dataset | xr.DataTree):
        raise ValueError(f"a result is an xarray Dataset or DataTree, got {type(data).__name__}")
    return data


def _written(data: Any) -> Any:
    """A shallow copy as it goes to the file: attributes encoded, nothing that would repack the numbers."""
    copy = _with_attributes(data, _attributes.encode)
    for dataset in [node.dataset for node in copy.subtree] if hasattr(copy, "subtree") else [copy]:
        for name, variable in dataset.variables.items():
            variable.encoding = {}
            if getattr(dataset.indexes.get(name), "nlevels", 1) > 1:
                raise ValueError(f"{name} cannot be saved: netCDF has no MultiIndex; use reset_index({name!r}) first")
            if variable.dtype.kind == "O" and not all(isinstance(value, str) for value in variable.values.flat):
                raise ValueError(
                    f'{name} cannot be saved: an array of objects must hold text only; use numbers, or "" for none'
                )
    return copy


def _with_attributes(data: Any, change: Callable[[Mapping, str], dict[str, Any]]) -> Any:
    """A shallow copy of a Dataset or DataTree in which all attributes went through `change(attributes, owner)`."""
    import xarray as xr

    if isinstance(data, xr.DataTree):
        nodes = {node.path: node.to_dataset(inherit=False) for node in data.subtree}
        return xr.DataTree.from_dict({path: _with_attributes(node, change) for path, node in nodes.items()})
    copy = data.copy()
    copy.attrs = change(copy.attrs, "the dataset")
    for name, variable in copy.variables.items():
        variable.attrs = change(variable.attrs, repr(name))
    return copy


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

    `fresh=True` forgets earlier stages, result, report and figures of the same question (after an edit of the
    code, which the hash does not see). Two processes may work on one run, and one of them may start afresh: they
    repeat work, but see no half file and lose no stage they are working on.
    """

    def __init__(self, verb: str, config: Mapping[str, Any], root: str | os.PathLike = "runs", *, fresh: bool = False):
        self.verb = _checked_name("verb", verb)
        self.config = plain(config)
        self.folder = Path(root) / f"{verb}-{fingerprint(self.config)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_partials(self.folder)
        if fresh:
            self._forget()
        write_text(self.folder / "config.toml", to_toml(self.config))  # first, so that the folder says what it is

    def _forget(self) -> None:
        # File by file, whole files only: another process may be writing its partial file beside them. The result
        # goes first: without it the run is not finished, whatever else is still there.
        for path in (
            self.result_path,
            *(self.folder / "stages").glob("*.nc"),
            self.report_path,
            *(self.folder / "figures").glob("*.png"),
        ):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)

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
        computed = None
        while True:  # until it is read: another process that starts afresh may delete it in between
            if not path.is_file():
                computed = self._signed(compute()) if computed is None else computed
                save(computed, path)
            try:
                return load(path)
            except NoResult:
                continue

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
        signed = _checked_result(data).copy()
        signed.attrs = {**data.attrs, **provenance(self.config)}
        return signed

    def _stage_path(self, name: str) -> Path:
        return self.folder / "stages" / f"{_checked_name('stage', name)}.nc"


def _checked_name(what: str, name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"a {what} is named by letters, digits, '.', '_' and '-', got {name!r}")
    return name
