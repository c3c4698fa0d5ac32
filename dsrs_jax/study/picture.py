"""The pictures of studies, in the one style of the project's figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dsrs_jax.report.figure import BASELINE_COLOUR, COLOURS

RADIUS = "ℓ2 radius (pixels in [0, 1])"
MEAN_RADIUS = f"mean certified {RADIUS}"
# Of many colours in a row, and of a plane: from pale to dark.
MAP = "viridis"

Axes = Any  # matplotlib has no types

__all__ = [
    "BASELINE_COLOUR", "COLOURS", "MAP", "MEAN_RADIUS", "RADIUS", "Axes", "log_axis", "panels",
    "png", "said",
]  # fmt: skip


def panels(number: int = 1, width: float = 6.4) -> tuple[Figure, list[Axes]]:
    """A figure, and axes beside one another in it."""
    figure = Figure(figsize=(width, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, number)))


def said(axes: Axes, title: str, x: str, y: str, *, legend: bool = True) -> None:
    """What axes show; to be called when everything is drawn."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=7.5)


def log_axis(axes: Axes, places: Sequence[float]) -> None:
    """A logarithmic axis that is labelled at these places, as plain numbers."""
    axes.set_xscale("log")
    axes.set_xticks(list(places), [f"{one:.3g}" for one in places])
    axes.xaxis.set_minor_locator(NullLocator())


def png(figure: Figure) -> bytes:
    """A PNG's content: the same numbers make the same file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
