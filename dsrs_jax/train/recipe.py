"""Everything that a training run depends on, besides its data."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from dsrs_jax.data import ArrayDataset, Dataset
from dsrs_jax.models import ARCHITECTURES, DTYPES, architecture
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import option
from dsrs_jax.train.methods import METHODS
from dsrs_jax.train.schedules import k_at, warmup_at


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Recipe.

    Everything that a training run depends on, besides its data.

    Attributes:
        arch, method: names.
        sigma, k, eta: the noise at the end of the k schedule.
        k_warmup: epochs (batches for ImageNet) until k is reached; 0: from the start.
        noise_draws: of an image; a batch is cut into as many mini-batches.
        epochs, batch, learning_rate, learning_rate_step: the optimizer's schedule.
        weight: lambda of consistency, macer and catrs, eta of smoothmix.
        entropy_weight: of consistency (0.5 in Jeong and Shin, 2020).
        steps, step_size, mix_step: of the inner attacks; step_size is smoothmix's alone.
        epsilon: radius of the attacks of smoothadv and catrs in units of 1/256.
        margin, sharpness: gamma and beta of macer.
        warmup: epochs over which the attacks' radius, smoothmix's and macer's weight rise.
        sigma_warmup: epochs over which sigma rises from sigma/sigma_warmup.
        inside: share of the draws that come from the inner half of the noise.
        accumulation: parts in which a mini-batch's gradient is summed up; a device holds one.
        decay: share that the moving average of the weights keeps in a step; 0: none is kept.
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
        0, "epochs (ImageNet: batches) until k is reached; 0: at once", metavar="T", often=True
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
        5.0,
        "lambda of consistency, macer, catrs; eta of smoothmix",
        metavar="W",
        flags=["--lbd", "--eta"],
    )
    entropy_weight: float = option(0.5, "of the mean's entropy in consistency", metavar="W")
    steps: int = option(8, "of the inner attacks", metavar="T", flags=["--num-steps"])
    step_size: float = option(1.0, "step of smoothmix", metavar="A", flags=["--alpha"])
    mix_step: int = option(1, "of smoothmix", metavar="T")
    epsilon: float = option(64.0, "radius of smoothadv, catrs in units of 1/256", metavar="E")
    margin: float = option(8.0, "gamma of macer", metavar="G", flags=["--gamma"])
    sharpness: float = option(16.0, "beta of macer", metavar="B", flags=["--beta"])
    warmup: int = option(
        10, "epochs of the attacks' radius, of smoothmix's and macer's weight", metavar="E"
    )
    sigma_warmup: int = option(0, "epochs until sigma is reached", metavar="E")
    inside: float = option(0.0, "share of draws from the noise's inner half", metavar="S")
    accumulation: int = option(
        1, "parts whose gradients are added, to save memory", metavar="A", flags=["--accumulate"]
    )
    decay: float = option(
        0.0, "of a moving average of the weights, such as 0.999", metavar="D", flags=["--ema"]
    )
    dtype: str = option("float32", "of the arithmetic", choices=DTYPES)
    seed: int = option(0, "of everything", metavar="SEED")


class Cut(NamedTuple):
    """How an epoch is cut: into batches, and each of them into mini-batches of equal size."""

    batches: int
    batch: int  # images
    parts: int  # mini-batches of a batch

    @property
    def size(self) -> int:
        """Images of a mini-batch."""
        return self.batch // self.parts

    @property
    def steps(self) -> int:
        """Mini-batches of an epoch."""
        return self.batches * self.parts


def check(training: Dataset, recipe: Recipe) -> RadialLaw:
    """The noise at the end of the schedule.

    Raises:
        UserError: a number outside its domain, or a model that does not take these images.
    """
    found = architecture(recipe.arch)
    if recipe.method not in METHODS:
        raise UserError(f"unknown method {recipe.method!r}; known: {', '.join(METHODS)}")
    if training.image_shape != found.image_shape:
        raise UserError(
            f"{recipe.arch} takes images {found.image_shape} of {found.classes} classes, "
            f"{training.name} has {training.image_shape} of {training.classes}"
        )
    if training.classes != found.classes:
        raise UserError(
            f"{recipe.arch} has {found.classes} classes, {training.name} has {training.classes}; "
            "give an --arch of as many"
        )
    if isinstance(training, ArrayDataset) and len(np.unique(training.labels)) < 2:
        raise UserError(f"{training.name} has images of one class alone: a classifier needs two")
    positive = {
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "learning rate": recipe.learning_rate,
        "learning-rate step": recipe.learning_rate_step,
        "number of noise draws": recipe.noise_draws,
        "number of attack steps": recipe.steps,
        "--accumulate": recipe.accumulation,
        "--beta": recipe.sharpness,
    }
    for name, value in positive.items():
        if not 0 < value < np.inf:
            raise UserError(f"{name} must be positive, got {value}")
    not_negative = {
        "--lbd": recipe.weight,
        "--entropy-weight": recipe.entropy_weight,
        "--alpha": recipe.step_size,
        "--mix-step": recipe.mix_step,
        "--epsilon": recipe.epsilon,
        "--gamma": recipe.margin,
        "--warmup": recipe.warmup,
        "--k-warmup": recipe.k_warmup,
        "--sigma-warmup": recipe.sigma_warmup,
    }
    for name, value in not_negative.items():
        if not 0 <= value < np.inf:
            raise UserError(f"{name} must be 0 or more, got {value}")
    for name, share in {"--inside": recipe.inside, "--ema": recipe.decay}.items():
        if not 0.0 <= share < 1.0:
            raise UserError(f"{name} must lie in [0, 1), got {share}")
    if not 0 <= recipe.seed < 2**32:
        raise UserError(f"the seed must lie in [0, 2^32), got {recipe.seed}")
    cut = cut_of(training, recipe)
    if cut.size < 1:
        raise UserError(f"a batch of {recipe.batch} cannot be cut into {recipe.noise_draws} parts")
    if cut.size % recipe.accumulation:
        raise UserError(
            f"a mini-batch of {cut.size} images cannot be cut into {recipe.accumulation} equal "
            "parts for --accumulate"
        )
    return generalized_gaussian(
        int(np.prod(training.image_shape)), recipe.sigma, recipe.k, recipe.eta
    )


def cut_of(training: Dataset, recipe: Recipe) -> Cut:
    """How an epoch is cut; images that do not fill the last batch sit it out."""
    batch = min(recipe.batch, len(training))
    return Cut(len(training) // batch, batch, recipe.noise_draws)


def law_at(training: Dataset, recipe: Recipe, epoch: int, batches: int) -> RadialLaw:
    """The noise after so many batches: k grows with the epochs, for ImageNet with the batches."""
    time = batches if training.name == "imagenet" else epoch
    return generalized_gaussian(
        int(np.prod(training.image_shape)),
        recipe.sigma * warmup_at(recipe.sigma_warmup, epoch),
        k_at(recipe.k, recipe.k_warmup, time),
        recipe.eta,
    )
