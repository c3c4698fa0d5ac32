"""Draws that agree with their mean (Jeong and Shin, NeurIPS 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dsrs_jax.train.methods.method import (
    Batch,
    LogitsOf,
    Method,
    Objective,
    Views,
    as_they_are,
)
from dsrs_jax.train.methods.softmax import Logits, cross_entropy, log_mean_softmax, mean_softmax


def consistency(
    logits: Logits, labels: Int32[Array, " images"], weight: float, entropy_weight: float
) -> Float[Array, ""]:
    """Cross-entropy, and the draws' agreement with their mean.

    cross_entropy + weight * mean over draws of KL(mean softmax || the draw's softmax)
    + entropy_weight * entropy of the mean softmax; all means over images.
    """
    log_each = jax.nn.log_softmax(logits, axis=-1)
    mean, log_mean = mean_softmax(logits), log_mean_softmax(logits)
    divergence = jnp.sum(mean[:, None] * (log_mean[:, None] - log_each), axis=-1)
    entropy = -jnp.sum(mean * log_mean, axis=-1)
    return (
        cross_entropy(logits, labels)
        + weight * jnp.mean(divergence)
        + entropy_weight * jnp.mean(entropy)
    )


def loss(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    """`consistency` of the images under their draws."""
    logits = logits_of(views.images[:, None] + batch.noise)
    weights = objective.weight, objective.entropy_weight
    return consistency(logits, batch.labels, *weights), logits


METHOD = Method(as_they_are, loss)
