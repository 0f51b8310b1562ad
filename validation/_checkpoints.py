"""A training run on disk: recorded rows that only grow, and a state, whole or absent, that says how many are valid."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_sgd import _checks, _memory
from sde_sgd._files import replacing, sweep_partials

_ROUNDING = 1e-4  # of a loss in float32, summed in another order by another number of threads


class Rows:
    """The measurements of one recorder, in memory or appended to a file: (rows, *shape)."""

    def __init__(self, name: str, rows: int, path: Path | None):
        self._name, self._rows, self._path = name, rows, path
        self._held: list[NDArray] = []
        self._form: tuple[list[int], str] | None = None
        self._file: io.BufferedRandom | None = None
        self.count = 0

    def put(self, value: NDArray) -> None:
        form = (list(value.shape), value.dtype.name)
        if self._form is None:
            self._form = form
            if self._path is None:
                _memory.refuse_beyond(
                    float(self._rows * value.nbytes), f"{self._rows} records of {self._name!r}",
                    "record less often, or give checkpoint=FOLDER: there they are kept on disk",
                )  # fmt: skip
        elif form != self._form:
            raise ValueError(f"recorder {self._name!r} measured {self._form} before and {form} now: keep to one form")
        if self._path is None:
            self._held.append(value.copy())
        else:
            self._opened().write(np.ascontiguousarray(value).tobytes())
        self.count += 1

    def sync(self) -> None:
        """All rows on the disk, not in a buffer."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def state(self) -> dict:
        return {"count": self.count, "shape": self._form and self._form[0], "dtype": self._form and self._form[1]}

    def restore(self, state: dict) -> None:
        """Go on after the rows that `state` counts; what a killed run wrote beyond them is cut off."""
        self.count = state["count"]
        if state["dtype"] is None:
            return
        self._form = (list(state["shape"]), state["dtype"])
        assert self._path is not None
        needed = self.count * self._row_bytes
        found = self._path.stat().st_size if self._path.is_file() else 0
        if found < needed:
            raise ValueError(f"{self._path} holds {found} bytes and its checkpoint counts {needed}: delete the folder")
        self._file = open(self._path, "r+b")  # noqa: SIM115
        self._file.truncate(needed)
        self._file.seek(needed)

    def array(self) -> NDArray:
        """All rows; those on disk are mapped, not read."""
        if self._form is None:
            return np.empty((0,))
        shape = (self.count, *self._form[0])
        if self._path is None:
            return np.stack(self._held) if self._held else np.empty(shape, self._form[1])
        self.sync()
        if not self.count or not self._row_bytes:
            return np.empty(shape, self._form[1])
        return np.asarray(np.memmap(self._path, self._form[1], "r", shape=shape))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _row_bytes(self) -> int:
        assert self._form is not None
        return int(np.prod(self._form[0], dtype=np.int64)) * np.dtype(self._form[1]).itemsize

    def _opened(self):
        if self._file is None:
            assert self._path is not None
            self._file = open(self._path, "w+b")  # noqa: SIM115
        return self._file


class Checkpoint:
    """The folder of one run, tied to its question: another question's folder is refused.

    `value` is the loss at the start, for what no question can spell out, as a number inside a function of the user.
    """

    seconds = 30.0  # between two writings, where no number of steps is asked for

    def __init__(self, folder: str | os.PathLike, question: list, value: float, *tensors: Tensor):
        if not isinstance(folder, str | os.PathLike):
            raise ValueError(f"checkpoint must be the name of a folder, got {folder!r}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(repr(question).encode(), digest_size=16)
        for tensor in tensors:
            found = tensor.detach().cpu().contiguous()
            digest.update(f"{tuple(found.shape)} {found.dtype}".encode())
            digest.update(found.reshape(-1).view(torch.uint8).numpy().tobytes())
        self._question, self._value = digest.hexdigest(), value

    @property
    def _path(self) -> Path:
        return self.folder / "state.pt"

    def rows_path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def save(self, state: dict) -> None:
        with replacing(self._path) as partial:
            torch.save({"question": self._question, "value": self._value, **state}, partial)

    def load(self) -> dict | None:
        """The state last written, or None in a fresh folder."""
        sweep_partials(self.folder)
        if not self._path.is_file():
            return None
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            question, value = state["question"], float(state["value"])
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            raise ValueError(f"{self._path} is not a checkpoint of a training run; name another folder") from None
        if question != self._question or not math.isclose(value, self._value, rel_tol=_ROUNDING):
            raise ValueError(
                f"{self.folder} is the checkpoint of another run (another model, loss, start, seed or version, other "
                "data or settings): delete it, or name another folder"
            )
        return state


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights and buffers, those that `state_dict` leaves out included."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().cpu().clone() for name, tensor in named}


def put_tensors(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Give a model the weights and buffers that `tensors_of` took."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(values[name])


def due_every(steps) -> int | None:
    """Steps between two checkpoints, or None for every so many seconds."""
    return None if steps is None else _checks.whole("checkpoint_every", steps, 1)
