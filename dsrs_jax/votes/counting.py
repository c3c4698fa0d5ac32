"""Votes of images, counted and not recorded: of those in memory all at once, of others in turn."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike, NDArray

from dsrs_jax.data import Example
from dsrs_jax.models import BaseClassifier, refuse_too_few_classes
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.compared import always_compared
from dsrs_jax.votes.sampler import PendingVotes, Sampler, fresh_seed
from dsrs_jax.votes.table import Chosen, SoundDraws, State, VoteTable

_BLOCKS_IN_FLIGHT = 3


def count_votes(
    classifier: BaseClassifier | Callable[[Array], Array],
    images: ArrayLike,
    labels: ArrayLike | None,
    law: RadialLaw,
    n: int,
    *,
    inside: Sequence[RadialLaw] = (),
    indices: ArrayLike | None = None,
    seed: int | None = None,
    first: int = 0,
    batch: int | None = None,
    grid: int | None = None,
    n0: int = 100,
    advance: Callable[[int], None] = lambda images: None,
) -> VoteTable:
    """How often `classifier` answers `labels` on noisy images, in `n` draws for each image.

    A draw whose logits are not all finite votes for no class; the state of an image all of whose
    draws are so is `State.NOT_FINITE`.

    Args:
        classifier, batch, grid: as for `Sampler`.
        seed: as for `Sampler`; None: one that nobody can know beforehand (`fresh_seed`).
        images, n, indices, first: as for `Sampler.start`.
        labels: (images,) the class whose votes are counted; None: the one that has most of
            `n0` draws, none of which is counted otherwise; of equal ones the lowest.
        law: P.
        inside: P truncated, any number of times, fixed before sampling: the draws of P that fell
            inside are draws of these laws, and are counted for them too.
        advance: called with the number of draws that were counted.

    Raises:
        UserError: shapes that do not fit, a number outside its domain, or a law of `inside` is
            not P truncated.
    """
    for q in inside:
        if q.cutoff is None or dataclasses.replace(q, cutoff=None, quantile=None) != law:
            raise UserError("the laws inside must be the law itself, truncated")
    cutoffs = [q.cutoff for q in inside if q.cutoff is not None]
    seed = fresh_seed() if seed is None else seed
    shape = np.shape(images)  # which the sampler looks at, as at the indices
    every = np.arange(shape[0] if shape else 0) if indices is None else np.ravel(indices)
    sampler = Sampler(
        classifier,
        seed=seed,
        cutoffs=cutoffs,
        batch=batch,
        grid=grid,
        surely=always_compared(every.astype(np.int64).tolist()),
    )
    classes = _classes(classifier, shape[1:]) if len(shape) == 4 else 0
    chosen = None
    if labels is None:
        first_votes = sampler.start(images, None, law, n0, indices=indices, classes=classes)
        counted = first_votes.result().correct
        labels, unknown = np.argmax(counted, axis=1), np.full(len(counted), -1)
        chosen = Chosen(n0, counted.max(axis=1), unknown)
    pending = sampler.start(images, labels, law, n, indices=indices, first=first)
    votes = pending.result(advance)
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
    sound = None if grid is None else SoundDraws(grid, votes.ambiguous[:, -1])
    compared = int(pending.compared.sum())
    return dataclasses.replace(table, sound=sound, chosen=chosen, seed=seed, compared=compared)


class ClassVotes(NamedTuple):
    """How the draws of one image voted.

    Attributes:
        votes: (classes,) of each class.
        not_finite, ambiguous: draws without a vote (`Votes`).
    """

    votes: NDArray[np.int64]
    not_finite: int
    ambiguous: int


def count_classes(
    sampler: Sampler,
    examples: Iterable[Example],
    law: RadialLaw,
    n: int,
    classes: int,
    advance: Callable[[int], None] = lambda draws: None,
) -> Iterator[tuple[Example, ClassVotes]]:
    """Votes of every class under P, image by image, from draws that no certificate is made from.

    While the devices count some, the next images are read. One that cannot be read has no votes.

    Args:
        sampler: of the classifier.
        examples: the images; what is given back has their pixels no more.
        law: P.
        n: draws of each image.
        classes: of the classifier.
        advance: called with the number of draws that were counted.
    """
    waiting: deque[tuple[list[Example], PendingVotes | None]] = deque()

    def counted() -> Iterator[tuple[Example, ClassVotes]]:
        block, pending = waiting.popleft()
        rows = iter(()) if pending is None else zip(*pending.result(advance), strict=True)
        for one in block:
            if one.image is None:
                yield one, ClassVotes(np.zeros(classes, np.int64), 0, 0)
                continue
            _, votes, *lost = next(rows)
            yield (
                dataclasses.replace(one, image=None),
                ClassVotes(votes, *(int(w[0]) for w in lost)),
            )

    remaining = iter(examples)
    while block := list(itertools.islice(remaining, sampler.devices)):
        readable = [one for one in block if one.image is not None]
        pending = None
        if readable:
            images = np.stack([one.image for one in readable if one.image is not None])
            indices = [one.index for one in readable]
            pending = sampler.start(images, None, law, n, indices=indices, classes=classes)
        waiting.append((block, pending))
        if len(waiting) == _BLOCKS_IN_FLIGHT:
            yield from counted()
    while waiting:
        yield from counted()


def _classes(
    classifier: BaseClassifier | Callable[[Array], Array], image_shape: tuple[int, ...]
) -> int:
    if isinstance(classifier, BaseClassifier):
        return classifier.metadata.classes
    logits = jax.eval_shape(classifier, jax.ShapeDtypeStruct((2, *image_shape), np.float32))
    classes = logits.shape[1] if logits.ndim == 2 else 1
    refuse_too_few_classes("the classifier", classes)
    return classes
