"""Random views of training images, as published for each data set."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dsrs_jax.data import ArrayDataset, Dataset
from dsrs_jax.data.views import VIEWS

Images = Float[Array, "images height width channels"]
Augmentation = Callable[[Key[Array, ""], Images], Images]

_PADDING = 4
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


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


def resized_crop_and_flip(key: Key[Array, ""], images: Images) -> Images:
    """A random rectangle resized to the whole, mirrored in half of the cases (ImageNet).

    Its area is 8% to 100% of the image's, its sides' ratio 3/4 to 4/3; a side longer than the
    image's is cut to it.
    """
    height, width, channels = images.shape[1:]

    def one(key: Key[Array, ""], image: Array) -> Array:
        area_key, ratio_key, place_key, flip_key = jax.random.split(key, 4)
        area = jax.random.uniform(area_key, (), jnp.float32, *_AREA)
        low, high = jnp.log(jnp.float32(_RATIO[0])), jnp.log(jnp.float32(_RATIO[1]))
        ratio = jnp.exp(jax.random.uniform(ratio_key, (), jnp.float32, low, high))
        sides = jnp.minimum(jnp.sqrt(area * jnp.stack([1.0 / ratio, ratio])), 1.0)
        size = jnp.array([height, width], jnp.float32)
        corner = jax.random.uniform(place_key, (2,), jnp.float32) * (1.0 - sides) * size
        view = jax.image.scale_and_translate(
            image, (height, width, channels), (0, 1), 1.0 / sides, -corner / sides, "linear"
        )
        return _flipped(flip_key, jnp.clip(view, 0.0, 1.0))

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def _flipped(key: Key[Array, ""], image: Array) -> Array:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


AUGMENTATIONS: dict[str, Augmentation] = {
    "cifar10": crop_and_flip,
    "imagenet": resized_crop_and_flip,
    "tinyimagenet": resized_crop_and_flip,
}


def augmentation(dataset: Dataset) -> Augmentation:
    """The published augmentation of a data set; none where none was published.

    Nor where a streamed set's own random views are cut from whole pictures (`data.views`).
    """
    if dataset.name in VIEWS and not isinstance(dataset, ArrayDataset):
        return none
    return AUGMENTATIONS.get(dataset.name, none)
