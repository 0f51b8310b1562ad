"""The bias of the step, estimated by the program itself: the same noise at steps of two lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import Diverged, TooFewSamples
from sde_sgd.process import Process, Underdamped

from ._ensemble import Tally
from ._observable import Estimate, Setting, half
from ._scheme import Scheme
from ._schemes import SCHEMES

Run = Callable[[Sequence[Any], int], xr.Dataset]


def with_step_bias(
    run: Run, process: Process, observables, *, step, steps: int, first_step: int = 0, scheme: str = "auto"
) -> xr.Dataset:
    r"""bias ≈ (v_2h − v_h)/(2^p − 1) of every observable v, from a run at h and one at 2h on the same noise.

    `run(observables, m)` simulates steps/m steps of length m·h from first_step/m with m·substeps; m is 2, then 1. The
    result at h gains `<v>_bias`, so that v − bias is of the next order, and `<v>_bias_error`, the standard error of
    the paired differences of the blocks: noise that both runs share drops out of it.

    p is the scheme's `measure_order` for averages of states and its `weak_order` for a lag covariance or an angular
    velocity, 1 with reflecting walls, and 1 where it is not known that the condition of the scheme's order holds: the
    bias is then overstated, by 3 for a scheme that is of second order after all.

    Raises ValueError for a step that varies, odd `steps`, `first_step`, `burn_in` or `every` (but every = 1), two- or
    three-point increments, absorbing walls, and observables without an order. It holds where h is small enough for
    the leading term and the run is long enough to be stationary: not for steps near the limit of stability.
    Talay & Tubaro (1990).
    """
    if np.ndim(step):
        raise ValueError("step_bias compares two steps and needs a step that is a number, not one per step")
    several = list(observables) if isinstance(observables, list | tuple) else [observables]
    if observables is None or not several:
        raise ValueError("step_bias is that of observables; give some, such as Moments()")
    for observable in several:
        if not callable(getattr(observable, "halved", None)):
            raise ValueError(f"step_bias does not know the bias of {type(observable).__name__}")
    if scheme in SCHEMES and SCHEMES[scheme].increments != "normal":
        raise ValueError(
            f"step_bias needs two runs on the same noise, and the {SCHEMES[scheme].increments.replace('_', '-')} "
            f"increments of {scheme!r} do not add up to those of a longer step; take a scheme with normal increments"
        )
    half("steps", steps)
    half("first_step", first_step)
    coarse = [_Kept(observable.halved()) for observable in several]
    fine = [_Kept(observable) for observable in several]
    also = "step_bias also runs at twice the step, and there"
    try:
        result = run(coarse, 2)
    except Diverged as fault:
        raise Diverged(f"{also} {fault}", path=fault.path, step=fault.step) from fault
    except TooFewSamples as fault:
        raise TooFewSamples(f"{also} {fault}") from fault
    if result.attrs.get("walls") == "absorb":
        raise ValueError('step_bias knows no order where walls="absorb" stops paths; take exit_times')
    result = run(fine, 1)
    chosen = SCHEMES[_checks.choice("scheme", result.attrs["scheme"], tuple(SCHEMES))]
    for one, other in zip(fine, coarse):
        for name, at_h in one.started.estimates().items():
            result = result.assign(
                _bias(name, at_h, other.started.estimates()[name], _order(chosen, at_h, process, result))
            )
    return result


@dataclass
class _Kept:
    """An observable that keeps its tally, from which the blocks are read when the run is over."""

    observable: Any
    started: Any = None

    def tally(self, setting: Setting) -> Tally:
        self.started = self.observable.tally(setting)
        return self.started


def _bias(name: str, at_h: Estimate, at_2h: Estimate, order: float) -> dict[str, tuple]:
    scale = 2.0**order - 1.0
    pairs = Estimate(at_h.dims, at_2h.value - at_h.value, at_2h.blocks - at_h.blocks)
    attrs = {"order": order}
    return {
        f"{name}_bias": (at_h.dims, pairs.value / scale, attrs),
        f"{name}_bias_error": (at_h.dims, pairs.error / scale, attrs),
    }


def _order(scheme: Scheme, estimate: Estimate, process: Process, result: xr.Dataset) -> float:
    """The order in h of an estimate's bias that is certain."""
    order = getattr(scheme, estimate.order)
    if scheme.lookahead:
        certain = process.equilibrium_potential is not None
    elif isinstance(process, Underdamped):
        certain = process.landscape.constant_diffusion() is not None
    else:
        certain = True
    return order if certain and result.attrs.get("walls", "none") == "none" else min(order, 1.0)
