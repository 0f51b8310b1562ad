"""The stationary law of a linear process beside the loss it is supposed to follow, and the way it turns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._style import INK, MUTED, axes_or_new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sde_sgd.discrete_sgd import DiscreteSGD
    from sde_sgd.ornstein_uhlenbeck import OrnsteinUhlenbeck

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


@styled
def plot_linear_theory(
    law: "OrnsteinUhlenbeck | DiscreteSGD", variables: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    r"""Two variables of a stationary law: its ellipses of one and two standard deviations, and j on them.

    Solid: √(uᵀS⁻¹u) = 1, 2, u = x − c. Dashed: the same of e^{−f/τ}, τ = T tr D/d, where noise of the same trace in
    every direction alike would keep the process (drawn where the drift is a gradient: F symmetric). Dotted, for
    `DiscreteSGD` with a temperature: its limit η → 0. Arrows: E[j | the two variables] = −(TQ)S⁻¹u of these two, scaled
    to the picture, for `DiscreteSGD` with its `irreversibility` for TQ; there are none under detailed balance.

    `variables` names the two; by default the first two. Raises ValueError for one variable, for unknown names, and
    for a `DiscreteSGD` whose noise does not reach every direction: restrict it.
    """
    from sde_sgd.ornstein_uhlenbeck import OrnsteinUhlenbeck

    names = list(law.variables)
    chosen = names[:2] if variables is None else list(variables)
    unknown = [name for name in chosen if name not in names]
    if unknown or len(set(chosen)) != 2:
        raise ValueError(f"two different variables of {', '.join(names[:20])} are drawn, got {chosen}")
    at = np.array([names.index(name) for name in chosen])
    pick = np.ix_(at, at)
    spread, center = law.covariance[pick], law.center[at]
    drift, temperature = _drift_and_temperature(law)
    tall = float(np.clip(np.sqrt(spread[1, 1] / spread[0, 0]), 0.4, 1.6))
    ax = axes_or_new(ax, 4.8, 4.2 * tall + 1.1)
    _ellipses(ax, spread, center, _BLUE, "-", "stationary")
    if np.array_equal(drift, drift.T):
        isotropic = temperature * np.trace(law.D) / law.dim * np.linalg.inv(drift)
        _ellipses(ax, isotropic[pick], center, MUTED, "--", "isotropic noise")
    if not isinstance(law, OrnsteinUhlenbeck) and law.sampling != "reshuffling":
        _ellipses(ax, law.continuous.covariance[pick], center, _GREEN, ":", "limit of small steps")
    area = law.irreversibility[pick]
    if abs(area[0, 1]) > 1e-12 * np.sqrt(spread[0, 0] * spread[1, 1]) * np.abs(drift).max():
        _arrows(ax, spread, center, area)
    ax.plot(*center, "+", color=INK, ms=7)
    ax.set(xlabel=chosen[0], ylabel=chosen[1])
    ax.set_aspect("equal", adjustable="box")
    entries = len(ax.get_legend_handles_labels()[0])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 if entries == 4 else 3)
    return ax


def _drift_and_temperature(law) -> tuple[np.ndarray, float]:
    """F, or H with its decay; T, or for reshuffling that of single batches."""
    if hasattr(law, "F"):
        return law.F, law.temperature
    return law.H + law.weight_decay * np.eye(law.dim), 0.5 * law.clock * law.noise_share


def _ellipses(ax: "Axes", covariance: np.ndarray, center: np.ndarray, colour: str, style: str, label: str) -> None:
    """One and two standard deviations."""
    circle = _root(covariance) @ _turn(np.linspace(0, 2 * np.pi, 181))
    for sigmas in (1, 2):
        ax.plot(
            *(center[:, None] + sigmas * circle), style, color=colour, lw=1.6 if sigmas == 1 else 1.0,
            label=label if sigmas == 1 else None,
        )  # fmt: skip


def _arrows(ax: "Axes", covariance: np.ndarray, center: np.ndarray, area: np.ndarray) -> None:
    """j at equal times apart on the ellipses, along which it runs."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + np.pi / 12
    points = np.hstack([sigmas * _root(covariance) @ _turn(angles) for sigmas in (1, 2)])
    velocity = -area @ np.linalg.solve(covariance, points)
    longest = np.linalg.norm(velocity, axis=0).max()
    scale = 0.45 * np.sqrt(np.linalg.eigvalsh(covariance)[-1]) / longest
    ax.quiver(
        *(center[:, None] + points), *(scale * velocity), angles="xy", scale_units="xy", scale=1.0, color=_ORANGE,
        width=0.006, pivot="mid", zorder=3, label="remainder j",
    )  # fmt: skip


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _turn(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)])
