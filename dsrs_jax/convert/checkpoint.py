"""Reads `.pth.tar` files: untrusted input, of which nothing is ever executed."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dsrs_jax.convert.layouts import parameters_from
from dsrs_jax.models import (
    Classifier,
    ModelMetadata,
    architecture,
    default_scaling,
    input_scaling,
    parameters_of,
    save_model,
    with_parameters,
)
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import cache_folder


def convert(
    file: str | Path,
    *,
    arch: str | None = None,
    dataset: str | None = None,
    scaling: str | None = None,
) -> Classifier:
    """The classifier in a published PyTorch checkpoint; its logits are the PyTorch model's.

    Args:
        file: `{'arch', 'state_dict', ...}` or a bare state dict, written by `torch.save`.
        arch: needed where the file does not say it; it must not say another one.
        dataset: whose input scaling it has; None for the one that the architecture is for.
        scaling: `standardize` or `center`, which no checkpoint says; None for the default.

    Raises:
        UserError: in one line, for a file that cannot be read without executing it, that is no
            checkpoint, or whose tensors are not those of its architecture.
    """
    file = Path(file)
    said, tensors = read_tensors(file)
    if arch is None and said is None:
        raise UserError(f"{file} does not say its architecture; give --arch")
    if arch is not None and said is not None and arch != said:
        raise UserError(f"{file} says its architecture is {said}, not {arch}")
    name = arch or said or ""
    try:
        found = architecture(name)
        dataset = dataset or found.dataset
        kind = scaling or default_scaling(dataset)
        first = input_scaling(dataset, kind)
        if len(first.mean) != found.image_shape[-1]:
            raise UserError(
                f"{name} takes images of {found.image_shape[-1]} channels, {dataset} has "
                f"{len(first.mean)}"
            )
        description = ModelMetadata(
            arch=name,
            dataset=dataset,
            image_shape=found.image_shape,
            classes=found.classes,
            scaling=kind,
            source=file.name,
            source_sha256=_sha256(file),
        )
        expected = parameters_of(description)
        arrays = parameters_from(tensors, name, expected)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    averages = (".mean", ".var")
    size = sum(array.size for ours, array in arrays.items() if not ours.endswith(averages))
    return with_parameters(dataclasses.replace(description, parameters=size), arrays)


def cached(file: str | Path, *, arch: str | None = None, scaling: str | None = None) -> Path:
    """The folder of a converted checkpoint, made on the first call.

    It lies in DSRS_CACHE, or in dsrs_jax in the user's cache folder, under the file's SHA-256.
    """
    file = Path(file)
    folder = (
        cache_folder() / "models" / "-".join([_sha256(file), arch or "own", scaling or "default"])
    )
    if not folder.exists():
        classifier = convert(file, arch=arch, scaling=scaling)
        save_model(folder, classifier, classifier.metadata)
    return folder


def read_tensors(file: Path) -> tuple[str | None, dict[str, np.ndarray]]:
    """(architecture if the file says it, name -> tensor); see `convert` for errors."""
    try:
        import torch
    except ImportError:
        raise UserError(
            "PyTorch checkpoints need PyTorch to be read: pip install 'dsrs_jax[torch]'"
        ) from None
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused in the next moment
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UserError(
                f"{file} could only be read by executing code that it names; it was not executed"
            ) from None
        raise UserError(f"{file} is not a PyTorch checkpoint") from None
    except Exception as error:  # torch raises many kinds for damaged files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is damaged, cut short or no checkpoint: {first[:200]}") from None
    arch, state = None, content
    if isinstance(content, dict) and "state_dict" in content:
        arch, state = content.get("arch"), content["state_dict"]
    if not isinstance(state, dict) or not state or not _all_tensors(state, torch):
        raise UserError(f"{file} holds no state dict: a dictionary from names to tensors")
    if arch is not None and not isinstance(arch, str):
        raise UserError(f"{file}: `arch` must be a name, got {type(arch).__name__}")
    return arch, {
        name: _array(tensor, f"{file}: the tensor {name}") for name, tensor in state.items()
    }


def _all_tensors(state: dict[Any, Any], torch: Any) -> bool:
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())


def _array(tensor: Any, name: str) -> np.ndarray:
    try:
        # NumPy has no bfloat16; float32 holds it exactly.
        return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
    except (RuntimeError, TypeError) as error:  # sparse, quantized and the like
        raise UserError(f"{name} is no plain array: {str(error).splitlines()[0]}") from None


def _sha256(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
