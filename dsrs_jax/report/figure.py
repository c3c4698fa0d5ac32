"""Certified accuracy against radius, as a picture."""

from __future__ import annotations

import io
import itertools
import types
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dsrs_jax.report.accuracy import rounded_down, share_or_accuracy

COLOURS = ("#0b6fb8", "#c4561a", "#2e8b57", "#8456a6", "#b08a00", "#c2477f", "#3aa6a0")
# What DSRS is measured against stays in the background.
_BASELINE, BASELINE_COLOUR = "Neyman-Pearson", "#7a7f87"
_BASELINE_STYLES = ("-", "--", ":")


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # radii, percent


def curve(radii: NDArray[np.float64], slack: float = 0.0) -> Curve:
    """The share of images certified at each radius: where it falls, and to what."""
    return best_curve([radii], slack)


def best_curve(several: Sequence[NDArray[np.float64]], slack: float = 0.0) -> Curve:
    """At each radius the best share of several models."""
    places = np.unique(np.concatenate([radii[radii > 0.0] for radii in several]))
    best = np.zeros(len(places))
    for radii in several:
        falls = np.sort(radii[radii > 0.0])
        reaching = len(falls) - np.searchsorted(falls, places - slack)
        best = np.maximum(best, 100.0 * reaching / max(len(radii), 1))
    return places, best


def curves(
    methods: Mapping[str, NDArray[np.float64]],
    title: str,
    wanted: Sequence[float] = (),
    labelled: bool = True,
) -> bytes:
    """A PNG's content: for each method the share of images certified at each radius.

    Radii that draws were spent to know alone (`wanted`) are marked: between them more may hold.
    """
    named = {}
    for name, radii in methods.items():
        mean = rounded_down(float(radii.mean()))[:-1]
        named[name if wanted else f"{name}, mean radius {mean}"] = curve(radii)
    return drawn(named, title, "png", wanted, labelled)


def drawn(
    named: Mapping[str, Curve],
    title: str,
    kind: str,
    wanted: Sequence[float] = (),
    labelled: bool = True,
    attacked: Mapping[str, Curve] = types.MappingProxyType({}),
) -> bytes:
    """A picture's content, of `kind` png or pdf: each curve under its name.

    `labelled` says whether the curves are accuracies, of images whose labels are known; `attacked`
    are accuracies under attack, known at the marks alone.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours, styles = itertools.cycle(COLOURS), itertools.cycle(_BASELINE_STYLES)
    largest = 0.0
    for name, (places, shares) in named.items():
        baseline = name.startswith(_BASELINE)
        largest = max(largest, float(places.max(initial=0.0)))
        # The share at r counts the radii that reach r: it falls just after each of them.
        axes.step(
            np.concatenate([[0.0], places, places[-1:]]),
            np.append(np.append(shares[:1], shares), 0.0),
            where="pre",
            color=BASELINE_COLOUR if baseline else next(colours),
            linestyle=next(styles) if baseline else "-",
            linewidth=1.8 if len(named) < 4 else 1.3,
            label=name,
        )
    for name, (places, shares) in attacked.items():
        largest = max(largest, float(places.max(initial=0.0)))
        axes.plot(places, shares, "o-", color=next(colours), markersize=4.5, label=name)
    for radius in wanted:
        axes.axvline(radius, color="#b9bec6", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlim(0.0, max(1.05 * largest, 1e-3))
    axes.set_ylim(0.0, 100.0)
    axes.set_xlabel("ℓ2 radius (pixels in [0, 1])")
    axes.set_ylabel("accuracy (%)" if attacked else f"{share_or_accuracy(labelled)} (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10 if len(named) < 4 else 8)
    content = io.BytesIO()
    # Without the date: the same numbers make the same file.
    figure.savefig(content, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return content.getvalue()
