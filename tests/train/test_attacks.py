"""What methods make of images where the answer is known: a linear classifier, laws of the ball."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from dsrs_jax.train.methods import METHODS, Batch, Objective, Views, catrs

SHAPE = (3, 4, 4, 1)
LABELS = np.array([0, 1, 0], np.int32)
WEIGHTS = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
# Of the loss of a two-class linear classifier: away from the label's weights.
AWAY = np.stack([(WEIGHTS[:, 1 - y] - WEIGHTS[:, y]).reshape(4, 4, 1) for y in (0, 1, 0)])
AWAY /= np.linalg.norm(AWAY.reshape(3, -1), axis=1)[:, None, None, None]
NOISE = np.random.default_rng(2).normal(0, 0.5, (3, 2, *SHAPE[1:])).astype(np.float32)
CHANCE = np.array([0.0, 0.5, 1.0], np.float32)


def linear(noisy: jax.Array) -> jax.Array:
    return noisy.reshape(*noisy.shape[:2], -1) @ jnp.asarray(WEIGHTS)


def images(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(1).uniform(low, high, SHAPE).astype(np.float32)


def norms(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x.reshape(len(x), -1), axis=1)


@partial(jax.jit, static_argnums=0)
def _views(objective: Objective, clean: jax.Array, warmup: jax.Array) -> Views:
    batch = Batch(clean, *map(jnp.asarray, (LABELS, NOISE, CHANCE)), warmup, jnp.float32(0.5))
    return METHODS[objective.method].views(linear, batch, objective)


def views(clean: np.ndarray, warmup: float, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    """(images, others) that a method trains on; `others` are the images where it has none."""
    objective = Objective(**dict.fromkeys(Objective._fields, 0) | settings)
    found = _views(objective, clean, np.float32(warmup))
    others = found.images if found.others is None else found.others
    return np.asarray(found.images), np.asarray(others)


@pytest.mark.parametrize("steps", [1, 4])
def test_smoothadv_ends_on_the_ball_in_the_gradients_direction(steps: int) -> None:
    """Of epsilon 102.4/256, half of which is reached."""
    clean = images(0.4, 0.6)
    moved, _ = views(clean, 0.5, method="smoothadv", steps=steps, epsilon=102.4)
    np.testing.assert_allclose(moved, clean + 0.2 * AWAY, atol=2e-6)


@pytest.mark.parametrize("mix_step", [0, 1, 3])
def test_smoothmix_mixes_the_iterate_that_was_asked_for_and_the_last(mix_step: int) -> None:
    clean = images(0.45, 0.55)
    settings = {"method": "smoothmix", "steps": 3, "step_size": 0.05, "mix_step": mix_step}
    for warmup in (0.5, 1.0):  # of the clean end's reach
        near, mixture = views(clean, warmup, **settings)
        end = clean + 0.05 * mix_step * warmup * AWAY
        np.testing.assert_allclose(near, end, atol=2e-6)
        share = CHANCE[:, None, None, None] / 2
        far = clean + 0.15 * AWAY
        np.testing.assert_allclose(mixture, (1 - share) * end + share * far, atol=2e-6)


def test_attacked_images_stay_in_the_ball_and_in_range() -> None:
    """Of smoothmix the clean end alone has a ball: 2 steps of 1.0, 0.15 of which are allowed."""
    clean = images(0.0, 1.0)
    adversarial, _ = views(clean, 1.0, method="smoothadv", steps=5, epsilon=384.0)
    near, mixture = views(clean, 0.15, method="smoothmix", steps=4, step_size=1.0, mix_step=2)
    for moved, radius in ((adversarial, 1.5), (near, 0.3), (mixture, np.inf)):
        assert np.all(norms(moved - clean) <= radius + 1e-5)
        assert moved.min() >= 0.0 and moved.max() <= 1.0


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_catrs_moves_each_draw_away_from_their_mean_answer(warmup: float) -> None:
    """KL(target || softmax) of two classes grows along the weights, from the target outwards."""
    clean, radius, steps = images(0.0, 1.0), 0.6 * warmup, 3
    seen, others = views(clean, warmup, method="catrs", steps=steps, epsilon=0.6 * 256)
    np.testing.assert_array_equal(seen, clean)
    uphill = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).astype(float)
    for i in range(SHAPE[0]):
        image = clean[i].astype(float).ravel()
        target = np.mean(special.expit((image + NOISE[i].reshape(2, -1)) @ uphill))
        for draw in range(2):
            start = now = NOISE[i, draw].astype(float).ravel()
            for _ in range(steps):
                side = np.sign(special.expit((image + now) @ uphill) - target)
                offset = now + 2 * radius / steps * side * uphill / np.linalg.norm(uphill) - start
                now = start + offset * min(1.0, radius / (np.linalg.norm(offset) + 1e-12))
                now = start.mean() + start.std() * (now - now.mean()) / now.std()
            np.testing.assert_allclose(np.ravel(others[i, draw]), image + now, atol=5e-6)


@jax.jit
def _worst(clean: jax.Array, first: jax.Array, radius: jax.Array) -> jax.Array:
    target = jnp.mean(jax.nn.softmax(linear(clean[:, None] + first)), axis=1)
    return catrs.attack(linear, clean, first, target, steps=3, radius=radius)


@given(st.integers(0, 2**16), st.floats(0.01, 3.0), st.floats(0.0, 4.0))
def test_catrs_noise_keeps_its_mean_and_power_near_where_it_was(
    seed: int, sigma: float, radius: float
) -> None:
    draws = np.random.default_rng(seed).normal(0.1, sigma, NOISE.shape).astype(np.float32)
    moved = np.asarray(_worst(images(0.0, 1.0), draws, np.float32(radius)), float)
    pixels = (-3, -2, -1)
    np.testing.assert_allclose(moved.mean(pixels), draws.mean(pixels), atol=1e-5 * (1 + sigma))
    np.testing.assert_allclose((moved**2).mean(pixels), (draws**2).mean(pixels), rtol=1e-4)
    distance = np.sqrt(((moved - draws) ** 2).sum(pixels))
    # The ball, then the nearest noise of the first one's mean and power: at most as far again.
    assert np.all(distance <= 2.0 * radius + 1e-5 * (1 + sigma))
