"""Snapshots of a density in time: kept in memory, or written to a file as they are reached.

A file is laid out whole at the start under an unfinished name, all its space allocated, so that a snapshot changes
nothing but numbers in place; its row is forced to disk before its count of steps, which marks it as done. So
whatever stops a run, even a kill or a power cut, the rows marked are whole, and the same call goes on from the last of
them. Complete, the file gets its attributes and its name.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sde_sgd import _attributes, _memory
from sde_sgd.results import SCHEMA, provenance

from ._steps import Ledger, breaks

if TYPE_CHECKING:
    from .generator import FokkerPlanck

_SUFFIX = ".unfinished"
_NAME = "density"
_CARRIED = "carried_error"  # of the last snapshot and the one before, in turn: a torn write spoils neither
_ALONG = ("steps", "error_estimate", "mass")  # coordinates along time; the rest of the ledger becomes attributes
_COLUMNS = {field.name: "i8" if field.type is int else "f8" for field in fields(Ledger)} | {"mass": "f8"}


def question(fp: "FokkerPlanck", start: np.ndarray, times: np.ndarray, options: Sequence) -> str:
    """A hash of all that determines the snapshots."""
    from sde_sgd import __version__

    digest = hashlib.blake2b(repr((__version__, fp.attrs, list(options))).encode(), digest_size=16)
    temperatures = fp.process.temperature_at(np.linspace(0.0, times[-1], 4097))
    edges = fp.edges_at(float(temperatures[0]))
    turns = breaks(fp.process, float(times[-1]))  # two schedules may differ between the samples alone
    rates = edges.tail, edges.head, edges.conductance, edges.peclet, edges.leak
    for array in (start, times, temperatures, turns, *rates):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class InMemory:
    """Snapshots in one array, refused before allocation where it would not fit."""

    def __init__(self, fp: "FokkerPlanck", times: np.ndarray) -> None:
        cells = fp.grid.size
        _memory.refuse_beyond(
            8.0 * cells * (times.size + 8),
            f"{times.size} snapshots of {cells} cells",
            "ask for fewer times, or give file= to keep them on disk",
        )
        self._fp, self._times = fp, times
        self._values = np.empty((times.size, cells))
        self._columns = {name: np.zeros(times.size, kind) for name, kind in _COLUMNS.items()}

    def resume(self, rho: np.ndarray, carried: np.ndarray, ledger: Ledger) -> int:
        """Put the last snapshot back in place: density, carried error, ledger. Returns how many snapshots are done."""
        return 0

    def put(self, index: int, rho: np.ndarray, carried: np.ndarray, ledger: Ledger) -> None:
        """Keep snapshot `index`."""
        self._values[index] = rho[:-1]
        for name, value in _row(self._fp, rho, ledger).items():
            self._columns[name][index] = value

    def finish(self, attrs: dict[str, Any]) -> xr.DataArray:
        """All snapshots, (time, *variables)."""
        names, grid = self._fp.process.variables, self._fp.grid
        coords: dict[str, Any] = {"time": self._times, **dict(zip(names, grid.axes))}
        coords |= {name: ("time", self._columns[name]) for name in _ALONG}
        values = self._values.reshape(self._times.size, *grid.shape)
        return xr.DataArray(values, coords, ("time", *names), _NAME, attrs)

    def close(self) -> None:
        """Nothing to release."""


class OnDisk:
    """Snapshots in a netCDF file, continued where an earlier run of the same question stopped."""

    def __init__(self, fp: "FokkerPlanck", times: np.ndarray, path: str | os.PathLike, question: str) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"file must be the name of a file, got {path!r}")
        self._fp, self._times, self.path = fp, times, Path(path)
        self._unfinished = self.path.with_name(self.path.name + _SUFFIX)
        self._file: Any = None
        if self.path.exists():
            self._check(self.path, _question_of(self.path), question)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._unfinished.exists():
            self._check(self._unfinished, _question_of(self._unfinished), question)
        else:
            self._lay_out(question)
        self._file = _opened(self._unfinished, rows=True)

    @property
    def complete(self) -> bool:
        """Whether an earlier run has done it all."""
        return self._file is None

    def opened(self) -> xr.DataArray:
        """The complete file's densities, read when they are used."""
        density = xr.open_dataset(self.path, engine="h5netcdf", decode_times=False)[_NAME]
        density.attrs = _attributes.decode(density.attrs)
        return density

    def resume(self, rho: np.ndarray, carried: np.ndarray, ledger: Ledger) -> int:
        done = int((self._file["steps"][...] >= 0).sum())
        if done:
            rho[:-1] = np.asarray(self._file[_NAME][done - 1]).ravel()
            carried[:-1] = np.asarray(self._file[_CARRIED][(done - 1) % 2]).ravel()
            for field in fields(Ledger):
                setattr(ledger, field.name, self._file[field.name][done - 1].item())
        return done

    def put(self, index: int, rho: np.ndarray, carried: np.ndarray, ledger: Ledger) -> None:
        row = _row(self._fp, rho, ledger)
        self._file[_NAME][index] = rho[:-1].reshape(self._fp.grid.shape)
        self._file[_CARRIED][index % 2] = carried[:-1].reshape(self._fp.grid.shape)
        for name, value in row.items():
            if name != "steps":
                self._file[name][index] = value
        self._force()
        self._file["steps"][index] = row["steps"]  # last: now the row counts as done
        self._force()

    def finish(self, attrs: dict[str, Any]) -> xr.DataArray:
        import h5netcdf

        self.close()
        with h5netcdf.File(self._unfinished, "r+") as file:
            for name, value in _attributes.encode(attrs, repr(_NAME)).items():
                file.variables[_NAME].attrs[name] = value
        with open(self._unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._unfinished, self.path)
        return self.opened()

    def close(self) -> None:
        """Let go of the file; what is done stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _force(self) -> None:
        self._file.flush()
        with open(self._unfinished, "rb") as file:
            os.fsync(file.fileno())

    def _check(self, path: Path, found: str, question: str) -> None:
        if found != question:
            raise ValueError(
                f"{path} holds another evolution (other generator, start, times, settings or version); delete it, or "
                "name another file"
            )

    def _lay_out(self, question: str) -> None:
        import h5netcdf

        names, grid = self._fp.process.variables, self._fp.grid
        draft = self._unfinished.with_name(self._unfinished.name + f".{os.getpid()}")
        with h5netcdf.File(draft, "w") as file:
            file.dimensions = {"time": self._times.size, "slot": 2} | dict(zip(names, grid.shape))
            for name, axis in (("time", self._times), *zip(names, grid.axes)):
                file.create_variable(name, (name,), "f8", data=axis)
            density = file.create_variable(_NAME, ("time", *names), "f8")
            carried = file.create_variable(_CARRIED, ("slot", *names), "f8")
            density[0] = carried[0] = 0.0  # the first number written allocates them all
            density.attrs["coordinates"] = " ".join(_ALONG)
            for name, kind in _COLUMNS.items():
                file.create_variable(name, ("time",), kind, data=np.full(self._times.size, -1, kind))
            for name, value in _attributes.encode(provenance(), "the dataset").items():
                file.attrs[name] = value
            file.attrs["question"], file.attrs["schema"] = question, SCHEMA
        os.replace(draft, self._unfinished)


def _row(fp: "FokkerPlanck", rho: np.ndarray, ledger: Ledger) -> dict[str, float]:
    return asdict(ledger) | {"mass": float(rho.sum() * fp.grid.cell_volume)}


def _opened(path: Path, *, rows: bool = False) -> Any:
    """A file to read, or to write rows to: then by h5py, whose flush reaches the disk and h5netcdf's does not."""
    import h5netcdf
    import h5py

    try:
        return h5py.File(path, "r+") if rows else h5netcdf.File(path, "r")
    except (OSError, KeyError, ValueError) as fault:
        raise ValueError(
            f"{path} cannot be opened as snapshots of a density ({fault}); if no other run is writing it, delete it"
        ) from fault


def _question_of(path: Path) -> str:
    with _opened(path) as file:
        return str(file.attrs.get("question", ""))
