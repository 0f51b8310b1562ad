"""Potential, remainder and circulation of a stationary process, read off its generator on a grid."""

from typing import Any

import numpy as np
import xarray as xr

from sde_sgd import _checks
from sde_sgd.fokker_planck.generator import FokkerPlanck, edge_average

from ._identities import with_identity
from ._refinement import attached, coarser
from ._stream_function import stream_function


def decompose(fp: FokkerPlanck, *, error: bool = False, identity: bool = False) -> xr.Dataset:
    r"""Split a drift into the part that keeps its stationary density and the part that follows a potential.

        Φ = −T log ρ,    j = J/ρ = b + D∇Φ − T div D,    div j = j·∇Φ/T    (always),
        in 2-D also      J = (∂_yψ, −∂_xψ),  q = ψ/(Tρ),  j = −Q∇Φ + T div Q,  Q = q [[0, 1], [−1, 0]].

    With c and P of an edge (`FokkerPlanck`) and Δ = log ρ_head − log ρ_tail, the component of j along it
    is the drift's excess c(P − Δ), the difference of two logarithms, so it holds its digits where ρ is far
    below float64; J along an edge is √(ρ_tail ρ_head)·c B(P)e^{P/2}·2 sinh((P − Δ)/2), the generator's own
    flux without the subtraction of two nearly equal products. Both agree to second order; where ρ changes by
    much more than e between neighbours, the first is far closer to j.

    Parameters
    ----------
    fp : FokkerPlanck
        Its steady state is solved if it has not been.
    error : bool
        Solve on half and on a quarter of the cells per axis too, and estimate the error of every field below.
    identity : bool
        Evaluate both sides of b = −(D + Q)∇Φ + T div(D + Q), for b = −∇f the A-type form
        ∇f = (D + Q)∇Φ − T div(D + Q), (div M)_i = Σ_j ∂_j M_ij. In 2-D with reflecting walls, and in 1-D with Q = 0.

    Returns
    -------
    Dataset over the grid with
        potential               Φ, its minimum 0
        remainder               j, last dimension `component`
        current                 J = jρ of the steady state, last dimension `component`
        divergence_j            div j; zero only under the extra hypothesis of Chaudhari & Soatto (their
                                Assumption 4)
        j_dot_grad_potential    j·∇Φ
        stream_function, q      2-D with reflecting walls: ψ = 0 on the walls; q is NaN where ρ underflows
        <name>_error            with `error`: the estimate of what is computed less what is true, by Richardson, so that
                                name − name_error is of higher order and |name_error| an error bar;
                                `potential_error` has mean 0 under ρ, as Φ is free by a constant.
                                `attrs["<name>_order"]`: the order p observed on the three grids, from the means of
                                |differences| under ρ, which is flattened where it is narrower than a few cells; 0
                                where they grow, NaN without a third grid or where they are rounding. Far from 2 the
                                grids are not yet fine enough for the estimate to be more than a size; it is made with
                                p held between ½ and 2
        drift, a_type_drift, a_type_gap
                                with `identity`: b, the right-hand side by central differences, and the second less
                                the first: of second order, NaN where q is

    Everything is of second order in the spacing, summed over all cells. One exception: where offsets exceed one
    cell (`attrs["longest_offset"]`) and a current runs along a reflecting wall, the few cells next to the wall are
    right together and not one by one. There Φ is off by O(h) and j, J and div j by O(1), so that their error summed
    over all cells is of first order; that of ρ, Φ and q stays of second. On a periodic axis J has a harmonic part
    besides T div(Qρ), ψ has no gauge, and q is left out; so it is in 3-D, where Q is not unique. `attrs["q"]` says so.

    Raises ValueError if `fp` is not a FokkerPlanck, where the steady state does (absorbing walls, a chain that is not
    irreducible), for `error` on fewer than 12 cells along an axis, and for `identity` where there is no q.

    When not to use it: where h|∇Φ|/T is well above 1 and j is not 0, the scheme's own smearing enters Φ at
    first order in h; at 10, Φ may be off by a per cent and j by ten, and q, a ratio to ρ, is of no use there.
    Refine the grid, or raise T. A process with an equilibrium potential has no such limit. Where diffusion was added
    (`fp.added_diffusion`), all is that of D + εI, and refinement does not see ε.

    Sources: Ao (2004), J. Phys. A 37; Chaudhari & Soatto (2018), arXiv:1710.11029, Theorem 22; Roache (1994), J. Fluids
    Eng. 116, for errors from observed orders.
    """
    _checks.instance("fp", fp, FokkerPlanck, "make one by FokkerPlanck(process, grid)")
    coarse = coarser(fp) if _checks.instance("error", error, bool) else []
    result = fields(fp, dict(fp.log_steady_state().attrs))
    if error:
        result = attached(result, [fp, *coarse], fields)
    return with_identity(result, fp) if _checks.instance("identity", identity, bool) else result


def fields(fp: FokkerPlanck, attrs: dict[str, Any] | None = None) -> xr.Dataset:
    """What `decompose` gives without being asked for more; `attrs` are those of the steady state."""
    attrs = dict(fp.attrs if attrs is None else attrs)
    flat = fp._log_density
    temperature, grid, edges = fp.process.temperature, fp.grid, fp.edges
    rise = flat[edges.head] - flat[edges.tail]
    velocity = edges.conductance * (edges.peclet - rise)
    flux = _edge_flux(edges.conductance, edges.peclet, rise, 0.5 * (flat[edges.head] + flat[edges.tail]))
    n = grid.size
    divergence = np.bincount(edges.tail, velocity, n) - np.bincount(edges.head, velocity, n)
    climb = -temperature * rise * velocity  # v·(Φ_head − Φ_tail), the same seen from either end
    along = 0.5 * (np.bincount(edges.tail, climb, n) + np.bincount(edges.head, climb, n))

    def field(values: np.ndarray, name: str, component: bool = False) -> xr.DataArray:
        return grid.data_array(values, fp.process.variables, name, attrs, component=component)

    result = {
        "potential": field(temperature * (flat.max() - flat), "potential"),
        "remainder": field(edge_average(fp, velocity), "remainder", True),
        "current": field(edge_average(fp, flux), "current", True),
        "divergence_j": field(divergence, "divergence_j"),
        "j_dot_grad_potential": field(along, "j_dot_grad_potential"),
    }
    if grid.dim == 1:
        attrs["q"] = "left out: in one dimension an antisymmetric Q is zero"
    elif grid.dim == 3:
        attrs["q"] = "left out: in three dimensions Q is not unique"
    elif any(grid.periodic):
        attrs["q"] = "left out: on a periodic axis the current has a harmonic part that no stream function holds"
    else:
        psi = stream_function(edges.tail, edges.offset, flux * grid.cell_volume, (grid.shape[0], grid.shape[1]))
        density = np.exp(flat).reshape(grid.shape)
        usable = density >= np.finfo(float).tiny  # below, a subnormal has lost its digits
        with np.errstate(divide="ignore", invalid="ignore"):
            q = np.where(usable, psi / (temperature * density), np.nan)
        attrs["q"] = f"psi/(T rho), psi = 0 on the walls; NaN in {int((~usable).sum())} cells where rho underflows"
        result["stream_function"] = field(psi, "stream_function")
        result["q"] = field(q, "q")
    return xr.Dataset(result, attrs=attrs)


def _edge_flux(conductance: np.ndarray, peclet: np.ndarray, rise: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """e^mean·c·B(P)e^{P/2}·2 sinh((P − Δ)/2), mean = ½ log(ρ_tail ρ_head), exponents joined: none overflows.

    B(P)e^{P/2} = |P| e^{−|P|/2}/(1 − e^{−|P|}) and 2 sinh|z| = e^{|z|}(1 − e^{−2|z|}).
    """
    size, z = np.abs(peclet), 0.5 * (peclet - rise)
    with np.errstate(invalid="ignore"):
        bend = np.where(size > 0.0, size / -np.expm1(-size), 1.0)
    return conductance * bend * np.sign(z) * -np.expm1(-2.0 * np.abs(z)) * np.exp(np.abs(z) - 0.5 * size + mean)
