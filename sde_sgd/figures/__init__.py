"""One function per kind of result, each one call; matplotlib loads with the first figure.

Functions for one set of axes take `ax=None` and return the axes (`ax.figure` is the figure); the others
return the figure. The look is that of `STYLE`, a matplotlib style file, in force only inside the call.
"""

from ._style import STYLE as STYLE
from ._style import formula as formula
from ._style import is_field as is_field
from ._style import png as png
from ._style import save_png as save_png
from ._style import svg as svg
from .assessment import plot_assessment as plot_assessment
from .current import plot_current as plot_current
from .currents import plot_area_production as plot_area_production
from .currents import plot_spectral_peaks as plot_spectral_peaks
from .cycles import plot_branch as plot_branch
from .cycles import plot_cycles as plot_cycles
from .densities import plot_densities as plot_densities
from .densities import plot_density as plot_density
from .densities import plot_log_density as plot_log_density
from .distance import PowerLaw as PowerLaw
from .distance import fit_power_law as fit_power_law
from .distance import plot_distance as plot_distance
from .drift_diffusion import plot_drift_diffusion as plot_drift_diffusion
from .evolution import animate_density as animate_density
from .evolution import plot_evolution as plot_evolution
from .free_energy import plot_free_energy as plot_free_energy
from .jko import plot_energy as plot_energy
from .jko import plot_flow as plot_flow
from .jko import plot_heat_equation as plot_heat_equation
from .lag_covariance import plot_lag_covariance as plot_lag_covariance
from .linear_theory import plot_linear_theory as plot_linear_theory
from .marginals import plot_marginals as plot_marginals
from .minimum_action import plot_minimum_action_path as plot_minimum_action_path
from .modes import plot_modes as plot_modes
from .paths import plot_paths as plot_paths
from .potential import plot_potential_against_loss as plot_potential_against_loss
from .quasipotential import plot_quasipotential as plot_quasipotential
from .sampled_potential import plot_sampled_potential as plot_sampled_potential
from .schedule import plot_schedule as plot_schedule
from .spectrum import plot_spectrum as plot_spectrum
from .survival import plot_survival as plot_survival
