"""What changes while a model trains: schedules against the papers' formulas, random views."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.train.augmentation import augmentation, crop_and_flip, none
from dsrs_jax.train.schedules import k_at, learning_rate_at, warmup_at


@given(st.integers(1, 80_000), st.integers(1, 300), st.integers(0, 400))
def test_k_grows_from_gaussian_noise_to_the_whole(k: int, warmup: int, time: int) -> None:
    now = k_at(float(k), warmup, time)
    if time <= warmup:
        assert now == math.ceil(k - k * math.exp(-time * math.log(k) / warmup))
    else:
        assert now == k
    assert now <= k_at(float(k), warmup, time + 1) <= k
    assert k_at(float(k), warmup, 0) == 0.0 and k_at(float(k), 0, time) == k
    assert k_at(0.0, warmup, time) == 0.0


@given(st.floats(1e-4, 1.0), st.integers(1, 60), st.integers(0, 300))
def test_the_learning_rate_falls_to_a_tenth(base: float, step: int, epoch: int) -> None:
    assert learning_rate_at(base, step, epoch) == base * 0.1 ** math.floor(epoch / step)


@given(st.integers(1, 50), st.integers(0, 100))
def test_the_warm_up_is_linear_and_ends_at_one(warmup: int, epoch: int) -> None:
    assert warmup_at(warmup, epoch) == min(1.0, (epoch + 1) / warmup)
    assert warmup_at(0, epoch) == 1.0


def test_a_crop_is_a_window_of_the_padded_image_perhaps_mirrored() -> None:
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)))
    windows = {
        padded[i : i + 32, j : j + 32][:, ::step].tobytes(): (i, j, step)
        for i in range(9)
        for j in range(9)
        for step in (1, -1)
    }
    views = np.asarray(crop_and_flip(jax.random.key(0), jnp.repeat(image, 400, axis=0)))
    seen = [windows[view.tobytes()] for view in views]
    assert len({(i, j) for i, j, _ in seen}) > 60
    assert 150 < sum(step == 1 for _, _, step in seen) < 250


def test_each_data_set_has_the_published_one() -> None:
    image = jnp.zeros((2, 28, 28, 1), jnp.float32)
    assert augmentation("mnist")(jax.random.key(0), image) is image
    assert augmentation("cifar10") is crop_and_flip
    # Whoever decodes these pictures cuts the views.
    assert augmentation("imagenet") is none and augmentation("tinyimagenet") is none
