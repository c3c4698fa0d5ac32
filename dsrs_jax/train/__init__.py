"""Training of base classifiers that stay right under noise."""

from dsrs_jax.train.noise_augmentation import EpochInfo, train

__all__ = ["EpochInfo", "train"]
