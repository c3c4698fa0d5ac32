"""Random views are made of the image that they are a view of."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrs_jax.data import ArrayDataset, LazyDataset
from dsrs_jax.train.augmentation import (
    augmentation,
    crop_and_flip,
    none,
    resized_crop_and_flip,
)


def test_a_crop_is_a_window_of_the_padded_image_perhaps_mirrored() -> None:
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)))
    windows = {
        padded[i : i + 32, j : j + 32][:, ::step].tobytes(): (i, j, step)
        for i in range(9)
        for j in range(9)
        for step in (1, -1)
    }
    views = np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(np.repeat(image, 400, axis=0))))
    seen = [windows[view.tobytes()] for view in views]
    assert len({(i, j) for i, j, _ in seen}) > 60
    assert 150 < sum(step == 1 for _, _, step in seen) < 250


def test_a_resized_crop_keeps_plain_images_and_shows_parts_of_others() -> None:
    plain = jnp.full((50, 24, 24, 3), 0.25, jnp.float32)
    np.testing.assert_allclose(resized_crop_and_flip(jax.random.key(1), plain), 0.25, atol=1e-6)
    # A ramp from left to right: a view's columns rise or fall evenly, between its ends.
    ramp = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32)[None, None, :, None],
                           (50, 24, 24, 3))  # fmt: skip
    views = np.asarray(resized_crop_and_flip(jax.random.key(2), jnp.asarray(ramp)))
    change = np.diff(views[:, 12, :, 0], axis=1)
    assert np.all(np.all(change > -1e-6, axis=1) | np.all(change < 1e-6, axis=1))
    assert 10 < np.sum(change.sum(axis=1) > 0) < 40
    spread = np.abs(change.sum(axis=1))
    assert spread.min() < 0.6 and spread.max() <= 1.0 and views.min() >= 0.0


def _set(name: str) -> ArrayDataset:
    images = np.zeros((2, 28, 28, 1), np.float32)
    return ArrayDataset(name, "train", images, np.array([0, 1], np.int32), 2)


def test_each_data_set_has_the_published_one() -> None:
    image = jnp.zeros((2, 28, 28, 1), jnp.float32)
    assert augmentation(_set("mnist"))(jax.random.key(0), image) is image
    assert augmentation(_set("cifar10")) is crop_and_flip
    assert augmentation(_set("imagenet")) is resized_crop_and_flip


def test_a_streamed_set_is_not_cut_twice() -> None:
    """Whoever decodes ImageNet's pictures cuts the views; CIFAR's come whole."""

    def read(index: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        raise AssertionError("nothing is read")

    for name, expected in (("imagenet", none), ("tinyimagenet", none), ("cifar10", crop_and_flip)):
        assert augmentation(LazyDataset(name, "train", 2, read, 2, (28, 28, 1))) is expected
