"""A figure of a report, which the study keeps under its name, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sde_sgd.report import Section
    from sde_sgd.study import Study


def add_figure(study: Study, section: Section, name: str, figure: Figure, caption: str, alt: str) -> None:
    """Into the section of the report, and among the figures of the study."""
    study.figures[name] = figure
    section.figure(figure, caption, alt)
