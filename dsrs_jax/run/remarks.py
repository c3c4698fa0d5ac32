"""What a run remarks about its images: their labels, a model that knows none of them, copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from dsrs_jax.data import UNLABELLED, Dataset, Example
from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw
from dsrs_jax.run.trial import logits_of
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Sampler
from dsrs_jax.votes.records import CONFIG_FILE

_NAMED = 20  # class folders
_LOOKED_AT, _COMPARED = 100, 8  # images
_FEWEST = 10  # of fewer a tenth says nothing
_FAR_FEWER = 3  # times


def labels_to_tell(
    class_file: str | None, dataset: Dataset, classifier: BaseClassifier
) -> dict[str, int]:
    """Labels of the class folders, unless they are just the model's classes in the names' order.

    Raises:
        UserError: `class_file`, of --classes, has not a name for each of the model's classes.
    """
    classes = classifier.metadata.classes
    if class_file is not None and dataset.classes not in (0, classes):
        raise UserError(
            f"--classes {class_file} names {dataset.classes} classes, the model has {classes}; "
            "give one name for each, in the model's order"
        )
    labels = dict(dataset.class_labels)
    return {} if list(labels.values()) == list(range(classes)) else labels


def tell_labels(labels: Mapping[str, int], classifier: BaseClassifier, console: Console) -> None:
    """Says which label each class folder has (`labels_to_tell`)."""
    said = ", ".join(f"{name} {label}" for name, label in list(labels.items())[:_NAMED])
    more = f" and {len(labels) - _NAMED} more ({CONFIG_FILE})" if len(labels) > _NAMED else ""
    console.print(
        f"{len(labels)} of the model's {classifier.metadata.classes} classes are here; "
        f"labels: {said}{more}.",
        soft_wrap=True,
        markup=False,
    )


def look_first(
    classifier: BaseClassifier, law: RadialLaw, examples: Iterable[Example], console: Console
) -> Iterator[Example]:
    """The examples, all of them and in their order, once the first ones were classified.

    Where fewer than a tenth of these are right without noise, labels and model hardly belong
    together; where far fewer are right under the noise, a draw of each, the model hardly knows it.
    Both are told before anything is drawn.
    """
    remaining = iter(examples)
    first = list(itertools.islice(remaining, _LOOKED_AT))
    readable = [example for example in first if example.image is not None]
    if len(readable) >= _FEWEST and readable[0].label != UNLABELLED:
        images = np.stack([one.image for one in readable if one.image is not None])
        labels = np.array([one.label for one in readable])
        right = int(np.sum(np.argmax(logits_of(classifier, images), axis=1) == labels))
        if 10 * right < len(readable):
            console.print(
                f"Only {right} of the first {len(readable)} images are right without noise: check "
                "the labels (--dataset, --classes), the model and its --input-scaling.",
                soft_wrap=True,
            )
            return itertools.chain(first, remaining)
        noise = np.asarray(law.sample(jax.random.key(0), len(images))).reshape(images.shape)
        noisy = int(np.sum(np.argmax(logits_of(classifier, images + noise), axis=1) == labels))
        if _FAR_FEWER * noisy < right:
            console.print(
                f"Of the first {len(readable)} images {right} are right without noise, and {noisy} "
                f"under noise of sigma {law.sigma:g}: was the model trained without it? Radii will "
                "be 0 for most. `dsrs-jax train` trains under noise; or give a smaller --sigma.",
                soft_wrap=True,
            )
    return itertools.chain(first, remaining)


def compare_first(
    sampler: Sampler, law: RadialLaw, examples: Iterable[Example]
) -> Iterator[Example]:
    """The examples, once some answers to draws of the first ones were compared."""
    remaining = iter(examples)
    first = list(itertools.islice(remaining, _COMPARED))
    readable = [example for example in first if example.image is not None]
    if readable:
        images = np.stack([one.image for one in readable if one.image is not None])
        sampler.compare(images, law, [example.index for example in readable])
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
