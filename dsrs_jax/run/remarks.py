"""What a run remarks about its images: a model that knows none of them, and copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from dsrs_jax.data import Example
from dsrs_jax.models import BaseClassifier
from dsrs_jax.run.trial import logits_of

_LOOKED_AT = 100  # images
_FEWEST = 10  # of fewer a tenth says nothing


def look_first(
    classifier: BaseClassifier, examples: Iterable[Example], console: Console
) -> Iterator[Example]:
    """The examples, all of them and in their order, once the first ones were classified.

    Where fewer than a tenth of these are right without noise, labels and model hardly belong
    together, which is told before anything is drawn.
    """
    remaining = iter(examples)
    first = list(itertools.islice(remaining, _LOOKED_AT))
    readable = [example for example in first if example.image is not None]
    if len(readable) >= _FEWEST:
        images = np.stack([one.image for one in readable if one.image is not None])
        answers = np.argmax(logits_of(classifier, images), axis=1)
        right = int(np.sum(answers == np.array([one.label for one in readable])))
        if 10 * right < len(readable):
            console.print(
                f"Only {right} of the first {len(readable)} images are right without noise: check "
                "the labels (--dataset, --classes), the model and its --input-scaling.",
                soft_wrap=True,
            )
    return itertools.chain(first, remaining)


def tell_copies(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Says how many images are others of the run again, pixels and label."""
    originals: dict[str, int] = {}
    copies: list[tuple[int, int]] = []
    for record in records:
        if "image" in record:  # not where it could not be read
            original = originals.setdefault(record["image"], record["index"])
            if original != record["index"]:
                copies.append((record["index"], original))
    if copies:
        copy, original = copies[0]
        console.print(
            f"Copies of other images, with the same label: {len(copies)} (first: index {copy} is "
            f"index {original} again); each counts in the averages.",
            soft_wrap=True,
        )
