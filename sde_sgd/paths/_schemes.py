"""The schemes by name."""

from ._euler_maruyama import EULER_MARUYAMA
from ._scheme import Scheme

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (EULER_MARUYAMA,)}
