"""The losses of the four methods, on logits of a mini-batch under m noise draws.

Logits have the shape (images, draws, classes), labels (images,).
"""

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


def cross_entropy(logits: Logits, labels: Int32[Array, " images"]) -> Float[Array, ""]:
    """Mean over draws and images of -log softmax at the label (Cohen et al., 2019)."""
    chosen = jnp.broadcast_to(labels[:, None, None], (*logits.shape[:2], 1))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), chosen, axis=-1))


def consistency(
    logits: Logits, labels: Int32[Array, " images"], weight: float, entropy_weight: float
) -> Float[Array, ""]:
    """Cross-entropy, and the draws' agreement with their mean (Jeong and Shin, NeurIPS 2020).

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


def smoothmix(
    clean: Logits,
    mixed: Logits,
    labels: Int32[Array, " images"],
    share: Float[Array, " images"],
    weight: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Cross-entropy on the clean end, and soft labels on the mixture (Jeong et al., NeurIPS 2021).

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
    right = (jnp.argmax(mean, axis=-1).astype(labels.dtype) == labels).astype(mean.dtype)
    return cross_entropy(clean, labels) + weight * jnp.mean(right[:, None] * divergence)
