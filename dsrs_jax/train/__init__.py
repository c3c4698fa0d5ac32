"""Training of base classifiers that stay right under noise."""

from dsrs_jax.train.methods import METHODS
from dsrs_jax.train.recipe import Recipe
from dsrs_jax.train.record import EpochInfo
from dsrs_jax.train.trainer import metadata_of, train

__all__ = ["METHODS", "EpochInfo", "Recipe", "metadata_of", "train"]
