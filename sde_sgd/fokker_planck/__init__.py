"""Densities: the Fokker–Planck generator on a grid and what follows from it."""

from .generator import FokkerPlanck

__all__ = ["FokkerPlanck"]
