"""Any images in one NumPy file: arrays `images` and `labels`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dsrs_jax.data.dataset import UNLABELLED, ArrayDataset
from dsrs_jax.system.errors import UserError

_WHAT = (
    "a .npz file with `images` (N, H, W, C), uint8 or floats in [0, 1], and `labels` (N,), whole "
    "numbers from 0"
)


def load(split: str, data_dir: Path | None) -> ArrayDataset:
    """The images of the file `data_dir`; the split is whatever the file holds.

    Raises UserError when the file is missing, damaged, or holds something else.
    """
    if data_dir is None:
        raise UserError(f"npz needs --data-dir, {_WHAT}")
    if data_dir.is_dir():
        raise UserError(f"{data_dir} is a folder; npz needs {_WHAT} (folders: --dataset folder)")
    if not data_dir.is_file():
        raise UserError(f"no such file: {data_dir}; npz needs {_WHAT}")
    try:
        content = np.load(data_dir, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError(f"it is one array {content.shape}, as np.save writes it; use np.savez")
        with content:
            images = content["images"]
            labels = content.get("labels")
    except Exception as error:  # NumPy, zlib and zipfile raise many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{data_dir} is not {_WHAT}: {reason}") from error
    try:
        return from_arrays(images, labels, "npz", split)
    except ValueError as error:
        raise UserError(f"{data_dir} is not {_WHAT}: {error}") from None


def from_arrays(
    images: np.ndarray, labels: np.ndarray | None, name: str, split: str
) -> ArrayDataset:
    """A set of images (N, H, W, C), uint8 or floats in [0, 1], and labels (N,) from 0, or none.

    Raises:
        ValueError: says what they are instead.
    """
    unlabelled = labels is None
    if labels is None:
        labels = np.zeros(images.shape[:1], np.int32)
    if images.ndim != 4 or images.size == 0 or labels.shape != (len(images),):
        raise ValueError(f"it has {images.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError("its labels are not")
    if labels.max() >= np.iinfo(np.int32).max:
        raise ValueError(f"it has the label {labels.max()}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"its images are {images.dtype}")
    images = images.astype(np.float32)
    # NaN fails this, too.
    if not (images.min() >= 0.0 and images.max() <= 1.0):
        raise ValueError("values reach beyond [0, 1]")
    if unlabelled:
        return ArrayDataset(name, split, images, np.full(len(images), UNLABELLED, np.int32), 0)
    classes = int(labels.max()) + 1
    return ArrayDataset(name, split, images, labels.astype(np.int32), classes)
