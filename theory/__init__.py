"""Published claims about SGD as a random process, each with an executable verdict."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "claim": ["Claim", "Level", "Measurement", "Verdict", "estimated", "exact", "refined", "sampled"],
        "claims": ["CLAIMS", "TOPICS"],
        "verdicts": ["check"],
    },
)

if TYPE_CHECKING:
    from .claim import Claim as Claim
    from .claim import Level as Level
    from .claim import Measurement as Measurement
    from .claim import Verdict as Verdict
    from .claim import estimated as estimated
    from .claim import exact as exact
    from .claim import refined as refined
    from .claim import sampled as sampled
    from .claims import CLAIMS as CLAIMS
    from .claims import TOPICS as TOPICS
    from .verdicts import check as check
