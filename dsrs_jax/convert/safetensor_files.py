"""Reads `.safetensors` files: untrusted input, bare tensors by name. PyTorch is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dsrs_jax.convert.file_kinds import SAFETENSORS, another_kind
from dsrs_jax.system.errors import UserError, first_line

# The format's names for types; its numbers are little-endian.
_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Name -> tensor; floating-point numbers become float32.

    Raises:
        UserError: in one line, without the package `safetensors`, or for a file that is damaged.
    """
    try:
        import safetensors
    except ImportError:
        raise UserError(
            ".safetensors files need a package to be read: pip install 'dsrs_jax[torch]'"
        ) from None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    try:
        entries = safetensors.deserialize(content)
    except Exception as error:  # of the package's own kind, which may change
        damaged = f"is damaged, cut short or no .safetensors file: {first_line(error)}"
        raise UserError(f"{file} {another_kind(file, SAFETENSORS) or damaged}") from None
    if not entries:
        raise UserError(f"{file} holds no tensors")
    tensors = {}
    for name, entry in entries:
        if not name.isprintable():
            raise UserError(f"{file} is no state dict: {name!r:.80} names no tensor")
        tensors[name] = _array(entry, f"{file}: the tensor {name}")
    return tensors


def _array(entry: dict[str, Any], name: str) -> np.ndarray:
    kind = entry["dtype"]
    if kind not in _DTYPES:
        raise UserError(f"{name} holds {kind}, not floating-point numbers that NumPy has")
    dtype = np.dtype(_DTYPES[kind])
    # A bfloat16's bytes are swapped as those of a whole number: NumPy knows no order of it.
    whole = np.frombuffer(entry["data"], np.dtype(f"<u{dtype.itemsize}"))
    array = whole.astype(f"=u{dtype.itemsize}", copy=False).view(dtype).reshape(entry["shape"])
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told
        return array.astype(np.float32) if kind in _FLOATS else array
