"""Floquet multipliers of a closed orbit from the derivatives of its segments."""

import numpy as np


def transverse_frames(velocity: np.ndarray) -> np.ndarray:
    """Orthonormal bases (m, d, d − 1) of the planes across velocities (m, d)."""
    q = np.linalg.qr(velocity[:, :, None], mode="complete")[0]
    return q[:, :, 1:]


def transverse_blocks(velocity: np.ndarray, matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the segments' derivatives M_i do across the orbit, (m, d − 1, d − 1), and the orbit's frames.

    M_i v_i = v_{i+1} exactly, so that in frames with v first M_i is block triangular: the flow direction and its
    multiplier 1 are split off by what they are, not by which multiplier looks nearest to 1.
    """
    frames = transverse_frames(velocity)
    return np.swapaxes(np.roll(frames, -1, axis=0), -1, -2) @ matrices @ frames, frames


def trivial_multiplier(velocity: np.ndarray, matrices: np.ndarray) -> tuple[float, float]:
    """Of the direction v: Π ⟨v_{i+1}, M_i v_i⟩/|v_{i+1}|², and the largest |M_i v_i − v_{i+1}|/|v_{i+1}|."""
    after = np.roll(velocity, -1, axis=0)
    carried = (matrices @ velocity[:, :, None])[..., 0]
    factors = (carried * after).sum(-1) / (after**2).sum(-1)
    worst = np.linalg.norm(carried - after, axis=-1) / np.linalg.norm(after, axis=-1)
    return float(np.prod(factors)), float(worst.max())


def log_multipliers(blocks: np.ndarray) -> np.ndarray:
    """log μ (complex) of the product B_m … B_1, descending modulus, without forming it: e^−200 keeps its digits.

    The eigenvalues of the block-cyclic matrix of the B_i are the m-th roots of those of the product.
    """
    m, d = blocks.shape[0], blocks.shape[-1]
    if d == 0:
        return np.empty(0, complex)
    if d == 1:
        values = blocks[:, 0, 0]
        with np.errstate(divide="ignore"):
            turned = np.pi if (values < 0).sum() % 2 else 0.0
            return np.array([np.log(np.abs(values)).sum() + 1j * turned])
    cyclic = np.zeros((m * d, m * d))
    for i, block in enumerate(blocks):
        j = (i + 1) % m
        cyclic[j * d : (j + 1) * d, i * d : (i + 1) * d] += block
    roots = np.linalg.eigvals(cyclic)
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(roots)) + 1j * np.angle(roots)
    # Of the m roots of each μ one has its argument in (−π/m, π/m]; at the rim, for μ < 0, there are two.
    rim = np.pi / m
    tolerance = 1e-7 * rim
    sector = logs[(logs.imag > -rim + tolerance) & (logs.imag <= rim + tolerance)]
    result = m * sector
    if len(sector) != d:  # multipliers below rounding have no argument; the product knows the others
        product = np.eye(d)
        for block in blocks:
            product = block @ product
        values = np.linalg.eigvals(product).astype(complex)
        values = values[np.argsort(-np.abs(values))]
        large = int((np.abs(values) > 1e-10 * np.abs(values[0])).sum())
        result = np.concatenate([np.log(values[:large]), _by_columns(blocks)[large:]])
    return result[np.lexsort((-result.imag, -result.real))]


def _by_columns(blocks: np.ndarray) -> np.ndarray:
    """log μ of the product, descending, where the moduli are far apart: Σ log R_jj of B_i Q_i = Q_{i+1} R_i."""
    q = np.eye(blocks.shape[-1])
    for _ in range(4):
        logs = np.zeros(len(q), complex)
        before = q
        for block in blocks:
            q, r = np.linalg.qr(block @ q)
            with np.errstate(divide="ignore"):
                logs += np.log(np.abs(np.diag(r))) + 1j * np.pi * (np.diag(r) < 0)
    turned = (before * q).sum(0) < 0  # the same line, the other way
    return logs.real + 1j * np.pi * ((np.round(logs.imag / np.pi) + turned) % 2)
