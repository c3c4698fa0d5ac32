"""The registry of architectures, by the names that published checkpoints carry.

A new architecture is one new file with a module class, and one line in `REGISTRY`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dsrs_jax.models import (
    digits_cnn,
    fashion_22full,
    lenet,
    mnist_43,
    resnet,
    vision_transformer,
    wide_resnet_cifar,
    wide_resnet_imagenet64,
)
from dsrs_jax.models.scaling import OWN_SETS, default_scaling, input_scaling
from dsrs_jax.system.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """What an architecture expects and returns: images (N, *image_shape) → logits (N, classes).

    `dataset` is the one that its published checkpoints are for.
    """

    dataset: str
    image_shape: tuple[int, int, int]
    classes: int
    module: Callable[..., nnx.Module]


def _imagenet_resnet(depth: int) -> Architecture:
    make = partial(resnet.ImageNetResNet, depth)
    return Architecture("imagenet", resnet.IMAGENET_SHAPE, resnet.IMAGENET_CLASSES, make)


def _cifar_resnet(depth: int, padded: bool = False) -> Architecture:
    make = partial(resnet.CifarResNet, depth, padded)
    return Architecture("cifar10", resnet.CIFAR_SHAPE, resnet.CIFAR_CLASSES, make)


def _cifar_wide_resnet(depth: int, width: int) -> Architecture:
    make = partial(wide_resnet_cifar.WideResNetCifar, depth, width)
    return Architecture("cifar10", wide_resnet_cifar.IMAGE_SHAPE, wide_resnet_cifar.CLASSES, make)


REGISTRY = {
    "digits_cnn": Architecture(
        "digits", digits_cnn.IMAGE_SHAPE, digits_cnn.CLASSES, digits_cnn.DigitsCNN
    ),
    "mnist_43": Architecture("mnist", mnist_43.IMAGE_SHAPE, mnist_43.CLASSES, mnist_43.MNIST43),
    "lenet": Architecture("mnist", lenet.IMAGE_SHAPE, lenet.CLASSES, lenet.LeNet),
    "fashion_22full": Architecture(
        "fashionmnist",
        fashion_22full.IMAGE_SHAPE,
        fashion_22full.CLASSES,
        fashion_22full.Fashion22Full,
    ),
    "cifar_resnet20": _cifar_resnet(20),
    "cifar_resnet56": _cifar_resnet(56),
    "cifar_resnet110": _cifar_resnet(110),
    # Those with shortcuts that have no parameters.
    "cifar_resnet20_a": _cifar_resnet(20, padded=True),
    "cifar_resnet56_a": _cifar_resnet(56, padded=True),
    "cifar_resnet110_a": _cifar_resnet(110, padded=True),
    "cifar_wrn_28_10": _cifar_wide_resnet(28, 10),
    "cifar_wrn_34_10": _cifar_wide_resnet(34, 10),
    "wide_resnet_imagenet64": Architecture(
        "tinyimagenet",
        wide_resnet_imagenet64.IMAGE_SHAPE,
        wide_resnet_imagenet64.CLASSES,
        wide_resnet_imagenet64.WideResNetImageNet64,
    ),
    "resnet18": _imagenet_resnet(18),
    "resnet34": _imagenet_resnet(34),
    "resnet50": _imagenet_resnet(50),
    "resnet101": _imagenet_resnet(101),
    "vit_base_patch16_224": Architecture(
        "imagenet",
        vision_transformer.IMAGE_SHAPE,
        vision_transformer.CLASSES,
        vision_transformer.VisionTransformer,
    ),
}
ARCHITECTURES = tuple(REGISTRY)


def architecture(name: str) -> Architecture:
    """The architecture called `name`, one of ARCHITECTURES; UserError for any other."""
    if name not in REGISTRY:
        raise UserError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return REGISTRY[name]


def scaled_as(arch: str, dataset: str) -> str:
    """The data set whose input scaling a model has: of one's own images, the architecture's."""
    return architecture(arch).dataset if dataset in OWN_SETS else dataset


def build(
    name: str,
    seed: int,
    *,
    dataset: str | None = None,
    scaling: str | None = None,
    dtype: Any = jnp.float32,
) -> nnx.Module:
    """An untrained model of the architecture `name`; its weights depend on `seed` alone.

    Args:
        name: one of ARCHITECTURES.
        seed: of the initial weights.
        dataset: whose input scaling it has; the architecture's own for None and for `OWN_SETS`.
        scaling: as `input_scaling` takes it; None for the one of published checkpoints.
        dtype: of the arithmetic; parameters and logits are float32.

    Raises:
        UserError: unknown names, or a scaling of another number of channels.
    """
    found = architecture(name)
    dataset = scaled_as(name, dataset or found.dataset)
    first = input_scaling(dataset, scaling or default_scaling(dataset))
    if first.channels not in (1, found.image_shape[-1]):
        raise UserError(
            f"{name} takes images of {found.image_shape[-1]} channels, the input scaling "
            f"{scaling or dataset} has {first.channels}"
        )
    # By name: what the process has set as its generator must not change the weights.
    with jax.threefry_partitionable(True):
        rngs = nnx.Rngs(jax.random.key(seed, impl="threefry2x32"))
        return found.module(scaling=first, rngs=rngs, dtype=dtype)
