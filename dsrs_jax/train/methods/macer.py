"""Training that widens certified radii without an attack (MACER: Zhai et al., ICLR 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.methods.method import (
    Batch,
    LogitsOf,
    Method,
    Objective,
    Views,
    as_they_are,
)
from dsrs_jax.train.methods.softmax import Logits, log_mean_softmax, mean_softmax, right


def shortfall(
    logits: Logits, labels: Int32[Array, " images"], margin: float, sharpness: float
) -> Float[Array, " images"]:
    """What an image's radius, in units of sigma/2, lacks to `margin`; 0 where nothing counts.

    With pA >= pB the two largest of the mean softmax of sharpness * logits, the radius in these
    units is Phi^-1(pA) - Phi^-1(pB). It counts where pA is the label's and where the radius is at
    most `margin`. A radius that float32 cannot tell from infinity (pA is 1, or pB is 0) is beyond
    every margin below 10, so no probability is clipped: those terms are left out, as published.
    """
    sharp = mean_softmax(sharpness * logits)
    first, second = jnp.moveaxis(jax.lax.top_k(sharp, 2)[0], -1, 0)
    # A comparison has no gradient, and is false of nan.
    counted = (right(sharp, labels) > 0.0) & (ndtri(first) - ndtri(second) <= margin)
    # Where nothing counts Phi^-1 must not see 0 or 1: its infinite slope times 0 would be nan.
    first, second = jnp.where(counted, first, 0.75), jnp.where(counted, second, 0.25)
    return jnp.where(counted, margin - (ndtri(first) - ndtri(second)), 0.0)


def macer(
    logits: Logits,
    labels: Int32[Array, " images"],
    sigma: Float[Array, ""] | float,
    weight: Float[Array, ""] | float,
    margin: float,
    sharpness: float,
) -> Float[Array, ""]:
    """Cross-entropy of the smoothed classifier, and what its radii lack.

    -log of the mean softmax at the label + weight * sigma/2 * `shortfall`; both means over images
    (their Algorithm 1). The radius is the Gaussian's, whatever the noise: it says which images lack
    most, and no certificate rests on it.
    """
    chosen = jnp.take_along_axis(log_mean_softmax(logits), labels[:, None], axis=-1)
    lacking = jnp.mean(shortfall(logits, labels, margin, sharpness))
    return weight * (sigma / 2.0) * lacking - jnp.mean(chosen)


def loss(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    """`macer` of the images under their draws; the second term rises with the warm-up.

    The authors have no warm-up. Its slopes are many times the cross-entropy's, and from the first
    epoch on they keep a small network from learning.
    """
    logits = logits_of(views.images[:, None] + batch.noise)
    numbers = objective.weight * batch.warmup, objective.margin, objective.sharpness
    return macer(logits, batch.labels, batch.sigma, *numbers), logits


METHOD = Method(as_they_are, loss)
