"""Random views of training images, as published for each data set."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Images = Float[Array, "images height width channels"]
Augmentation = Callable[[Key[Array, ""], Images], Images]

_PADDING = 4


def none(key: Key[Array, ""], images: Images) -> Images:
    """The images themselves (MNIST, digits)."""
    return images


def crop_and_flip(key: Key[Array, ""], images: Images) -> Images:
    """A crop of the image padded by 4 zeros on each side, mirrored in half of the cases (CIFAR)."""
    padded = jnp.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))

    def one(key: Key[Array, ""], image: Array) -> Array:
        place_key, flip_key = jax.random.split(key)
        corner = jax.random.randint(place_key, (2,), 0, 2 * _PADDING + 1)
        crop = jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), images.shape[1:])
        return _flipped(flip_key, crop)

    return jax.vmap(one)(jax.random.split(key, len(images)), padded)


def _flipped(key: Key[Array, ""], image: Array) -> Array:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


AUGMENTATIONS: dict[str, Augmentation] = {
    "cifar10": crop_and_flip,
}


def augmentation(dataset: str) -> Augmentation:
    """The published augmentation of a data set; none where none was published.

    Nor for ImageNet and TinyImageNet, whose random views are cut when a picture is decoded
    (`data.views`).
    """
    return AUGMENTATIONS.get(dataset, none)
