"""Two dimensions: the worst classifier that the probabilities allow, as a region of the plane.

The worst classifier is right on S = {p_shifted < h}, h = sum_j lambda_j q_j with the certificate's
multipliers: of all that are as often right under P and Q the one that is right least often on the
moved noise, half of it at the certified radius.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from dsrs_jax import report
from dsrs_jax.certify import reference
from dsrs_jax.noise import RadialLaw, gaussian
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result

SIGMA, CUT = 1.0, 0.5
P_A, Q_A = 0.7, 0.999
_REACH, _POINTS = 5.0, 1001  # of the plane, in sigma


def toy(given: Given) -> Result:
    """The study."""
    del given
    law = gaussian(2, SIGMA)
    inside = law.truncated(CUT)
    ways = {
        "Neyman-Pearson": ([law], [P_A]),
        "DSRS": ([law, inside], [P_A, Q_A]),
    }
    line = np.linspace(-_REACH, _REACH, _POINTS) * SIGMA
    first, second = np.meshgrid(line, line)
    cell = (line[1] - line[0]) ** 2
    figure, axes = picture.panels(2, 9.6)
    rows, found = [], []
    for (name, (laws, bounds)), one in zip(ways.items(), axes, strict=True):
        # By SciPy: of so few dimensions the compiled search has a program of its own.
        solution = reference.solve(laws, bounds)
        assert solution is not None
        multipliers, radius = solution
        region, moved = worst_region(laws, multipliers, radius, first, second)
        shares = [float(density(q, np.hypot(first, second))[region].sum() * cell)
                  for q in (law, inside)]  # fmt: skip
        lost = float(moved[region].sum() * cell)
        weights = [*multipliers.tolist(), 0.0][:2]
        rows.append([name, P_A, Q_A if len(laws) > 1 else "", *weights, radius, *shares, lost])
        shown = report.rounded_down(radius)
        found.append(f"{name} {shown}")
        one.contourf(first, second, region, levels=[0.5, 1.5], colors=["#cfe3f3"])
        for centre, colour in ((0.0, picture.COLOURS[0]), (radius, picture.COLOURS[1])):
            one.plot(centre, 0.0, "o", color=colour, markersize=4,
                     label="image, P" if centre == 0.0 else f"moved by {shown}")  # fmt: skip
            away = np.hypot(first - centre, second) / SIGMA
            one.contour(first, second, away, levels=[1.0, 2.0], colors=[colour],
                        linewidths=0.7, linestyles=":")  # fmt: skip
        if len(laws) > 1:
            edge = float(inside.truncation_radius)
            one.contour(first, second, np.hypot(first, second), levels=[edge],
                        colors=[picture.COLOURS[2]], linewidths=1.4)  # fmt: skip
            one.plot([], [], color=picture.COLOURS[2], label=f"Q: P inside its {CUT:g} quantile")
        one.set_aspect("equal")
        one.set_xlim(-3.0, 4.0)
        one.set_ylim(-3.5, 3.5)
        known = f"P_A = {P_A:g}" + (f", Q_A = {Q_A:g}" if len(laws) > 1 else "")
        title = f"{name}, {known}: radius {shown}\nshaded: the worst is right"
        picture.said(one, title, "along the move (units of σ)", "across (units of σ)")
        one.legend(fontsize=7.5, loc="lower left", framealpha=0.85)
    columns = (
        "method", "p_a", "q_a", "multiplier_p", "multiplier_q", "radius_in_sigma",
        "worst_under_p_on_grid", "worst_under_q_on_grid", "worst_moved_on_grid",
    )  # fmt: skip
    finding = f"radius at P_A = {P_A:g}, Q_A = {Q_A:g}, in σ: " + ", ".join(found)
    return Result(columns, rows, picture.png(figure), finding)


def worst_region(
    laws: Sequence[RadialLaw],
    multipliers: NDArray[np.float64],
    radius: float,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(whether a point is in S, the moved density there); the move is along the first axis."""
    moved, length = density(laws[0], np.hypot(first - radius, second)), np.hypot(first, second)
    h = np.zeros_like(moved)
    for weight, law in zip(multipliers.tolist(), laws, strict=True):
        h += weight * density(law, length)
    return moved < h, moved


def density(law: RadialLaw, length: NDArray[np.float64]) -> NDArray[np.float64]:
    """The law's density in its d dimensions at points of a length > 0."""
    d, level = law.dimension, (np.maximum(length, 1e-12) / law.scale) ** law.eta
    sphere = np.log(2.0) + 0.5 * d * np.log(np.pi) - special.gammaln(0.5 * d)
    constant = np.log(law.eta) - special.gammaln(law.shape) - d * np.log(law.scale) - sphere
    inside = length <= law.truncation_radius
    kept = np.exp(constant - 2.0 * law.k / law.eta * np.log(level) - level)
    return np.where(inside, kept / float(law.quantile or 1.0), 0.0)
