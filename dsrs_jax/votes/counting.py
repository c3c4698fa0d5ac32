"""Votes of images that lie in memory, all at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jaxtyping import Array
from numpy.typing import ArrayLike

from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.sampler import Sampler
from dsrs_jax.votes.table import SoundDraws, State, VoteTable


def count_votes(
    classifier: BaseClassifier | Callable[[Array], Array],
    images: ArrayLike,
    labels: ArrayLike,
    law: RadialLaw,
    n: int,
    *,
    inside: Sequence[RadialLaw] = (),
    indices: ArrayLike | None = None,
    seed: int = 0,
    first: int = 0,
    batch: int | None = None,
    grid: int | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> VoteTable:
    """How often `classifier` answers `labels` on noisy images, in `n` draws for each image.

    A draw whose logits are not all finite votes for no class; the state of an image all of whose
    draws are so is `State.NOT_FINITE`.

    Args:
        classifier, seed, batch, grid: as for `Sampler`.
        images, labels, n, indices, first: as for `Sampler.start`.
        law: P.
        inside: P truncated, any number of times, fixed before sampling: the draws of P that fell
            inside are draws of these laws, and are counted for them too.
        advance: called with the number of images whose votes were counted.

    Raises:
        UserError: shapes that do not fit, a number outside its domain, or a law of `inside` is
            not P truncated.
    """
    for q in inside:
        if q.cutoff is None or dataclasses.replace(q, cutoff=None, quantile=None) != law:
            raise UserError("the laws inside must be the law itself, truncated")
    cutoffs = [q.cutoff for q in inside if q.cutoff is not None]
    sampler = Sampler(classifier, seed=seed, cutoffs=cutoffs, batch=batch, grid=grid)
    votes = sampler.start(images, labels, law, n, indices=indices, first=first).result(advance)
    order = [len(inside), *range(len(inside))]
    names = ["p", *(f"inside_{float(q.quantile or 1.0):.4g}" for q in inside)]
    table = VoteTable.from_counts(
        (law, *inside),
        votes.correct[:, order],
        votes.draws[:, order],
        names=names,
        index=indices,
        label=labels,
    )
    table.state[votes.not_finite[:, -1] == n] = State.NOT_FINITE
    if grid is None:
        return table
    return dataclasses.replace(table, sound=SoundDraws(grid, votes.ambiguous[:, -1]))
