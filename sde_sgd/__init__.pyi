from . import figures as figures
from . import landscapes as landscapes
from . import potential as potential
from . import results as results
from .errors import Diverged as Diverged
from .errors import TooFewSamples as TooFewSamples
from .fokker_planck import FokkerPlanck as FokkerPlanck
from .grid import Grid as Grid
from .landscapes import FiniteSum as FiniteSum
from .landscapes import Landscape as Landscape
from .paths import SCHEMES as SCHEMES
from .paths import Histogram as Histogram
from .paths import sample_density as sample_density
from .paths import sample_indices as sample_indices
from .paths import sgd as sgd
from .paths import simulate as simulate
from .potential import decompose as decompose
from .process import Process as Process

__version__: str
