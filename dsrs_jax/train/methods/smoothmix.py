"""Mixtures of images with what attacks make of them (Jeong et al., NeurIPS 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.methods.ascent import Images, Noise, direction, within
from dsrs_jax.train.methods.method import Batch, LogitsOf, Method, Objective, Views
from dsrs_jax.train.methods.softmax import Logits, cross_entropy, mean_softmax, right


def attack(
    logits_of: LogitsOf,
    images: Images,
    labels: Int32[Array, " images"],
    noise: Noise,
    *,
    steps: int,
    step_size: float,
    mix_step: int,
    clean_radius: Float[Array, ""] | float,
) -> tuple[Images, Images]:
    """(clean end, adversarial end) of a mixture.

    `steps` ascents of length `step_size` without a ball. The clean end is the iterate after
    `mix_step` of them (0: the image itself), at most `clean_radius` from the image.
    """

    def step(number: Array, ends: tuple[Images, Images]) -> tuple[Images, Images]:
        clean, current = ends
        clean = jnp.where(number == mix_step, current, clean)
        shifted = current + step_size * direction(logits_of, current, labels, noise)
        return clean, jnp.clip(shifted, 0.0, 1.0)

    clean, adversarial = jax.lax.fori_loop(0, steps, step, (images, images), unroll=True)
    clean = jnp.where(mix_step >= steps, adversarial, clean)
    return jnp.clip(images + within(clean - images, clean_radius), 0.0, 1.0), adversarial


def smoothmix(
    clean: Logits,
    mixed: Logits,
    labels: Int32[Array, " images"],
    share: Float[Array, " images"],
    weight: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Cross-entropy on the clean end, and soft labels on the mixture.

    The soft label of an image is (1 - share) * (mean softmax of its clean end) + share * uniform;
    gradients flow through it. weight * KL(soft label || each draw of the mixture) counts where the
    mean softmax of the clean end is right already.

    Args:
        clean: logits of the clean ends.
        mixed: logits of the mixtures.
        labels: right classes.
        share: of the adversarial end in each mixture, in [0, 1/2].
        weight: of the second term, warm-up included.
    """
    mean = mean_softmax(clean)
    soft = (1.0 - share[:, None]) * mean + share[:, None] / mean.shape[-1]
    # x log x is 0 at 0, and its gradient must not be nan there.
    log_soft = jnp.log(jnp.maximum(soft, jnp.finfo(soft.dtype).tiny))
    divergence = jnp.sum(soft[:, None] * (log_soft[:, None] - jax.nn.log_softmax(mixed)), axis=-1)
    counted = right(mean, labels)[:, None] * divergence
    return cross_entropy(clean, labels) + weight * jnp.mean(counted)


def views(logits_of: LogitsOf, batch: Batch, objective: Objective) -> Views:
    """The clean ends, and mixtures of them with the adversarial ends."""
    clean, far = attack(
        logits_of,
        *batch[:3],
        steps=objective.steps,
        step_size=objective.step_size,
        mix_step=objective.mix_step,
        clean_radius=batch.warmup * (objective.step_size * objective.mix_step),
    )
    part = _share(batch)[:, None, None, None]
    return Views(clean, (1.0 - part) * clean + part * far)


def loss(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    """`smoothmix` of both; the second term rises with the warm-up."""
    assert views.others is not None
    logits = logits_of(views.images[:, None] + batch.noise)
    mixed = logits_of(views.others[:, None] + batch.noise)
    weight = objective.weight * batch.warmup
    return smoothmix(logits, mixed, batch.labels, _share(batch), weight), logits


def _share(batch: Batch) -> Float[Array, " images"]:
    """Of the adversarial end in each mixture: uniform in [0, 1/2)."""
    return 0.5 * batch.chance


METHOD = Method(views, loss)
