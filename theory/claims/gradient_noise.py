"""Claims about the noise of a mini-batch gradient, by enumeration of every batch."""

import itertools
from collections.abc import Iterable

import numpy as np

import sde_sgd as sde
from sde_sgd.theory.claim import Claim, Level, Measurement, exact

_POINT = np.array([0.4, -0.2])
_BATCH = 2


def _few_irises() -> sde.FiniteSum:
    """Five irises of the neuron: few enough to enumerate every batch."""
    neuron = sde.landscapes.get("neuron")
    assert isinstance(neuron, sde.FiniteSum)
    few = {name: values[[3, 60, 75, 110, 140]] for name, values in neuron.data.items()}
    return sde.FiniteSum(("w", "c"), "(tanh(w*x + c) - y)**2/2", few)


def _ratio(batches: Iterable[tuple[int, ...]]) -> float:
    """b · Cov(batch gradient) = r D over equally likely batches: the r, or NaN where they are not proportional."""
    few = _few_irises()
    gradients = few.sample_gradients(_POINT)
    means = np.array([gradients[list(batch)].mean(axis=0) for batch in batches])
    scaled = _BATCH * np.cov(means.T, bias=True) / few.diffusion(_POINT)
    return float(scaled.mean()) if np.ptp(scaled) < 1e-10 else float("nan")


def _with_replacement(level: Level) -> list[Measurement]:
    """Every batch of two of five irises, drawn with replacement, is enumerated."""
    ratio = _ratio(itertools.product(range(5), repeat=_BATCH))
    return [exact("b Cov / D over the 25 ordered draws with replacement", ratio, 1.0, 1e-12)]


def _subsets(level: Level) -> list[Measurement]:
    """The same without replacement."""
    ratio = _ratio(itertools.combinations(range(5), _BATCH))
    return [exact("b Cov / D over the 10 subsets, where it is (N − b)/(N − 1) = 0.75", ratio, 1.0, 1e-12)]


BATCH_COVARIANCE = Claim(
    name="batch_covariance",
    statement="The mini-batch gradient has covariance D/b, D the population covariance of the per-sample gradients.",
    formula=r"\operatorname{Cov}\left(\frac1b\sum_{k\in B}g_k\right)=\frac1b D",
    source="Chaudhari & Soatto (2018), Appendix A",
    hypotheses=("the samples of a batch are drawn independently, with replacement",),
    as_stated="holds",
    holds="exactly so for draws with replacement; without replacement the factor is (N − b)/(N − 1)",
    check=_with_replacement,
    twin=_subsets,
)
