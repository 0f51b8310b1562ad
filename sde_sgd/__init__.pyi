from . import figures as figures
from . import landscapes as landscapes
from . import potential as potential
from . import results as results
from . import schedules as schedules
from .errors import Diverged as Diverged
from .errors import TooFewSamples as TooFewSamples
from .fokker_planck import FokkerPlanck as FokkerPlanck
from .grid import Grid as Grid
from .landscapes import FiniteSum as FiniteSum
from .landscapes import Landscape as Landscape
from .paths import SCHEMES as SCHEMES
from .paths import FirstPassage as FirstPassage
from .paths import Histogram as Histogram
from .paths import LagCovariance as LagCovariance
from .paths import Moments as Moments
from .paths import Winding as Winding
from .paths import effective_sample_size as effective_sample_size
from .paths import exit_times as exit_times
from .paths import sample_density as sample_density
from .paths import sample_indices as sample_indices
from .paths import sgd as sgd
from .paths import simulate as simulate
from .potential import decompose as decompose
from .process import Process as Process
from .process import Underdamped as Underdamped

__version__: str
