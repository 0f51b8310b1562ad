"""The stochastic differential equation of a network's SGD: one weighted backward pass a step, torchsde, and SVAG."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

import sde_sgd as sde
from sde_sgd import _checks

from ._memory import require_memory
from ._network_runs import BLOCK, Run, torchsde_segments
from ._numbers import LARGEST_SEED, from_zero
from ._sample_losses import SampleLosses
from ._samples import in_words
from .ensembles import ensemble

_CHUNK_BYTES = 128 * 2**20  # graphs of replicas at once
_COPIES = 8  # of the states and of the increments, beside the normals of a block
_REMEMBERED = 64  # arrays like an increment that BrownianInterval holds

Observe = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor | dict[str, Tensor]]


class NetworkSDE:
    r"""dw = −(∇f + λw) dt + √(2T D(w)) dW, T = η/2b, the Itô model of SGD on a network, in time t = η·steps.

    f = (1/N) Σ_k f_k, D the centred covariance of the ∇f_k. With J the N × d matrix of gradients and W of N
    components, √(2T D) dW = √(η/(bN)) Jᵀ(dW − mean dW): no matrix, and a step of Euler–Maruyama of size h is

        w ← (1 − hλ) w + Jᵀu,   u_k = −h/N + √(η/(bN)) (ΔW_k − mean ΔW),   ΔW_k ~ N(0, h),

    one backward pass with weights u_k. Euler–Maruyama has weak order 1 in h. At h = η it has the mean and covariance of
    a step of SGD, but Gaussian noise; the SDE is its limit h → 0 at constant η/b.

    Parameters
    ----------
    model, loss, dataset, statistics, device : as of `GradientNoise`; "eval" or "full". Without batch norm the two are
        the same; with it neither is the noise of mini-batches in training mode.
    learning_rate, batch_size : η and b; only η/b enters but for the default step h = η.
    weight_decay : λ.

    States are float64, gradients have the type of the weights. As ``noise_type="general"`` Itô equation it has the
    ``f``, ``g_prod`` and ``f_and_g_prod`` that torchsde takes.

    Raises ValueError for what `GradientNoise` refuses, and for ``statistics="minibatch"``, which have no J.

    References
    ----------
    Li, Tai & E (2017); Chaudhari & Soatto (2018), eq. (4); SVAG: Li, Malladi & Arora (2021).

    Examples
    --------
    >>> import torch
    >>> from sde_sgd.validation import NetworkSDE
    >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> x, y = torch.ones(4, 1, dtype=torch.float64), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    >>> sde = NetworkSDE(line, torch.nn.MSELoss(), (x, y), learning_rate=0.1, batch_size=2)
    >>> sde.temperature, sde.euler(steps=10, replicas=3, start=[1.0]).weights.shape
    (0.025, (3, 1, 1))
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(
        self,
        model: nn.Module,
        loss: Callable,
        dataset,
        *,
        learning_rate: float,
        batch_size: int,
        weight_decay: float = 0.0,
        statistics: str = "eval",
        device=None,
    ):
        _checks.choice("statistics", statistics, ["eval", "full"])
        self._losses = SampleLosses(model, loss, dataset, statistics=statistics, device=device)
        self.samples, self.dim, self.device = self._losses.count, self._losses.size, self._losses.device
        self.learning_rate = _checks.positive("learning_rate", learning_rate)
        self.batch_size = _checks.whole("batch_size", batch_size, 1)
        self.weight_decay = from_zero("weight_decay", weight_decay)
        self._amplitude = float(np.sqrt(self.learning_rate / (self.batch_size * self.samples)))
        self._parts = self._losses.chunks()
        largest = max(part.stop - part.start for part in self._parts)
        self._rows = max(1, _CHUNK_BYTES // max(1, largest * self._losses._each))
        self._pullers = [vmap(self._puller(part)) for part in self._parts]

    @property
    def temperature(self) -> float:
        """T = η/2b."""
        return self.learning_rate / (2 * self.batch_size)

    # The equation -------------------------------------------------------------------------------------------

    def _puller(self, part: slice) -> Callable:
        losses = self._losses

        def pulled(state: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
            values, pull = vjp(lambda own: losses.losses(own, part), losses.split(state))  # type: ignore[misc]
            return tuple(losses.joined(pull(u.to(values))[0].values()).double() for u in weights)

        return pulled

    def _pulled(self, states: Tensor, *weights: Tensor) -> list[Tensor]:
        """Jᵀu at each state (replicas, d), for each of the weights u (replicas, N), from one forward pass."""
        totals = [torch.zeros_like(states) for _ in weights]
        for first in range(0, len(states), self._rows):
            rows = slice(first, first + self._rows)
            for part, pull in zip(self._parts, self._pullers):
                for total, found in zip(totals, pull(states[rows], *(u[rows, part] for u in weights))):
                    total[rows] += found
        return totals

    def _noise(self, increments: Tensor) -> Tensor:
        return self._amplitude * (increments - increments.mean(dim=1, keepdim=True))

    def _mean(self, states: Tensor, step: float = 1.0) -> Tensor:
        return torch.full((len(states), self.samples), -step / self.samples, dtype=states.dtype, device=states.device)

    def f(self, t, y: Tensor) -> Tensor:
        """Drift −∇f − λw at (replicas, d)."""
        return self._pulled(y, self._mean(y))[0] - self.weight_decay * y

    def g_prod(self, t, y: Tensor, v: Tensor) -> Tensor:
        """√(2T D) v for v (replicas, N)."""
        return self._pulled(y, self._noise(v))[0]

    def f_and_g_prod(self, t, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one forward and two backward passes."""
        drift, noise = self._pulled(y, self._mean(y), self._noise(v))
        return drift - self.weight_decay * y, noise

    # Runs ---------------------------------------------------------------------------------------------------

    def euler(
        self,
        *,
        steps: int,
        step: float | None = None,
        replicas: int = 1,
        start: ArrayLike | Tensor | None = None,
        save_every: int | None = None,
        observe: Observe | None = None,
        increments: ArrayLike | None = None,
        refinement: int = 1,
        first_replica: int = 0,
        first_step: int = 0,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> xr.Dataset:
        """Euler–Maruyama by one weighted backward pass a step, all replicas together.

        Parameters
        ----------
        step : h; default η.   start : (d,) or (replicas, d); default the model's weights.
        save_every : save at the start and every so many steps; None: after the last one.
        observe : as of `ensemble`: what to save in place of the weights.
        increments : (steps, replicas, N), ΔW_k to take in place of random ones.
        refinement : ΔW is the sum of so many increments, a divisor of 32, as a run with step h/refinement and the same
            seed takes them: one Brownian path at two step sizes, for the error of the step without that of chance.
        first_replica, first_step : of a run in pieces; noise is a function of (seed, replica, step) alone.

        Returns
        -------
        xarray.Dataset
            ``weights`` (replica, time, weight), or what is observed; time h·step. attrs: settings, float type.

        Raises ValueError for arguments out of range or what does not fit in memory, `Diverged` naming replica and step.
        """
        finer = _checks.whole("refinement", refinement, 1, BLOCK)
        if BLOCK % finer:
            raise ValueError(f"refinement={refinement} must divide {BLOCK}, the steps whose normals are drawn together")
        run = self._checked(
            steps, step, replicas, start, save_every, first_replica, first_step, seed, increments, observe, progress
        )
        return self._dataset(run, self._euler_states(run, finer, progress), observe, "euler")

    def torchsde(
        self,
        *,
        steps: int,
        step: float | None = None,
        replicas: int = 1,
        start: ArrayLike | Tensor | None = None,
        save_every: int | None = None,
        observe: Observe | None = None,
        increments: ArrayLike | None = None,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> xr.Dataset:
        """The same by ``torchsde.sdeint``, method "euler": an independent integrator and noise.

        Arguments and result as of `euler`. Time restarts at 0 in every segment of at most 10⁴ steps, each with a
        ``BrownianInterval`` of its own keyed by (seed, segment). Two backward passes a step where `euler` takes one.
        """
        run = self._checked(steps, step, replicas, start, save_every, 0, 0, seed, increments, observe, progress)
        return self._dataset(run, self._torchsde_states(run, progress), observe, "torchsde")

    def svag(
        self,
        order: int,
        *,
        steps: int,
        replicas: int = 1,
        start: ArrayLike | Tensor | None = None,
        save_every: int | None = None,
        observe: Observe | None = None,
        first_replica: int = 0,
        first_step: int = 0,
        compile: bool = False,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> xr.Dataset:
        """SVAG(l), l = `order`: l·`steps` steps of size η/l with mini-batches drawn with replacement; l = 1 is SGD.

        `steps`, `save_every` and `first_step` count steps of SGD, η of time each. By `ensemble`, with its `observe` and
        `compile`; result as of `euler`. It tends to the SDE as l → ∞, with an error in 1/l, and costs 2b·l gradients
        of samples for a time η where Euler–Maruyama at h = η costs N.

        Raises ValueError for a model with batch norm: in a mini-batch it follows other losses than those of this SDE.
        """
        order = _checks.whole("order", order, 1)
        if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in self._losses.model.modules()):
            raise ValueError(
                "the model has batch norm, which in mini-batches makes another noise than this SDE's: compare "
                "networks without it, or take GradientNoise(statistics='minibatch')"
            )
        every = None if save_every is None else order * _checks.whole("save_every", save_every, 1, steps)
        found = ensemble(
            self._losses.model, self._losses.inputs, self._losses.targets, replicas=replicas,
            steps=order * _checks.whole("steps", steps, 1), learning_rate=self.learning_rate,
            batch_size=self.batch_size, weight_decay=self.weight_decay, svag=order,
            loss=lambda outputs, targets: self._losses.criterion(outputs, targets).mean(), start=start,
            first_replica=first_replica, first_step=order * _checks.whole("first_step", first_step, 0),
            save_every=every, observe=observe, compile=compile, seed=seed, progress=progress,
        )  # fmt: skip
        size = self.learning_rate / order
        found = found.rename(step="time").assign_coords(time=found["step"].values * size)
        return found.assign_attrs(self._attributes("svag", size, seed) | {"order": order})

    # How they run -------------------------------------------------------------------------------------------

    def _checked(
        self, steps, step, replicas, start, save_every, first_replica, first_step, seed, increments, observe, progress
    ) -> Run:
        _checks.function("observe", observe)
        _checks.function("progress", progress)
        steps = _checks.whole("steps", steps, 1)
        replicas = _checks.whole("replicas", replicas, 1, 2**31)
        n, d = self.samples, self.dim
        needed = 8 * replicas * (_COPIES * (n + d) + n * BLOCK)
        require_memory(needed, f"{replicas} replicas with {n} increments each", "take fewer replicas", self.device)
        size = self.learning_rate if step is None else _checks.positive("step", step)
        if start is None:
            state = torch.cat([p.detach().flatten() for p in self._losses.parameters.values()]).double()
        else:
            array = start.detach().cpu().numpy() if torch.is_tensor(start) else start
            state = torch.from_numpy(_checks.finite_array("start", array).astype(np.float64))
        if tuple(state.shape) not in ((d,), (replicas, d)):
            raise ValueError(f"start must have shape ({d},) or ({replicas}, {d}), got {tuple(state.shape)}")
        given = None
        if increments is not None:
            given = torch.from_numpy(_checks.finite_array("increments", increments, (steps, replicas, n)))
        return Run(
            steps, size, replicas, state.expand(replicas, d).clone().to(self.device),
            steps if save_every is None else _checks.whole("save_every", save_every, 1, steps), save_every is not None,
            _checks.whole("first_replica", first_replica, 0), _checks.whole("first_step", first_step, 0),
            _checks.whole("seed", seed, 0, LARGEST_SEED), given,
        )  # fmt: skip

    def _euler_states(self, run: Run, finer: int, progress) -> Iterator[Tensor]:
        state, noise = run.start, None
        with torch.no_grad():
            for k in range(run.steps // run.every * run.every):
                at, place = divmod((run.first_step + k) * finer, BLOCK)
                if run.increments is not None:
                    drawn = run.increments[k].to(self.device)
                else:
                    if noise is None or place == 0:
                        noise = torch.from_numpy(run.normals(at, self.samples)).to(self.device)
                    drawn = float(np.sqrt(run.step / finer)) * noise[:, place : place + finer].sum(dim=1)
                pulled = self._pulled(state, self._mean(state, run.step) + self._noise(drawn))[0]
                state = state * (1.0 - run.step * self.weight_decay) + pulled
                saved = (k + 1) % run.every == 0
                if saved or place + finer == BLOCK or k + 1 == run.steps:
                    run.require_finite(state, k + 1)
                    if progress is not None:
                        progress(k + 1, run.steps)
                if saved:
                    yield state

    def _torchsde_states(self, run: Run, progress) -> Iterator[Tensor]:
        needed = 8 * run.replicas * self.samples * _REMEMBERED
        require_memory(needed, f"the Brownian motion of {run.replicas} replicas", "take fewer", self.device)
        return torchsde_segments(self, run, progress)

    def _dataset(self, run: Run, states: Iterator[Tensor], observe: Observe | None, method: str) -> xr.Dataset:
        saved = np.arange(0 if run.from_start else run.every, run.steps + 1, run.every)
        if observe is None:
            needed = 8 * len(saved) * run.replicas * self.dim
            remedy = "save less often, or give observe"
            require_memory(needed, f"the weights of {len(saved)} saves", remedy, torch.device("cpu"))
        found: dict[str, list[NDArray]] = {}
        for one in itertools.chain([run.start] if run.from_start else [], states):
            for name, value in self._look(one, observe).items():
                found.setdefault(name, []).append(value)
        replica = run.first_replica + np.arange(run.replicas)
        result = xr.Dataset(coords={"replica": replica, "time": run.step * (run.first_step + saved)})
        for name, values in found.items():
            array = np.stack(values, axis=1)
            inner = ["weight"] if observe is None else [f"{name}_{axis}" for axis in range(array.ndim - 2)]
            result[name] = (("replica", "time", *inner), array)
        return result.assign_attrs(self._attributes(method, run.step, run.seed))

    def _look(self, states: Tensor, observe: Observe | None) -> dict[str, NDArray]:
        if observe is None:
            return {"weights": states.cpu().numpy().copy()}
        losses = self._losses

        def one(state: Tensor):
            weights = losses.split(state)
            return observe(lambda x: functional_call(losses.model, (weights, losses._constants), (x,)), state)

        with torch.no_grad(), in_words("observe fails under torch.func.vmap"):
            parts = [vmap(one)(rows) for rows in states.split(self._rows)]
        named = [part if isinstance(part, dict) else {"observed": part} for part in parts]
        return {name: torch.cat([part[name] for part in named]).cpu().numpy() for name in named[0]}

    def _attributes(self, method: str, step: float, seed: int) -> dict[str, Any]:
        return {
            "method": method, "step": step, "learning_rate": self.learning_rate, "batch_size": self.batch_size,
            "weight_decay": self.weight_decay, "temperature": self.temperature, "samples": self.samples,
            "statistics": self._losses.statistics, "seed": seed, "device": str(self.device),
            "float_type": str(self._losses.dtype).removeprefix("torch."), "torch_version": str(torch.__version__),
            "sde_sgd": sde.__version__,
        }  # fmt: skip
