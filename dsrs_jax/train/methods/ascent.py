"""What inner attacks on the smoothed classifier share: ascent on -log of its mean softmax.

The m noise vectors of an image stay fixed during its attack, gradients have unit l2 norm, images
stay in [0, 1]. Batch norm runs on stored averages: the caller's `logits_of` sees to that.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.methods.method import LogitsOf
from dsrs_jax.train.methods.softmax import log_mean_softmax

Images = Float[Array, "images height width channels"]
Noise = Float[Array, "images draws height width channels"]

PIXELS = 256.0  # the papers' epsilon is in units of 1/256
_SMALLEST_NORM = 1e-8


def direction(
    logits_of: LogitsOf, images: Images, labels: Int32[Array, " images"], noise: Noise
) -> Images:
    """The direction in which -log of the mean softmax at the label grows, image by image."""

    def loss(current: Images) -> Float[Array, ""]:
        chosen = jnp.take_along_axis(
            log_mean_softmax(logits_of(current[:, None] + noise)), labels[:, None], axis=-1
        )
        return -jnp.sum(chosen)

    return unit(jax.grad(loss)(images))


def unit(vectors: Float[Array, "*many height width channels"]) -> Array:
    """Each image or noise vector divided by its length."""
    return vectors / (lengths(vectors) + _SMALLEST_NORM)


def within(
    offsets: Float[Array, "*many height width channels"], radius: Float[Array, ""] | float
) -> Array:
    """Each offset, shortened to `radius` where it is longer."""
    return offsets * jnp.minimum(1.0, radius / (lengths(offsets) + _SMALLEST_NORM))


def lengths(
    vectors: Float[Array, "*many height width channels"],
) -> Float[Array, "*many 1 1 1"]:
    """The l2 norm of each image or noise vector."""
    return jnp.sqrt(jnp.sum(vectors**2, axis=(-3, -2, -1), keepdims=True))
