"""What the rest of the code knows of a model: a base classifier, and where it comes from."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from dsrs_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """Where a model comes from.

    `sigma`, `k` and `eta` are those of the noise that it was trained under (sigma in [0, 1] pixel
    units). `scaling` is that of its input (`models.input_scaling`), None for the one that the data
    set has by default. A converted model names its `source` file, that file's SHA-256 and its
    number of parameters. Everything is None where nobody recorded it.
    """

    arch: str
    dataset: str
    image_shape: tuple[int, int, int]
    classes: int
    sigma: float | None = None
    k: float | None = None
    eta: float | None = None
    scaling: str | None = None
    method: str | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    source: str | None = None
    source_sha256: str | None = None
    parameters: int | None = None


def refuse_too_few_classes(name: str, classes: int) -> None:
    """UserError, with the way out, unless a classifier of this name has at least two classes."""
    if classes < 2:
        raise UserError(
            f"{name} returns {classes} number{'s' * (classes != 1)} for an image, and a classifier "
            "has at least two classes; a network that ends in one logit z (a sigmoid) has to "
            "return the two logits 0 and z"
        )


class Replica(NamedTuple):
    """One copy of a classifier that runs outside JAX.

    Attributes:
        device: of JAX, on which the noise is drawn and the votes are counted.
        platform: of the copy itself, "cpu" or "gpu", which says how many draws it wants at once.
        logits: from images (N, H, W, C) on `device` to logits (N, classes) on `device`.
    """

    device: jax.Device
    platform: str
    logits: Callable[[Array], Array]


class BaseClassifier(abc.ABC):
    """The classifier under the noise: from float32 images (N, H, W, C) with noise to logits.

    Attributes:
        metadata: image shape, classes, and its noise if known.
        traceable: whether JAX can trace it; it is then a pytree, to be passed to jitted functions
            as an argument. One that is not has `replicas`.
        backend: what computes the logits, a word of a run's config.json: the last digits of logits
            depend on it.
    """

    metadata: ModelMetadata
    traceable: bool = True
    backend: str = "jax"

    @abc.abstractmethod
    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, classes) of images (N, H, W, C) in [0, 1], noise included."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that the logits depend on but for their last digits."""

    def replicas(self) -> list[Replica]:
        """A copy for each device, of a classifier that JAX cannot trace."""
        raise NotImplementedError


def forward(
    classifier: BaseClassifier, images: Float[np.ndarray | Array, "images height width channels"]
) -> Float[np.ndarray, "..."]:
    """Logits of images that lie in memory, compiled where JAX can."""
    pixels = jax.numpy.asarray(images, jax.numpy.float32)
    return np.asarray(compiled(classifier, pixels) if classifier.traceable else classifier(pixels))


@jax.jit
def compiled(classifier: Callable[[Array], Array], images: Array) -> Array:
    """`classifier(images)` of one that JAX can trace."""
    return classifier(images)


def digest_of(arrays: dict[str, np.ndarray], *texts: str) -> str:
    """SHA-256, in hex, of texts and of the names, types, shapes and values of arrays."""
    digest = hashlib.sha256("".join(f"{text}\n" for text in texts).encode())
    for name, array in sorted(arrays.items()):
        little_endian = array.astype(array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()
