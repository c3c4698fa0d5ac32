"""Layers with everything said that Flax would otherwise take from its surroundings.

Parameters are float32 whatever 64-bit mode says; `dtype` is that of the arithmetic. Padding is
symmetric and explicit, as in published PyTorch checkpoints ("SAME" pads a strided layer on one
side only).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dsrs_jax.models.convolution import conv_general_dilated

HE = nnx.initializers.he_normal(dtype=jnp.float32)
# PyTorch's initial weights, uniform with a sixth of that variance: for networks whose max pools,
# which pass on the largest of what noise gives, have no normalisation after them.
SMALL = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", dtype=jnp.float32)
# PyTorch's: added to the variance, and the share of the old average that a batch keeps.
_EPSILON, _MOMENTUM = 1e-5, 0.9
_LAYER_NORM_EPSILON = 1e-6  # of published vision transformers


def convolution(
    channels_in: int,
    channels_out: int,
    *,
    kernel: int,
    rngs: nnx.Rngs,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    initial: nnx.Initializer = HE,
    dtype: Any = jnp.float32,
) -> nnx.Conv:
    """A square convolution over NHWC features, weights (H, W, in, out)."""
    return nnx.Conv(
        channels_in,
        channels_out,
        kernel_size=(kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        use_bias=bias,
        kernel_init=initial,
        dtype=dtype,
        param_dtype=jnp.float32,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def dense(
    features_in: int,
    features_out: int,
    *,
    rngs: nnx.Rngs,
    initial: nnx.Initializer = HE,
    dtype: Any = jnp.float32,
) -> nnx.Linear:
    """A dense layer with bias, weights (in, out)."""
    return nnx.Linear(
        features_in,
        features_out,
        kernel_init=initial,
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def batch_norm(channels: int, *, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> nnx.BatchNorm:
    """Batch normalisation over the last axis; a `Classifier` runs it on its stored averages."""
    return nnx.BatchNorm(
        channels,
        momentum=_MOMENTUM,
        epsilon=_EPSILON,
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def layer_norm(features: int, *, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> nnx.LayerNorm:
    """Layer normalisation over the last axis."""
    return nnx.LayerNorm(
        features,
        epsilon=_LAYER_NORM_EPSILON,
        use_fast_variance=False,  # E[x²] - E[x]² loses digits
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def max_pool(
    features: Float[Array, "images height width channels"],
    *,
    side: int,
    stride: int,
    padding: int = 0,
) -> Float[Array, "images pooled_height pooled_width channels"]:
    """The largest entry of each square window; padding never wins."""
    return nnx.max_pool(
        features, (side, side), strides=(stride, stride), padding=((padding, padding),) * 2
    )


def average_pool(
    features: Float[Array, "images height width channels"], *, side: int
) -> Float[Array, "images pooled_height pooled_width channels"]:
    """The mean of each square window, windows side by side; `side` divides height and width."""
    images, height, width, channels = features.shape
    windows = features.reshape(images, height // side, side, width // side, side, channels)
    return jnp.mean(windows, axis=(2, 4))


def flatten(features: Float[Array, "images *rest"]) -> Float[Array, "images features"]:
    """(N, H, W, C) → (N, H·W·C)."""
    return jnp.reshape(features, (features.shape[0], -1))


def logits(features: Float[Array, "images classes"]) -> Float[Array, "images classes"]:
    """In float32 whatever the arithmetic was: votes compare them."""
    return jax.lax.convert_element_type(features, jnp.float32)


def check_images(images: Float[Array, "..."], image_shape: tuple[int, int, int]) -> None:
    """ValueError unless `images` is (N, *image_shape)."""
    if images.ndim != 4 or images.shape[1:] != image_shape:
        expected = ", ".join(str(size) for size in image_shape)
        raise ValueError(f"expected images (N, {expected}), got {images.shape}")
