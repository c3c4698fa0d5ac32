"""Certified accuracy as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
_MOST_ROWS = 10


def certified_accuracy(radii: NDArray[np.float64], radius: float) -> float:
    """Share of images with a certificate at `radius`; at radius 0, of those with any at all."""
    return float(np.mean((radii >= radius) & (radii > 0.0)))


def accuracy_table(
    methods: Mapping[str, NDArray[np.float64]], wanted: Sequence[float] = ()
) -> Table:
    """A column a method: certified accuracy at radii, abstentions, mean radius.

    The mean radius counts an abstention as 0 (the average certified radius of the literature).

    Args:
        methods: (images,) radii by name.
        wanted: the radii, where draws were spent to know these alone; else round ones, and all that
            every image's own radius says.
    """
    largest = max(float(radii.max(initial=0.0)) for radii in methods.values())
    step = next((s for s in _STEPS if s * _MOST_ROWS >= largest), _STEPS[-1])
    table = Table(title="certified accuracy", box=box.SIMPLE_HEAD)
    table.add_column("radius", justify="right")
    for name in methods:
        # A line for each part of a name keeps many columns within a terminal.
        table.add_column(name.replace(", ", "\n", 1), justify="right")
    for radius in wanted or np.arange(0.0, largest + 1e-12, step).tolist():
        shares = [f"{100 * certified_accuracy(radii, radius):.1f}%" for radii in methods.values()]
        table.add_row(f"{radius:g}" if wanted else f"{radius:.2f}", *shares)
    if wanted:
        return table
    table.add_section()
    table.add_row("abstain", *[str(int(np.sum(radii == 0))) for radii in methods.values()])
    # Rounded down, as every radius that is shown.
    means = [np.floor(radii.mean() * 1e4) / 1e4 for radii in methods.values()]
    table.add_row("mean", *[f"{mean:.4f}" for mean in means])
    return table


def rounded_down(radius: float) -> str:
    """A radius as a person reads it: four digits, never above what was proved."""
    return f"{math.floor(radius * 1e4) / 1e4:.4f}"
