"""Certified accuracy against radius, as a picture."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

_COLOURS = ("#0b6fb8", "#c4561a", "#2e8b57", "#8456a6", "#b08a00", "#c2477f", "#3aa6a0")
# What DSRS is measured against stays in the background.
_BASELINE, _BASELINE_COLOUR = "Neyman-Pearson", "#7a7f87"
_BASELINE_STYLES = ("-", "--", ":")


def curves(
    methods: Mapping[str, NDArray[np.float64]], title: str, wanted: Sequence[float] = ()
) -> bytes:
    """A PNG's content: for each method the share of images certified at each radius.

    Radii that draws were spent to know alone (`wanted`) are marked: between them more may hold.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max(float(radii.max(initial=0.0)) for radii in methods.values())
    colours, styles = itertools.cycle(_COLOURS), itertools.cycle(_BASELINE_STYLES)
    for name, radii in methods.items():
        baseline = name.startswith(_BASELINE)
        certified = np.sort(radii[radii > 0.0])
        left = 100.0 * np.arange(len(certified), -1, -1) / len(radii)
        mean = np.floor(radii.mean() * 1e3) / 1e3
        # The share at r counts the radii that reach r: it falls just after each of them.
        steps = np.concatenate([[0.0], certified, certified[-1:]])
        axes.step(
            steps,
            np.concatenate([left[:1], left])[: len(steps)],
            where="pre",
            color=_BASELINE_COLOUR if baseline else next(colours),
            linestyle=next(styles) if baseline else "-",
            linewidth=1.8 if len(methods) < 4 else 1.3,
            label=name if wanted else f"{name}, mean radius {mean:.3f}",
        )
    for radius in wanted:
        axes.axvline(radius, color="#b9bec6", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlim(0.0, max(1.05 * largest, 1e-3))
    axes.set_ylim(0.0, 100.0)
    axes.set_xlabel("ℓ2 radius (pixels in [0, 1])")
    axes.set_ylabel("certified accuracy (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10 if len(methods) < 4 else 8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
