"""All weights after every epoch of a long run, on disk as it goes, so that it neither fills memory nor starts again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sde_sgd._files import replacing

from .one_hidden_layer import OneHiddenLayer


class Snapshots:
    """Runs a walker for `epochs`, keeping its weights after each and projections of every `every`-th step.

    Files `<stem>-weights.npy`, `-state.npy`, `-loss.npy` grow in place; `<stem>-point.npz`, replaced whole, says how
    far they are valid and from where to go on. What lies beyond it is written again with the same bits.
    """

    def __init__(self, stem: Path, walker: OneHiddenLayer, epochs: int, every: int, directions: NDArray[np.float64]):
        self._stem, self._walker, self._epochs, self._every = stem, walker, epochs, every
        self._directions = directions
        self._question = walker.question(epochs, every, directions)
        self._rows = epochs * walker.steps_per_epoch // every
        self._done = self._resume()

    def _path(self, part: str, kind: str = "npy") -> Path:
        return self._stem.with_name(f"{self._stem.name}-{part}.{kind}")

    def _shape(self, part: str) -> tuple[int, ...]:
        sizes = {
            "weights": (self._epochs, self._walker.weights.size),
            "state": (self._rows, len(self._directions)),
            "loss": (self._rows,),
        }
        return sizes[part]

    def _open(self, part: str, mode: str) -> np.memmap:
        return np.lib.format.open_memmap(self._path(part), mode=mode, dtype=np.float64, shape=self._shape(part))

    def _resume(self) -> int:
        point = self._path("point", "npz")
        if point.is_file():
            with np.load(point, allow_pickle=False) as kept:
                if str(kept["question"]) == self._question:
                    self._walker.restore(kept["end"], int(kept["step"]))
                    return int(kept["epochs"])
        for part in ("weights", "state", "loss"):
            self._open(part, "w+").flush()
        return 0

    def run(self, chunk: int, progress: Callable[[int, int], object]) -> None:
        """To the end, with a point to go on from after every `chunk` epochs."""
        files = {part: np.load(self._path(part), mmap_mode="r+") for part in ("weights", "state", "loss")}
        steps = self._walker.steps_per_epoch
        while self._done < self._epochs:
            for _ in range(min(chunk, self._epochs - self._done)):
                row = self._walker.step // self._every
                state, loss = self._walker.run(steps, self._directions, self._every)
                files["state"][row : row + len(state)], files["loss"][row : row + len(loss)] = state, loss
                files["weights"][self._done] = self._walker.weights
                self._done += 1
            for file in files.values():
                file.flush()
            with replacing(self._path("point", "npz")) as partial, open(partial, "wb") as whole:
                end, step = self._walker.state, self._walker.step
                np.savez(whole, question=self._question, end=end, step=step, epochs=self._done)
            progress(self._done, self._epochs)

    @property
    def weights(self) -> np.memmap:
        """(epochs, d), read from the file as needed."""
        return np.load(self._path("weights"), mmap_mode="r")

    @property
    def projections(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(rows, k) projections and (rows,) losses of their mini-batches."""
        return np.load(self._path("state")), np.load(self._path("loss"))
