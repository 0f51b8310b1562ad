"""A verdict on a steady state: what holds of it that theorems assume, and where noise moves what is most likely."""

import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import BoxWarning
from sde_sgd.fokker_planck.generator import FokkerPlanck

from . import _refinement
from ._hypotheses import Hypothesis, has_loss, hypotheses, located, modes_at_zeros, number, stable
from ._shifts import compare, zeros_of_drift
from .decomposition import fields


@dataclass(frozen=True)
class Assessment:
    """What `assess` found; `str()` of it says so in words, `assessment["divergence_free"]` is one hypothesis.

    `hypotheses` : `Hypothesis` records, detailed balance first.
    `entropy_production`, `entropy_production_error` : of the steady state, in nats per time.
    `modes` : Dataset over `point`, highest first: a variable per coordinate, `log_ratio` = log(ρ/max ρ); `zero`, the
        index of the zero of the drift it belongs to, or −1; `nearest`, the distance of the nearest zero; `widths`, that
        of the nearest zero or of where one is moved to, in units of the mode's own width, √(δ·∇²Φ δ/T); `width`, the
        largest of its widths, √(T/least curvature of Φ); `resolved`, False on a ridge, where a curvature of Φ is not
        above 3 errors and a maximum is one of the grid; `shift` from its zero with `shift_error`, the grid's error of
        the place (NaN where the coarser grid has no such mode);
        `predicted_shift`, T (∂b)⁻¹ div(D + Q) at the zero, with `predicted_shift_error`.
    `zeros` : Dataset over `point`: zeros of the drift in the box, with `kind`, `eigenvalue`, `predicted_shift` and
        `mode`, the index of the mode that belongs to it, or −1. For b = −∇f they are the critical points of the loss.
    `decomposition` : Φ, j and the rest with their errors, and `loss` where the process has one.
    """

    name: str
    hypotheses: tuple[Hypothesis, ...]
    entropy_production: float
    entropy_production_error: float
    modes: xr.Dataset
    zeros: xr.Dataset
    decomposition: xr.Dataset

    def __getitem__(self, name: str) -> Hypothesis:
        known = {h.name: h for h in self.hypotheses}
        return known[_checks.choice("name", name, tuple(known))]

    @property
    def detailed_balance(self) -> bool | None:
        """Whether j = 0 within its error; None where the error is too large to tell."""
        return self["detailed_balance"].holds

    @property
    def temperature(self) -> float:
        return float(self.decomposition.attrs["temperature"])

    def __str__(self) -> str:
        words = {True: "Detailed balance", False: "No detailed balance", None: "Detailed balance cannot be decided"}
        produced = number(self.entropy_production, self.entropy_production_error)
        lines = [self.name, f"{words[self.detailed_balance]}; entropy production {produced} per time", "Hypotheses"]
        lines += [f"  {h}" for h in self.hypotheses]
        return "\n".join([*lines, *_places(self.modes, self.zeros)])


def assess(fp: FokkerPlanck) -> Assessment:
    r"""Which assumptions of the theory of SGD a steady state meets, and how far its modes are from where b = 0.

    Every verdict is a number against the error of the grid, which is estimated from half and a quarter of the cells
    (`decompose(fp, error=True)`). E is the mean under ρ. In `hypotheses`:

        detailed_balance     j = 0: E|j|                          gradient_drift   b = −∇f, or ∂b symmetric
        constant_noise       D(x) is constant                     isotropic_noise  D = cI
        divergence_free      div j = 0: E|div j|                  orthogonal       j ⟂ ∇Φ: E|j·∇Φ|
        decay, free_walls    ρ small at walls, no current turned  commute          FD = DFᵀ at every minimum, F = −∂b
        potential_is_loss    Φ = s f + constant                   modes_at_zeros   every mode of ρ is where b = 0
        noise_as_given       ε = 0: where the grid needed D + εI, all of this is of that (`fp.added_diffusion`)

    div j = 0 is Assumption 4 of Chaudhari & Soatto, equivalent to j ⟂ ∇Φ; D = cI implies Φ = f/c and not the other way
    round; at a quadratic minimum j ≠ 0 exactly where ∇²f and D do not commute.

    Modes solve b = T div(D + Q), critical points b = 0: to first order in T a mode is moved from x* by
    T (∂b)⁻¹ div(D + Q)(x*), for b = −∇f by −T H⁻¹ div(D + Q)(x*). A mode belongs to a zero of the drift that is,
    itself or moved by the formula, within one of the mode's own widths, nearest pairs first; modes without one, and
    minima without a mode, are listed as such. Q is from q in 2-D and 0 in 1-D; on periodic axes and in 3-D the formula
    is taken with div D where j = 0, else left NaN (`modes.attrs["predicted_shift"]` says which).

    `fp` : its steady state is solved if it has not been, and those of the coarser grids.
    Raises ValueError where `decompose(fp, error=True)` does. When not to use it: where cells are too coarse for the
    error to be one (orders in `decomposition.attrs` far from 2). Zeros of the drift are found by Newton's method from
    a lattice, and one whose basin is smaller than that can be missed.
    Source: Chaudhari & Soatto (2018), arXiv:1710.11029.
    """
    _checks.instance("fp", fp, FokkerPlanck, "make one by FokkerPlanck(process, grid)")
    process, grid = fp.process, fp.grid
    every = [fp, *_refinement.coarser(fp)]
    parts = _refinement.attached(fields(fp, dict(fp.log_steady_state().attrs)), every, fields)
    if has_loss(process):
        loss = process.landscape.loss(grid.centers())
        parts["loss"] = grid.data_array(loss, process.variables, "loss", {})
    zeros = zeros_of_drift(fp)
    verdicts = hypotheses(fp, parts, zeros)
    if next(h.holds for h in verdicts if h.name == "gradient_drift"):
        zeros = _as_critical_points(zeros)
    peaks, zeros = compare(fp, every[1], parts, zeros, verdicts[0].holds)
    produced = [_entropy_production(each) for each in every]
    verdicts.append(modes_at_zeros(peaks, grid.spacing))
    cells = " × ".join(map(str, grid.shape))
    return Assessment(
        name=f"{process.landscape.name} at T = {process.temperature:g}, {cells} cells",
        hypotheses=tuple(verdicts),
        entropy_production=produced[0],
        entropy_production_error=_refinement.scalar_error(produced, every),
        modes=peaks,
        zeros=zeros,
        decomposition=parts,
    )


def _entropy_production(fp: FokkerPlanck) -> float:
    density = np.exp(fp._log_density).reshape(fp.grid.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BoxWarning)  # those of the grid itself were given, coarser ones are meant to be
        return float(fp.entropy_production(density)["entropy_production"])


_CRITICAL = {"stable": "minimum", "unstable": "maximum"}


def _as_critical_points(zeros: xr.Dataset) -> xr.Dataset:
    kinds = [_CRITICAL.get(str(k), str(k)) for k in zeros["kind"].values]
    curvature = np.sort(-zeros["eigenvalue"].values.real, axis=-1)
    return zeros.assign(kind=("point", np.array(kinds, np.str_)), eigenvalue=(("point", "mode"), curvature))


def _places(modes: xr.Dataset, zeros: xr.Dataset) -> list[str]:
    """A line for every mode and for every minimum without one."""
    names = [str(v) for v in modes["component"].values]
    at, x, minima = located(modes, names), located(zeros, names), stable(zeros)
    kinds = Counter(zeros["kind"].values.astype(str).tolist())
    counted = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "none"
    lines = [f"Modes: {len(at)}. Zeros of the drift: {counted}"]
    for k, place in enumerate(at):
        line = f"  mode at {_point(place)}, ρ/max ρ = {np.exp(float(modes['log_ratio'][k])):.3g}"
        zero = int(modes["zero"][k])
        if not bool(modes["resolved"][k]):
            line += ": on a ridge, not a place of its own"
        elif zero < 0:
            line += ": no zero of the drift within its width, moved or not"
        else:
            shift, expected = modes["shift"].values[k], modes["predicted_shift"].values[k]
            error = float(modes["shift_error"][k])
            size = number(float(np.linalg.norm(shift)), error)
            line += f": {size} from the {zeros['kind'].values[zero]} {_point(x[zero])}, shift {_point(shift)}"
            doubt = float(np.linalg.norm(modes["predicted_shift_error"].values[k]))
            tail = f" ± {doubt:.1g}" if doubt > 1e-9 else ""
            line += f", to first order {_point(expected)}{tail}" if np.isfinite(expected).all() else ""
        lines.append(line)
    lines += [
        f"  {zeros['kind'].values[k]} at {_point(x[k])}: no mode"
        for k in np.flatnonzero(minima & (zeros["mode"].values < 0))
    ]
    return [*lines, f"  first-order shift: {modes.attrs['predicted_shift']}"]


def _point(values: np.ndarray) -> str:
    return f"({', '.join(f'{v + 0.0:.4g}' if abs(v) > 1e-9 else '0' for v in values)})"
