"""The claims, and `check`, which runs them."""

from collections.abc import Iterable

from sde_sgd._checks import choice

from .claim import Claim, Verdict
from .gradient_noise import BATCH_COVARIANCE
from .steady_state import DIVERGENCE_FREE_REMAINDER, ISOTROPIC_NOISE, MODES_ARE_CRITICAL

CLAIMS: dict[str, Claim] = {
    claim.name: claim for claim in (BATCH_COVARIANCE, ISOTROPIC_NOISE, DIVERGENCE_FREE_REMAINDER, MODES_ARE_CRITICAL)
}


def check(names: Iterable[str] | None = None) -> list[Verdict]:
    """Verdicts of the named claims, in order; of all of them by default. An unknown name raises ValueError."""
    chosen = list(CLAIMS) if names is None else [choice("claim", name, list(CLAIMS)) for name in names]
    return [CLAIMS[name].verdict() for name in chosen]
