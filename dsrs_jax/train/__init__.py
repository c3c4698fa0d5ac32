"""Training of base classifiers that stay right under noise."""

from dsrs_jax.train.run_directory import EpochInfo
from dsrs_jax.train.trainer import METHODS, Recipe, train

__all__ = ["METHODS", "EpochInfo", "Recipe", "train"]
