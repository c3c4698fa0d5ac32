"""Datasets behind one small interface: index → (image, label).

A new dataset is one new file with `load(split, data_dir)` and one line in `_LOADERS`.
"""

from pathlib import Path

from dsrs_jax.data import digits, mnist
from dsrs_jax.data.dataset import Dataset
from dsrs_jax.errors import UserError

__all__ = ["DATASETS", "IMAGE_SHAPES", "SPLITS", "Dataset", "load"]

SPLITS = ("train", "test")

_LOADERS = {"digits": digits.load, "mnist": mnist.load}
DATASETS = tuple(_LOADERS)

# (H, W, C) of every dataset that results are published for, whether it can be loaded or not.
IMAGE_SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "tinyimagenet": (56, 56, 3),
    "imagenet": (224, 224, 3),
}


def load(name: str, split: str = "test", data_dir: str | Path | None = None) -> Dataset:
    """The dataset called `name`, one of DATASETS, and its `split`, one of SPLITS.

    `data_dir` is the folder with the files of a set that does not ship with a library.
    Raises UserError for an unknown name or split, and for missing or damaged files.
    """
    if name not in _LOADERS:
        raise UserError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return _LOADERS[name](split, None if data_dir is None else Path(data_dir))
