"""CIFAR-10 from its python or its binary batches (A. Krizhevsky, 2009)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dsrs_jax.data.dataset import ArrayDataset
from dsrs_jax.system.errors import UserError

CLASSES, IMAGE_SHAPE = 10, (32, 32, 3)
_RECORD = 1 + 32 * 32 * 3
_WHERE = (
    "data_batch_1 ... data_batch_5 and test_batch (cifar-10-python.tar.gz) or the same with .bin "
    "(cifar-10-binary.tar.gz) of https://www.cs.toronto.edu/~kriz/cifar.html"
)
_SUBFOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
# A pickle is a program; all that these files need is to make arrays.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
}


def load(split: str, data_dir: Path | None) -> ArrayDataset:
    """The split "train" (50,000 images 32 x 32 x 3) or "test" (10,000), in the original order.

    Raises UserError when the folder or a file is missing, damaged, or not what its name says.
    """
    if data_dir is None:
        raise UserError(f"cifar10 needs --data-dir, a folder with {_WHERE}")
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    for folder in (data_dir / name for name in _SUBFOLDERS):
        for suffix, read in (("", _read_python), (".bin", _read_binary)):
            files = [folder / f"{name}{suffix}" for name in names]
            if files[0].is_file():
                parts = [read(file) for file in files]
                values = np.concatenate([part[0] for part in parts])
                images = values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                labels = np.concatenate([part[1] for part in parts]).astype(np.int32)
                if labels.size == 0 or labels.min() < 0 or labels.max() >= CLASSES:
                    raise UserError(f"{folder}: labels must be 0 to 9 in {', '.join(names)}")
                scaled = images.astype(np.float32) / np.float32(255)
                return ArrayDataset("cifar10", split, scaled, labels, CLASSES)
    if not data_dir.is_dir():
        raise UserError(f"no such folder: {data_dir}; cifar10 needs {_WHERE}")
    raise UserError(f"{data_dir} has no {names[0]} or {names[0]}.bin; cifar10 needs {_WHERE}")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_python(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysOnly(io.BytesIO(_bytes(file)), encoding="bytes").load()
        values, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{file} is damaged or no batch of CIFAR-10: {error!r}") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{file} is no batch of CIFAR-10: its labels are no list of whole numbers")
    if values.dtype != np.uint8 or values.shape != (len(labels), _RECORD - 1):
        raise UserError(f"{file} is no batch of CIFAR-10: its data are {values.shape}")
    return values, labels


def _read_binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(_bytes(file), np.uint8)
    if content.size == 0 or content.size % _RECORD:
        raise UserError(
            f"{file} is cut short or damaged: {content.size} bytes are no multiple of {_RECORD}"
        )
    records = content.reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
