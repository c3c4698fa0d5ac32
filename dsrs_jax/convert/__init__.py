"""Published PyTorch checkpoints → Flax classifiers."""

from dsrs_jax.convert.check import logit_difference
from dsrs_jax.convert.checkpoint import cached, convert

__all__ = ["cached", "convert", "logit_difference"]
