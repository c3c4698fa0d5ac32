"""The inner attacks where the answer is known: a linear classifier, and the laws of the ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax.train.methods import METHODS, Batch, Objective, catrs, smoothadv, smoothmix

SHAPE = (3, 4, 4, 1)
LABELS = jnp.array([0, 1, 0], jnp.int32)
WEIGHTS = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
# Of the loss of a two-class linear classifier: away from the label's weights.
AWAY = np.stack([(WEIGHTS[:, 1 - y] - WEIGHTS[:, y]).reshape(4, 4, 1) for y in (0, 1, 0)])
AWAY /= np.linalg.norm(AWAY.reshape(3, -1), axis=1)[:, None, None, None]


def linear(noisy: jax.Array) -> jax.Array:
    return noisy.reshape(*noisy.shape[:2], -1) @ jnp.asarray(WEIGHTS)


def images(low: float, high: float) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(low, high, SHAPE), jnp.float32)


def noise(copies: int = 2) -> jax.Array:
    return jnp.asarray(
        np.random.default_rng(2).normal(0, 0.5, (SHAPE[0], copies, *SHAPE[1:])), jnp.float32
    )


def norms(x: jax.Array) -> np.ndarray:
    return np.linalg.norm(np.asarray(x).reshape(len(x), -1), axis=1)


@pytest.mark.parametrize("steps", [1, 4])
def test_smoothadv_ends_on_the_ball_in_the_gradients_direction(steps: int) -> None:
    clean = images(0.4, 0.6)
    moved = smoothadv.attack(linear, clean, LABELS, noise(), steps=steps, radius=0.2)
    np.testing.assert_allclose(moved, clean + 0.2 * AWAY, atol=2e-6)


def test_smoothadv_stays_in_the_ball_and_among_images() -> None:
    clean = images(0.0, 1.0)
    moved = smoothadv.attack(linear, clean, LABELS, noise(), steps=5, radius=1.5)
    assert np.all(norms(moved - clean) <= 1.5 + 1e-5)
    assert float(moved.min()) >= 0.0 and float(moved.max()) <= 1.0


@pytest.mark.parametrize("mix_step", [0, 1, 2, 3])
def test_smoothmix_keeps_the_iterate_that_was_asked_for(mix_step: int) -> None:
    clean = images(0.45, 0.55)
    near, far = smoothmix.attack(
        linear, clean, LABELS, noise(), steps=3, step_size=0.05, mix_step=mix_step,
        clean_radius=10.0,
    )  # fmt: skip
    np.testing.assert_allclose(far, clean + 0.15 * AWAY, atol=2e-6)
    np.testing.assert_allclose(near, clean + 0.05 * mix_step * AWAY, atol=2e-6)


def test_smoothmix_caps_the_clean_end_alone() -> None:
    clean = images(0.0, 1.0)
    near, far = smoothmix.attack(
        linear, clean, LABELS, noise(), steps=4, step_size=1.0, mix_step=2, clean_radius=0.3
    )
    assert np.all(norms(near - clean) <= 0.3 + 1e-5)
    assert np.any(norms(far - clean) > 1.0)
    assert float(far.min()) >= 0.0 and float(far.max()) <= 1.0


@pytest.mark.parametrize("steps", [1, 3])
def test_catrs_moves_each_draw_away_from_the_target(steps: int) -> None:
    """KL(target || softmax) of two classes grows along the weights, from the target outwards."""
    clean, first, radius = images(0.0, 1.0), noise(), 0.6
    uphill = (WEIGHTS[:, 1] - WEIGHTS[:, 0]).astype(float)
    target = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float32)
    moved = catrs.attack(linear, clean, first, jnp.asarray(target), steps=steps, radius=radius)
    for i in range(SHAPE[0]):
        for draw in range(2):
            start = np.asarray(first[i, draw], float).ravel()
            now = start
            for _ in range(steps):
                score = (np.asarray(clean[i], float).ravel() + now) @ uphill
                side = np.sign(1 / (1 + np.exp(-score)) - target[i, 1])
                offset = now + 2 * radius / steps * side * uphill / np.linalg.norm(uphill) - start
                now = start + offset * min(1.0, radius / np.linalg.norm(offset))
                now = start.mean() + start.std() * (now - now.mean()) / now.std()
            np.testing.assert_allclose(np.ravel(moved[i, draw]), now, atol=5e-6)


@jax.jit
def _moved(clean: jax.Array, first: jax.Array, radius: jax.Array) -> jax.Array:
    target = jnp.mean(jax.nn.softmax(linear(clean[:, None] + first)), axis=1)
    return catrs.attack(linear, clean, first, target, steps=3, radius=radius)


@settings(max_examples=50)
@given(st.integers(0, 2**16), st.floats(0.01, 3.0), st.floats(0.0, 4.0))
def test_catrs_noise_keeps_its_mean_and_power_near_where_it_was(
    seed: int, sigma: float, radius: float
) -> None:
    draws = np.random.default_rng(seed).normal(0.1, sigma, (SHAPE[0], 2, *SHAPE[1:]))
    first = jnp.asarray(draws, jnp.float32)
    moved = np.asarray(_moved(images(0.0, 1.0), first, jnp.float32(radius)), float)
    pixels = (-3, -2, -1)
    np.testing.assert_allclose(moved.mean(pixels), draws.mean(pixels), atol=1e-5 * (1 + sigma))
    np.testing.assert_allclose((moved**2).mean(pixels), (draws**2).mean(pixels), rtol=1e-4)
    distance = np.sqrt(((moved - draws) ** 2).sum(pixels))
    # The ball, then the nearest noise of the first one's mean and power: at most as far again.
    assert np.all(distance <= 2.0 * radius + 1e-5 * (1 + sigma))


def test_catrs_views_are_noisy_images_whose_reach_rises_with_the_warm_up() -> None:
    clean, first, chance = images(0.0, 1.0), noise(), jnp.zeros(3, jnp.float32)
    unused = dict.fromkeys(Objective._fields, 0)
    objective = Objective(**unused | {"method": "catrs", "steps": 2, "epsilon": 128.0})
    target = jnp.mean(jax.nn.softmax(linear(clean[:, None] + first)), axis=1)
    for warmup in (0.0, 0.5, 1.0):
        batch = Batch(clean, LABELS, first, chance, jnp.float32(warmup), jnp.float32(0.5))
        seen = METHODS["catrs"].views(linear, batch, objective)
        np.testing.assert_array_equal(seen.images, clean)
        assert seen.others is not None
        worst = catrs.attack(linear, clean, first, target, steps=2, radius=warmup * 0.5)
        np.testing.assert_allclose(seen.others, clean[:, None] + worst, atol=1e-6)
        moved = norms(seen.others - clean[:, None] - first)
        assert np.all(moved < 1e-5) if warmup == 0.0 else np.all(moved > 0.4 * warmup)
