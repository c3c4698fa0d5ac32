"""Residual networks: those of ImageNet and the thin ones of depth 6n + 2 for CIFAR-10.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Attributes are named as the
published PyTorch checkpoints name them.
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
    max_pool,
)
from dsrs_jax.models.scaling import InputScaling

IMAGENET_SHAPE, IMAGENET_CLASSES = (224, 224, 3), 1000
CIFAR_SHAPE, CIFAR_CLASSES = (32, 32, 3), 10
# Table 1 of the paper: the blocks of each stage.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; the first has the stride.

    With `padded`, the shortcut of a block that changes the shape has no parameters.
    """

    expansion = 1

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        padded: bool = False,
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.conv1 = convolution(
            channels_in, channels, kernel=3, stride=stride, padding=1, bias=False, **common
        )
        self.bn1 = batch_norm(channels, **common)
        self.conv2 = convolution(channels, channels, kernel=3, padding=1, bias=False, **common)
        self.bn2 = batch_norm(channels, **common)
        self.more = channels - channels_in if padded else 0
        self.downsample = None if padded else _downsample(channels_in, channels, stride, **common)

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "..."]:
        residual = jax.nn.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        if self.more:
            return jax.nn.relu(residual + _padded(features, self.more))
        return jax.nn.relu(residual + _shortcut(self.downsample, features))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 has the stride, as torchvision has it."""

    expansion = 4

    def __init__(
        self, channels_in: int, channels: int, stride: int, *, rngs: nnx.Rngs, dtype: Any
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        wide = channels * self.expansion
        self.conv1 = convolution(channels_in, channels, kernel=1, bias=False, **common)
        self.bn1 = batch_norm(channels, **common)
        self.conv2 = convolution(
            channels, channels, kernel=3, stride=stride, padding=1, bias=False, **common
        )
        self.bn2 = batch_norm(channels, **common)
        self.conv3 = convolution(channels, wide, kernel=1, bias=False, **common)
        self.bn3 = batch_norm(wide, **common)
        self.downsample = _downsample(channels_in, wide, stride, **common)

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "..."]:
        residual = jax.nn.relu(self.bn1(self.conv1(features)))
        residual = jax.nn.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return jax.nn.relu(residual + _shortcut(self.downsample, features))


def _downsample(channels_in: int, channels: int, stride: int, **common: Any) -> Any:
    """The shortcut of a block that changes the shape: a 1x1 convolution and a batch norm."""
    if stride == 1 and channels_in == channels:
        return None
    projection = convolution(channels_in, channels, kernel=1, stride=stride, bias=False, **common)
    return nnx.List([projection, batch_norm(channels, **common)])


def _shortcut(downsample: Any, features: Float[Array, "..."]) -> Float[Array, "..."]:
    for layer in downsample or ():
        features = layer(features)
    return features


def _padded(features: Float[Array, "..."], more: int) -> Float[Array, "..."]:
    """Every second row and column, and `more` channels of zeros: half of them on each side."""
    return jnp.pad(features[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    channels_in: int,
    channels: int,
    blocks: int,
    stride: int,
    **common: Any,
) -> Any:
    wide = channels * block.expansion
    first = block(channels_in, channels, stride, **common)
    return nnx.List([first, *(block(wide, channels, 1, **common) for _ in range(blocks - 1))])


class ImageNetResNet(nnx.Module):
    """7x7 convolution 64 (stride 2), 3x3 max pool, four stages of blocks, mean, dense 1000.

    The blocks are basic ones at depth 18 and 34, bottlenecks at 50 and 101.
    """

    def __init__(
        self, depth: int, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        blocks = _BLOCKS[depth]
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        self.scaling = scaling
        self.conv1 = convolution(3, 64, kernel=7, stride=2, padding=3, bias=False, **common)
        self.bn1 = batch_norm(64, **common)
        self.layer1 = _stage(block, 64, 64, blocks[0], 1, **common)
        self.layer2 = _stage(block, 64 * block.expansion, 128, blocks[1], 2, **common)
        self.layer3 = _stage(block, 128 * block.expansion, 256, blocks[2], 2, **common)
        self.layer4 = _stage(block, 256 * block.expansion, 512, blocks[3], 2, **common)
        self.fc = dense(512 * block.expansion, IMAGENET_CLASSES, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 1000) of images (N, 224, 224, 3) in [0, 1], noise included."""
        check_images(images, IMAGENET_SHAPE)
        features = jax.nn.relu(self.bn1(self.conv1(self.scaling(images))))
        features = max_pool(features, side=3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                features = block(features)
        return logits(self.fc(jnp.mean(features, axis=(1, 2))))


class CifarResNet(nnx.Module):
    """3x3 convolution 16, three stages of n basic blocks with 16, 32, 64 channels, mean, dense 10.

    Where the shape changes, the shortcut is a 1x1 convolution with batch norm (option B of the
    paper), or with `padded` every second pixel and more channels of zeros (option A).
    """

    def __init__(
        self,
        depth: int,
        padded: bool = False,
        *,
        scaling: InputScaling,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        blocks, rest = divmod(depth - 2, 6)
        if rest:
            raise ValueError(f"the depth must be 6n + 2, got {depth}")
        self.scaling = scaling
        self.conv1 = convolution(3, 16, kernel=3, padding=1, bias=False, **common)
        self.bn1 = batch_norm(16, **common)
        if padded:
            common["padded"] = True
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, 1, **common)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, 2, **common)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, 2, **common)
        self.fc = dense(64, CIFAR_CLASSES, rngs=rngs, dtype=dtype)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 32, 32, 3) in [0, 1], noise included."""
        check_images(images, CIFAR_SHAPE)
        features = jax.nn.relu(self.bn1(self.conv1(self.scaling(images))))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                features = block(features)
        return logits(self.fc(flatten(average_pool(features, side=8))))
