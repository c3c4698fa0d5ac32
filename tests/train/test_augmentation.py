"""Random views are made of the image that they are a view of."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrs_jax.train.augmentation import augmentation, crop_and_flip, none


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


def test_each_data_set_has_the_published_one() -> None:
    image = jnp.zeros((2, 28, 28, 1), jnp.float32)
    assert augmentation("mnist")(jax.random.key(0), image) is image
    assert augmentation("cifar10") is crop_and_flip
    # Whoever decodes these pictures cuts the views.
    assert augmentation("imagenet") is none and augmentation("tinyimagenet") is none
