"""Wide residual networks for CIFAR-10 as TRADES and RobustBench have them.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. Attributes are named as the published
PyTorch checkpoints name them.
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

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10


class WideBlock(nnx.Module):
    """Batch norm, ReLU and 3x3 convolution, twice; the first convolution has the stride.

    The shortcut is the block's raw input; where the number of channels changes it is a 1x1
    convolution of the input after the first batch norm and ReLU.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, *, rngs: nnx.Rngs, dtype: Any
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.bn1 = batch_norm(channels_in, **common)
        self.conv1 = convolution(
            channels_in, channels, kernel=3, stride=stride, padding=1, bias=False, **common
        )
        self.bn2 = batch_norm(channels, **common)
        self.conv2 = convolution(channels, channels, kernel=3, padding=1, bias=False, **common)
        self.convShortcut = (
            None
            if channels_in == channels
            else convolution(channels_in, channels, kernel=1, stride=stride, bias=False, **common)
        )

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "..."]:
        activated = jax.nn.relu(self.bn1(features))
        residual = self.conv2(jax.nn.relu(self.bn2(self.conv1(activated))))
        return residual + (features if self.convShortcut is None else self.convShortcut(activated))


class _Group(nnx.Module):
    """The blocks of one width, under `layer`; the first has the stride."""

    def __init__(
        self, channels_in: int, channels: int, blocks: int, stride: int, **common: Any
    ) -> None:
        first = WideBlock(channels_in, channels, stride, **common)
        more = (WideBlock(channels, channels, 1, **common) for _ in range(blocks - 1))
        self.layer = nnx.List([first, *more])


class WideResNetCifar(nnx.Module):
    """3x3 convolution 16, three groups of 16, 32, 64 times `width` channels, mean, dense 10.

    A network of depth 6n + 4 has n blocks in each group.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        scaling: InputScaling,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        blocks, rest = divmod(depth - 4, 6)
        if rest:
            raise ValueError(f"the depth must be 6n + 4, got {depth}")
        self.scaling = scaling
        self.conv1 = convolution(3, 16, kernel=3, padding=1, bias=False, **common)
        self.block1 = _Group(16, 16 * width, blocks, 1, **common)
        self.block2 = _Group(16 * width, 32 * width, blocks, 2, **common)
        self.block3 = _Group(32 * width, 64 * width, blocks, 2, **common)
        self.bn1 = batch_norm(64 * width, **common)
        self.fc = dense(64 * width, CLASSES, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 32, 32, 3) in [0, 1], noise included."""
        check_images(images, IMAGE_SHAPE)
        features = self.conv1(self.scaling(images))
        for group in (self.block1, self.block2, self.block3):
            for block in group.layer:
                features = block(features)
        features = average_pool(jax.nn.relu(self.bn1(features)), side=8)
        return logits(self.fc(flatten(features)))
