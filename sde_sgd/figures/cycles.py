"""Phase portraits with closed orbits and fixed points, and branches of both over a parameter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import INK, MUTED, axes_or_new, frame, map_axes_or_new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sde_sgd.cycles import Bifurcation, Branch, Cycle, FixedPoint

# How a fixed point is drawn: marker, and whether it is filled.
_MARKERS = {
    "stable node": ("o", True),
    "stable focus": ("o", True),
    "unstable node": ("o", False),
    "unstable focus": ("o", False),
    "saddle": ("X", False),
    "saddle-focus": ("X", False),
    "centre or weak focus": ("D", False),
    "degenerate": ("s", False),
}
_LINES = {"stable": "-", "unstable": "--", "saddle": "-.", "non-hyperbolic": ":", "centre": "-", "neutral": ":"}
_BIFURCATIONS = {
    "fold": "o",
    "pitchfork": "D",
    "transcritical": "s",
    "branch point": "s",
    "Hopf": "^",
    "period doubling": "v",
    "torus": "P",
}


@styled
def plot_cycles(
    field: Any,
    cycles: "Sequence[Cycle]",
    fixed_points: "Sequence[FixedPoint]" = (),
    box: Any = None,
    ax: "Axes | None" = None,
    temperature: float | None = None,
) -> "Axes":
    """Streamlines of a planar field with its closed orbits (stable solid, unstable dashed) and fixed points by kind.

    `field`, `box`, `temperature` : as in `find_cycles`. A filled circle attracts, an open one repels, a cross is a
    saddle, a diamond a centre or weak focus. Orbits of one family are thin lines of one colour. Raises ValueError for
    a field that is not planar.
    """
    from sde_sgd.cycles._field import as_field

    v = as_field(field, box, temperature=temperature)
    if v.dim != 2:
        raise ValueError(f"a phase portrait is drawn in the plane, the field has {v.dim} variables")
    x, y = (np.linspace(low, high, 60) for low, high in zip(v.lower, v.upper))
    half = np.array([x[1] - x[0], y[1] - y[0]]) / 2
    rates = v.value(np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)).reshape(60, 60, 2)
    rates = np.ma.masked_invalid(rates)
    ax = map_axes_or_new(ax, x, y, above=0.5)
    ax.streamplot(x, y, rates[..., 0].T, rates[..., 1].T, color="#c3c9cf", linewidth=0.7, density=1.2, arrowsize=0.7)
    shown: set[str] = set()
    for cycle in cycles:
        if cycle.variables != v.variables:
            raise ValueError(f"a cycle over {', '.join(cycle.variables)} in a portrait of {', '.join(v.variables)}")
        label = cycle.kind if cycle.family is None else "centre: one of a family"
        colour = {"stable": "C0", "unstable": "C1", "centre": "C2"}.get(cycle.kind, "C3")
        line = v.gap(np.diff(cycle.points, axis=0, append=cycle.points[:1]))
        points = cycle.points[0] + np.concatenate([np.zeros((1, 2)), np.cumsum(line, axis=0)])
        jumps = np.abs(np.diff(v.wrap(points), axis=0) - line).max(-1) > 1e-9 if any(cycle.winding) else np.zeros(1)
        if jumps.any():  # cut where a periodic axis is crossed
            points = np.insert(v.wrap(points), np.flatnonzero(jumps) + 1, np.nan, axis=0)
        width = 2.0 if cycle.family is None else 1.1
        ax.plot(
            *points.T,
            _LINES.get(cycle.kind, "-"),
            color=colour,
            lw=width,
            label=None if label in shown else f"{label} cycle" if cycle.family is None else label,
            zorder=3,
        )
        shown.add(label)
    for point in fixed_points:
        marker, filled = _MARKERS[point.kind]
        ax.plot(
            *point.position,
            marker,
            ms=6.5,
            mfc=INK if filled else "white",
            mec=INK,
            mew=1.2,
            ls="none",
            label=None if point.kind in shown else point.kind,
            zorder=4,
        )
        shown.add(point.kind)
    frame(ax, (v.variables[0], v.variables[1]), x[:-1] + half[0], y[:-1] + half[1])
    if shown:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


@styled
def plot_branch(branches: "Branch | Sequence[Branch]", variable: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """A variable of branches over their parameter: stable solid, unstable dashed, bifurcations marked and named.

    Fixed points whose linear part decides nothing (a pair on the imaginary axis) are dotted.

    `branches` : what `continue_fixed_points` and `continue_cycles` give, one or many over one parameter. Of cycles the
    largest and the least value of the variable over the orbit are drawn. `variable` : a coordinate (default the first)
    or, for cycles alone, "period". Raises ValueError for unknown variables.
    """
    from sde_sgd.cycles import Branch

    many = [branches] if isinstance(branches, Branch) else list(branches)
    if not many:
        raise ValueError("there is no branch to draw")
    parameter = many[0].parameter
    names = [str(n)[8:] for n in many[0].points if str(n).startswith("minimum_")]
    names = names or [str(n) for n in many[0].points if n not in (parameter, "eigenvalue", "stable")]
    chosen = names[0] if variable is None else variable
    ax = axes_or_new(ax)
    ax.axhline(0.0, color=MUTED, lw=0.5, zorder=0)
    shown: set[str] = set()
    for branch in many:
        cyclic = "period" in branch.points
        columns = [chosen] if not cyclic or chosen == "period" else [f"maximum_{chosen}", f"minimum_{chosen}"]
        if branch.parameter != parameter or any(c not in branch.points for c in columns):
            raise ValueError(
                f"a branch over {branch.parameter} has no {columns[0]!r}; it has {', '.join(map(str, branch.points))}"
            )
        value, stable = branch.points[parameter].values, branch.points["stable"].values
        kinds = {"stable": stable, "unstable": ~stable}
        if not cyclic:
            eigenvalues = branch.points["eigenvalue"].values
            neutral = np.abs(eigenvalues.real.max(-1)) <= 1e-9 * np.abs(eigenvalues).max(-1)
            neutral &= np.abs(eigenvalues.imag).max(-1) > 0
            neutral &= np.append(False, neutral[:-1]) | np.append(neutral[1:], False)  # not at one Hopf point
            kinds = {"stable": stable, "neutral": neutral, "unstable": ~stable & ~neutral}
        colour = "C1" if cyclic else "C0"
        for column in columns:
            height = branch.points[column].values
            for word, keep in kinds.items():
                # A segment belongs to the kind of either end, so that no gap is left where it changes.
                near = keep | np.append(keep[1:], False) & ~keep
                label = f"{word} {'cycle' if cyclic else 'fixed point'}"
                ax.plot(
                    np.where(near, value, np.nan),
                    np.where(near, height, np.nan),
                    _LINES[word],
                    color=colour,
                    lw=1.6,
                    label=label if keep.any() and label not in shown else None,
                )
                if keep.any():
                    shown.add(label)
        for b in branch.bifurcations:
            nearest = _nearest(branch, b)
            coordinate = [str(n) for n in names].index(chosen) if chosen in names else None
            for column in columns:
                fixed = not cyclic and coordinate is not None
                height = b.position[coordinate] if fixed else branch.points[column].values[nearest]
                ax.plot(
                    b.value,
                    height,
                    _BIFURCATIONS[b.kind],
                    ms=7,
                    mfc="white",
                    mec=INK,
                    ls="none",
                    label=b.kind if b.kind not in shown else None,
                    zorder=4,
                )
                shown.add(b.kind)
    ax.set(xlabel=parameter, ylabel=chosen)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def _nearest(branch: "Branch", bifurcation: "Bifurcation") -> int:
    """The point of a branch nearest to a bifurcation: by the parameter alone it may lie on the other side of a fold."""
    names = [str(n) for n in branch.points if branch.points[n].dims == ("point",)]
    names = [n for n in names if not n.startswith(("minimum_", "maximum_")) and n not in ("stable", branch.parameter)]
    at = dict(zip([n for n in names if n != "period"], bifurcation.position), period=bifurcation.period)
    columns = [(branch.points[branch.parameter].values, bifurcation.value)]
    columns += [(branch.points[n].values, at[n]) for n in names]
    squares = np.array([((c - a) / max(float(np.ptp(c)), 1e-300)) ** 2 for c, a in columns])
    return int(squares.sum(0).argmin())
