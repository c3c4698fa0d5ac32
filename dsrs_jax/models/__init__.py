"""Flax classifiers, each beginning with its own input scaling, and their checkpoints."""

from dsrs_jax.models.checkpoint import (
    Classifier,
    ModelMetadata,
    fingerprint,
    load_model,
    save_model,
)
from dsrs_jax.models.registry import ARCHITECTURES, Architecture, architecture, build

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Classifier",
    "ModelMetadata",
    "architecture",
    "build",
    "fingerprint",
    "load_model",
    "save_model",
]
