"""What the losses have in common, on logits (images, draws, classes) and labels (images,)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

Logits = Float[Array, "images draws classes"]


def mean_softmax(logits: Logits) -> Float[Array, "images classes"]:
    """The smoothed classifier's estimate: the mean over the draws of their softmax."""
    return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=1)


def log_mean_softmax(logits: Logits) -> Float[Array, "images classes"]:
    """Its logarithm, without underflow."""
    count = jnp.log(jnp.asarray(logits.shape[1], logits.dtype))
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1), axis=1) - count


def cross_entropies(
    logits: Logits, labels: Int32[Array, " images"]
) -> Float[Array, "images draws"]:
    """-log softmax at the label, draw by draw."""
    chosen = jnp.broadcast_to(labels[:, None, None], (*logits.shape[:2], 1))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), chosen, axis=-1)[..., 0]


def cross_entropy(logits: Logits, labels: Int32[Array, " images"]) -> Float[Array, ""]:
    """Its mean over draws and images."""
    return jnp.mean(cross_entropies(logits, labels))


def right(
    probabilities: Float[Array, "images classes"], labels: Int32[Array, " images"]
) -> Float[Array, " images"]:
    """1 where the largest probability is the label's, else 0."""
    answers = jnp.argmax(probabilities, axis=-1).astype(labels.dtype)
    return (answers == labels).astype(probabilities.dtype)
