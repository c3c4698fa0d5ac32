"""Training under noise alone: cross-entropy (Cohen et al., ICML 2019)."""

from __future__ import annotations

from jaxtyping import Array

from dsrs_jax.train.methods.method import (
    Batch,
    LogitsOf,
    Method,
    Objective,
    Views,
    as_they_are,
)
from dsrs_jax.train.methods.softmax import cross_entropy


def loss(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    """The mean over draws and images of -log softmax at the label."""
    logits = logits_of(views.images[:, None] + batch.noise)
    return cross_entropy(logits, batch.labels), logits


METHOD = Method(as_they_are, loss)
