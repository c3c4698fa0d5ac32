"""Inner attacks on the smoothed classifier: ascent on -log of its mean softmax at the label.

The m noise vectors of an image stay fixed during its attack, gradients have unit l2 norm, images
stay in [0, 1]. Batch norm runs on stored averages: the caller's `logits_of` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.losses import log_mean_softmax

Images = Float[Array, "images height width channels"]
Noise = Float[Array, "images draws height width channels"]
LogitsOf = Callable[[Noise], Float[Array, "images draws classes"]]

_SMALLEST_NORM = 1e-8


def smoothadv(
    logits_of: LogitsOf,
    images: Images,
    labels: Int32[Array, " images"],
    noise: Noise,
    *,
    steps: int,
    radius: Float[Array, ""] | float,
) -> Images:
    """Adversarial images in the l2 ball of `radius` around `images` (Salman et al., 2019).

    Projected gradient ascent from the images themselves with steps of 2 radius/steps, first
    projected to the ball, then clipped to [0, 1].
    """

    def step(_: Array, current: Images) -> Images:
        shifted = current + (2.0 * radius / steps) * _direction(logits_of, current, labels, noise)
        return jnp.clip(images + _within(shifted - images, radius), 0.0, 1.0)

    return jax.lax.fori_loop(0, steps, step, images, unroll=True)


def smoothmix(
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
    """(clean end, adversarial end) of a mixture (Jeong et al., NeurIPS 2021).

    `steps` ascents of length `step_size` without a ball. The clean end is the iterate after
    `mix_step` of them (0: the image itself), at most `clean_radius` from the image.
    """

    def step(number: Array, ends: tuple[Images, Images]) -> tuple[Images, Images]:
        clean, current = ends
        clean = jnp.where(number == mix_step, current, clean)
        shifted = current + step_size * _direction(logits_of, current, labels, noise)
        return clean, jnp.clip(shifted, 0.0, 1.0)

    clean, adversarial = jax.lax.fori_loop(0, steps, step, (images, images), unroll=True)
    clean = jnp.where(mix_step >= steps, adversarial, clean)
    return jnp.clip(images + _within(clean - images, clean_radius), 0.0, 1.0), adversarial


def _direction(
    logits_of: LogitsOf, images: Images, labels: Int32[Array, " images"], noise: Noise
) -> Images:
    """The gradient's direction, image by image."""

    def loss(current: Images) -> Float[Array, ""]:
        chosen = jnp.take_along_axis(
            log_mean_softmax(logits_of(current[:, None] + noise)), labels[:, None], axis=-1
        )
        return -jnp.sum(chosen)

    gradient = jax.grad(loss)(images)
    return gradient / (_norms(gradient) + _SMALLEST_NORM)


def _within(offset: Images, radius: Float[Array, ""] | float) -> Images:
    return offset * jnp.minimum(1.0, radius / (_norms(offset) + _SMALLEST_NORM))


def _norms(images: Images) -> Float[Array, "images 1 1 1"]:
    return jnp.sqrt(jnp.sum(images**2, axis=(1, 2, 3), keepdims=True))
