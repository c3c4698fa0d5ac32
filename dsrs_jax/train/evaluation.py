"""Right answers on test images, each under one fresh draw of the noise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, Key

from dsrs_jax.data import ArrayDataset, Dataset, Example, read_ahead
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.train.placing import on_devices

_IMAGES_AT_ONCE = 512
_NOBODY = -1  # the label of what fills the last block up

# From parameters, averages, law and key to the share of right answers.
Accuracy = Callable[[Any, Any, RadialLaw, Key[Array, ""]], float]


def accuracy_on(
    fixed_graph: nnx.GraphDef,
    test: Dataset,
    mesh: Mesh,
    skipped: Callable[[str], object] | None,
) -> Accuracy:
    """The accuracy under noise on a test set, as a function of a model's state.

    A set in memory lies on the devices; another one is read anew each time, block by block.

    Args:
        fixed_graph: of the model on stored averages.
        test: the images.
        mesh: of the devices, with the axis "images".
        skipped: told once of each image that cannot be read, and is left out. None: asking for
            the accuracy raises UserError at the first of them.
    """
    size = -(-min(_IMAGES_AT_ONCE, len(test)) // mesh.size) * mesh.size
    count = make_count(fixed_graph)
    told: set[int] = set()

    def unreadable(example: Example) -> None:
        if skipped is None:
            raise UserError(f"{example.problem}; take it out or fix it, or give --skip-unreadable")
        if example.index not in told:
            told.add(example.index)
            skipped(f"skipped {example.problem}")

    def blocks() -> Iterator[tuple[Array, Array]]:
        for images, labels in _blocks(test, size, unreadable):
            yield on_devices((images, labels), mesh, "images")

    resident = list(blocks()) if isinstance(test, ArrayDataset) else None

    def accuracy(parameters: Any, averages: Any, law: RadialLaw, key: Key[Array, ""]) -> float:
        total = correct = jnp.zeros((), jnp.int32)
        for number, (images, labels) in enumerate(blocks() if resident is None else resident):
            right, there = count(
                images, labels, parameters, averages, law, jax.random.fold_in(key, number)
            )
            correct, total = correct + right, total + there
        return int(correct) / int(total) if int(total) else float("nan")

    return accuracy


@functools.lru_cache(maxsize=32)
def make_count(fixed_graph: nnx.GraphDef) -> Callable[..., tuple[Array, Array]]:
    """The compiled count of a block: (right answers, images)."""

    @jax.jit
    def count(
        images: Float32[Array, "images height width channels"],
        labels: Int32[Array, " images"],
        parameters: Any,
        averages: Any,
        law: RadialLaw,
        key: Key[Array, ""],
    ) -> tuple[Array, Array]:
        model = nnx.merge(fixed_graph, parameters, averages)
        noisy = images + law.sample(key, len(images)).reshape(images.shape)
        correct = jnp.sum(jnp.argmax(model(noisy), axis=-1) == labels, dtype=jnp.int32)
        return correct, jnp.sum(labels != _NOBODY, dtype=jnp.int32)

    return count


def _blocks(
    test: Dataset, size: int, unreadable: Callable[[Example], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of blocks of one size."""
    examples = read_ahead(test, range(len(test)))
    while some := list(islice(examples, size)):
        images = np.zeros((size, *test.image_shape), np.float32)
        labels = np.full(size, _NOBODY, np.int32)
        for place, example in enumerate(some):
            if example.image is not None:
                images[place], labels[place] = example.image, example.label
            else:
                unreadable(example)
        yield images, labels
