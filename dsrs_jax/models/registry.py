"""The registry of architectures.

A new architecture is one new file with a module class, and one line in `_REGISTRY`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flax import nnx

from dsrs_jax.errors import UserError
from dsrs_jax.models import digits_cnn, mnist_43


@dataclass(frozen=True)
class Architecture:
    """What an architecture expects and returns: images (N, *image_shape) → logits (N, classes)."""

    image_shape: tuple[int, int, int]
    classes: int
    module: Callable[..., nnx.Module]


_REGISTRY = {
    "digits_cnn": Architecture(digits_cnn.IMAGE_SHAPE, digits_cnn.CLASSES, digits_cnn.DigitsCNN),
    "mnist_43": Architecture(mnist_43.IMAGE_SHAPE, mnist_43.CLASSES, mnist_43.MNIST43),
}
ARCHITECTURES = tuple(_REGISTRY)


def architecture(name: str) -> Architecture:
    """The architecture called `name`, one of ARCHITECTURES; UserError for any other."""
    if name not in _REGISTRY:
        raise UserError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return _REGISTRY[name]


def build(name: str, seed: int) -> nnx.Module:
    """An untrained model of the architecture `name`; its weights depend on `seed` alone."""
    return architecture(name).module(rngs=nnx.Rngs(seed))
