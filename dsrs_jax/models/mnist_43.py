"""The MNIST network of the DSRS paper: 4 convolutions, 3 dense layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import check_images, convolution, dense, flatten, logits
from dsrs_jax.models.scaling import InputScaling

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


class MNIST43(nnx.Module):
    """Convolutions 32 (3x3), 32 (4x4, stride 2), 64 (3x3), 64 (4x4, stride 2), dense 512, 512, 10.

    Padding 1 on every side, ReLU after each layer but the last. Source: Li et al., "Double
    Sampling Randomized Smoothing", ICML 2022, MNIST experiments.
    """

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.scaling = scaling
        self.conv1 = convolution(1, 32, kernel=3, padding=1, rngs=rngs, dtype=dtype)
        self.conv2 = convolution(32, 32, kernel=4, stride=2, padding=1, rngs=rngs, dtype=dtype)
        self.conv3 = convolution(32, 64, kernel=3, padding=1, rngs=rngs, dtype=dtype)
        self.conv4 = convolution(64, 64, kernel=4, stride=2, padding=1, rngs=rngs, dtype=dtype)
        self.dense1 = dense(7 * 7 * 64, 512, rngs=rngs, dtype=dtype)
        self.dense2 = dense(512, 512, rngs=rngs, dtype=dtype)
        self.dense3 = dense(512, CLASSES, rngs=rngs, dtype=dtype)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 28, 28, 1) in [0, 1], noise included.

        Raises ValueError for any other shape.
        """
        check_images(images, IMAGE_SHAPE)
        features = self.scaling(images)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = jax.nn.relu(layer(features))
        features = jax.nn.relu(self.dense1(flatten(features)))
        features = jax.nn.relu(self.dense2(features))
        return logits(self.dense3(features))
