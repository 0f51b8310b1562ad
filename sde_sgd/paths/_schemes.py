"""The schemes by name."""

from ._baoab import BAOAB
from ._euler_maruyama import EULER_MARUYAMA
from ._leimkuhler_matthews import LEIMKUHLER_MATTHEWS
from ._milstein import MILSTEIN
from ._scheme import Scheme
from ._sra1 import SRA1
from ._stochastic_heun import STOCHASTIC_HEUN, WEAK_HEUN
from ._weak_euler import WEAK_EULER

_ALL = (EULER_MARUYAMA, MILSTEIN, LEIMKUHLER_MATTHEWS, STOCHASTIC_HEUN, SRA1, WEAK_EULER, WEAK_HEUN, BAOAB)
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _ALL}
