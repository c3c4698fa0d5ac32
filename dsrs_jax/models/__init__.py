"""Flax classifiers, each beginning with its own input scaling, and their checkpoints."""

from dsrs_jax.models.checkpoint import (
    DTYPES,
    METADATA_FILE,
    Classifier,
    ModelMetadata,
    check_space,
    fault_of,
    fingerprint,
    load_model,
    parameters_of,
    read_arrays,
    save_model,
    with_parameters,
    write_arrays,
)
from dsrs_jax.models.registry import ARCHITECTURES, REGISTRY, Architecture, architecture, build
from dsrs_jax.models.scaling import (
    SCALED_DATASETS,
    SCALINGS,
    InputScaling,
    default_scaling,
    input_scaling,
)

__all__ = [
    "ARCHITECTURES",
    "DTYPES",
    "METADATA_FILE",
    "REGISTRY",
    "SCALED_DATASETS",
    "SCALINGS",
    "Architecture",
    "Classifier",
    "InputScaling",
    "ModelMetadata",
    "architecture",
    "build",
    "check_space",
    "default_scaling",
    "fault_of",
    "fingerprint",
    "input_scaling",
    "load_model",
    "parameters_of",
    "read_arrays",
    "save_model",
    "with_parameters",
    "write_arrays",
]
