"""Densities: the Fokker–Planck generator on a grid and what follows from it."""

from ._wall_report import BoxWarning
from .generator import FokkerPlanck

__all__ = ["BoxWarning", "FokkerPlanck"]
