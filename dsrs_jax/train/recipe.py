"""Everything that a training run depends on, besides its data."""

from __future__ import annotations

import dataclasses

import numpy as np

from dsrs_jax.data import ArrayDataset
from dsrs_jax.models import ARCHITECTURES, DTYPES, architecture
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import option
from dsrs_jax.train.methods import METHODS
from dsrs_jax.train.schedules import k_at


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Recipe.

    Everything that a training run depends on, besides its data.

    Attributes:
        arch, method: names.
        sigma, k, eta: the noise at the end of the k schedule.
        k_warmup: epochs (optimizer steps for ImageNet) until k is reached; 0: from the start.
        noise_draws: of an image; a batch is cut into as many mini-batches.
        epochs, batch, learning_rate, learning_rate_step: the optimizer's schedule.
        weight: lambda of consistency, eta of smoothmix.
        entropy_weight: of consistency (0.5 in Jeong and Shin, 2020).
        steps, step_size, mix_step: of the inner attacks; step_size is smoothmix's alone.
        epsilon: smoothadv's radius in units of 1/256.
        warmup: epochs over which smoothadv's radius and smoothmix's weight rise.
        dtype: of the arithmetic, float32 or bfloat16.
        seed: of weights, order, noise and augmentation, in [0, 2^32).
    """

    arch: str = option(
        "", "default: the one made for the data set", choices=ARCHITECTURES, often=True
    )
    method: str = option("gaussian", choices=tuple(METHODS), often=True)
    sigma: float = option(0.5, "of the noise", metavar="S", often=True)
    k: float = option(0.0, "of the noise; 0: Gaussian", metavar="K", often=True)
    eta: float = option(2.0, "of the noise", metavar="E", flags=["--eta-law"])
    k_warmup: int = option(
        0, "epochs (ImageNet: steps) until k is reached; 0: at once", metavar="T", often=True
    )
    noise_draws: int = option(
        1,
        "draws of each image; a batch is cut into M parts",
        metavar="M",
        flags=["--num-noise-vec"],
    )
    epochs: int = option(150, metavar="E", often=True)
    batch: int = option(256, "images in a batch", metavar="B")
    learning_rate: float = option(0.01, "learning rate", metavar="LR", flags=["--lr"], often=True)
    learning_rate_step: int = option(
        50, "epochs until it falls to a tenth", metavar="E", flags=["--lr-step-size"]
    )
    weight: float = option(
        5.0, "lambda of consistency, eta of smoothmix", metavar="W", flags=["--lbd", "--eta"]
    )
    entropy_weight: float = 0.5
    steps: int = option(8, "of the inner attacks", metavar="T", flags=["--num-steps"])
    step_size: float = option(1.0, "step of smoothmix", metavar="A", flags=["--alpha"])
    mix_step: int = option(1, "of smoothmix", metavar="T")
    epsilon: float = option(64.0, "radius of smoothadv in units of 1/256", metavar="E")
    warmup: int = option(10, "epochs of its radius, of smoothmix's weight", metavar="E")
    dtype: str = option("float32", "of the arithmetic", choices=DTYPES)
    seed: int = option(0, "of everything", metavar="SEED")


def check(training: ArrayDataset, recipe: Recipe) -> RadialLaw:
    """The noise at the end of the schedule.

    Raises:
        UserError: a number outside its domain, or a model that does not take these images.
    """
    found = architecture(recipe.arch)
    if recipe.method not in METHODS:
        raise UserError(f"unknown method {recipe.method!r}; known: {', '.join(METHODS)}")
    if (training.image_shape, training.classes) != (found.image_shape, found.classes):
        raise UserError(
            f"{recipe.arch} takes images {found.image_shape} of {found.classes} classes, "
            f"{training.name} has {training.image_shape} of {training.classes}"
        )
    positive = {
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "learning rate": recipe.learning_rate,
        "learning-rate step": recipe.learning_rate_step,
        "number of noise draws": recipe.noise_draws,
        "number of attack steps": recipe.steps,
    }
    for name, value in positive.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, got {value}")
    if not 0 <= recipe.seed < 2**32:
        raise UserError(f"the seed must lie in [0, 2^32), got {recipe.seed}")
    if min(recipe.batch, len(training)) < recipe.noise_draws:
        raise UserError(f"a batch of {recipe.batch} cannot be cut into {recipe.noise_draws} parts")
    return generalized_gaussian(
        int(np.prod(training.image_shape)), recipe.sigma, recipe.k, recipe.eta
    )


def law_at(training: ArrayDataset, recipe: Recipe, epoch: int, seen: int) -> RadialLaw:
    """The noise of a batch: k grows with the epochs, for ImageNet with the optimizer's steps."""
    by_steps = training.name == "imagenet"
    k = k_at(recipe.k, recipe.k_warmup, seen * recipe.noise_draws if by_steps else epoch)
    dimension = int(np.prod(training.image_shape))
    return generalized_gaussian(dimension, recipe.sigma, k, recipe.eta)
