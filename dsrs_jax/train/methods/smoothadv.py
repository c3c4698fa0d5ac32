"""Training on adversarial images of the smoothed classifier (Salman et al., NeurIPS 2019)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.methods import gaussian
from dsrs_jax.train.methods.ascent import PIXELS, Images, Noise, direction, within
from dsrs_jax.train.methods.method import Batch, LogitsOf, Method, Objective, Views


def attack(
    logits_of: LogitsOf,
    images: Images,
    labels: Int32[Array, " images"],
    noise: Noise,
    *,
    steps: int,
    radius: Float[Array, ""] | float,
) -> Images:
    """Adversarial images in the l2 ball of `radius` around `images`.

    Projected gradient ascent from the images themselves with steps of 2 radius/steps, first
    projected to the ball, then clipped to [0, 1].
    """

    def step(_: Array, current: Images) -> Images:
        shifted = current + (2.0 * radius / steps) * direction(logits_of, current, labels, noise)
        return jnp.clip(images + within(shifted - images, radius), 0.0, 1.0)

    return jax.lax.fori_loop(0, steps, step, images, unroll=True)


def views(logits_of: LogitsOf, batch: Batch, objective: Objective) -> Views:
    """The images, attacked; the radius rises with the warm-up."""
    radius = batch.warmup * (objective.epsilon / PIXELS)
    return Views(attack(logits_of, *batch[:3], steps=objective.steps, radius=radius))


METHOD = Method(views, gaussian.loss)
