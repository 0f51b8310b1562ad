"""Losses f_1 … f_n of a model as functions of its weights, with their gradients and products of their Jacobian."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from sde_sgd import _checks

from . import _samples, _training_mode
from ._memory import require_memory

STATISTICS = ("eval", "full", "minibatch")
# Fixed rather than shares of what is free today: the order of summation, and so every bit, depends on them.
_CHUNK_BYTES = 128 * 2**20  # gradients, or a graph of autograd, at once; vmap's intermediates cost about as much again
_KEEP_BYTES = 512 * 2**20  # graphs of all chunks together, kept between products
_PROBE = 8
_TRIAL = 4  # samples on which two ways are compared

Parameters = dict[str, Tensor]


class SampleLosses:
    """n losses f_k(w) of one model: of its N samples, or of M mini-batches; J, their Jacobian, is n × d.

    ``statistics="eval"``: f_k of sample k alone, batch norm frozen; n = N. ``"full"``: f_k of sample k inside one
    forward pass over all N in training mode. ``"minibatch"``: the mean loss of a batch in training mode; n = M.
    The model is copied; nothing here changes the caller's model or its random stream.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable,
        dataset,
        *,
        statistics: str = "eval",
        device=None,
        **minibatch: int | None,
    ):
        _checks.choice("statistics", statistics, STATISTICS)
        _checks.instance("model", model, nn.Module)
        if not callable(loss):
            raise ValueError(f"loss must be a function of (output, target), got {loss!r}")
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no parameter with requires_grad=True: there is no gradient")
        model = copy.deepcopy(model).train(statistics != "eval")
        with _samples.in_words(f"device={device!r} cannot be used"):
            self.device = torch.device(device) if device is not None else next(model.parameters()).device
            model.to(self.device)
        every = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, value in every.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"parameter {name!r} is not finite: the training diverged before this point")
        self.parameters = {name: every.pop(name) for name in trainable}
        self.dtype = functools.reduce(torch.promote_types, (p.dtype for p in self.parameters.values()))
        self.inputs, self.targets = _samples.as_tensors(dataset, self.device, self.dtype)
        self.statistics, self.model, self.loss = statistics, model, loss
        self.batches = _training_mode.draw_batches(statistics, len(self.inputs), **minibatch)
        if statistics != "eval":
            _training_mode.forget_running_statistics(model)
        self._constants = every | dict(model.named_buffers())
        # From the plain to the demanding, so that each fault is told as what it is.
        _training_mode.check_draws_nothing(model, self.inputs)
        if statistics == "eval":
            first, alone = _samples.check_model(model, self.inputs)
        else:
            first, alone = _training_mode.check_model(model, self.inputs), None
        _samples.check_loss(model, loss, self.inputs, self.targets)
        self._check_depends()
        self._bytes = _forward_bytes(model, self.inputs)
        if statistics == "full":
            needed = 3 * self._bytes * len(self.inputs)
            remedy = 'use a subset of the samples, or statistics="eval"'
            require_memory(needed, "one forward pass over all samples in training mode", remedy, self.device)
        next(self.gradients(trainable, 2))
        if alone is not None:
            _samples.check_apart(first, alone)

    def _check_depends(self) -> None:
        with torch.enable_grad():
            if not self.outputs(self.leaves, slice(0, _PROBE)).requires_grad:
                raise ValueError(
                    "the outputs of the model do not depend on its trainable parameters: it detaches them, computes "
                    "under torch.no_grad(), or uses other weights than those with requires_grad=True"
                )

    @property
    def count(self) -> int:
        """n: how many losses there are, rows of J."""
        return len(self.inputs) if self.batches is None else len(self.batches)

    @property
    def size(self) -> int:
        """d, the number of trainable weights."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def restricted(self, names: list[str]) -> SampleLosses:
        """The same losses as functions of some of the parameter tensors only, in the order of the model."""
        part = copy.copy(self)
        part.parameters = {name: value for name, value in self.parameters.items() if name in names}
        part._constants = self._constants | {n: v for n, v in self.parameters.items() if n not in names}
        for cached in ("leaves", "_graphs", "forward_mode"):
            part.__dict__.pop(cached, None)
        return part

    # Vectors ------------------------------------------------------------------------------------------------

    def split(self, vector: Tensor) -> Parameters:
        """A vector (d,) as tensors by name, each in its parameter's float type."""
        pieces = torch.split(vector, [value.numel() for value in self.parameters.values()])
        return {n: piece.reshape(p.shape).to(p) for (n, p), piece in zip(self.parameters.items(), pieces)}

    def joined(self, tensors) -> Tensor:
        """Gradients in the order of the parameters, None for no dependence, as one vector (d,)."""
        values = zip(tensors, self.parameters.values())
        return torch.cat([torch.zeros_like(p).flatten() if t is None else t.flatten() for t, p in values]).to(
            self.dtype
        )

    # Losses -------------------------------------------------------------------------------------------------

    def outputs(self, parameters: Parameters, chunk: slice) -> Tensor:
        """What the model gives for a chunk of the samples; for "full" the chunk is all of them."""
        return functional_call(self.model, (parameters, self._constants), (self.inputs[chunk],))

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n,) losses, the criterion called on each sample as a batch of one."""
        return vmap(lambda o, t: _samples.one_number(self.loss(o[None], t[None])).reshape(()))(outputs, targets)

    def losses(self, parameters: Parameters, chunk: slice) -> Tensor:
        """(n,) losses f_k for the rows of J in a chunk."""
        with self._in_words(chunk):
            if self.batches is None:
                return self.criterion(self.outputs(parameters, chunk), self.targets[chunk])
            chosen = self.batches[chunk].to(self.device)
            return vmap(self._batch_loss, (None, 0, 0))(parameters, self.inputs[chosen], self.targets[chosen])

    def _at(self, chunk: slice, parameters: Parameters) -> Tensor:
        return self.losses(parameters, chunk)

    def _batch_loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(self.model, (parameters, self._constants), (inputs,))
        return self.criterion(outputs, targets).mean()

    def _one_loss(self, parameters: Parameters, sample: Tensor, target: Tensor) -> Tensor:
        output = functional_call(self.model, (parameters, self._constants), (sample[None],))
        return _samples.one_number(self.loss(output, target[None])).reshape(())

    def chunks(self, factor: int = 1) -> list[slice]:
        """Slices of the rows of J whose graphs, ``factor`` times a forward pass each, stay under 128 MiB."""
        if self.statistics == "full":
            return [slice(0, self.count)]
        rows = max(1, min(self.count, _CHUNK_BYTES // max(1, factor * self._each)))
        return [slice(start, min(start + rows, self.count)) for start in range(0, self.count, rows)]

    def rows(self, columns: int) -> int:
        """How many rows of J, of so many columns, are held at once: about 128 MiB with what they are made from."""
        each = 8 * columns + (0 if self.statistics == "full" else self._each)
        return max(1, min(self.count, _CHUNK_BYTES // each))

    @property
    def _each(self) -> int:
        """Bytes of the forward pass behind one loss."""
        return self._bytes * (1 if self.batches is None else self.batches.shape[1])

    def fits(self, factor: int = 1) -> bool:
        """Whether graphs of all chunks together may be kept between products."""
        return factor * self._each * self.count <= _KEEP_BYTES

    # Derivatives --------------------------------------------------------------------------------------------

    @functools.cached_property
    def leaves(self) -> Parameters:
        """The weights as leaves of autograd graphs."""
        return {name: value.detach().clone().requires_grad_() for name, value in self.parameters.items()}

    @functools.cached_property
    def _graphs(self) -> list[Tensor] | None:
        return [self.losses(self.leaves, chunk) for chunk in self.chunks()] if self.fits() else None

    @functools.cached_property
    def forward_mode(self) -> bool:
        """Whether torch differentiates this model forward, and rightly; where not, J v takes two backward passes."""
        few = slice(0, self.count if self.statistics == "full" else min(_TRIAL, self.count))
        function = lambda at: self.losses(at, few)  # noqa: E731
        generator = torch.Generator().manual_seed(0)
        direction = self.split(torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device))
        expected = self._backward_tangent(function, direction)
        try:
            found = jvp(function, (self.parameters,), (direction,))[1].detach()
        except (RuntimeError, ValueError) as fault:
            if "forward AD" in str(fault) or "jvp" in str(fault):
                return False
            raise
        allowed = torch.finfo(self.dtype).eps ** 0.5 * float(expected.abs().max())
        return float((found - expected).abs().max()) <= allowed

    def push(self, vector: Tensor) -> Tensor:
        """(n,) products J v in float64."""
        direction = self.split(vector)
        parts = [self.tangent(functools.partial(self._at, chunk), direction) for chunk in self.chunks()]
        return torch.cat(parts).double()

    def tangent(self, function: Callable[[Parameters], Tensor], direction: Parameters) -> Tensor:
        """The derivative of a function of the weights along a direction, by forward mode where torch has it."""
        if self.forward_mode:
            return jvp(function, (self.parameters,), (direction,))[1].detach()
        return self._backward_tangent(function, direction)

    def _backward_tangent(self, function: Callable[[Parameters], Tensor], direction: Parameters) -> Tensor:
        values = function(self.leaves)
        if not values.requires_grad:
            return torch.zeros_like(values)
        weights = torch.zeros_like(values, requires_grad=True)  # Jᵀu is linear in u, and its derivative along v is J v
        pulled = torch.autograd.grad(values, list(self.leaves.values()), weights, create_graph=True, allow_unused=True)
        pairs = [(p, v) for p, v in zip(pulled, direction.values()) if p is not None and p.requires_grad]
        moved = torch.autograd.grad([p for p, _ in pairs], weights, [v for _, v in pairs], allow_unused=True)[0]
        return torch.zeros_like(values).detach() if moved is None else moved.detach()

    def pull(self, weights: Tensor) -> Tensor:
        """(d,) products Jᵀ u: one backward pass of Σ u_k f_k; summed over chunks in float64."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        leaves, kept = list(self.leaves.values()), self._graphs
        for index, chunk in enumerate(self.chunks()):
            losses = self.losses(self.leaves, chunk) if kept is None else kept[index]
            if not losses.requires_grad:  # of a part of the weights, which no output depends on
                continue
            grads = torch.autograd.grad(
                losses, leaves, weights[chunk].to(losses), retain_graph=kept is not None, allow_unused=True
            )
            total += self.joined(grads)
        return total

    def gradients(self, names: list[str], rows: int) -> Iterator[Tensor]:
        """(rows, d_names) gradients with respect to the named tensors only, chunk by chunk."""
        for start in range(0, self.count, rows):
            chunk = slice(start, min(start + rows, self.count))
            parts = self._full_rows(names, chunk) if self.statistics == "full" else self._own_rows(names, chunk)
            flat = {n: parts[n].detach().reshape(chunk.stop - chunk.start, -1) for n in names}
            for name, part in flat.items():
                _samples.require_finite(part, f"gradient with respect to {name!r}", start)
            yield torch.cat([flat[name] for name in names], dim=1)

    def _own_rows(self, names: list[str], chunk: slice) -> Parameters:
        constant = {name: value for name, value in self.parameters.items() if name not in names}
        chosen = {name: self.parameters[name] for name in names}
        one = self._one_loss if self.batches is None else self._batch_loss
        rows = chunk if self.batches is None else self.batches[chunk].to(self.device)
        with self._in_words(chunk):
            return vmap(grad(lambda own, x, y: one(own | constant, x, y)), (None, 0, 0))(
                chosen, self.inputs[rows], self.targets[rows]
            )

    def _full_rows(self, names: list[str], chunk: slice) -> Parameters:
        """Each row needs a backward pass through all samples, which meet in the batch statistics."""
        leaves = [self.leaves[name] for name in names]
        kept = self._graphs
        losses = self.losses(self.leaves, slice(0, self.count)) if kept is None else kept[0]
        found: list[tuple[Tensor | None, ...]] = [(None,) * len(leaves)] * (chunk.stop - chunk.start)
        if losses.requires_grad:
            ks = range(chunk.start, chunk.stop)
            found = [torch.autograd.grad(losses[k], leaves, retain_graph=True, allow_unused=True) for k in ks]
        return {
            name: torch.stack([torch.zeros_like(leaf) if part is None else part for part in (row[i] for row in found)])
            for i, (name, leaf) in enumerate(zip(names, leaves))
        }

    def _in_words(self, chunk: slice):
        what = "samples" if self.batches is None else "mini-batches"
        return _samples.in_words(
            f"the gradients of {what} {chunk.start} to {chunk.stop - 1} cannot be computed "
            "by torch.func.vmap(grad), which takes tensor operations only (no .item(), no branch on values, "
            "no change of a buffer in place)"
        )


def _forward_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes autograd keeps for one sample of a forward pass, measured on a few."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.ndim and not isinstance(tensor, nn.Parameter):
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    probe = inputs[:_PROBE]
    weights = {p.data_ptr() for p in model.parameters()}
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.enable_grad():
        outputs = model(probe)
    activations = sum(size for place, size in held.items() if place not in weights)
    return -(-(activations + 4 * outputs.numel() * outputs.element_size()) // len(probe))
