"""The FashionMNIST network of the DSRS authors: 2 convolutions, 2 full dense layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import (
    batch_norm,
    check_images,
    convolution,
    dense,
    flatten,
    logits,
    max_pool,
)
from dsrs_jax.models.scaling import InputScaling

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


class Fashion22Full(nnx.Module):
    """Convolutions 32 (5x5) and 64 (3x3), padding 2, dense 4096 and 10.

    After each convolution ReLU, then batch norm, then 2x2 max pool; ReLU between the dense layers.
    """

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.scaling = scaling
        self.conv1 = convolution(1, 32, kernel=5, padding=2, rngs=rngs, dtype=dtype)
        self.bn1 = batch_norm(32, rngs=rngs, dtype=dtype)
        self.conv2 = convolution(32, 64, kernel=3, padding=2, rngs=rngs, dtype=dtype)
        self.bn2 = batch_norm(64, rngs=rngs, dtype=dtype)
        self.fc1 = dense(8 * 8 * 64, 4096, rngs=rngs, dtype=dtype)
        self.fc2 = dense(4096, CLASSES, rngs=rngs, dtype=dtype)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 28, 28, 1) in [0, 1], noise included."""
        check_images(images, IMAGE_SHAPE)
        features = self.bn1(jax.nn.relu(self.conv1(self.scaling(images))))
        features = max_pool(features, side=2, stride=2)
        features = self.bn2(jax.nn.relu(self.conv2(features)))
        features = max_pool(features, side=2, stride=2)
        return logits(self.fc2(jax.nn.relu(self.fc1(flatten(features)))))
