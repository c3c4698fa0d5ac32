"""Certified accuracy as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from dsrs_jax.report.accuracy import (
    certified_accuracy,
    percent,
    rounded_down,
    share_or_accuracy,
)

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
_MOST_ROWS = 10


def accuracy_table(
    methods: Mapping[str, NDArray[np.float64]],
    wanted: Sequence[float] = (),
    wrong: NDArray[np.bool_] | None = None,
    labelled: bool = True,
) -> Table:
    """A column a method: certified accuracy at radii, abstentions, mean radius.

    The mean radius counts an abstention as 0 (the average certified radius of the literature).

    Args:
        methods: (images,) radii by name.
        wanted: the radii, where draws were spent to know these alone; else round ones, and all that
            every image's own radius says.
        wrong: (images,) whether an image's certificate is of another class than its label: it
            counts as none then.
        labelled: whether the images' labels are known.
    """
    claimed = methods
    if wrong is not None:
        methods = {name: np.where(wrong, 0.0, radii) for name, radii in methods.items()}
    largest = max(float(radii.max(initial=0.0)) for radii in methods.values())
    step = next((s for s in _STEPS if s * _MOST_ROWS >= largest), _STEPS[-1])
    table = Table(title=share_or_accuracy(labelled), box=box.SIMPLE_HEAD)
    table.add_column("radius", justify="right")
    for name in methods:
        # A line for each part of a name keeps many columns within a terminal.
        table.add_column(name.replace(", ", "\n", 1), justify="right")
    for radius in wanted or np.arange(0.0, largest + 1e-12, step).tolist():
        shares = [f"{percent(certified_accuracy(radii, radius))}%" for radii in methods.values()]
        table.add_row(f"{radius:g}" if wanted else f"{radius:.2f}", *shares)
    if wanted:
        return table
    table.add_section()
    table.add_row("abstain", *[str(int(np.sum(radii == 0))) for radii in claimed.values()])
    if wrong is not None:
        counts = [str(int(np.sum(wrong & (radii > 0.0)))) for radii in claimed.values()]
        table.add_row("another class", *counts)
    table.add_row("mean", *[rounded_down(float(radii.mean())) for radii in methods.values()])
    return table
