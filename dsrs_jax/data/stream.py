"""Training images from disk, batch after batch, decoded ahead by worker processes (Grain).

Batch n, counted over all epochs, is a function of (seed, n) and the files alone: whoever reads it,
however many workers or hosts share it, and wherever the reading began. So a training that was
killed goes on in the middle of an epoch with `stream(n)`, and nothing has to be kept for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from dsrs_jax.data.dataset import Dataset, UnreadableImage
from dsrs_jax.data.grid import EIGHT_BITS
from dsrs_jax.data.workers import read_in_order
from dsrs_jax.system.errors import UserError

# What Grain hands over at a time: so much that handing it over costs little beside the decoding,
# so little that several workers share a batch and that one ends soon when it is told to.
_PART_BYTES = 1 << 21
_BATCHES_AHEAD = 2
_MOST_SKIPPED = 100  # in a row; more of them are no damaged images but a lost disk
_ORDER, _VIEW = 0, 1  # purposes of random numbers


class StreamedBatch(NamedTuple):
    """A process's share of a batch: 8-bit pixels, of which 255 means 1.0, and labels."""

    images: UInt8[np.ndarray, "images height width channels"]
    labels: Int32[np.ndarray, " images"]


class Stream:
    """The batches of a data set without end; calling it begins at a batch.

    An epoch's order is a permutation of all images, drawn for (seed, epoch); the images that do
    not fill its last batch sit it out. An image of a batch is a random view, drawn for (seed,
    batch, place in it), where the set has such views (`data.views`); the others are as they are
    tested.

    Workers are new Python processes that import the program's main module, so a script that
    streams with workers needs the usual `if __name__ == "__main__":`.

    Attributes:
        batches: of an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch: int,
        batches: int | None = None,
        workers: int,
        skip_unreadable: bool = False,
        process: int = 0,
        processes: int = 1,
        say: Callable[[str], object],
    ) -> None:
        """
        Args:
            dataset: of 8-bit images, with labels.
            seed: of orders and views, in [0, 2^64).
            batch: images of a batch, over all processes.
            batches: of an epoch, unless it has as many as it can.
            workers: processes that read and decode; 0: threads of this one do.
            skip_unreadable: in the place of a damaged image stands the next one of the epoch's
                order that can be read.
            process, processes: this host's number and how many there are: it gets
                the rows [process * batch / processes, (process + 1) * batch / processes).
            say: told once of each image that is skipped, in one line.

        Raises:
            UserError: the set cannot be trained on, or a number is wrong.
        """
        _check(dataset, batch, workers, processes)
        self._dataset, self._workers, self._say = dataset, workers, say
        self._skip_unreadable = skip_unreadable
        self._told: set[int] = set()
        rows = batch // processes
        image_bytes = math.prod(dataset.image_shape)
        part = min(rows, max(1, _PART_BYTES // image_bytes))
        self._plan = _Plan(
            seed=seed,
            size=len(dataset),
            batch=batch,
            batches=min(len(dataset) // batch, batches or len(dataset)),
            begin=rows * process,
            rows=rows,
            part=part,
            image_shape=dataset.image_shape,
        )
        self.batches = self._plan.batches

    def __call__(self, first: int) -> Generator[StreamedBatch]:
        """This process's share of the batches from number `first` on, without end.

        The iterator has worker processes: close it (`contextlib.closing`) when it is done with.
        Where Ctrl-C matters, call it in another thread than the main one: Grain frees memory in
        destructors, and what a signal raises in one of them is lost.

        Raises:
            UserError: an image cannot be read, or a worker process ended.
        """
        plan = self._plan
        with contextlib.closing(
            read_in_order(
                functools.partial(_read_part, plan, first),
                self._dataset,
                workers=self._workers,
                ahead=_BATCHES_AHEAD * plan.parts,
                size=plan.part * math.prod(plan.image_shape),
            )
        ) as parts:
            for number in itertools.count(first):
                images = np.empty((plan.rows, *plan.image_shape), np.uint8)
                labels = np.empty(plan.rows, np.int32)
                for begin in range(0, plan.rows, plan.part):
                    part = next(parts)
                    end = begin + len(part.labels)
                    images[begin:end], labels[begin:end] = part.images, part.labels
                    for row in begin + np.flatnonzero(part.damaged):
                        images[row], labels[row] = self._in_place_of(number, int(row))
                    del part  # and its shared memory, also where the next one is not waited for
                yield StreamedBatch(images, labels)

    def _in_place_of(self, number: int, row: int) -> tuple[np.ndarray, int]:
        """The image that stands where a worker found one that it could not read."""
        most = min(_MOST_SKIPPED, self._plan.size)
        for later in range(most):
            try:
                return self._plan.read(self._dataset, number, row, later)
            except UnreadableImage as error:
                if not self._skip_unreadable:
                    raise UserError(
                        f"{error}; fix it, take it out, or go on without such images by "
                        "--skip-unreadable"
                    ) from error
                index = self._plan.index(number, row, later)
                if index not in self._told:
                    self._told.add(index)
                    self._say(f"skipped {error}")
                last = error
        raise UserError(f"{most} images in a row cannot be read, the last: {last}")


def _check(dataset: Dataset, batch: int, workers: int, processes: int) -> None:
    what = f"{dataset.name} {dataset.split}"
    classes = len(dataset.class_labels) or dataset.classes
    if dataset.classes == 0:
        raise UserError(f"{what} has no labels: training needs one folder a class")
    if classes < 2:
        raise UserError(f"{what} has images of one class alone: a classifier needs two")
    if dataset.grid != EIGHT_BITS:
        raise UserError(f"{what} is not of 8 bits, as images are that training streams")
    if batch < 1 or len(dataset) < batch:
        raise UserError(
            f"{what} has {len(dataset)} images, which fill no batch of {batch}; give another "
            "--batch"
        )
    if batch % processes:
        raise UserError(
            f"a mini-batch of {batch} images is no multiple of the {processes} processes, which "
            "share it; change --batch"
        )
    if workers < 0:
        raise UserError(f"--workers must not be negative, got {workers}")


class _Part(NamedTuple):
    """Some neighbouring rows of a batch. Where `damaged`, the pixels are zeros."""

    images: UInt8[np.ndarray, "images height width channels"]
    labels: Int32[np.ndarray, " images"]
    damaged: Bool[np.ndarray, " images"]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which image stands where, and what is seen of it."""

    seed: int
    size: int  # images of the set
    batch: int
    batches: int  # of an epoch
    begin: int  # this process's first row of a batch
    rows: int  # and how many it has
    part: int  # rows of a part
    image_shape: tuple[int, int, int]

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part)

    def index(self, number: int, row: int, later: int = 0) -> int:
        """The image in a row of this process's share of a batch, or one `later` in the order."""
        epoch, within = divmod(number, self.batches)
        place = (within * self.batch + self.begin + row + later) % self.size
        return int(_order(self.seed, epoch, self.size)[place])

    def read(
        self, dataset: Dataset, number: int, row: int, later: int = 0
    ) -> tuple[np.ndarray, int]:
        """Pixels and label of that image, as it is seen in this row."""
        generator = _generator(self.seed, _VIEW, number, self.begin + row)
        return dataset.view(self.index(number, row, later), generator)


def _generator(seed: int, purpose: int, major: int, minor: int = 0) -> np.random.Generator:
    """Random numbers of their own for each purpose and two more numbers.

    Philox by name, another default must not change a training. Its counter counts up in its first
    word, so the others are free to tell streams apart.
    """
    counter = np.array([0, minor, major, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> Int[np.ndarray, " images"]:
    """The permutation of an epoch, from raw bits: NumPy may change how its `permutation` draws."""
    bits = _generator(seed, _ORDER, epoch).bit_generator.random_raw(size)
    return np.argsort(bits, kind="stable")


def _read_part(plan: _Plan, first: int, dataset: Dataset, number: int) -> _Part:
    """A part by its number, counted from batch `first` on, as a worker reads it."""
    batch, part = divmod(number, plan.parts)
    begin = part * plan.part
    count = min(plan.part, plan.rows - begin)
    images = np.zeros((count, *plan.image_shape), np.uint8)
    labels, damaged = np.zeros(count, np.int32), np.zeros(count, bool)
    for row in range(count):
        try:
            images[row], labels[row] = plan.read(dataset, first + batch, begin + row)
        except UnreadableImage:  # read again by the one that is told of it
            damaged[row] = True
    return _Part(images, labels, damaged)
