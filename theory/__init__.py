"""Published claims about SGD as a random process, each with an executable verdict."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"claim": ["Claim", "Measurement", "Verdict"], "claims": ["CLAIMS", "check"]}
)

if TYPE_CHECKING:
    from .claim import Claim as Claim
    from .claim import Measurement as Measurement
    from .claim import Verdict as Verdict
    from .claims import CLAIMS as CLAIMS
    from .claims import check as check
