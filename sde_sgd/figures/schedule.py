"""A temperature or a learning rate as it changes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import axes_or_new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 1001


@styled
def plot_schedule(
    schedule: Callable, end: float | None = None, ax: "Axes | None" = None, label: str | None = None
) -> "Axes":
    """A schedule from 0 to `end`: temperature against time, or learning rate against steps.

    `schedule` is one of `sde_sgd.schedules`, which say themselves how far to draw where `end` is left out, or any
    function of an array. ValueError for one without a length of its own and without `end`.
    """
    _checks.function("schedule", schedule)
    if end is None:
        end = _length(schedule)
    end = _checks.positive("end", end)
    t = np.linspace(0.0, end, _POINTS)
    values = np.broadcast_to(np.asarray(schedule(t), float), t.shape)
    ax = axes_or_new(ax, 4.8, 3.0)
    ax.plot(t, values, label=label)
    ax.set(xlabel="time or step", ylabel="temperature or learning rate")
    ax.set_ylim(0.0, 1.08 * max(float(np.max(np.asarray(line.get_ydata()))) for line in ax.lines))
    ax.margins(x=0)
    if label is not None:
        ax.legend()
    return ax


def _length(schedule: Callable) -> float:
    """Where a schedule has done all it does, and a little more."""
    from sde_sgd import schedules

    if isinstance(schedule, schedules.Annealing):
        return 1.2 * schedule.duration
    if isinstance(schedule, schedules.Cyclic):
        return 3.0 * schedule.period
    if isinstance(schedule, schedules.Trapezoid):
        return 1.1 * (schedule.rise + schedule.hold + schedule.fall)
    if isinstance(schedule, schedules.StepDecay) and schedule.at[-1] > 0:
        return 1.25 * schedule.at[-1]
    raise ValueError("how far to draw is not known; give end")
