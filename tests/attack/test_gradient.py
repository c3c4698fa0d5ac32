"""Gradients against finite differences of the loss as its formula has it, with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax.attack import LOSSES
from dsrs_jax.attack.gradient import ascent

IMAGES, DRAWS, SIDE, CLASSES = 3, 10, 4, 5
TILE = 4  # of the last tile two draws count
LABELS = np.array([0, 3, 4], np.int32)


class Problem:
    """A small smooth network, images and draws, all in float64."""

    def __init__(self, certain: float) -> None:
        random = np.random.default_rng(0)
        self.first = random.normal(size=(SIDE * SIDE, 8)) / 2
        self.second = random.normal(size=(8, CLASSES))
        self.certain = np.zeros((IMAGES, CLASSES))
        self.certain[np.arange(IMAGES), LABELS] = certain
        self.images = random.random((IMAGES, SIDE, SIDE, 1))
        self.noise = random.normal(size=(IMAGES, 12, SIDE, SIDE, 1)) / 2

    def logits(self, images: jax.Array) -> jax.Array:
        """Of the images' draws, in the order that the attack has them."""
        hidden = jnp.tanh(images.reshape(len(images), -1) @ self.first.astype(images.dtype))
        more = jnp.repeat(self.certain.astype(images.dtype), len(images) // IMAGES, axis=0)
        return hidden @ self.second.astype(images.dtype) + more

    def loss(self, images: np.ndarray, kind: str) -> np.ndarray:
        """As the formula has it."""
        noisy = images[:, None] + self.noise[:, :DRAWS]
        hidden = np.tanh(noisy.reshape(IMAGES, DRAWS, -1) @ self.first)
        odds = np.exp(hidden @ self.second + self.certain[:, None])
        right = (odds / odds.sum(axis=-1, keepdims=True))[np.arange(IMAGES), :, LABELS]
        softmax = kind == "mean-softmax"
        return -np.log(right.mean(axis=1)) if softmax else -np.log(right).mean(axis=1)

    def gradient(self, kind: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """Direction and the logarithm of its scale."""
        noise = jnp.asarray(self.noise.astype(dtype))

        def tile_of(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            part = jax.lax.dynamic_slice_in_dim(noise, number * TILE, TILE, axis=1)
            return part, number * TILE + jnp.arange(TILE) < DRAWS

        images, tiles = jnp.asarray(self.images.astype(dtype)), -(-DRAWS // TILE)
        found = ascent(self.logits, images, jnp.asarray(LABELS), tile_of, tiles, kind)
        return np.asarray(found.direction, np.float64), np.asarray(found.log_scale, np.float64)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    problem, random = Problem(0.0), np.random.default_rng(1)
    with jax.enable_x64(True):
        direction, log_scale = problem.gradient(kind, np.float64)
    gradient = np.exp(log_scale)[:, None, None, None] * direction
    step = 1e-5
    for _ in range(5):
        along = random.normal(size=problem.images.shape)
        ends = [problem.loss(problem.images + sign * step * along, kind) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose((gradient * along).sum(axis=(1, 2, 3)), expected, rtol=1e-8)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_network_that_is_certain_keeps_its_gradient_in_float32(kind: str) -> None:
    """A label's softmax of 1 - 1e-26 is 1 in either precision, and its gradient is not 0."""
    problem = Problem(60.0)
    found, _ = problem.gradient(kind, np.float32)
    with jax.enable_x64(True):
        expected, log_scale = problem.gradient(kind, np.float64)
    assert np.all(log_scale < -40.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
