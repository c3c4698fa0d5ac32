"""A model that somebody brings, tried on a few of the images before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import data
from dsrs_jax.models import (
    OWN_SETS,
    SCALED_DATASETS,
    BaseClassifier,
    InputScaling,
    forward,
    input_scaling,
    refuse_too_few_classes,
)
from dsrs_jax.system.errors import UserError, first_line
from dsrs_jax.votes.kernel import tile_size

_IMAGES = 64
_DIFFERENCE = 20.0  # points of accuracy
_SUM = 1e-3  # of probabilities, from 1


def classes_of(classifier: BaseClassifier) -> int:
    """How many classes it answers with, found by asking it.

    Raises:
        UserError: it cannot be given such images, or does not return logits.
    """
    metadata = classifier.metadata
    images = np.random.default_rng(0).random((3, *metadata.image_shape), np.float32)
    try:
        logits = forward(classifier, images)
    except UserError:
        raise
    except Exception as error:  # of a user's function, traced by JAX
        advice = "does it take images of this size, (N, H, W, C)?"
        if "racer" in type(error).__name__ or "Concretization" in type(error).__name__:
            advice = "JAX must be able to trace it: use jax.numpy, jnp.where and jax.lax.cond"
        elif "must be Tensor" in str(error) or "combination of arguments" in str(error):
            advice = "PyTorch's functions take no arrays of JAX: make it a torch.nn.Module"
        raise UserError(
            f"{metadata.arch} of images {images.shape} failed ({type(error).__name__}: "
            f"{first_line(error)}); {advice}"
        ) from error
    if logits.shape == (len(images),):
        refuse_too_few_classes(metadata.arch, 1)
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError(
            f"{metadata.arch} returns shape {logits.shape} for {len(images)} images, and not "
            f"logits ({len(images)}, classes)"
        )
    refuse_too_few_classes(metadata.arch, logits.shape[1])
    return int(logits.shape[1])


def examine(
    classifier: BaseClassifier,
    scaling: InputScaling | None,
    dataset: data.Dataset,
    indices: Sequence[int],
    console: Console,
) -> None:
    """Says what looks wrong about a model's answers to some of the images without noise.

    Args:
        classifier: the model.
        scaling: the one that it has though nobody said so: others are tried. None: it was said.
        dataset, indices: the run's images.
        console: for what is found.

    Raises:
        UserError: another scaling makes far more of the images right.
    """
    chosen = [indices[i] for i in np.unique(np.linspace(0, len(indices) - 1, _IMAGES).astype(int))]
    examples = [one for one in data.read_ahead(dataset, chosen) if one.image is not None]
    if not examples:
        return
    images = np.stack([one.image for one in examples if one.image is not None])
    labels = np.array([one.label for one in examples])
    logits = logits_of(classifier, images)
    if np.all(logits >= 0.0) and np.all(np.abs(logits.sum(axis=1) - 1.0) < _SUM):
        console.print(
            "The model returns probabilities (each row sums to 1), whose largest is that of the "
            "logits; say so with --output probabilities.",
            soft_wrap=True,
        )
    if scaling is None:
        return
    if not dataset.classes:
        console.print(
            "Nobody says the input scaling (--input-scaling), and without labels none can be "
            "tried: pixels go in as they are.",
            soft_wrap=True,
        )
        return
    accuracy = {"as it is": _percent(logits, labels)}
    if accuracy["as it is"] < 100.0 - _DIFFERENCE:
        for text, other in _others(dataset, scaling).items():
            moved = np.asarray(scaling.pixels_for(other)(jnp.asarray(images)))
            accuracy[text] = _percent(logits_of(classifier, moved), labels)
    shown = ", ".join(f"{name} {value:.0f}%" for name, value in accuracy.items())
    console.print(
        f"Nobody says the input scaling (--input-scaling). Right of {len(labels)} images without "
        f"noise: {shown}.",
        soft_wrap=True,
    )
    best = max(accuracy, key=lambda name: accuracy[name])
    if accuracy[best] > accuracy["as it is"] + _DIFFERENCE:
        raise UserError(
            f"the input scaling is hardly right: {accuracy['as it is']:.0f}% of {len(labels)} "
            f"images are, with --input-scaling '{best}' {accuracy[best]:.0f}%; give it, or the "
            "one in use by its name"
        )


def logits_of(classifier: BaseClassifier, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of any number of images; as many at once as the sampler gives it."""
    size = tile_size(images[0].size, jax.local_devices()[0].platform)
    found = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        tile = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
        found.append(forward(classifier, tile)[: len(part)])  # one shape: one program
    return np.concatenate(found)


def _percent(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(100.0 * np.mean(np.argmax(logits, axis=1) == labels))


def _others(dataset: data.Dataset, scaling: InputScaling) -> dict[str, InputScaling]:
    """The known scalings of such images other than this one, by what --input-scaling calls them."""
    channels = dataset.image_shape[-1]
    known = {"none": input_scaling(dataset.name, "none")}
    if dataset.name not in OWN_SETS and dataset.name in SCALED_DATASETS:
        known |= {k: input_scaling(dataset.name, k) for k in ("standardize", "center")}
    for name in ("imagenet", "cifar10"):
        found = input_scaling(name, "standardize")
        known[_spelled(found)] = found
    known["mean:0.5;std:0.5"] = input_scaling(dataset.name, "mean:0.5;std:0.5")
    different: dict[str, InputScaling] = {}
    for text, one in known.items():
        seen = [_numbers(other, channels) for other in (scaling, *different.values())]
        if one.channels in (1, channels) and _numbers(one, channels) not in seen:
            different[text] = one
    return different


def _numbers(scaling: InputScaling, channels: int) -> list[tuple[float, ...]]:
    return [
        part * channels if len(part) == 1 else part for part in (scaling.mean, scaling.deviation)
    ]


def _spelled(scaling: InputScaling) -> str:
    mean, deviation = (
        ",".join(f"{one:g}" for one in part) for part in (scaling.mean, scaling.deviation)
    )
    return f"mean:{mean};std:{deviation}"
