"""How often a classifier is right against the length of the noise: when DSRS helps.

Neyman-Pearson's worst classifier is wrong in one direction, at all lengths. One that is right on
nearly all noise up to some length and wrong on longer noise is far from it, and Q, P truncated
there, tells them apart.
"""

from __future__ import annotations

import numpy as np

from dsrs_jax import report
from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import CertificateTable, certify_table
from dsrs_jax.noise import describe
from dsrs_jax.study import picture
from dsrs_jax.study.given import BINS, Given
from dsrs_jax.study.landscape import Landscape
from dsrs_jax.study.lengths import length_at
from dsrs_jax.study.result import Result
from dsrs_jax.votes import VoteTable

_SHOWN = 6  # images
_ALL = ("#e3e6ea", "#b9bec6")  # of all images: the middle half, the mean


def right_by_length(given: Given) -> Result:
    """The study."""
    table = given.votes
    found, certified = Landscape.of(table), certified_inside(given, table)
    length = np.append(length_at(found.law, found.quantiles[:-1]), np.inf)
    columns = (
        "index", "label", "from_quantile", "to_quantile", "from_length_pixels",
        "to_length_pixels", "draws", "votes", "neyman_pearson_radius_pixels", "dsrs_radius_pixels",
    )  # fmt: skip
    bins = range(found.draws.shape[1])
    rows = [
        [
            int(table.index[i]), int(table.label[i]),
            *found.quantiles[b : b + 2].tolist(), *length[b : b + 2].tolist(),
            int(found.draws[i, b]), int(found.votes[i, b]),
            float(certified.neyman_pearson.radius[i]), float(certified.radius[i]),
        ]
        for i in range(len(table)) for b in bins
    ]  # fmt: skip
    alone, both = certified.neyman_pearson.radius.mean(), certified.radius.mean()
    share = found.share.mean(axis=0)
    finding = (
        f"right in the shortest {1 / BINS:.0%} of the noise {share[0]:.1%}, in the longest "
        f"{share[-1]:.1%}; mean radius {report.rounded_down(float(alone))}, with DSRS "
        f"{report.rounded_down(float(both))}"
    )
    return Result(columns, rows, _picture(given, found, certified), finding)


def certified_inside(given: Given, table: VoteTable) -> CertificateTable:
    """Certificates from P and the truncations that runs have by themselves."""
    wanted = [f"inside_{float(table.base.truncated(b).quantile or 1.0):.4g}" for b in given.inside]
    chosen = [table.names.index(name) for name in wanted]
    return certify_table(table.only([0, *chosen]), Protocol(given.alpha))


def _picture(given: Given, found: Landscape, certified: CertificateTable) -> bytes:
    figure, [axes] = picture.panels()
    share, radius = 100.0 * found.share, certified.radius
    low, high = np.quantile(share, (0.25, 0.75), axis=0)
    axes.fill_between(found.length, low, high, color=_ALL[0], label="half of all images")
    axes.plot(found.length, share.mean(axis=0), color=_ALL[1], linewidth=3, label="their mean")
    order = np.flatnonzero(radius > 0.0)[np.argsort(radius[radius > 0.0])]
    places = np.linspace(0.05, 0.9, _SHOWN) * max(len(order) - 1, 0)
    shown = order[np.unique(places.round().astype(int))] if len(order) else order
    for i, colour in zip(shown.tolist(), picture.COLOURS, strict=False):
        alone = report.rounded_down(float(certified.neyman_pearson.radius[i]))
        label = f"image {int(certified.votes.index[i])}: radius {alone} → "
        label += report.rounded_down(float(radius[i]))
        axes.plot(found.length, share[i], "o-", color=colour, markersize=2.5, linewidth=1.2,
                  label=label)  # fmt: skip
    for b in given.inside:
        axes.axvline(float(length_at(found.law, b)), color="#b9bec6", linewidth=0.8, linestyle=":")
    axes.set_ylim(0.0, 102.0)
    axes.set_xlim(0.0, None)
    title = (
        f"{given.subject.name}; {describe(found.law)}; N = {given.n:,}, α = {given.alpha:g}\n"
        "radius: Neyman-Pearson → DSRS; dotted: where Q is truncated"
    )
    picture.said(axes, title, "length of the noise (pixels in [0, 1])", "right (%)")
    return picture.png(figure)
