"""Training of base classifiers that stay right under noise."""

from dsrs_jax.train.recipe import METHODS, Recipe
from dsrs_jax.train.record import EpochInfo
from dsrs_jax.train.trainer import train

__all__ = ["METHODS", "EpochInfo", "Recipe", "train"]
