"""What the number of draws and alpha do to the radii."""

from __future__ import annotations

import numpy as np

from dsrs_jax import report
from dsrs_jax.noise import describe
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result
from dsrs_jax.study.tables import draws_inside, inside_of, known, means
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import VoteTable

NUMBERS = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
ALPHAS = (0.01, 0.001, 1e-6)
_IMAGES = 100  # of a published model


def draws(given: Given) -> Result:
    """The study: of published votes where they are given, else of the estimated landscape."""
    sources = _published(given) if given.published else {given.subject.name: None}
    rows, lines = [], {}
    for name, table in sources.items():
        for alpha in ALPHAS:
            found = means([_votes(given, table, n) for n in NUMBERS], alpha)
            rows += [[name, n, alpha, *two] for n, two in zip(NUMBERS, found, strict=True)]
            lines[name, alpha] = found
    figure, [axes] = picture.panels()
    first = next(iter(sources))
    for alpha, colour in zip(ALPHAS, picture.COLOURS, strict=False):
        found = lines[first, alpha]
        axes.plot(NUMBERS, [one.dsrs for one in found], "o-", color=colour, markersize=3,
                  label=f"DSRS, α = {alpha:g}")  # fmt: skip
        axes.plot(NUMBERS, [one.neyman_pearson for one in found], "--", color=colour,
                  linewidth=1.2, label=f"Neyman-Pearson, α = {alpha:g}")  # fmt: skip
    axes.set_xscale("log")
    if given.published:
        what, how = f"{first}, published votes", "as often right in N draws each of P and Q"
    else:
        what = f"{first}; {describe(given.subject.law)}"
        how = "expected votes of N draws, from an estimated landscape"
    picture.said(axes, f"{what}\n{how}", "draws N of an image", picture.MEAN_RADIUS)
    few, many = (lines[first, given_alpha(given)][i] for i in (2, -1))
    finding = (
        f"{first}, α = {given_alpha(given):g}: from {NUMBERS[2]:,} to {NUMBERS[-1]:,} draws "
        f"Neyman-Pearson {report.rounded_down(few.neyman_pearson)} → "
        f"{report.rounded_down(many.neyman_pearson)}, DSRS {report.rounded_down(few.dsrs)} → "
        f"{report.rounded_down(many.dsrs)}"
    )
    columns = (
        "of", "draws", "alpha", "neyman_pearson_mean_radius_pixels", "dsrs_mean_radius_pixels",
    )  # fmt: skip
    return Result(columns, rows, picture.png(figure), finding)


def given_alpha(given: Given) -> float:
    """The alpha of the study that is nearest to the one asked for."""
    return min(ALPHAS, key=lambda one: abs(np.log(one / given.alpha)))


def _votes(given: Given, table: VoteTable | None, n: int) -> VoteTable:
    """The votes of n draws of P: as often right as all those that were made."""
    if table is None:
        laws, names = inside_of(given.subject.law, given.inside)
        return given.landscape.expected(laws, names, draws_inside(laws, n))
    votes = np.floor(table.votes / table.draws * n + 1e-9).astype(np.int64)
    return VoteTable.from_counts(table.laws, votes, n, names=table.names)


def _published(given: Given) -> dict[str, VoteTable]:
    """P with the first Q of another sigma, of the first model that has one; some images."""
    for model, table in given.published.items():
        others = [j for j, name in enumerate(table.names) if name.startswith("sigma_")]
        if others:
            two = table.only([0, others[0]])
            rows = np.flatnonzero(known(two))
            rows = rows[:: max(1, len(rows) // _IMAGES)]
            counts = VoteTable.from_counts(
                two.laws, two.votes[rows], two.draws[rows], names=two.names
            )
            return {f"{model}, {len(rows)} images, Q {_sigma_of(two)}": counts}
    raise UserError("no published model has votes under a Q of another sigma")


def _sigma_of(table: VoteTable) -> str:
    """Q as a title has it."""
    return f"σ = {table.law(1, 0).sigma:g}"
