"""A very cheap network for the 8x8 digits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.layers import check_images, convolution, dense, flatten, logits
from dsrs_jax.models.scaling import InputScaling

IMAGE_SHAPE = (8, 8, 1)
CLASSES = 10


class DigitsCNN(nnx.Module):
    """Convolution 32 (4x4, stride 2, padding 1), dense 128, 10, ReLU between.

    Made for sampling on a CPU, where a certificate of the whole test set takes 10 to 20 million
    forward passes.
    """

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        self.scaling = scaling
        self.conv1 = convolution(1, 32, kernel=4, stride=2, padding=1, rngs=rngs, dtype=dtype)
        self.dense1 = dense(4 * 4 * 32, 128, rngs=rngs, dtype=dtype)
        self.dense2 = dense(128, CLASSES, rngs=rngs, dtype=dtype)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 8, 8, 1) in [0, 1], noise included.

        Raises ValueError for any other shape.
        """
        check_images(images, IMAGE_SHAPE)
        features = jax.nn.relu(self.conv1(self.scaling(images)))
        return logits(self.dense2(jax.nn.relu(self.dense1(flatten(features)))))
