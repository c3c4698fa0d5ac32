"""Flax classifiers, each beginning with its own input scaling, and their checkpoints."""

from dsrs_jax.models.checkpoint import (
    DTYPES,
    METADATA_FILE,
    Classifier,
    ModelMetadata,
    check_space,
    fingerprint,
    load_model,
    parameters_of,
    read_arrays,
    save_model,
    with_parameters,
    write_arrays,
)
from dsrs_jax.models.registry import (
    ARCHITECTURES,
    REGISTRY,
    Architecture,
    architecture,
    build,
    scaled_as,
)
from dsrs_jax.models.scaling import OWN_SETS, SCALINGS, default_scaling, input_scaling

__all__ = [
    "ARCHITECTURES",
    "DTYPES",
    "METADATA_FILE",
    "OWN_SETS",
    "REGISTRY",
    "SCALINGS",
    "Architecture",
    "Classifier",
    "ModelMetadata",
    "architecture",
    "build",
    "check_space",
    "default_scaling",
    "fingerprint",
    "input_scaling",
    "load_model",
    "parameters_of",
    "read_arrays",
    "save_model",
    "scaled_as",
    "with_parameters",
    "write_arrays",
]
