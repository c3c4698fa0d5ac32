"""The convolution's own gradients beside XLA's, and its values, which are XLA's very bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax.models.convolution import convolve


def _plain(features: jax.Array, weights: jax.Array, stride: int, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        features,
        weights,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@settings(deadline=None, max_examples=40)
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
    if min(height, width) + 2 * padding < window:
        return
    with jax.enable_x64(True):
        features, weights = _random(images, height, width, 2), _random(window, window, 2, 3)
        answer, transposed = jax.vjp(
            partial(convolve, stride=stride, padding=padding), features, weights
        )
        expected, plainly = jax.vjp(
            partial(_plain, stride=stride, padding=padding), features, weights
        )
        np.testing.assert_allclose(answer, expected, atol=1e-12)
        gradient = _random(*answer.shape)
        for ours, theirs in zip(transposed(gradient), plainly(gradient), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_large_batches_are_cut_into_parts_in_both_directions() -> None:
    features, weights = (
        x.astype(jnp.float32) for x in (_random(128, 6, 6, 32), _random(3, 3, 32, 4))
    )
    gradient = _random(128, 3, 3, 4).astype(jnp.float32)
    found, expected = (
        (answer, *transposed(gradient))
        for answer, transposed in (
            jax.vjp(partial(layer, stride=2, padding=1), features, weights)
            for layer in (convolve, _plain)
        )
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_answer_without_gradient_is_xlas_to_the_bit(stride: int) -> None:
    """Votes must not depend on how training is made fast."""
    features, weights = (
        x.astype(jnp.float32) for x in (_random(64, 6, 6, 32), _random(3, 3, 32, 4))
    )
    ours, theirs = (
        jax.jit(partial(layer, stride=stride, padding=1))(features, weights)
        for layer in (convolve, _plain)
    )
    np.testing.assert_array_equal(ours, theirs)
