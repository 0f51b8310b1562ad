"""The loop of a training run: steps, measurements, checkpoints, in an order that a killed run can be resumed in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from sde_sgd.errors import Diverged

from ._checkpoints import Checkpoint, Rows, put_tensors, tensors_of
from ._recursion import Rates
from ._samples import in_words, one_number
from .measures import Loss, trainable
from .recording import RunState, take

_SECONDS = 1.0  # between two words of progress


class Run:
    """A run on its way: the model, its optimizer, what is recorded, and the step it has come to."""

    def __init__(self, model, state: RunState, rates: Rates, recorders, total: int, folder, every, progress):
        self.model, self.start, self.recursion, self.total = model, state, state.recursion, total
        self._rates, self._folder, self._every, self._progress = rates, folder, every, progress
        self._device = state.inputs.device
        self.recorders = recorders
        self.whens = [recorder.when.steps(total, self.recursion.per_epoch) for recorder in recorders]
        paths = [None if folder is None else folder.rows_path(recorder.name) for recorder in recorders]
        self.rows = [Rows(r.name, len(w), path) for r, w, path in zip(recorders, self.whens, paths)]
        one = self.recursion
        self._optimizer = torch.optim.SGD(
            trainable(model), lr=1.0, momentum=one.momentum, nesterov=one.nesterov, weight_decay=one.weight_decay
        )
        self.step = 0
        self._drawn = (0, 0)  # the steps whose samples are at hand

    def go(self) -> None:
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            with own_stream(self._device, self.recursion.seed, self.start.replica) as streams, torch.enable_grad():
                self._resume(streams)
                self.model.train()
                self._loop(streams)
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            for module, training in modes:
                module.training = training

    def _loop(self, streams) -> None:
        kept, written = time.monotonic(), self.step
        while True:
            self._record()
            due = self.step - written >= self._every if self._every else time.monotonic() - kept > Checkpoint.seconds
            if self._folder is not None and (due or self.step == self.total):
                self._save(streams)
                kept, written = time.monotonic(), self.step
            if self.step == self.total:
                return
            stops = [w[r.count] for w, r in zip(self.whens, self.rows) if r.count < len(w)]
            if self._folder is not None and self._every:
                stops.append(written + self._every)
            with in_words(f"a training step after step {self.step} fails"):
                self._advance(int(min([self.total, *stops])), kept)
            if self._progress is not None:
                self._progress(self.step, self.total)

    def _advance(self, stop: int, kept: float) -> None:
        """Steps up to `stop`, or fewer: those drawn together, or those until a checkpoint or a word is due."""
        deadline = np.inf if self._folder is None else kept + Checkpoint.seconds
        if self._progress is not None:
            deadline = min(deadline, time.monotonic() + _SECONDS)
        first, end = self._draw()
        stop, begun = min(stop, end), self.step
        inputs, targets, loss = self.start.inputs, self.start.targets, self.start.loss
        group, halves, losses = self._optimizer.param_groups[0], self.recursion.halves, []
        while self.step < stop:
            row = self.step - first
            group["lr"] = self._eta[row]
            self._optimizer.zero_grad(set_to_none=True)
            size, value = self.recursion.size_of(self.step), torch.zeros(())
            for half, share in enumerate(halves):
                chosen = self._picks[row, half, :size]
                part = loss(self.model(inputs[chosen]), targets[chosen])
                value = part if len(halves) == 1 else value + share * part
            one_number(value).backward()
            self._optimizer.step()
            losses.append(value.detach().reshape(()))
            self.step += 1
            if time.monotonic() > deadline:
                break
        bad = ~torch.isfinite(torch.stack(losses))
        if bad.any():
            self._diverged(begun + int(bad.int().argmax()))
        if not all(torch.isfinite(weight).all() for weight in trainable(self.model)):
            self._diverged(self.step)

    def _draw(self) -> tuple[int, int]:
        if not self._drawn[0] <= self.step < self._drawn[1]:
            size = self.recursion.at_once()
            first = self.step // size * size
            end = min(first + size, self.total)
            self._picks = torch.from_numpy(self.recursion.picks(first, end - first, self.start.replica))
            self._picks = self._picks.to(self._device)
            self._eta = (self._rates(first, end - first) / self.recursion.svag).tolist()
            self._drawn = (first, end)
        return self._drawn

    def _diverged(self, step: int) -> None:
        rate = float(self._rates(max(step - 1, 0), 1)[0])
        raise Diverged(
            f"the loss or the weights are no longer finite after step {step} (epoch "
            f"{step / self.recursion.per_epoch:.4g}): lower learning_rate={rate:g}",
            path=self.start.replica,
            step=step,
        )

    def _record(self) -> None:
        here = None
        for recorder, when, rows in zip(self.recorders, self.whens, self.rows):
            if rows.count < len(when) and when[rows.count] == self.step:
                here = here or self._state()
                value = take(recorder, self.model, here)
                if isinstance(recorder.measure, Loss) and not np.isfinite(value):
                    self._diverged(self.step)
                rows.put(value)

    def _state(self) -> RunState:
        rate = float(self._rates(min(self.step, max(self.total - 1, 0)), 1)[0]) if self.total else float("nan")
        epoch = self.step / self.recursion.per_epoch
        return replace(self.start, step=self.step, epoch=epoch, learning_rate=rate, velocity=self._velocity())

    def _velocity(self) -> torch.Tensor | None:
        """(d,) v before the next step; None without momentum and before the first."""
        if not self.recursion.momentum or not self.step:
            return None
        speeds = [self._optimizer.state[weight].get("momentum_buffer") for weight in trainable(self.model)]
        moved = [torch.zeros_like(w) if v is None else v for w, v in zip(trainable(self.model), speeds)]
        return torch.cat([v.detach().reshape(-1) for v in moved])

    def _save(self, streams) -> None:
        for rows in self.rows:
            rows.sync()
        memories = {r.name: r.measure.state_dict() for r in self.recorders if hasattr(r.measure, "state_dict")}
        state = {"step": self.step, "model": tensors_of(self.model), "optimizer": self._optimizer.state_dict()}
        state |= {"random": [stream.get_state() for stream in streams], "measures": memories}
        self._folder.save(state | {"rows": [rows.state() for rows in self.rows]})

    def _resume(self, streams) -> None:
        state = None if self._folder is None else self._folder.load()
        if state is None:
            return
        put_tensors(self.model, state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for stream, value in zip(streams, state["random"]):
            stream.set_state(value)
        for rows, value in zip(self.rows, state["rows"]):
            rows.restore(value)
        for recorder in self.recorders:
            if recorder.name in state["measures"]:
                recorder.measure.load_state_dict(state["measures"][recorder.name])
        self.step = state["step"]

    def close(self) -> None:
        for rows in self.rows:
            rows.close()


@contextmanager
def own_stream(device: torch.device, seed: int, replica: int) -> Iterator[list[torch.Generator]]:
    """torch's global streams seeded for one run, and afterwards as they were."""
    word = int(np.random.SeedSequence([seed, replica]).generate_state(1, np.uint64)[0])
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        streams = [torch.default_generator]
        if cuda:
            index = torch.cuda.current_device() if device.index is None else device.index
            streams.append(torch.cuda.default_generators[index])
        for stream in streams:
            stream.manual_seed(word)
        yield streams
