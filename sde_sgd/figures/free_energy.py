"""The free energy as it falls, and how fast."""

from typing import TYPE_CHECKING

import numpy as np

from sde_sgd import _checks

from ._style import INK, new_figure, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_DECADES = 14  # below the largest value, where rounding begins


@styled
def plot_free_energy(result: "xr.Dataset", rate: float | None = None) -> "Figure":
    r"""F(t) = T·KL(ρ‖ρ_ss) above and its dissipation −dF/dt below, on logarithmic scales.

    `result` is one of `FokkerPlanck.free_energy` of an evolution. `rate`, a λ of `spectrum(2)`, adds the
    slope e^{−2λt} through the latest value that is above rounding: that of the end of every reversible relaxation.
    An infinite dissipation (a start in one cell) and values 14 decades below the largest are left out.
    Raises ValueError where there are not two times, or nothing positive to draw.
    """
    if "free_energy" not in result or "dissipation" not in result or result["free_energy"].dims != ("time",):
        raise ValueError("there is no free energy over time to draw; give fp.free_energy(fp.evolve(density, times))")
    time = np.asarray(result["time"], float)
    if time.size < 2:
        raise ValueError(f"two times are needed at least, got {time.size}")
    figure = new_figure(5.0, 5.0)
    above, below = figure.subplots(2, 1, sharex=True)
    for ax, name, label in ((above, "free_energy", "free energy"), (below, "dissipation", "dissipation, per time")):
        values = np.asarray(result[name], float)
        finite = np.isfinite(values) & (values > 0.0)
        if not finite.any():
            raise ValueError(f"the {label} is nowhere positive and finite: there is nothing to draw")
        seen = finite & (values > 10.0**-_DECADES * values[finite].max())
        ax.plot(time[seen], values[seen], marker="o" if seen.sum() <= 40 else "none", ms=3.5)
        ax.set(yscale="log", ylabel=label)
        ax.grid(True, which="major")
        if rate is not None:
            slope = _checks.positive("rate", rate, "take the second eigenvalue of spectrum(2)")
            low, high = ax.get_ylim()
            last = np.flatnonzero(seen)[-1]
            line = np.log(values[last]) - 2.0 * slope * (time - time[last])
            inside = (line < np.log(high)) & (line > np.log(low))
            words = r"$e^{-2\lambda t}$, $\lambda$ = " + f"{slope:.4g}"
            ax.plot(time[inside], np.exp(line[inside]), color=INK, lw=1.1, ls=(0, (4, 3)), label=words)
            ax.set_ylim(low, high)
            if ax is above:
                ax.legend()
    below.set_xlabel("time")
    below.set_xlim(time[0], time[-1])
    figure.align_ylabels()
    return figure
