"""Layers with everything said that Flax would otherwise take from its surroundings.

float32 is explicit in parameters and arithmetic, so that a model does not change when 64-bit mode
is on around it; padding is symmetric and explicit, as in published PyTorch checkpoints ("SAME"
pads a strided layer on one side only).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32


def convolution(
    channels_in: int,
    channels_out: int,
    *,
    kernel: int,
    stride: int,
    padding: int,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution with bias over NHWC features, weights (H, W, in, out)."""
    return nnx.Conv(
        channels_in,
        channels_out,
        kernel_size=(kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        kernel_init=nnx.initializers.he_normal(dtype=jnp.float32),
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def dense(features_in: int, features_out: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer with bias, weights (in, out)."""
    return nnx.Linear(
        features_in,
        features_out,
        kernel_init=nnx.initializers.he_normal(dtype=jnp.float32),
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def scale_to_unit_range(images: Float[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """[0, 1] → [−1, 1] in float32: (x − 0.5) / 0.5."""
    half = jnp.float32(0.5)
    return (images.astype(jnp.float32) - half) / half


def check_images(images: Float[Array, "..."], image_shape: tuple[int, int, int]) -> None:
    """ValueError unless `images` is (N, *image_shape)."""
    if images.ndim != 4 or images.shape[1:] != image_shape:
        expected = ", ".join(str(size) for size in image_shape)
        raise ValueError(f"expected images (N, {expected}), got {images.shape}")
