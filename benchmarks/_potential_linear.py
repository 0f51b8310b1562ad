"""The linear theory for `potential.py`: covariances against SciPy's Lyapunov solvers."""

import time
from collections.abc import Callable

import numpy as np
import scipy.linalg as la
from _machine import table

import sde_sgd as sde

SIZES = (100, 300, 1000, 2000)
PEER_SIZES = {"symmetric": 2000, "turning": 1000, "sgd": 1000, "momentum": 300}  # the peer's largest, for its time
TEMPERATURE, STEP, BATCH, MOMENTUM = 0.1, 0.1, 8, 0.9


def problem(d: int, turning: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """H, with curvatures from 0.01 to 1 evenly in their logarithm, and D: eigenvectors random and not shared."""
    random = np.random.default_rng(d)
    basis = [np.linalg.qr(random.normal(size=(d, d)))[0] for _ in range(2)]
    H, D = ((q * np.geomspace(low, 1, d)) @ q.T for q, low in zip(basis, (1e-2, 1e-1)))
    H, D = 0.5 * (H + H.T), 0.5 * (D + D.T)
    if turning:
        skew = random.normal(size=(d, d)) / np.sqrt(d)
        H = H + 0.5 * (skew - skew.T)
    return H, D


def continuous(F: np.ndarray, D: np.ndarray, S: np.ndarray) -> float:
    """|FS + SFᵀ − 2TD| / |2TD|."""
    noise = 2 * TEMPERATURE * D
    return float(la.norm(F @ S + S @ F.T - noise) / la.norm(noise))


def update(H: np.ndarray, D: np.ndarray, momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """M, N of S = MSMᵀ + N for x' = x − ηv', v' = μv + Hx + ε, Cov ε = D/b; x alone for μ = 0, else (x, v)."""
    d, noise = len(H), D / BATCH
    one = np.eye(d)
    if not momentum:
        return one - STEP * H, STEP**2 * noise
    M = np.block([[one - STEP * H, -STEP * momentum * one], [H, momentum * one]])
    return M, np.block([[STEP**2 * noise, -STEP * noise], [-STEP * noise, noise]])


def discrete(M: np.ndarray, N: np.ndarray, S: np.ndarray) -> float:
    """|MSMᵀ + N − S| / |N|."""
    return float(la.norm(M @ S @ M.T + N - S) / la.norm(N))


def timed(work: Callable[[], np.ndarray], d: int) -> tuple[float, np.ndarray]:
    """Seconds, the shortest of three runs below a thousand variables, and the result."""
    times = []
    for _ in range(3 if d < 1000 else 1):
        began = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - began)
    return min(times), found


def roads(case: str, d: int):
    """Ours, the peer, and the residual of a covariance."""
    H, D = problem(d, case == "turning")
    if case in ("symmetric", "turning"):

        def ours():
            return sde.OrnsteinUhlenbeck(H, D, TEMPERATURE).covariance

        return ours, lambda: la.solve_continuous_lyapunov(H, 2 * TEMPERATURE * D), lambda S: continuous(H, D, S)
    momentum = MOMENTUM if case == "momentum" else 0.0
    M, N = update(H, D, momentum)

    def stationary():
        law = sde.DiscreteSGD(H, D, STEP, BATCH, momentum=momentum)
        return law.joint_covariance if momentum else law.covariance

    return stationary, lambda: la.solve_discrete_lyapunov(M, N), lambda S: discrete(M, N, S)


NAMES = {
    "symmetric": ("$HS + SH = 2TD$", "`OrnsteinUhlenbeck`", "`solve_continuous_lyapunov`"),
    "turning": ("$FS + SF^\\top = 2TD$, F not symmetric", "`OrnsteinUhlenbeck`", "`solve_continuous_lyapunov`"),
    "sgd": ("$HS + SH - \\eta HSH = (\\eta/b)D$", "`DiscreteSGD`", "`solve_discrete_lyapunov`"),
    "momentum": (f"SGD, μ = {MOMENTUM:g}, (x, v) jointly", "`DiscreteSGD`", "`solve_discrete_lyapunov`"),
}


def section(quick: bool) -> str:
    rows = []
    for case, (equation, mine, theirs) in NAMES.items():
        for d in SIZES[:1] if quick else SIZES:
            ours, peer, residual = roads(case, d)
            seconds, S = timed(ours, d)
            row = [f"{equation}: {mine}, {theirs}", str(d), _short(seconds), f"{residual(S):.0e}"]
            if d > PEER_SIZES[case]:
                rows.append([*row, "–", "–", "–"])
                continue
            cost, other = timed(peer, d)
            rows.append([*row, _short(cost), f"{residual(other):.0e}", f"{cost / seconds:.1f}"])
    columns = ["", "d", "ours, s", "residual", "SciPy, s", "residual", "ratio"]
    return f"""## Covariances of the linear theory

From matrices to S, with all checks of the input (stability, that the noise reaches every direction). H has curvatures
from 0.01 to 1, D shares no eigenvector with it, η = {STEP:g}, b = {BATCH}. The residual is that of the Lyapunov
equation over its right-hand side, Frobenius; for SGD that of $S = MSM^\\top + N$ over $N$. – is where the peer was not
run for its time.

{table(columns, rows)}

A symmetric H is solved in its eigenvectors, for SGD at any momentum by the same d × d matrices: nothing of twice the
size. For an F that is not symmetric both do a Schur factorisation; `OrnsteinUhlenbeck` adds its checks and one Newton
step.
"""


def _short(seconds: float) -> str:
    return f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:.2f}"
