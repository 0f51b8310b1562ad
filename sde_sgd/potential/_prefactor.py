"""The rate of escape over a saddle with its prefactor, current and position-dependent noise included."""

from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr

from sde_sgd import _checks
from sde_sgd.errors import NotConverged

from ._action import Curve, Limit, form, lengths, unit
from ._minimum_action import minimum_action_path, zero_of_drift

_RESONANT = 1e-9  # |λ_i + λ_j| over the largest |λ|
_HALVINGS = 48  # of the segments at the ends, by √2 each: the fixed points are reached to 1e-7 of a segment
_OBLIQUE = 0.1  # sine of the angle between the path's end and the direction it should have
_GAUSS = 0.5 - np.sqrt(3.0) / 6.0


def escape_rate(process: Any, a: Any, saddle: Any, *, start: Any = None, points: int = 129) -> xr.Dataset:
    r"""The rate at which the attractor a is left over a saddle s, as T → 0, with its prefactor.

        rate = (λ₊/2π) √(det V''(a)/|det V''(s)|) e^{−[V(s) + T W(s)]/T},    ρ_ss ~ e^{−W − V/T} near a,
        dW/dt = div b + tr(D V'') + 2 (div D)·∇V − b₁·∇V    along the path of least action,  W(a) = 0,

    λ₊ the unstable eigenvalue of ∂b/∂x at s, b₁ = ∂b/∂T where the drift contains T. V'' obeys a Riccati equation along
    the path and a Lyapunov equation at its ends, JΣ + ΣJᵀ = −2D, V'' = Σ⁻¹. In detailed balance with constant D this
    is the law of Eyring and Kramers, W = 0; in one variable √(D(a)/D(s)) e^{−∫f'/(TD)} √|f''(a) f''(s)|/2π.

    1/rate is the mean time to come over this saddle to what lies behind it; to come to the saddle itself, from where
    half return, takes half as long. Rates over several saddles add up. The relative error is O(T).

    Parameters
    ----------
    a, saddle : fixed points of the drift as T → 0, (d,), which Newton's method improves: a stable, s with one
        unstable direction. start, points : as in `minimum_action_path`.

    Returns a Dataset: `rate`, `mean_time` = 1/rate and `log_rate`, which holds where they leave float64; `barrier`
    V(s), `unstable_rate` λ₊, `determinant_ratio` det V''(a)/|det V''(s)|, `correction` W(s), each with its `_error`
    where the path makes one (what a half and a quarter of the points change); over `point` the `path` and `prefactor`
    W. `attrs["arrival_angle"]` is the sine of that between the end of the path and the direction in which a smooth V
    is crossed at s, 0 but for errors.

    Raises ValueError where a or the saddle is not what it must be, where b is not linear in T, where the path crosses
    another fixed point (take its legs one by one), and where V has no second derivative at the saddle: as a rule where
    the drift contracts more slowly there than it expands and no symmetry or potential prevents it (Maier & Stein
    1997); NotConverged where neighbouring paths cross, and as `minimum_action_path`. When not to use it: T not small
    against the barrier (solve `FokkerPlanck.mean_exit_time`), escape over a cycle, saddles so flat that √T is not
    small against their size.

    Bouchet & Reygner (2016), Ann. Henri Poincaré 17 for D = I; Grafke, Schäfer & Vanden-Eijnden (2021) for
    the Riccati equation.
    """
    limit, temperature = Limit(process), process.constant_temperature
    points = _checks.whole("points", points, 65)
    a, end = (_checks.finite_array(name, np.atleast_1d(x), (limit.dim,)) for name, x in (("a", a), ("saddle", saddle)))
    reach = float(np.linalg.norm(end - a))
    a, end = _fixed_point(limit, a, 0, "a", reach), _fixed_point(limit, end, 1, "saddle", reach)
    unstable = float(np.linalg.eigvals(limit.jacobian(end)).real.max())
    found = minimum_action_path(process, a, end, start=start, points=points)
    if found.sizes["crossing"]:
        raise ValueError(
            f"the path crosses another fixed point, {tuple(found.crossings.values[0].round(6).tolist())}; take its "
            "legs one by one"
        )
    below = _hessian(limit, a, "a")
    w, off, log_ratio = _along(limit, found.path.values, temperature, below)
    if off > _OBLIQUE:
        rates = np.sort(np.linalg.eigvals(limit.jacobian(end)).real)
        raise ValueError(
            f"the path comes to the saddle at an angle of {np.degrees(np.arcsin(min(off, 1.0))):.2g}° to the direction "
            f"in which a smooth quasi-potential is crossed there, as where the drift contracts more slowly than it "
            f"expands (rates {rates.round(6).tolist()}): V has no second derivative at the saddle and the rate no "
            "such prefactor (Maier & Stein 1997); solve FokkerPlanck.mean_exit_time"
        )
    error, finer, path = 0.0, w[-1] - 0.5 * log_ratio, found
    for fewer in ((points + 1) // 2, (points + 3) // 4):
        path = minimum_action_path(process, a, end, start=path, points=fewer)
        coarse, _, ratio = _along(limit, path.path.values, temperature, below)
        error, finer = error + abs(finer - coarse[-1] + 0.5 * ratio), coarse[-1] - 0.5 * ratio
    barrier, barrier_error = float(found.total_action), float(found.total_action_error)
    log_rate = np.log(unstable / (2 * np.pi)) + 0.5 * log_ratio - barrier / temperature - w[-1]
    with np.errstate(over="ignore"):
        scalars = {
            "rate": np.exp(log_rate), "mean_time": np.exp(-log_rate), "log_rate": log_rate,
            "log_rate_error": barrier_error / temperature + error,
            "barrier": barrier, "barrier_error": barrier_error, "correction": w[-1], "correction_error": error,
            "unstable_rate": unstable, "determinant_ratio": np.exp(log_ratio),
        }  # fmt: skip
    data = {name: ((), float(value)) for name, value in scalars.items()}
    along = {"path": found["path"], "prefactor": ("point", w)}
    return xr.Dataset(data | along, attrs={**found.attrs, "temperature": temperature, "arrival_angle": off})


def _fixed_point(limit: Limit, x: np.ndarray, unstable: int, name: str, reach: float) -> np.ndarray:
    zero = zero_of_drift(limit, x, limit.metric(x), 0.05 * reach * np.sqrt(np.linalg.norm(limit.metric(x), 2)))
    if zero is None:
        raise ValueError(f"{name} = {tuple(x.tolist())} is not near a fixed point of the drift as T → 0; find it first")
    rates = np.linalg.eigvals(limit.jacobian(zero)).real
    if (rates > 0.0).sum() != unstable or np.abs(rates).min() <= 1e-10 * np.abs(rates).max():
        wanted = "stable" if unstable == 0 else "unstable in exactly one direction"
        raise ValueError(
            f"{name} = {tuple(zero.round(6).tolist())} must be {wanted}, and the eigenvalues of the drift's Jacobian "
            f"there have real parts {rates.round(6).tolist()}"
        )
    return zero


def _hessian(limit: Limit, x: np.ndarray, name: str, arrival: np.ndarray | None = None) -> np.ndarray:
    """V'' at a fixed point: Σ⁻¹ with JΣ + ΣJᵀ = −2D.

    Where eigenvalues λ₊ and −λ₊ meet at a saddle, Σ is determined up to a part that the direction of `arrival` fixes:
    p ends along the left eigenvector ℓ of λ₊, and Σp = x.
    """
    jacobian, diffusion = limit.jacobian(x), limit.diffusion(x)
    rates, left = np.linalg.eig(jacobian.T)
    if np.abs(rates[:, None] + rates).min() > _RESONANT * np.abs(rates).max():
        sigma = scipy.linalg.solve_continuous_lyapunov(jacobian, -2.0 * diffusion)
        return np.linalg.inv(0.5 * (sigma + sigma.T))
    if limit.process.equilibrium_potential is not None:
        hessian = -np.linalg.solve(diffusion, jacobian)
        return 0.5 * (hessian + hessian.T)
    d = limit.dim
    basis = np.array([np.eye(d)[:, [i]] * np.eye(d)[j] for i in range(d) for j in range(i, d)])
    basis = basis + np.swapaxes(basis, -1, -2)
    image = jacobian @ basis
    image = (image + np.swapaxes(image, -1, -2)).reshape(len(basis), -1).T
    _, size, rows = np.linalg.svd(image)
    keep = size > 1e-7 * size[0]
    part = np.linalg.pinv(image, rcond=1e-7) @ (-2.0 * diffusion).ravel()
    if arrival is None or np.abs(image @ part + 2.0 * diffusion.ravel()).max() > 1e-7 * np.abs(diffusion).max():
        raise ValueError(
            f"at {name} two eigenvalues of the drift's Jacobian sum to 0, {rates.round(9).tolist()}, and no Hessian of "
            "the quasi-potential solves the Lyapunov equation there; change a parameter slightly"
        )
    sigma, free = np.tensordot(part, basis, 1), np.tensordot(rows[len(size[keep]) :], basis, 1)
    covector = left[:, rates.real.argmax()].real
    off = np.eye(d) - np.outer(arrival, arrival) / (arrival @ arrival)
    weights = np.linalg.lstsq(off @ (free @ covector).T, -off @ sigma @ covector)[0]
    return np.linalg.inv(sigma + np.tensordot(weights, free, 1))


def _along(limit: Limit, x: np.ndarray, temperature: float, start: np.ndarray) -> tuple[np.ndarray, float, float]:
    """W at the points of x, the sine of the angle it comes to the saddle at, and log(det V''(a)/|det V''(s)|).

    With G = ∂ẋ/∂x of ẋ = b + 2Dp, V'' = Y X⁻¹ where Ẋ = GX + 2DY, Ẏ = −H_xx X − GᵀY; a step of Magnus's method of
    fourth order leads from X = 1, Y = V''. As d log det X/dt = tr(G + 2DV''), dW/dt is half of it and ½ tr G − b₁·p.
    Along the path V'' is known, V''ẋ = ṗ = −H_x, and would be lost to a growing mode near the saddle: it is set anew.
    """
    last, metric = Curve(limit, x).spline(lengths(limit, x)[-1], 1), limit.metric(x[-1])
    end = _hessian(limit, x[-1], "the saddle", last)
    rates, vectors = np.linalg.eig(limit.jacobian(x[-1]) + 2.0 * limit.diffusion(x[-1]) @ end)  # of ẋ = b + 2Dp
    arrival, last = (unit(metric, v)[0] for v in (vectors[:, rates.real.argmin()].real, last))
    arrival = arrival * np.sign(form(metric, arrival, last))
    off = float(unit(metric, last - form(metric, arrival, last) * arrival)[1])
    curve = Curve(limit, x, arrival)
    s, owner = _intervals(curve.nodes)
    step = np.diff(s)
    matrices, drifts = [], []
    for node in (_GAUSS, 1.0 - _GAUSS):
        matrix, free = _linearised(limit, curve, s[:-1] + node * step, temperature)
        matrices.append(matrix)
        drifts.append(free)
    one, two = matrices
    omega = 0.5 * step[:, None, None] * (one + two)
    omega += np.sqrt(3.0) / 12.0 * (step**2)[:, None, None] * (two @ one - one @ two)
    flow, d = scipy.linalg.expm(omega), limit.dim
    tangent = curve.spline(s, 1)
    metric, at = limit.metric(curve.spline(s)), curve.spline(s)
    p, speed = curve.momentum(s)
    duration = np.sqrt(form(metric, tangent, tangent)) / speed
    change = -limit.slope(at, p) * duration[:, None]
    side = np.einsum("nij,nj->ni", metric, tangent) / form(metric, tangent, tangent)[:, None]
    hessian, w, total = start, np.zeros(len(s)), 0.0
    for k in range(len(step)):
        f = flow[k]
        forward = f[:d, :d] + f[:d, d:] @ hessian
        sign, size = np.linalg.slogdet(forward)
        if not (sign > 0 and np.isfinite(size)):
            raise NotConverged(
                f"at {tuple(at[k].round(6).tolist())} on the path of least action neighbouring paths cross: the "
                "quasi-potential is not smooth there and has no prefactor; try another saddle, or more points"
            )
        hessian = np.linalg.solve(forward.T, (f[d:, :d] + f[d:, d:] @ hessian).T).T
        hessian = 0.5 * (hessian + hessian.T)
        if 2 * k > len(step):  # before, the mode falls
            hessian = _with_image(hessian, tangent[k + 1], change[k + 1], side[k + 1])
        total += 0.5 * size + 0.5 * step[k] * (drifts[0][k] + drifts[1][k])
        w[k + 1] = total
    ratio = float(np.linalg.slogdet(start)[1] - np.linalg.slogdet(end)[1])
    return np.concatenate([[0.0], w[owner], [total]]), off, ratio


def _intervals(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the steps: halves of the segments, finer and finer towards both ends; and where the inner nodes are."""
    inner = np.sort(np.concatenate([nodes[1:-1], 0.5 * (nodes[1:-2] + nodes[2:-1])]))
    fine = 2.0 ** (-0.5 * np.arange(_HALVINGS, 0, -1))
    s = np.concatenate(
        [nodes[0] + (nodes[1] - nodes[0]) * fine, inner, (nodes[-1] - (nodes[-1] - nodes[-2]) * fine)[::-1]]
    )
    return s, np.searchsorted(s, nodes[1:-1])


def _linearised(limit: Limit, curve: Curve, s: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The flow of (X, Y) and ½ tr G − b₁·p, per unit of s."""
    x, tangent = curve.spline(s), curve.spline(s, 1)
    metric = limit.metric(x)
    p, speed = curve.momentum(s)
    spread = limit.jacobian(x)
    if not limit.constant:
        spread = spread + 2.0 * np.einsum("nikl,nl->nki", limit.diffusion_gradient(x), p)
    bend = limit.differences(lambda y: limit.slope(y, p), x)
    bend = 0.5 * (bend + np.swapaxes(bend, -1, -2))
    per_s = (np.sqrt(form(metric, tangent, tangent)) / speed)[:, None, None]
    top = np.concatenate([spread, 2.0 * limit.diffusion(x)], axis=-1)
    bottom = np.concatenate([-bend, -np.swapaxes(spread, -1, -2)], axis=-1)
    free = 0.5 * np.trace(spread, axis1=-2, axis2=-1) - (limit.drift_per_temperature(x, temperature) * p).sum(-1)
    return np.concatenate([top, bottom], axis=-2) * per_s, free * per_s[:, 0, 0]


def _with_image(matrix: np.ndarray, vector: np.ndarray, image: np.ndarray, side: np.ndarray) -> np.ndarray:
    """The symmetric matrix with matrix·vector = image that is as before across it; side·vector = 1."""
    across = np.eye(len(vector)) - np.outer(vector, side)
    corner = np.outer(image, side)
    return corner + corner.T - (image @ vector) * np.outer(side, side) + across.T @ matrix @ across
