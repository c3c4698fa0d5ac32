"""What Q does to the radii: Q of another sigma, and P truncated at another quantile.

All ways get the same number of draws in all. A Q with draws of its own leaves P half of them; a Q
inside P is read off P's. Published votes, where they are given, are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsrs_jax import report
from dsrs_jax.bounds import lower_bound
from dsrs_jax.bounds.protocol import INSIDE
from dsrs_jax.bounds.thresholds import threshold
from dsrs_jax.noise import RadialLaw, describe
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result
from dsrs_jax.study.tables import draws_inside, known, means
from dsrs_jax.votes import VoteTable

SCALES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.2)  # of P's sigma
QUANTILES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_RULES = ("x", "x2")

Curves = dict[str, list[tuple[float, float]]]  # by name: (value, mean radius)


def of_sigma(given: Given) -> Result:
    """The study `q-sigma`."""
    if given.published:
        return _published(given, "q_sigma", "Q's σ over P's", truncated=False)
    law = given.subject.law
    half = given.n // 2
    tables = [
        given.landscape.expected(
            [law, law.with_sigma(scale * float(law.sigma))], ["p", "sigma"], [half, half]
        )
        for scale in SCALES
    ]
    curves = {"Q with draws of its own": _curve(given, SCALES, tables)}
    return _result(given, "q_sigma_over_p_sigma", "Q's σ over P's", curves, _alone(given))


def of_threshold(given: Given) -> Result:
    """The study `threshold`."""
    if given.published:
        return _published(given, "threshold", "quantile of P at which Q is cut", truncated=True)
    law, half = given.subject.law, given.n // 2
    both = [[law, law.truncated(b)] for b in QUANTILES]
    expected = given.landscape.expected
    own = [expected(laws, ["p", f"{INSIDE}b"], draws_inside(laws, given.n)) for laws in both]
    drawn = [expected(laws, ["p", "threshold"], [half, half]) for laws in both]
    curves = {
        "Q from P's own draws": _curve(given, QUANTILES, own),
        "Q with draws of its own": _curve(given, QUANTILES, drawn),
    }
    rules = {f"the paper's rule {rule}, drawn": _by_rule(given, rule) for rule in _RULES}
    return _result(given, "quantile", "quantile of P at which Q is cut", curves,
                   _alone(given) | rules)  # fmt: skip


def _curve(
    given: Given, places: Sequence[float], tables: Sequence[VoteTable]
) -> list[tuple[float, float]]:
    found = means(tables, given.alpha)
    return [(place, one.dsrs) for place, one in zip(places, found, strict=True)]


def _alone(given: Given) -> dict[str, float]:
    law = given.subject.law
    table = given.landscape.expected([law], ["p"], [given.n])
    return {f"Neyman-Pearson, all {given.n:,} draws": means([table], given.alpha)[0].neyman_pearson}


def _by_rule(given: Given, rule: str) -> float:
    """The mean radius where each image's quantile follows from its own votes under P."""
    law, half = given.subject.law, given.n // 2
    p = given.landscape.expected([law], ["p"], [half])
    lower = lower_bound(p.votes[:, 0], half, given.alpha / 2)
    quantiles = [round(threshold(rule, float(one)), 3) for one in lower]
    at = {b: law.truncated(b) for b in set(quantiles)}
    q = {b: given.landscape.expected([law, one], ["p", "q"], [half, half]).votes[:, 1]
         for b, one in at.items()}  # fmt: skip
    votes = [[p.votes[i, 0], q[b][i]] for i, b in enumerate(quantiles)]
    laws: list[RadialLaw | tuple[RadialLaw, ...]] = [law, tuple(at[b] for b in quantiles)]
    table = VoteTable.from_counts(laws, votes, half, names=["p", f"threshold_{rule}"])
    return means([table], given.alpha)[0].dsrs


def _result(given: Given, column: str, x: str, curves: Curves, level: dict[str, float]) -> Result:
    rows = [[name, *point] for name, points in curves.items() for point in points]
    rows += [[name, "", radius] for name, radius in level.items()]
    title = (
        f"{given.subject.name}; {describe(given.subject.law)}, α = {given.alpha:g}\n"
        f"expected votes of {given.n:,} draws in all, from an estimated landscape"
    )
    name, (best, radius) = max(
        ((name, max(points, key=lambda one: one[1])) for name, points in curves.items()),
        key=lambda one: one[1][1],
    )
    baseline, alone = next(iter(level.items()))
    finding = (
        f"largest mean radius {report.rounded_down(radius)} at {best:g} ({name}); {baseline}: "
        f"{report.rounded_down(alone)}"
    )
    columns = ("second_law", column, "mean_radius_pixels")
    return Result(columns, rows, _picture(curves, level, title, x), finding)


def _picture(curves: Curves, level: dict[str, float], title: str, x: str) -> bytes:
    figure, [axes] = picture.panels()
    for (name, points), colour in zip(curves.items(), picture.COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=name)
    styles = ("-", "--", ":", "-.") * len(level)
    for (name, radius), style in zip(level.items(), styles, strict=False):
        axes.axhline(radius, color=picture.BASELINE_COLOUR, linestyle=style, linewidth=1.2,
                     label=name)  # fmt: skip
    picture.said(axes, title, x, picture.MEAN_RADIUS)
    return picture.png(figure)


def _published(given: Given, column: str, x: str, *, truncated: bool) -> Result:
    """Every fixed Q of one kind of every model, over the images that have votes of all of these."""
    rows, curves = [], {}
    for model, table in given.published.items():
        laws = [table.law(j, 0) for j in range(len(table.names))]
        fixed = [
            j for j in range(1, len(laws))
            if len({table.law(j, i) for i in range(len(table))}) == 1
            and (laws[j].cutoff is not None) == truncated
        ]  # fmt: skip
        chosen = [j for j in fixed if known(table.only([0, j])).mean() > _MOST]
        if not chosen:
            continue
        whole = known(table.only([0, *chosen]))
        tables = [
            VoteTable.from_counts(
                [laws[0], laws[j]], table.votes[whole][:, [0, j]], table.draws[whole][:, [0, j]],
                names=["p", table.names[j]],
            )
            for j in chosen
        ]  # fmt: skip
        values = [float(laws[j].quantile or laws[j].sigma / laws[0].sigma) for j in chosen]
        points = list(zip(values, means(tables, given.alpha), strict=True))
        points.sort()
        name = f"{model}, {int(whole.sum())} images"
        curves[name] = [
            (value, two.dsrs / two.neyman_pearson)
            for value, two in points
            if two.neyman_pearson > 0.0
        ]
        rows += [[model, int(whole.sum()), value, *two] for value, two in points]
    figure, [axes] = picture.panels()
    colours = np.array(picture.COLOURS)
    for i, (name, line) in enumerate(curves.items()):
        axes.plot(*zip(*line, strict=True), "o-", color=colours[i % len(colours)], markersize=3,
                  label=name)  # fmt: skip
    title = f"published votes, one-sided bounds, α = {given.alpha:g}; P and Q each with own draws"
    y = "mean radius over Neyman-Pearson's of P's draws"
    picture.said(axes, title, x, y)
    columns = (
        "model", "images", f"{column}_value", "neyman_pearson_mean_radius_pixels",
        "dsrs_mean_radius_pixels",
    )  # fmt: skip
    best = {name: max(line, key=lambda one: one[1]) for name, line in curves.items()}
    finding = "; ".join(
        f"{name}: best at {v:.3g}, × {gain:.3f}" for name, (v, gain) in best.items()
    )
    return Result(columns, rows, picture.png(figure), finding)


_MOST = 0.9  # of a model's images have votes under a Q that is shown
