"""Steps of a flow kept in memory, or written to a file as they are made, from which a stopped flow goes on."""

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sde_sgd import _attributes, _memory
from sde_sgd.fokker_planck._stream import OnDisk
from sde_sgd.results import SCHEMA, provenance

if TYPE_CHECKING:
    from .flow import JKO

_STATE = "state"  # of the last step and the one before, in turn: a torn write spoils neither
_DONE = "iterations"  # −1 until its row is whole


class InMemory:
    """Steps in one array, refused before allocation where it would not fit."""

    complete = False

    def __init__(self, jko: "JKO", times: np.ndarray) -> None:
        cells = jko.grid.size
        _memory.refuse_beyond(
            8.0 * cells * (times.size + 8),
            f"{times.size} densities of {cells} cells",
            "ask for fewer steps, or give file= to keep them on disk",
        )
        self._jko, self._times = jko, times
        self._values = np.empty((times.size, *jko.grid.shape))
        self._rows: list[dict[str, float]] = []
        self.state = np.empty(0)

    @property
    def done(self) -> int:
        """How many densities are held, the start among them."""
        return len(self._rows)

    def put(self, state: np.ndarray, density: np.ndarray, row: dict[str, float]) -> None:
        """Keep the next density."""
        self._values[len(self._rows)] = density
        self.state = state
        self._rows.append(row)

    def finish(self, attrs: dict[str, Any]) -> xr.DataArray:
        """All densities, (time, *variables)."""
        names = self._jko.process.variables
        coords: dict[str, Any] = {"time": self._times, **dict(zip(names, self._jko.grid.axes))}
        for name in self._rows[0]:
            coords[name] = ("time", np.array([row[name] for row in self._rows]))
        return xr.DataArray(self._values, coords, ("time", *names), "density", attrs)

    def close(self) -> None:
        """Nothing to release."""


class File(OnDisk):
    """Steps in a netCDF file, laid out and forced to disk as those of `FokkerPlanck.evolve`."""

    def __init__(self, jko: "JKO", times: np.ndarray, path: Any, question: str, state: np.ndarray, names: list[str]):
        self._state_shape, self._names = state.shape, names
        super().__init__(jko, times, path, question)  # type: ignore[arg-type]  # has its process and its grid

    @property
    def done(self) -> int:
        """How many densities are held, the start among them."""
        return int((self._file[_DONE][...] >= 0).sum())

    @property
    def state(self) -> np.ndarray:
        """What the next step starts from."""
        return np.asarray(self._file[_STATE][(self.done - 1) % 2])

    def put(self, state: np.ndarray, density: np.ndarray, row: dict[str, float]) -> None:  # type: ignore[override]
        """Write the next density; it counts once it is on disk."""
        index = self.done
        self._file["density"][index] = density
        self._file[_STATE][index % 2] = state
        for name in self._names:
            if name != _DONE:
                self._file[name][index] = row[name]
        self._force()
        self._file[_DONE][index] = row[_DONE]
        self._force()

    def _lay_out(self, question: str) -> None:
        import h5netcdf

        names, grid = self._fp.process.variables, self._fp.grid
        extents = {f"{_STATE}_{axis}": n for axis, n in enumerate(self._state_shape)}
        draft = self._unfinished.with_name(self._unfinished.name + f".{os.getpid()}")
        with h5netcdf.File(draft, "w") as file:
            file.dimensions = {"time": self._times.size, "slot": 2, **extents, **dict(zip(names, grid.shape))}
            for name, axis in (("time", self._times), *zip(names, grid.axes)):
                file.create_variable(name, (name,), "f8", data=axis)
            density = file.create_variable("density", ("time", *names), "f8")
            state = file.create_variable(_STATE, ("slot", *extents), "f8")
            density[0] = state[0] = 0.0  # the first number written allocates them all
            density.attrs["coordinates"] = " ".join(self._names)
            for name in self._names:
                kind = "i8" if name == _DONE else "f8"
                file.create_variable(name, ("time",), kind, data=np.full(self._times.size, -1, kind))
            for name, value in _attributes.encode(provenance(), "the dataset").items():
                file.attrs[name] = value
            file.attrs["question"], file.attrs["schema"] = question, SCHEMA
        os.replace(draft, self._unfinished)

    def _check(self, path: Any, found: str, question: str) -> None:
        if found != question:
            raise ValueError(
                f"{path} holds another flow (other process, grid, start, steps, settings or version); delete it, or "
                "name another file"
            )


def question(jko: "JKO", start: np.ndarray, tau: float, steps: int, names: list[str]) -> str:
    """A hash of all that determines the steps, and of the names of what goes along."""
    from sde_sgd import __version__

    grid = jko.grid
    asked = __version__, jko.attrs, grid.lower, grid.upper, grid.shape, tau, steps, names
    digest = hashlib.blake2b(repr(asked).encode(), digest_size=16)
    x = grid.centers()
    for array in (start, jko._phi, jko.process.drift(x), jko.process.diffusion(x)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
