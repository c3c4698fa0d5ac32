"""What a training method is: what it makes of a batch, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

# From noisy images (images, draws, H, W, C) to logits (images, draws, classes).
LogitsOf = Callable[[Array], Array]


class Objective(NamedTuple):
    """What a step is compiled for: a recipe's method and its numbers (see `Recipe`)."""

    method: str
    noise_draws: int
    weight: float
    entropy_weight: float
    steps: int
    step_size: float
    mix_step: int
    epsilon: float
    margin: float
    sharpness: float
    inside: float
    accumulation: int


class Batch(NamedTuple):
    """A mini-batch: images, labels, noise (images, draws, H, W, C), and what some methods use."""

    images: Array
    labels: Array
    noise: Array
    chance: Array  # (images,) uniform in [0, 1)
    warmup: Array  # from 0 to 1 over the first epochs
    sigma: Array  # of the noise, a scalar


class Views(NamedTuple):
    """The images that a method trains on, and others beside them: mixtures, or noisy ones."""

    images: Array
    others: Array | None = None


class Method(NamedTuple):
    """A training method.

    Attributes:
        views: of a batch; its first argument gives logits on the model's stored averages. No
            gradient flows through it.
        loss: of the views, with the logits of `views.images`.
    """

    views: Callable[[LogitsOf, Batch, Objective], Views]
    loss: Callable[[LogitsOf, Views, Batch, Objective], tuple[Array, Array]]


def as_they_are(logits_of: LogitsOf, batch: Batch, objective: Objective) -> Views:
    """The views of a method without inner attack: the images."""
    return Views(batch.images)
