"""Residual networks: ResNet-50 for ImageNet and the thin ones of depth 6n + 2 for CIFAR-10.

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


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; the first has the stride."""

    expansion = 1

    def __init__(
        self, channels_in: int, channels: int, stride: int, *, rngs: nnx.Rngs, dtype: Any
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.conv1 = convolution(
            channels_in, channels, kernel=3, stride=stride, padding=1, bias=False, **common
        )
        self.bn1 = batch_norm(channels, **common)
        self.conv2 = convolution(channels, channels, kernel=3, padding=1, bias=False, **common)
        self.bn2 = batch_norm(channels, **common)
        self.downsample = _downsample(channels_in, channels, stride, **common)

    def __call__(self, features: Float[Array, "..."]) -> Float[Array, "..."]:
        residual = jax.nn.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
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


class ResNet50(nnx.Module):
    """7x7 convolution 64 (stride 2), 3x3 max pool, 3 + 4 + 6 + 3 bottlenecks, mean, dense 1000."""

    def __init__(self, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.scaling = scaling
        self.conv1 = convolution(3, 64, kernel=7, stride=2, padding=3, bias=False, **common)
        self.bn1 = batch_norm(64, **common)
        self.layer1 = _stage(Bottleneck, 64, 64, 3, 1, **common)
        self.layer2 = _stage(Bottleneck, 256, 128, 4, 2, **common)
        self.layer3 = _stage(Bottleneck, 512, 256, 6, 2, **common)
        self.layer4 = _stage(Bottleneck, 1024, 512, 3, 2, **common)
        self.fc = dense(2048, IMAGENET_CLASSES, **common)

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

    Where the shape changes, the shortcut is a 1x1 convolution with batch norm.
    """

    def __init__(
        self, depth: int, *, scaling: InputScaling, rngs: nnx.Rngs, dtype: Any = jnp.float32
    ) -> None:
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        blocks, rest = divmod(depth - 2, 6)
        if rest:
            raise ValueError(f"the depth must be 6n + 2, got {depth}")
        self.scaling = scaling
        self.conv1 = convolution(3, 16, kernel=3, padding=1, bias=False, **common)
        self.bn1 = batch_norm(16, **common)
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, 1, **common)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, 2, **common)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, 2, **common)
        self.fc = dense(64, CIFAR_CLASSES, **common)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, 10) of images (N, 32, 32, 3) in [0, 1], noise included."""
        check_images(images, CIFAR_SHAPE)
        features = jax.nn.relu(self.bn1(self.conv1(self.scaling(images))))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                features = block(features)
        return logits(self.fc(flatten(average_pool(features, side=8))))
