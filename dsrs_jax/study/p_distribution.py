"""How the probability of being right under P is spread over images."""

from __future__ import annotations

import numpy as np

from dsrs_jax.bounds import lower_bound
from dsrs_jax.noise import describe
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result
from dsrs_jax.study.tables import known

_MOST, _SHOWN_SIGMA = 7, 0.5  # of more models those of one sigma are drawn
_STYLES = ("-", "--", ":")  # by dimension


def p_distribution(given: Given) -> Result:
    """The study: of published votes where they are given, else of the model's own."""
    if given.published:
        sources = {name: table.only([0]) for name, table in given.published.items()}
    else:
        sources = {given.subject.name: given.votes.only([0])}
    figure, [axes] = picture.panels()
    rows, said, drawn = [], [], 0
    dimensions = sorted({table.base.dimension for table in sources.values()})
    for name, table in sources.items():
        whole = known(table)
        index, votes, draws = table.index[whole], table.votes[whole, 0], table.draws[whole, 0]
        lower = lower_bound(votes, draws, given.alpha)
        rows += [
            [name, *row] for row in zip(index.tolist(), votes.tolist(), draws.tolist(),
                                        (votes / draws).tolist(), lower.tolist(), strict=True)
        ]  # fmt: skip
        quartiles = np.quantile(lower, (0.25, 0.5, 0.75))
        said.append(f"{name}: quartiles " + ", ".join(f"{one:.4f}" for one in quartiles))
        if len(sources) > _MOST and table.base.sigma != _SHOWN_SIGMA:
            continue
        wrong = np.append(np.sort(1.0 - lower), 1.0)
        share = 100.0 * np.minimum(np.arange(1, len(wrong) + 1) / (len(wrong) - 1), 1.0)
        axes.step(wrong, share, where="post", linewidth=1.3, label=name,
                  color=picture.COLOURS[drawn % len(picture.COLOURS)],
                  linestyle=_STYLES[dimensions.index(table.base.dimension) % 3])  # fmt: skip
        drawn += 1
    axes.set_xscale("log")
    axes.axvline(0.5, color="#b9bec6", linestyle=":", label="P_A = 1/2: no radius beyond")
    axes.set_ylim(0.0, 102.0)
    laws = {describe(table.base) for table in sources.values()}
    of = laws.pop() if len(laws) == 1 else f"published votes, σ = {_SHOWN_SIGMA:g}"
    title = f"{of}: images whose probability under P is proved at α = {given.alpha:g}"
    picture.said(axes, title, "1 − P_A, P_A its lower bound", "images with no more (%)")
    columns = ("of", "index", "votes", "draws", "p_a_estimate", "p_a_lower_bound")
    return Result(columns, rows, picture.png(figure), "; ".join(said))
