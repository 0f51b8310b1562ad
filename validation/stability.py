"""How long a quadratic minimum holds SGD, the exact exit time; and within which radius, its inverse."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import dawsn, erf

from sde_sgd import _checks

from ._operator import NetworkOperator

_NODES, _WEIGHTS = leggauss(96)
_SMALL = 1e-7  # |z| below which log ₂F₂ is z/3 to rounding
_DEEP = 50.0  # z beyond which ∫₀^X e^{u²} erf u du = e^z F(X), F Dawson's function, but for 1e-20 of it
_SMOOTH = 8.0  # where Dawson's function has become 1/2u, which is smooth in log u
_FARTHEST = 300.0  # log R
_LARGEST = 700.0  # log of hR²/2TD


def slab_exit_time(
    curvature: ArrayLike, noise: ArrayLike, temperature: ArrayLike, radius: ArrayLike, *, log: bool = False
) -> NDArray[np.float64]:
    r"""The mean time until dx = −hx dt + √(2TD) dW, started at 0, leaves |x| < R, in closed form.

        τ = (√π/h) ∫₀^X e^{u²} erf(u) du,           X² = hR²/(2TD),   h > 0
        τ = R²/(2TD),                                                 h = 0
        τ = (2/|h|) ∫₀^{|X|} F(u) du, F Dawson's,   |X|² = |h|R²/(2TD), h < 0: a saddle,

    one function, (R²/2TD) ₂F₂(1, 1; 3/2, 2; hR²/2TD). It is also that of |v·x| < R for any eigenvector v of a symmetric
    H in many variables, with D = vᵀDv: v·x is such a process by itself, whatever the other directions do.

    Parameters
    ----------
    curvature h, noise D ≥ 0, temperature T > 0, radius R > 0 : numbers or arrays that broadcast. Time is η·steps.
    log : return log τ, for times beyond 1e308.

    Relative error below 1e-12. D = 0 is never left: ∞. ValueError for arguments outside their range and for a time
    beyond float64 where `log` is False, and for hR²/2TD beyond it.

    SGD itself leaves later by O(√η): it steps over the edge, which is as if R were R + 0.583 √(2TDη) (Siegmund 1985).
    Not where h changes within R, or where D does.

    References
    ----------
    Siegert (1951); Pavliotis (2014), Stochastic Processes and Applications, §7.
    """
    h = _checks.finite_array("curvature", curvature)
    d, t, r = (_checks.finite_array(n, v) for n, v in (("noise", noise), ("temperature", temperature),
                                                       ("radius", radius)))  # fmt: skip
    if (d < 0).any():
        raise ValueError(f"noise must be >= 0, got {d.min():g}")
    for name, value in (("temperature", t), ("radius", r)):
        if not (value > 0).all():
            raise ValueError(f"{name} must be > 0, got {value.min():g}")
    h, d, t, r = np.broadcast_arrays(h, d, t, r)
    found = np.array([_log_time(*row) for row in zip(h.flat, 2 * (t * d).ravel(), r.flat)]).reshape(h.shape)
    if log:
        return found
    if (found[np.isfinite(found)] > 709.0).any():
        raise ValueError(f"a mean exit time reaches e^{found[np.isfinite(found)].max():.6g}: ask for log=True")
    return np.exp(found)


def _log_time(h: float, spread: float, radius: float) -> float:
    """log τ for 2TD = `spread`."""
    if spread == 0.0:
        return math.inf
    log_free = 2 * math.log(radius) - math.log(spread)
    log_z = math.log(abs(h)) + log_free if h else -math.inf
    if log_z > _LARGEST:
        raise ValueError(f"hR²/2TD is e^{log_z:.6g}, beyond float64: scale curvature, noise or radius down")
    z = math.copysign(math.exp(log_z), h)
    return log_free + _log_factor(z)


def _log_factor(z: float) -> float:
    """log ₂F₂(1, 1; 3/2, 2; z): the time in a well or at a saddle over that without curvature."""
    if abs(z) < _SMALL:
        return z / 3
    edge = math.sqrt(abs(z))
    if z > 0:
        if z > _DEEP:
            mean = float(dawsn(edge))
        else:
            u = edge * (1 + _NODES) / 2
            mean = edge / 2 * float(_WEIGHTS @ (np.exp((u - edge) * (u + edge)) * erf(u)))
        return z + math.log(math.sqrt(math.pi) * mean) - math.log(z)
    top = min(edge, _SMOOTH)
    total = top / 2 * float(_WEIGHTS @ dawsn(top * (1 + _NODES) / 2))
    if edge > _SMOOTH:
        span = math.log(edge / _SMOOTH)
        u = _SMOOTH * np.exp(span * (1 + _NODES) / 2)
        total += span / 2 * float(_WEIGHTS @ (u * dawsn(u)))
    return math.log(2 * total) - math.log(-z)


def stability_radius(
    curvature, noise, temperature: float, time: float, *, directions: int | None = None, seed: int = 0
) -> xr.Dataset:
    r"""The radius R within which a stationary point holds SGD for a mean time: slab_exit_time(h, D, T, R) = `time`.

    Along each eigenvector v of H, h = vᵀHv and D = vᵀDv. This is what can be proved in place of "the radius of
    stability is inversely proportional to the spectral radius of H": where D = cH, R = √(2Tc)·X with (√π/h)∫₀^X e^{u²}
    erf(u) du = `time`, which depends on h only through h·`time`, and only as √log(h·`time`); the spread √(TD/h) = √(Tc)
    does not depend on h at all.

    Parameters
    ----------
    curvature : H, a number, a symmetric (d, d) array, or a `Curvature` of a network.
    noise : D, of the same kind; or a `GradientNoise`.
    temperature : T = η/2b.   time : > 0, η·steps.
    directions : of a network, how many of the largest eigenvalues of H; for arrays all are taken.
    seed : of Lanczos, where the network is large.

    Returns
    -------
    xarray.Dataset
        Over `direction`, by falling h: `curvature` h, `noise` D, `deviation` √(TD/h) of the steady state (NaN for
        h ≤ 0, where there is none) and `radius`, ∞ where R is beyond e^300 or |h|R²/2TD beyond e^700, which saddles
        reach in no long time, as R grows like e^{|h|·time}; for arrays and networks `vectors` (direction, weight).

    Raises ValueError for what is not symmetric or of different sizes, T or `time` ≤ 0, negative vᵀDv.

    Not for radii within which the loss is no parabola: a basin that ends at the height ΔL ends at √(2ΔL/h).

    References
    ----------
    Golmant (2018) for the statement; Siegert (1951) for the time.
    """
    temperature, time = _checks.positive("temperature", temperature), _checks.positive("time", time)
    h, d, vectors = _along(curvature, noise, directions, seed)
    if d.min() < -1e-12 * max(abs(d).max(), 1e-300):
        raise ValueError(f"noise is {d.min():.3g} along a direction: D must be positive semi-definite")
    d = np.maximum(d, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.where(h > 0, np.sqrt(temperature * d / np.where(h > 0, h, 1.0)), np.nan)
    radius = [_radius(one, 2 * temperature * two, time) for one, two in zip(h, d)]
    found = xr.Dataset(
        {"curvature": ("direction", h), "noise": ("direction", d), "deviation": ("direction", deviation),
         "radius": ("direction", np.array(radius))},
        attrs={"temperature": temperature, "time": time},
    )  # fmt: skip
    return found if vectors is None else found.assign(vectors=(("direction", "weight"), vectors))


def _radius(h: float, spread: float, time: float) -> float:
    if spread == 0.0:
        return 0.0
    free = 0.5 * math.log(spread * time)  # log R where h = 0: above it in wells, below it at saddles is impossible

    def gap(log_radius: float) -> float:
        return _log_time(h, spread, math.exp(log_radius)) - math.log(time)

    if h == 0 or abs(gap(free)) < 1e-13:
        return math.exp(free)
    step = -1.0 if h > 0 else 1.0
    end = free + step
    farthest = min(_FARTHEST, 0.5 * (_LARGEST + math.log(spread) - math.log(abs(h)))) - step
    while gap(end) * step < 0:
        if step > 0 and end > farthest:
            return math.inf
        end += step
    return math.exp(brentq(gap, *sorted((end, end - step)), xtol=1e-14, rtol=1e-14))


def _along(curvature, noise, directions, seed: int):
    """(h, vᵀDv, eigenvectors as rows or None), h falling."""
    if isinstance(curvature, NetworkOperator) or isinstance(noise, NetworkOperator):
        for name, one in (("curvature", curvature), ("noise", noise)):
            _checks.instance(name, one, NetworkOperator, "both are matrices of one network, or both arrays")
        if curvature.parameters != noise.parameters:
            raise ValueError(
                f"curvature has {curvature.parameters} weights and noise {noise.parameters}: use one model"
            )
        if directions is None:
            raise ValueError("say how many directions of the network to take: directions=10")
        pairs = curvature.eigenpairs(directions, seed=seed)
        rows = pairs["vectors"].values
        return pairs["eigenvalues"].values, np.array([v @ noise.matvec(v) for v in rows]), rows
    if directions is not None:
        raise ValueError(f"directions={directions} is for networks; of arrays all are taken")
    h, d = _checks.finite_array("curvature", curvature), _checks.finite_array("noise", noise)
    if h.shape != d.shape:
        raise ValueError(f"curvature has shape {h.shape} and noise {d.shape}: give two numbers, or two (d, d) matrices")
    if h.ndim == 0:
        return h[None], d[None], None
    for name, matrix in (("curvature", h), ("noise", d)):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"{name} must be a number or (d, d), got shape {matrix.shape}")
        if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-12 * abs(matrix).max()):
            raise ValueError(f"{name} must be symmetric")
    values, vectors = np.linalg.eigh((h + h.T) / 2)
    rows = vectors.T[::-1]
    return values[::-1].copy(), np.einsum("ki,ij,kj->k", rows, d, rows), rows
