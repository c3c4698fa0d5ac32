"""The training methods: what each makes of a batch, and its loss.

A new method is two functions, or one, and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from dsrs_jax.train import attacks, losses

_PIXELS = 256.0  # SmoothAdv's epsilon is in units of 1/256
# From images (images, H, W, C) to logits (images, draws, classes), under the batch's noise.
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


class Batch(NamedTuple):
    """A mini-batch: images, labels, noise (images, draws, H, W, C), and what some methods use."""

    images: Array
    labels: Array
    noise: Array
    share: Array  # (images,) of the far end in a mixture, in [0, 1/2]
    warmup: Array  # from 0 to 1 over the first epochs


class Views(NamedTuple):
    """The images that a method trains on, and mixtures of them with others."""

    images: Array
    mixed: Array | None = None


class Method(NamedTuple):
    """A training method.

    Attributes:
        views: of a batch; its first argument gives logits of *noisy* images (images, draws, H, W,
            C) on the model's stored averages.
        loss: of the views, with the logits of `views.images`; its first argument is a `LogitsOf`.
    """

    views: Callable[[Callable[[Array], Array], Batch, Objective], Views]
    loss: Callable[[LogitsOf, Views, Batch, Objective], tuple[Array, Array]]


def _as_they_are(logits_of: Any, batch: Batch, objective: Objective) -> Views:
    return Views(batch.images)


def _smoothadv_views(logits_of: Any, batch: Batch, objective: Objective) -> Views:
    radius = batch.warmup * (objective.epsilon / _PIXELS)
    return Views(attacks.smoothadv(logits_of, *batch[:3], steps=objective.steps, radius=radius))


def _smoothmix_views(logits_of: Any, batch: Batch, objective: Objective) -> Views:
    clean, far = attacks.smoothmix(
        logits_of,
        *batch[:3],
        steps=objective.steps,
        step_size=objective.step_size,
        mix_step=objective.mix_step,
        clean_radius=batch.warmup * (objective.step_size * objective.mix_step),
    )
    part = batch.share[:, None, None, None]
    return Views(clean, (1.0 - part) * clean + part * far)


def _cross_entropy(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    logits = logits_of(views.images)
    return losses.cross_entropy(logits, batch.labels), logits


def _consistency(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    logits, weights = logits_of(views.images), (objective.weight, objective.entropy_weight)
    return losses.consistency(logits, batch.labels, *weights), logits


def _smoothmix(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    assert views.mixed is not None
    logits, weight = logits_of(views.images), objective.weight * batch.warmup
    mixed = logits_of(views.mixed)
    return losses.smoothmix(logits, mixed, batch.labels, batch.share, weight), logits


METHODS: dict[str, Method] = {
    "gaussian": Method(_as_they_are, _cross_entropy),  # Cohen et al., 2019
    "smoothadv": Method(_smoothadv_views, _cross_entropy),  # Salman et al., 2019
    "consistency": Method(_as_they_are, _consistency),  # Jeong and Shin, 2020
    "smoothmix": Method(_smoothmix_views, _smoothmix),  # Jeong et al., 2021
}
