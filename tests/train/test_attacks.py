"""The inner attacks where the answer is known: a linear classifier, and the laws of the ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax.train import attacks

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
    moved = attacks.smoothadv(linear, clean, LABELS, noise(), steps=steps, radius=0.2)
    np.testing.assert_allclose(moved, clean + 0.2 * AWAY, atol=2e-6)


def test_smoothadv_stays_in_the_ball_and_among_images() -> None:
    clean = images(0.0, 1.0)
    moved = attacks.smoothadv(linear, clean, LABELS, noise(), steps=5, radius=1.5)
    assert np.all(norms(moved - clean) <= 1.5 + 1e-5)
    assert float(moved.min()) >= 0.0 and float(moved.max()) <= 1.0


@pytest.mark.parametrize("mix_step", [0, 1, 2, 3])
def test_smoothmix_keeps_the_iterate_that_was_asked_for(mix_step: int) -> None:
    clean = images(0.45, 0.55)
    near, far = attacks.smoothmix(
        linear, clean, LABELS, noise(), steps=3, step_size=0.05, mix_step=mix_step,
        clean_radius=10.0,
    )  # fmt: skip
    np.testing.assert_allclose(far, clean + 0.15 * AWAY, atol=2e-6)
    np.testing.assert_allclose(near, clean + 0.05 * mix_step * AWAY, atol=2e-6)


def test_smoothmix_caps_the_clean_end_alone() -> None:
    clean = images(0.0, 1.0)
    near, far = attacks.smoothmix(
        linear, clean, LABELS, noise(), steps=4, step_size=1.0, mix_step=2, clean_radius=0.3
    )
    assert np.all(norms(near - clean) <= 0.3 + 1e-5)
    assert np.any(norms(far - clean) > 1.0)
    assert float(far.min()) >= 0.0 and float(far.max()) <= 1.0
