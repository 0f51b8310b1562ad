"""Densities as steepest descent of the free energy in the Wasserstein metric."""

from .flow import JKO, PorousMedium

__all__ = ["JKO", "PorousMedium"]
