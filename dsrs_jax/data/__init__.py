"""Datasets behind one small interface: index → (image, label).

A new dataset is one new file with `load(split, data_dir)` and one line in `LOADERS`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dsrs_jax.data import cifar10, digits, files, mnist, npz, tfds
from dsrs_jax.data.dataset import (
    UNLABELLED,
    ArrayDataset,
    Dataset,
    Example,
    LazyDataset,
    UnreadableImage,
    in_memory,
    read_ahead,
)
from dsrs_jax.data.files import files_of
from dsrs_jax.data.grid import cells_of, grid_of
from dsrs_jax.data.listing import images_in
from dsrs_jax.data.npz import from_arrays
from dsrs_jax.data.stream import Stream, StreamedBatch
from dsrs_jax.system.errors import UserError

__all__ = [
    "DATASETS",
    "IMAGE_SHAPES",
    "SPLITS",
    "UNLABELLED",
    "ArrayDataset",
    "Dataset",
    "Example",
    "LazyDataset",
    "Stream",
    "StreamedBatch",
    "UnreadableImage",
    "cells_of",
    "files_of",
    "from_arrays",
    "grid_of",
    "images_in",
    "in_memory",
    "load",
    "read_ahead",
]

SPLITS = ("train", "test")

LOADERS: dict[str, Callable[[str, Path | None], Dataset]] = {
    "digits": digits.load,
    "mnist": mnist.load,
    "fashionmnist": partial(mnist.load, name="fashionmnist"),
    "cifar10": cifar10.load,
    **files.LOADERS,
    "npz": npz.load,
}
DATASETS = tuple(LOADERS)

# (H, W, C) of every dataset that results are published for.
IMAGE_SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "tinyimagenet": (56, 56, 3),
    "imagenet": (224, 224, 3),
}


def load(
    name: str,
    split: str = "test",
    data_dir: str | Path | None = None,
    class_file: str | Path | None = None,
    *,
    labels: bool = True,
) -> Dataset:
    """The dataset called `name`, one of DATASETS, and its `split`, one of SPLITS.

    `data_dir` is the folder (npz: the file) of a set that does not ship with a library, or
    "tfds:NAME" for one that tensorflow-datasets built. `class_file` has the names of the class
    folders of image files, one a line, in the order of their labels; without it a set says them
    itself. `labels` says whether they are needed: a `folder` or `npz` may be without.
    Raises UserError for an unknown name or split, and for missing or damaged files.
    """
    dataset = _loaded(name, split, data_dir, class_file)
    if labels and not dataset.classes:
        what = "no class folders" if name == "folder" else "no `labels`"
        raise UserError(
            f"{data_dir} has images and {what}: without labels there are `predict` and "
            "`certify --label predicted`"
        )
    return dataset


def _loaded(
    name: str, split: str, data_dir: str | Path | None, class_file: str | Path | None
) -> Dataset:
    if name not in LOADERS:
        raise UserError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    of_tfds = data_dir is not None and str(data_dir).startswith(tfds.PREFIX)
    if class_file is not None:
        if of_tfds or name not in files.LOADERS:
            raise UserError(f"--classes names class folders: of {', '.join(files.LOADERS)}")
        folder = None if data_dir is None else Path(data_dir)
        return files.LOADERS[name](split, folder, files.read_class_names(Path(class_file)))
    if of_tfds:
        return tfds.load(name, split, str(data_dir).removeprefix(tfds.PREFIX))
    return LOADERS[name](split, None if data_dir is None else Path(data_dir))
