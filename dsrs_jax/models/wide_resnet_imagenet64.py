"""The wide residual network of the TinyImageNet checkpoints (56x56 crops, 200 classes).

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, depth 10, width 10.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import (
    average_pool,
    batch_norm,
    check_images,
    convolution,
    dense,
    flatten,
    logits,
)
from dsrs_jax.models.scaling import InputScaling

IMAGE_SHAPE = (56, 56, 3)
CLASSES = 200


class WideBlock(nnx.Module):
    """Batch norm, ReLU and 3x3 convolution, twice; the second convolution has the stride.

    The shortcut is a 1x1 convolution of the block's raw input. All convolutions have biases.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, *, rngs: nnx.Rngs, dtype: Any
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.bn1 = batch_norm(channels_in, **common)
        self.conv1 = convolution(channels_in, channels, kernel=3, padding=1, **common)
        self.bn2 = batch_norm(channels, **common)
        self.conv2 = convolution(channels, channels, kernel=3, stride=stride, padding=1, **common)
        shortcut = convolution(channels_in, channels, kernel=1, stride=stride, **common)
        self.shortcut = nnx.List([shortcut])

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "..."]:
        residual = self.conv1(jax.nn.relu(self.bn1(features)))
        residual = self.conv2(jax.nn.relu(self.bn2(residual)))
        return residual + self.shortcut[0](features)


class WideResNetImageNet64(nnx.Module):
    """3x3 convolution 16, blocks of 160, 320, 640 channels, 7x7 average pool, dense 200."""

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.scaling = scaling
        self.conv1 = convolution(3, 16, kernel=3, padding=1, **common)
        self.layer1 = nnx.List([WideBlock(16, 160, 1, **common)])
        self.layer2 = nnx.List([WideBlock(160, 320, 2, **common)])
        self.layer3 = nnx.List([WideBlock(320, 640, 2, **common)])
        self.bn1 = batch_norm(640, **common)
        self.linear = dense(2 * 2 * 640, CLASSES, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 200) of images (N, 56, 56, 3) in [0, 1], noise included."""
        check_images(images, IMAGE_SHAPE)
        features = self.conv1(self.scaling(images))
        for stage in (self.layer1, self.layer2, self.layer3):
            features = stage[0](features)
        features = average_pool(jax.nn.relu(self.bn1(features)), side=7)
        return logits(self.linear(flatten(features)))
