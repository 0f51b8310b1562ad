"""What the chapters share: names of stages, the common grid, what is kept of a sampled density."""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from sde_sgd.distances import Distance
from sde_sgd.grid import Grid


def name_of(temperature: float) -> str:
    """How stages name a temperature."""
    return f"T{temperature:g}"


def counted(number: int, thing: str) -> str:
    """'1 mode', '3 modes'."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def common_grid(config: Mapping[str, Any]) -> Grid:
    """The grid all densities are compared on."""
    reach, cells = config["half_width"], config["common_cells"]
    return Grid((-reach, -reach), (reach, reach), (cells, cells))


def measured(sampled: xr.Dataset, found: Distance) -> xr.Dataset:
    """What is kept of a sampled density: density, its error, and the distance with its facts."""
    kept = sampled[["density", "density_error"]].assign(distance=found.distance, error=found.error, floor=found.floor)
    return kept.assign_attrs(sampled.attrs)


def distance_of(stage: xr.Dataset) -> Distance:
    """The distance a stage kept."""
    return Distance(float(stage.distance), float(stage.error), float(stage.floor))
