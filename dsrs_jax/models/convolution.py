"""Convolutions whose gradients are fast on CPUs, too.

XLA has two slow places there: the gradient of the weights, a convolution whose window is the whole
image and whose channels are the batch, and the gradient of a strided layer's input, a convolution
with holes. Of parts of the batch the first is three times as fast; the second is one without holes
that gives stride² as many channels, put side by side. What they compute is the same. As all that
has a gradient of its own in JAX, they have no forward-mode derivative (`jax.jvp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Images of a part: the channels of its convolution, as many as a CPU's registers hold. Each part is
# a call of its own, so there are no more of them than this.
_IMAGES, _PARTS = 8, 32
# Where parts pay in the forward pass.
_FORWARD_PARTS, _CHANNELS, _LARGE = 4, 32, 64

Features = Float[Array, "images height width channels"]
Weights = Float[Array, "window window channels channels_out"]
Gradient = Float[Array, "images rows columns channels_out"]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(features: Features, weights: Weights, stride: int, padding: int) -> Array:
    """The square convolution of NHWC features with HWIO weights, padded alike on all sides."""
    return _convolution(features, weights, stride, padding)


def _forward(
    features: Features, weights: Weights, stride: int, padding: int
) -> tuple[Array, tuple[Features, Weights]]:
    """What training runs: on a CPU four parts of a large batch side by side fill its cores."""
    layer = partial(_convolution, stride=stride, padding=padding)

    def in_parts(features: Features, weights: Weights) -> Array:
        four = jnp.split(features, _FORWARD_PARTS)
        return jnp.concatenate([layer(part, weights) for part in four])

    images, channels = len(features), features.shape[-1]
    if channels < _CHANNELS or images < _LARGE or images % _FORWARD_PARTS:
        in_parts = layer
    answer = jax.lax.platform_dependent(features, weights, cpu=in_parts, default=layer)
    return answer, (features, weights)


def _backward(
    stride: int, padding: int, inputs: tuple[Features, Weights], gradient: Gradient
) -> tuple[Features, Weights]:
    def own(features: Features, weights: Weights, gradient: Gradient) -> tuple[Array, Array]:
        return (
            _input_gradient(features, weights, gradient, stride, padding),
            _weight_gradient(features, weights, gradient, stride, padding),
        )

    def of_xla(features: Features, weights: Weights, gradient: Gradient) -> tuple[Array, Array]:
        layer = partial(_convolution, stride=stride, padding=padding)
        return jax.vjp(layer, features, weights)[1](gradient)

    return jax.lax.platform_dependent(*inputs, gradient, cpu=own, default=of_xla)


convolve.defvjp(_forward, _backward)


def _convolution(features: Features, weights: Weights, stride: int, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        features, weights, (stride,) * 2, ((padding,) * 2,) * 2, dimension_numbers=_DIMENSIONS
    )


def _weight_gradient(
    features: Features, weights: Weights, gradient: Gradient, stride: int, padding: int
) -> Weights:
    """The sum of the gradients of parts of the batch."""
    images = len(features)
    parts = -(-images // max(_IMAGES, -(-images // _PARTS)))
    size = -(-images // parts)

    def cut(images_of: Array) -> Array:
        """(size, parts, ...): of a batch that lies on several devices each has its share."""
        missing = size * parts - images
        whole = jnp.pad(images_of, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images_of
        return whole.reshape(size, parts, *whole.shape[1:])

    def of_part(features: Features, gradient: Gradient) -> Weights:
        layer = partial(_convolution, features, stride=stride, padding=padding)
        found = jax.linear_transpose(layer, weights)(gradient)[0]
        return found.astype(jnp.float32) if found.dtype == jnp.bfloat16 else found

    inputs, outputs = cut(features), cut(gradient)
    first, *others = (of_part(inputs[:, part], outputs[:, part]) for part in range(parts))
    return sum(others, start=first).astype(weights.dtype)


def _input_gradient(
    features: Features, weights: Weights, gradient: Gradient, stride: int, padding: int
) -> Features:
    """Of pixels that are stride apart the gradient is a convolution without stride."""
    if len(weights) == 1:  # a product of matrices
        layer = partial(_convolution, weights=weights, stride=stride, padding=padding)
        return jax.linear_transpose(layer, features)(gradient)[0]
    window, _, channels, channels_out = weights.shape
    images, height, width, _ = features.shape
    taps = -(-window // stride)
    more = taps * stride - window
    padded = jnp.pad(weights, ((0, more), (0, more), (0, 0), (0, 0)))
    # Window row a·stride + r of output row o lies on padded input row (o + a)·stride + r.
    by_phase = padded.reshape(taps, stride, taps, stride, channels, channels_out)
    turned = by_phase[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    kernel = turned.reshape(taps, taps, channels_out, stride * stride * channels)
    phases = _convolution(gradient, kernel, 1, taps - 1)
    rows, columns = phases.shape[1:3]
    split = phases.reshape(images, rows, columns, stride, stride, channels)
    whole = split.transpose(0, 1, 3, 2, 4, 5)
    whole = whole.reshape(images, rows * stride, columns * stride, channels)
    # Input rows that no window reaches, at the far side, have the gradient 0.
    below = max(0, padding + height - rows * stride)
    beside = max(0, padding + width - columns * stride)
    whole = jnp.pad(whole, ((0, 0), (0, below), (0, beside), (0, 0)))
    return whole[:, padding : padding + height, padding : padding + width]


def conv_general_dilated(
    features: Features,
    weights: Weights,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **others: Any,
) -> Array:
    """`convolve` as `nnx.Conv` calls it, for a layer that is square and has no holes."""
    return convolve(features, weights, strides[0], padding[0][0])
