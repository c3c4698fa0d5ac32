"""Training of base classifiers that stay right under noise."""

from dsrs_jax.train.methods import METHODS
from dsrs_jax.train.recipe import Recipe
from dsrs_jax.train.record import EpochInfo, recorded_steps
from dsrs_jax.train.trainer import Reading, metadata_of, train

__all__ = [
    "METHODS",
    "EpochInfo",
    "Reading",
    "Recipe",
    "metadata_of",
    "recorded_steps",
    "train",
]
