"""Every set through tensorflow-datasets, read without TensorFlow (`tfds.data_source`).

TFDS shuffles what it writes. Where a test set's examples carry their number (`id`, "test_00042")
or their file's name (`file_name`, ImageNet), the original order is restored from it. That reads the
whole set once; a training set, whose images come in random order, stays as it is written.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dsrs_jax.data.dataset import ORIGINAL, SHUFFLED, Dataset, LazyDataset, UnreadableImage
from dsrs_jax.data.views import VIEWS
from dsrs_jax.system.errors import UserError, first_line

PREFIX = "tfds:"
# Names of a test set in TFDS; ImageNet's own has no labels, so its validation set is used.
_TEST_SPLITS = ("test", "validation", "val")
_BUILD = (
    "build it once with `tfds build NAME --file_format=array_record`, in TFDS_DATA_DIR or "
    "~/tensorflow_datasets"
)


def load(name: str, split: str, source: str) -> Dataset:
    """The data set `name` from TFDS's `source` ("cifar10", "imagenet2012:5.1.0").

    It must be on disk as array records: `tfds build NAME --file_format=array_record`, in
    TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises UserError when tensorflow-datasets or the set is not there, or is no image set.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            "tensorflow-datasets is not installed: pip install 'dsrs_jax[tfds]'"
        ) from error
    builder, chosen = _open(tensorflow_datasets, source, split, name)
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise UserError(f"{PREFIX}{source} has no image and label, but {', '.join(features)}")
    order = None if split == "train" else _original_order(tensorflow_datasets, builder, chosen)
    read = _Reader(source, name, str(builder.data_dir), chosen, order)
    try:
        shape = read(0)[0].shape
    except UnreadableImage as error:
        raise UserError(f"{PREFIX}{source} cannot be read: {error}") from error
    kind = SHUFFLED if order is None else ORIGINAL
    classes, size = features["label"].num_classes, len(read.examples)
    return LazyDataset(name, split, size, read, classes, shape, kind)


class _Reader:
    """Reads one example: an index, and a generator for a random view -> (pixels, label).

    Pickled, it is the place of the records on disk, which another process opens for itself.
    """

    def __init__(
        self, source: str, name: str, folder: str, split: str, order: np.ndarray | None
    ) -> None:
        self._source, self._name = source, name
        self._folder, self._split, self._order = folder, split, order

    @functools.cached_property
    def examples(self) -> Any:
        import tensorflow_datasets

        logging.getLogger("absl").setLevel(logging.ERROR)  # it recommends OpenCV
        builder = tensorflow_datasets.builder_from_directory(self._folder, "array_record")
        return builder.as_data_source(split=self._split)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "examples"}

    def __call__(
        self, index: int, generator: np.random.Generator | None = None
    ) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
        place = index if self._order is None else int(self._order[index])
        try:
            example = self.examples[place]
            return _view(example["image"], self._name, generator), int(example["label"])
        except Exception as error:  # for damaged records TFDS and Pillow raise nearly anything
            reason = first_line(error)
            raise UnreadableImage(f"image {index} of {PREFIX}{self._source}: {reason}") from error


def _open(tensorflow_datasets: Any, source: str, split: str, name: str) -> tuple[Any, str]:
    """The builder of a set that is on disk, and its name of the split."""
    wanted = ("train",) if split == "train" else _TEST_SPLITS
    if name == "imagenet" and split == "test":
        wanted = ("validation",)
    try:
        builder = tensorflow_datasets.builder(source, file_format="array_record")
        known = list(builder.info.splits)
    except Exception as error:  # TFDS raises many kinds for what is missing
        raise UserError(f"cannot read {PREFIX}{source} ({first_line(error)}); {_BUILD}") from error
    if not known:
        raise UserError(f"{PREFIX}{source} is not built; {_BUILD}")
    for one in wanted:
        if one in known:
            return builder, one
    raise UserError(f"{PREFIX}{source} has no split {split}, but {', '.join(known)}")


def _original_order(tensorflow_datasets: Any, builder: Any, split: str) -> np.ndarray | None:
    """Places in TFDS's order by index, or None where the examples do not say it."""
    features = builder.info.features
    name = next((one for one in ("id", "file_name") if one in features), None)
    if name is None:
        return None
    bare = {"image": tensorflow_datasets.decode.SkipDecoding()}
    keys = []
    for example in builder.as_data_source(split=split, decoders=bare):
        value = example[name]
        text = value.decode() if isinstance(value, bytes) else str(value)
        if name == "file_name":  # ImageNet: folders by class, in each the files by name
            keys.append((int(example["label"]), text))
        else:
            digits = re.findall(r"\d+", text)
            keys.append((int(digits[-1]) if digits else -1, ""))
    if len(set(keys)) < len(keys):
        return None
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _view(
    image: np.ndarray, name: str, generator: np.random.Generator | None
) -> UInt8[np.ndarray, "height width channels"]:
    if image.dtype != np.uint8:
        raise ValueError(f"its pixels are {image.dtype}, not uint8")
    if name not in VIEWS:
        return image
    grey = image.shape[-1] == 1
    return VIEWS[name](Image.fromarray(image[..., 0] if grey else image), generator)
