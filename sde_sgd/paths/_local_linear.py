"""Weighted straight-line fits about many places at once, from data that pass by in pieces."""

from collections.abc import Iterable

import numpy as np
import scipy.sparse
import scipy.stats

from ._neighbourhoods import Neighbourhoods, Pairs

_FLAT = 1e-8  # least eigenvalue of the second moments of (1, offset), relative to the weight
_LEAST_FREEDOM = 5  # beyond the number of components: below, Hotelling's law has no variance


class LocalLinear:
    """a_p + s_p·(x − c_p)/width for P places, by least squares with the weights of their neighbourhoods.

    A place is `usable` with at least `fewest` states that span all directions; a place all of whose states lie at its
    centre takes their mean.
    """

    def __init__(self, near: Neighbourhoods, states: Iterable[np.ndarray], fewest: int):
        self.near = near
        places, d = near.centre.shape
        gram, self.count = np.zeros((places, 1 + d, 1 + d)), np.zeros(places, np.int64)
        for x in states:
            pairs = near.pairs(x)
            columns = _columns(pairs)
            for i in range(1 + d):
                for j in range(i + 1):
                    weight = pairs.weight * columns[:, i] * columns[:, j]
                    gram[:, i, j] += np.bincount(pairs.place, weight, places)
                    gram[:, j, i] = gram[:, i, j]
            self.count += np.bincount(pairs.place, minlength=places)
        total = np.where(gram[:, 0, 0] > 0, gram[:, 0, 0], 1.0)
        scaled = gram / total[:, None, None]
        spans = np.linalg.eigvalsh(scaled)[:, 0] > _FLAT
        centred = scaled[:, 1:, 1:].trace(axis1=1, axis2=2) < _FLAT**2
        self.usable = (self.count >= fewest) & (spans | centred)
        self.inverse = np.zeros_like(gram)
        fitted, mean = self.usable & spans, self.usable & ~spans
        self.inverse[fitted] = np.linalg.inv(scaled[fitted]) / total[fitted, None, None]
        self.inverse[mean, 0, 0] = 1.0 / total[mean]
        # what a fit takes from the squares of its residuals
        taken = np.where(mean, 1, 1 + d)
        self.inflation = np.where(self.usable, self.count / np.maximum(self.count - taken, 1), 1.0)

    def sums(self, columns: int) -> np.ndarray:
        """Where the products of (1, offset) with the columns of a target are added up."""
        return np.zeros((*self.inverse.shape[:2], columns))

    def add(self, sums: np.ndarray, pairs: Pairs, target: np.ndarray) -> None:
        """Add Σ weight·(1, offset)·target, target (S, k), to the sums."""
        places = len(self.inverse)
        columns = _columns(pairs)
        for j in range(sums.shape[2]):
            values = pairs.weight * target[pairs.state, j]
            for i in range(sums.shape[1]):
                sums[:, i, j] += np.bincount(pairs.place, values * columns[:, i], places)

    def solve(self, sums: np.ndarray) -> np.ndarray:
        """Value and slopes (P, 1 + d, k); 0 where a place is not usable."""
        return self.inverse @ sums

    def at(self, fit: np.ndarray, own: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The fit of each state's own place, there (S, k); 0 where `known` is False."""
        place, offset = own
        values = fit[place, 0] + np.einsum("si,sik->sk", offset, fit[place, 1:])
        return np.where(self.known(own)[:, None], values, 0.0)

    def known(self, own: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Whether a state has a place of its own that is usable."""
        return (own[0] >= 0) & self.usable[own[0]]

    def influence(self, pairs: Pairs) -> np.ndarray:
        """ℓ with a_p = Σ ℓ·target over the pairs of p."""
        return pairs.weight * np.einsum("ei,ei->e", self.inverse[pairs.place, 0], _columns(pairs))


class Scatter:
    """Covariance of estimates a_p = Σ_s ℓ_ps y_s from the innovations of y_s.

    y_s − E[y_s | x_s] = now_s + next_s, where `now` is known one interval later and `next` two: Σ_p a_p is then a sum
    of martingale differences ℓ_s·now_s + ℓ_{s−1}·next_{s−1}, which are uncorrelated, so that their squares add up.
    """

    def __init__(self, places: int, columns: int, whole: bool):
        self._shape = (places, columns)
        self.variance, self._fourth = np.zeros((places, columns)), np.zeros((places, columns))
        self.whole = scipy.sparse.csr_array((places * columns,) * 2) if whole else None

    def add(self, pairs: Pairs, influence: np.ndarray, length: int, now: np.ndarray, later: np.ndarray | None) -> None:
        """Innovations (S, k) of a piece whose chains have `length` states each."""
        places, columns = self._shape
        when = pairs.state + pairs.state // length  # one column more for each chain: innovations after its last state
        size = len(now) + len(now) // length
        parts = []
        for k in range(columns):
            rows, at, values = [pairs.place], [when], [influence * now[pairs.state, k]]
            if later is not None:
                rows, at, values = rows * 2, [when, when + 1], [*values, influence * later[pairs.state, k]]
            data = np.concatenate(values), (np.concatenate(rows), np.concatenate(at))
            parts.append(scipy.sparse.csr_array(data, shape=(places, size)))
            squares = parts[k] * parts[k]
            self.variance[:, k] += squares.sum(axis=1)
            self._fourth[:, k] += (squares * squares).sum(axis=1)
        if self.whole is not None:
            stacked = scipy.sparse.vstack([part.tocsr() for part in parts], format="csr")
            self.whole = self.whole + stacked @ stacked.T

    def chi_squared(self, difference: np.ndarray, usable: np.ndarray) -> tuple[float, float, float]:
        """Σ_p T²_p/c_p with T²_p = δ_pᵀ V_pp⁻¹ δ_p, its mean where δ (P, k) has covariance V, and the p-value.

        V_pp is itself an estimate, as uncertain as one from ν independent normal vectors, 2/ν = Σ m⁴/(Σ m²)² over the
        terms m of its most uncertain entry: T²_p has about the law of Hotelling (1931), whose mean is k·c_p,
        c_p = ν/(ν − k − 1). Estimates at different places may be correlated: the sum is taken for a χ² times a
        constant, with the mean and the variance it has (Satterthwaite 1946).
        """
        assert self.whole is not None
        places, columns = self._shape
        order = np.arange(places * columns).reshape(columns, places).T[usable]
        v = self.whole[order.ravel()][:, order.ravel()].tocsr()
        roots = _roots_of_inverses(self._blocks()[usable])
        blocks = scipy.sparse.block_diag(roots, format="csr")
        white = (blocks @ difference[usable].ravel()).reshape(-1, columns)
        correlation = blocks @ v @ blocks.T
        mean = float(correlation.trace())
        if not mean:
            return 0.0, 0.0, 1.0
        variance = np.where(self.variance > 0, self.variance, 1.0)[usable]
        relative = (self._fourth[usable] / variance / variance).max(axis=1)
        freedom = np.maximum(2 / np.maximum(relative, 1e-12), columns + _LEAST_FREEDOM)
        value = float((white**2 * ((freedom - columns - 1) / freedom)[:, None]).sum())
        wider = (freedom - 1) / (freedom - columns - 3) - 1
        each = correlation.diagonal().reshape(-1, columns).sum(axis=1)
        scale = (float((correlation * correlation).sum()) + float(wider @ each)) / mean
        return value, mean, float(scipy.stats.chi2.sf(value / scale, mean / scale))

    def _blocks(self) -> np.ndarray:
        """V_pp, (P, k, k)."""
        assert self.whole is not None
        places, columns = self._shape
        blocks = np.empty((places, columns, columns))
        for i in range(columns):
            for j in range(i, columns):
                entries = self.whole.diagonal((j - i) * places)[i * places : (i + 1) * places]
                blocks[:, i, j] = blocks[:, j, i] = entries
        return blocks


def _columns(pairs: Pairs) -> np.ndarray:
    return np.concatenate([np.ones((len(pairs.place), 1)), pairs.offset], axis=1)


def _roots_of_inverses(matrices: np.ndarray) -> np.ndarray:
    """W with WᵀW the pseudo-inverse of each."""
    value, vector = np.linalg.eigh(matrices)
    kept = value > 1e-10 * np.maximum(value[:, -1:], 1e-300)
    root = np.where(kept, 1.0 / np.sqrt(np.where(kept, value, 1.0)), 0.0)
    return root[:, :, None] * vector.transpose(0, 2, 1)
