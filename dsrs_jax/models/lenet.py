"""LeNet for MNIST, as in the published checkpoints of certified training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import (
    SMALL,
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


class LeNet(nnx.Module):
    """Convolutions 20 and 50 (5x5, no padding), each then ReLU and 2x2 max pool; dense 500, 10."""

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.scaling = scaling
        conv = partial(convolution, kernel=5, rngs=rngs, initial=SMALL, dtype=dtype)
        full = partial(dense, rngs=rngs, initial=SMALL, dtype=dtype)
        self.conv1, self.conv2 = conv(1, 20), conv(20, 50)
        self.fc1, self.fc2 = full(4 * 4 * 50, 500), full(500, CLASSES)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 28, 28, 1) in [0, 1], noise included."""
        check_images(images, IMAGE_SHAPE)
        features = max_pool(jax.nn.relu(self.conv1(self.scaling(images))), side=2, stride=2)
        features = max_pool(jax.nn.relu(self.conv2(features)), side=2, stride=2)
        return logits(self.fc2(jax.nn.relu(self.fc1(flatten(features)))))
