"""One implicit step in one variable: Newton's method on where each share of the mass lies.

The mass mᵢ between neighbouring nodes x₀ < … < x_n is fixed, and the nodes move; in s = ∫dx/√D the metric D⁻¹ is
Euclidean, so that W₂² = ∫(s − s⁰)² dm is a sum over nodes. A step of length τ minimises

    Σ wᵢ (s(xᵢ) − s⁰ᵢ)²/(2τ) + Σ wᵢ Φ(xᵢ) + Σ mᵢ e(mᵢ/(xᵢ₊₁ − xᵢ)),    wᵢ half of the masses on both sides,

e(ρ) = T log ρ, or ρ^{k−1}/(k−1) for a porous medium. The matrix of second derivatives is tridiagonal. Of second order
in the spacing of the nodes. Nodes pushed beyond a wall stay on it.
Source: Jordan, Kinderlehrer & Otto (1998), SIAM J. Math. Anal. 29; Blanchet, Calvez & Carrillo (2008), SIAM J. Numer.
Anal. 46.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, solveh_banded

from sde_sgd.errors import NotConverged

_ITERATIONS = 60
_LARGEST = 5.0  # factor by which one iteration may change the gap between two nodes


@dataclass(frozen=True)
class Medium:
    """Internal energy ∫e(ρ)ρ dx: T log ρ, or ρ^{k−1}/(k−1) where an exponent k > 1 is given."""

    temperature: float
    exponent: float | None = None

    def energy(self, density: np.ndarray) -> np.ndarray:
        """e(ρ)."""
        k = self.exponent
        return self.temperature * np.log(density) if k is None else density ** (k - 1.0) / (k - 1.0)

    def pressure(self, density: np.ndarray) -> np.ndarray:
        """ρ²e′(ρ): Tρ, or ρᵏ."""
        return self.temperature * density if self.exponent is None else density**self.exponent

    def stiffness(self, density: np.ndarray) -> np.ndarray:
        """ρ times the slope of the pressure."""
        return self.temperature * density if self.exponent is None else self.exponent * density**self.exponent


@dataclass(frozen=True)
class Nodes:
    """Mass between nodes, and where they are."""

    position: np.ndarray  # (n + 1,)
    mass: np.ndarray  # (n,)

    @property
    def density(self) -> np.ndarray:
        """Between neighbours, (n,)."""
        return self.mass / np.diff(self.position)

    @property
    def weight(self) -> np.ndarray:
        """Of the nodes, (n + 1,)."""
        half = 0.5 * self.mass
        return np.append(half, 0.0) + np.insert(half, 0, 0.0)


def step(
    nodes: Nodes,
    tau: float,
    potential: Callable,
    arc_length: Callable,
    medium: Medium,
    held: tuple[float | None, float | None],
    tolerance: float,
) -> tuple[Nodes, float, float, int]:
    """The nodes after a step, W₂² per unit of mass, the last Newton step (relative to the spacing), and iterations.

    `potential(x, k)`, `arc_length(x, k)`: the k-th derivatives of Φ and s. `held`: where the first and the last node
    are put and stay, None where they are free.
    """
    x, start, mass, weight = nodes.position.copy(), arc_length(nodes.position, 0), nodes.mass, nodes.weight
    ends = [end for end, place in ((0, held[0]), (-1, held[1])) if place is not None]
    for end in ends:
        x[end] = held[end]
    root, bands = np.sqrt(weight), np.zeros((2, x.size))
    for iteration in range(1, _ITERATIONS + 1):
        gap = np.diff(x)
        density = mass / gap
        pressure, stiffness = medium.pressure(density), medium.stiffness(density) / gap
        moved, slope = arc_length(x, 0) - start, arc_length(x, 1)
        force = weight * (moved * slope / tau + potential(x, 1))
        force[:-1] += pressure
        force[1:] -= pressure
        bend = moved * arc_length(x, 2) + tau * potential(x, 2)
        right = -force / root  # all scaled to rows of the size of one, however little mass is there
        right[ends] = 0.0
        # the exact matrix where it is positive; else, where Φ is concave or D bends, its positive part
        for own in (slope**2 + bend, slope**2 + np.maximum(bend, -0.9 * slope**2)):
            bands[1] = own / tau
            bands[1, :-1] += stiffness / weight[:-1]
            bands[1, 1:] += stiffness / weight[1:]
            bands[0, 1:] = -stiffness / (root[:-1] * root[1:])
            for end in ends:
                bands[1, end], bands[0, 1 if end == 0 else -1] = 1.0, 0.0
            try:
                change = solveh_banded(bands, right, check_finite=False) / root
                break
            except LinAlgError:
                change = np.full_like(x, np.nan)
        stretch = 1.0 + np.diff(change) / gap
        limited = gap * np.clip(stretch, 1.0 / _LARGEST, _LARGEST)
        middle = int(np.searchsorted(np.cumsum(mass), 0.5 * mass.sum()))
        left, right_side = limited[:middle], limited[middle:]
        anchor = x[middle] + change[middle]
        low = -np.inf if held[0] is None else 0.5 * (x[0] + x[middle])
        anchor = max(low, min(anchor, np.inf if held[1] is None else 0.5 * (x[-1] + x[middle])))
        if held[0] is not None:
            left = left * (anchor - x[0]) / left.sum()
        if held[1] is not None:
            right_side = right_side * (x[-1] - anchor) / right_side.sum()
        x = np.concatenate([anchor - np.cumsum(left[::-1])[::-1], [anchor], anchor + np.cumsum(right_side)])
        for end in ends:
            x[end] = held[end]
        reached = float((mass * np.abs(stretch - 1.0)).sum() / mass.sum())
        if reached < tolerance:
            after = arc_length(x, 0) - start
            return Nodes(x, mass), float((weight * after**2).sum() / mass.sum()), reached, iteration
        if not np.isfinite(reached):
            break
    raise NotConverged(
        f"the step of tau = {tau:g} still moves nodes by {reached:.2g} of their distance after {iteration} "
        f"iterations, and {tolerance:g} is asked for; take a smaller tau, or method='entropic', in which mass may leap"
    )
