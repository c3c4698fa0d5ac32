"""What every dataset looks like to the rest of the package."""

from __future__ import annotations

import abc
import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from dsrs_jax.data.grid import EIGHT_BITS, grid_of
from dsrs_jax.system.errors import UserError

# What an index means: its place in the set's original order, or a place in an order that
# somebody shuffled and that holds only for these very files.
ORIGINAL, SHUFFLED = "original", "shuffled"
UNLABELLED = -1  # of an image whose label nobody says


class UnreadableImage(Exception):
    """One image cannot be read; the others can. The message says which and why, in one line."""


class Dataset(abc.ABC):
    """One split of an image set: index -> (image, label).

    Images are float32 (H, W, C) in [0, 1], the space in which noise is added and radii are
    measured; labels are in [0, classes), or all UNLABELLED. An index names an image in every record
    about it.

    Attributes:
        name, split: as they were asked for.
        classes: number of classes; 0 where nobody says the labels.
        image_shape: (H, W, C) of every image.
        order: what an index means, ORIGINAL or SHUFFLED.
        class_labels: label of each class folder, by name; empty where no folders say the classes.
        grid: every value is a whole multiple of 1/grid (sound draws need one); None: of nothing.
    """

    name: str
    split: str
    classes: int
    image_shape: tuple[int, int, int]
    order: str
    class_labels: Mapping[str, int] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def grid(self) -> int | None: ...

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> tuple[Float32[np.ndarray, "height width channels"], int]:
        """The image and the label at `index`.

        Raises:
            UnreadableImage: this image is damaged.
            IndexError: there is no such index.
        """

    def view(
        self, index: int, generator: np.random.Generator | None = None
    ) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
        """8-bit pixels and the label of an image on the grid of 1/255, as training reads it.

        With a generator it is a random view of the image, where the set has such views of its
        own; else what `[index]` gives. Raises as that does.
        """
        del generator
        image, label = self[index]
        return np.rint(image * EIGHT_BITS).astype(np.uint8), label


class ArrayDataset(Dataset):
    """A set in memory: `images` float32 (N, H, W, C), `labels` int32 (N,).

    The grid is found in the images unless it is given.
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: Float32[np.ndarray, "images height width channels"],
        labels: Int32[np.ndarray, " images"],
        classes: int,
        order: str = ORIGINAL,
        grid: int | None = None,
    ) -> None:
        self.name, self.split, self.classes, self.order = name, split, classes, order
        self.images, self.labels = images, labels
        height, width, channels = images.shape[1:]
        self.image_shape = (height, width, channels)
        self._grid = grid

    @functools.cached_property
    def grid(self) -> int | None:
        return self._grid or grid_of(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float32[np.ndarray, "height width channels"], int]:
        return self.images[index], int(self.labels[index])


class LazyDataset(Dataset):
    """A set of `size` images of eight bits that `read` reads when they are asked for.

    `read` is given an index, and a generator where a random view is wanted (`view`); it returns
    pixels and label. Several threads call it, and processes that it is pickled for.
    """

    grid = EIGHT_BITS

    def __init__(
        self,
        name: str,
        split: str,
        size: int,
        read: Callable[[int, np.random.Generator | None], tuple[np.ndarray, int]],
        classes: int,
        image_shape: tuple[int, int, int],
        order: str = ORIGINAL,
        class_labels: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.name, self.split, self.classes, self.order = name, split, classes, order
        self.class_labels = dict(class_labels)
        self.image_shape, self._size, self._read = image_shape, size, read

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[Float32[np.ndarray, "height width channels"], int]:
        image, label = self.view(index)
        return image.astype(np.float32) / np.float32(EIGHT_BITS), label

    def view(
        self, index: int, generator: np.random.Generator | None = None
    ) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
        if not 0 <= index < self._size:
            raise IndexError(index)
        image, label = self._read(index, generator)
        if image.shape != self.image_shape:
            raise UnreadableImage(
                f"image {index} of {self.name} has the shape {image.shape}, "
                f"the others {self.image_shape}"
            )
        return image, label


@dataclass(frozen=True)
class Example:
    """One image as `read_ahead` gives it; `problem` says why there is none."""

    index: int
    image: np.ndarray | None
    label: int
    problem: str = ""


def read_ahead(
    dataset: Dataset, indices: Sequence[int], *, ahead: int = 64, threads: int = 4
) -> Iterator[Example]:
    """The images at `indices`, in that order, decoded by threads up to `ahead` images early."""

    def read(index: int) -> Example:
        try:
            return Example(index, *dataset[index])
        except UnreadableImage as error:
            return Example(index, None, UNLABELLED, str(error))

    if isinstance(dataset, ArrayDataset):
        yield from map(read, indices)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        waiting: deque[Future[Example]] = deque()
        for index in indices:
            waiting.append(pool.submit(read, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_memory(dataset: Dataset) -> ArrayDataset:
    """The whole set in memory, as training wants it.

    Raises:
        UserError: an image cannot be read, or the set is too large.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset
    try:
        images = np.empty((len(dataset), *dataset.image_shape), np.float32)
    except MemoryError as error:
        raise UserError(
            f"{dataset.name} {dataset.split}, {len(dataset)} images of {dataset.image_shape}, "
            "does not fit in this machine's memory"
        ) from error
    labels = np.empty(len(dataset), np.int32)
    for example in read_ahead(dataset, range(len(dataset))):
        if example.image is None:
            raise UserError(f"{example.problem}; take it out or fix it")
        images[example.index], labels[example.index] = example.image, example.label
    return ArrayDataset(dataset.name, dataset.split, images, labels, dataset.classes, dataset.order)
