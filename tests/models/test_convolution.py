"""The convolution's own gradients beside XLA's, and its values, which are XLA's very bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsrs_jax.models.convolution import convolve


def _plain(features: jax.Array, weights: jax.Array, stride: int, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        features, weights, (stride,) * 2, ((padding,) * 2,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@partial(jax.jit, static_argnames=("stride", "padding"))
def _gradients(
    features: jax.Array, weights: jax.Array, stride: int, padding: int
) -> list[tuple[jax.Array, ...]]:
    """Ours and XLA's: the answer, and the gradients of both for a random one of the answer."""
    found = []
    for layer in (convolve, _plain):
        whole = partial(layer, stride=stride, padding=padding)
        answer, transposed = jax.vjp(whole, features, weights)
        found.append((answer, *transposed(_random(*answer.shape).astype(answer.dtype))))
    return found


@settings(max_examples=settings.default.max_examples // 4)
@given(
    images=st.sampled_from([1, 3, 8, 9, 20]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    window=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
)
def test_gradients_are_those_of_the_convolution(
    images: int, height: int, width: int, window: int, stride: int, padding: int
) -> None:
    """In float64, where nothing but a mistake can make them differ."""
    assume(min(height, width) + 2 * padding >= window)
    with jax.enable_x64(True):
        inputs = _random(images, height, width, 2), _random(window, window, 2, 3)
        found, expected = _gradients(*inputs, stride, padding)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_large_batches_are_cut_into_parts_in_training_alone(stride: int) -> None:
    """Votes must not depend on how training is made fast: without a gradient, XLA's very bits."""
    features, weights = (
        x.astype(jnp.float32) for x in (_random(128, 6, 6, 32), _random(3, 3, 32, 4))
    )
    found, expected = _gradients(features, weights, stride, 1)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    ours, theirs = (
        jax.jit(partial(layer, stride=stride, padding=1))(features, weights)
        for layer in (convolve, _plain)
    )
    np.testing.assert_array_equal(ours, theirs)
