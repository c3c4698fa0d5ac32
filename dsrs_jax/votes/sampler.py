"""Votes of one classifier, counted on all local devices, several requests in flight."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from numpy.typing import ArrayLike, NDArray

from dsrs_jax.data import cells_of
from dsrs_jax.models import BaseClassifier, Replica
from dsrs_jax.noise import Law, RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.compared import Comparison
from dsrs_jax.votes.kernel import (
    DRAWS,
    INDICES,
    SEEDS,
    Block,
    can_be_sound,
    count_block,
    precision,
    share_out,
    stream,
    tile_size,
)
from dsrs_jax.votes.outside import count_outside

# Beyond the number of any key that is split off a seed: the draws that certificates are made from,
# those that only say which class wins, and a pilot's are apart from one another and a training's.
_SAMPLING, _CHOOSING, _PILOT = 0x5341_4D50, 0x4348_4F53, 0x5049_4C4F
# What `Sampler.tune` tries, and when it is content.
_TILES_IN_FLIGHT = (1, 2, 4, 8)
_TRIALS = 3
_WORTHWHILE = 1.05
_LONG_COMPILATION = 20.0  # seconds
_SHORT_RUN = 120.0  # seconds
# A call counts one step of tiles on a device, and more of them as long as it takes less than these
# seconds: who waits sees that something happens.
_MOST_STEPS = 2**16
_CALLS_AHEAD = 4
_SHORT_CALL, _LONG_CALL = 0.5, 2.0


class Votes(NamedTuple):
    """Counts for each image: (images, cutoffs + 1) whole numbers, or (images, classes).

    Column j counts the draws whose level is at most cutoff j (so they are draws of the law
    truncated there); the last column counts all draws. Where the votes of every class are counted
    (`Sampler.start`) there is a column for each, and each counts all draws.

    Attributes:
        draws: how many draws there were.
        correct: how many of them were classified as the label, or as the column's class.
        not_finite: how many of them had a logit that is not finite; none of these is correct.
        ambiguous: how many of them, sound draws, might be others (`noise.sound`); none is correct.
    """

    draws: NDArray[np.int64]
    correct: NDArray[np.int64]
    not_finite: NDArray[np.int64]
    ambiguous: NDArray[np.int64]


_Counting = tuple[Array, Array]  # the columns of the counts (`kernel.Columns`), and the draws' key


class Sampler:
    """Gives all local devices work and hands out promises of votes.

    Args:
        classifier: from float32 images (N, H, W, C) in [0, 1] plus noise to logits (N, classes);
            a `BaseClassifier`, or any function that JAX can trace.
        seed: seed of the whole experiment, in [0, 2^32).
        cutoffs: levels at which draws inside are counted apart (a truncated law's `cutoff`).
        batch: draws in flight on one device, in whole tiles (`tile_size`); one tile unless given.
        grid: of sound draws (`noise.sound`): the images' values are whole multiples of 1/grid, and
            the classifier is the one that rounds its input to them. None: float32 draws, which no
            proof covers.
        pilot: whether its draws are a pilot's, which no certificate is made from.
        surely: dataset indices of images of which some answers are compared in any case (see
            `votes.compared`); of all others those of a random few tiles are, but of a pilot's.
        on_smaller: called with the new batch when the devices' memory did not hold the old one.

    Raises:
        UserError: seed or batch is outside its domain, or the devices have no IEEE float64 that
            sound draws could use.
    """

    def __init__(
        self,
        classifier: BaseClassifier | Callable[[Array], Array],
        *,
        seed: int = 0,
        cutoffs: Sequence[float] = (),
        batch: int | None = None,
        grid: int | None = None,
        pilot: bool = False,
        surely: Iterable[int] = (),
        on_smaller: Callable[[int], None] = lambda batch: None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UserError(f"the batch must be positive, got {batch}")
        model: Any = (
            classifier
            if isinstance(classifier, BaseClassifier)
            else jax.tree_util.Partial(classifier)
        )
        self._replicas: list[Replica] = []
        if isinstance(model, BaseClassifier) and not model.traceable:
            self._replicas, model = model.replicas(), None
        if grid is not None:
            # In JAX's 64-bit mode numbers of NumPy would reach the network as float64.
            model = jax.tree.map(jnp.asarray, model)
        _whole(seed, 0, SEEDS, "the seed")
        # By name: another default generator (jax_default_prng_impl) must not change a vote.
        root = jax.random.key(seed, impl="threefry2x32")
        self._real = np.float32 if grid is None else np.float64
        self._on_smaller = on_smaller
        devices = np.array([one.device for one in self._replicas] or jax.local_devices())
        self._mesh = Mesh(devices, ("devices",), axis_types=(AxisType.Auto,))
        self._platform = self._replicas[0].platform if self._replicas else devices[0].platform
        if grid is not None and not can_be_sound():
            raise UserError(
                f"sound draws need the arithmetic of IEEE's float64, which a {self._platform} has "
                "not; use --draws float32"
            )
        self.batch, self.grid = batch, grid
        # Once, and not with every request: requests may be short.
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        edges = np.asarray([*cutoffs, np.inf], dtype=self._real)
        counted = _PILOT if pilot else _SAMPLING
        keys = [jax.random.fold_in(root, number) for number in (counted, _CHOOSING)]
        self._comparison = None
        if not pilot:
            self._comparison = Comparison(
                classifier if model is None else model,
                device=devices[0], replicas=self._replicas, seed=seed, grid=grid, surely=surely,
            )  # fmt: skip
        self._steps = 1
        with precision(grid):
            self._model, edges, (key, self._choosing) = jax.device_put(
                (model, edges, keys), everywhere
            )
        self._inside: _Counting = (edges, key)

    @property
    def devices(self) -> int:
        """How many images a request should have to keep every device busy."""
        return self._mesh.size

    def tile(self, dimension: int) -> int:
        """Draws in one forward pass of images of so many pixel values (`kernel.tile_size`)."""
        return tile_size(dimension, self._platform)

    def tune(self, image: ArrayLike, law: Law, draws_to_come: int) -> int:
        """Sets `batch` to the fastest one, found by doubling from one tile, and returns it.

        Doubling ends where it no longer gains, where the devices' memory is full, or where the
        programs that it compiles would take longer than they could save.

        Args:
            image: (H, W, C), whatever the labels.
            law: a law of its dimension.
            draws_to_come: of the run, in all.
        """
        pixels = np.asarray(image, dtype=np.float32)[None].repeat(self.devices, axis=0)
        labels = np.zeros(self.devices, dtype=np.int32)
        tile = tile_size(pixels[0].size, self._platform)
        if self._replicas:  # which work on tile after tile
            self.batch = tile
            return tile
        best, fastest = tile, 0.0
        for tiles in _TILES_IN_FLIGHT:
            self.batch = tiles * tile
            draws = _TILES_IN_FLIGHT[-1] * tile
            seconds = []
            for _ in range(1 + _TRIALS):  # the first one compiles
                clock = time.perf_counter()
                self.start(pixels, labels, law, draws).result()
                seconds.append(time.perf_counter() - clock)
            speed = draws / min(seconds[1:])
            if self.batch < tiles * tile or speed < _WORTHWHILE * fastest:
                break
            best, fastest = self.batch, speed
            left = draws_to_come / (speed * self.devices)
            if seconds[0] > _LONG_COMPILATION or left < _SHORT_RUN:
                break
        self.batch = best
        return best

    def start(
        self,
        images: ArrayLike,
        labels: ArrayLike | None,
        law: Law | Sequence[Law],
        n: int,
        *,
        indices: ArrayLike | None = None,
        first: int = 0,
        classes: int | None = None,
    ) -> PendingVotes:
        """Gives the devices work and returns at once.

        Args:
            images: (images, H, W, C) float32 in [0, 1]; for sound draws on the grid.
            labels: (images,) the class whose votes are counted; None with `classes`.
            law: the noise, of dimension H*W*C; or one law for each image.
            n: draws for each image, fixed before sampling; > 0, first + n < 2^31.
            indices: (images,) dataset indices in [0, 2^32), which seed the noise; 0, 1, ... unless
                given.
            first: number of the first draw (to draw more under a law that was drawn from before);
                >= 0.
            classes: the votes of each of so many classes are counted, from draws of their own: the
                certificate of a class that they choose has others (`Votes` says the columns).

        Raises:
            UserError: shapes that do not fit, or a number outside its domain.
        """
        counting = self._inside if classes is None else self._of_classes(classes)
        if classes is not None:
            labels = np.zeros(np.shape(images)[:1], np.int32)
        every, tile = self._request(images, labels, indices, law, n, first)
        compared = self._compare(every, counting[1], tile)
        begin, end, size_of_all = int(every.begin[0]), int(every.end[0]), len(every.labels)
        calls = []
        for start in range(0, size_of_all, self._mesh.size):
            size = min(self._mesh.size, size_of_all - start)
            longest = self._steps * self._in_flight(tile) * self._mesh.size // size
            for part in range(begin, end, longest):
                share = share_out(size, self._mesh.size, part, min(part + longest, end))
                rows = start + share[0]
                block = jax.tree.map(lambda leaf, rows=rows: leaf[rows], every)
                calls.append((rows, block._replace(begin=share[1], end=share[2])))
        span = np.array([first, first + n], dtype=np.int32)
        return PendingVotes(self, calls, tile, span, counting, compared)

    def compare(self, images: ArrayLike, law: Law, indices: ArrayLike) -> None:
        """Compares some answers to draws of images, and counts none (`votes.compared`).

        Raises:
            DependsOnOthersError: the classifier's answer to one depends on others.
        """
        labels = np.zeros(np.shape(images)[:1], np.int32)
        every, tile = self._request(images, labels, indices, law, 1, 0)
        self._compare(every, self._inside[1], tile)

    def _request(
        self,
        images: ArrayLike,
        labels: ArrayLike | None,
        indices: ArrayLike | None,
        law: Law | Sequence[Law],
        n: int,
        first: int,
    ) -> tuple[Block, int]:
        """All that is asked for as one block, and the draws of a tile."""
        pixels, targets, numbers, laws = _checked(images, labels, indices, law)
        if self.grid is not None:
            if not all(isinstance(one, RadialLaw) for one in laws):
                raise UserError("sound draws are of the radial family alone")
            pixels = cells_of(pixels, self.grid)
        if n < 1:
            raise UserError(f"the number of draws must be positive, got {n}")
        _whole(first, 0, DRAWS, "the number of the first draw")
        _whole(first + n, 1, DRAWS, "the number of the last draw plus 1, first + n,")
        tile = tile_size(pixels[0].size, self._platform)
        streams = np.array([stream(one) for one in laws], dtype=np.uint32)
        # Whole and truncated laws of the radial family share a program.
        whole = [one.as_truncated() if isinstance(one, RadialLaw) else one for one in laws]
        stacked = jax.tree.map(lambda *numbers: np.array(numbers, dtype=self._real), *whole)
        begin, end = (
            np.full(len(pixels), tiles, np.int32)
            for tiles in (first // tile, -(-(first + n) // tile))
        )
        return Block(pixels, targets, numbers, streams, begin, end, stacked), tile

    def _in_flight(self, tile: int) -> int:
        """Tiles that a device has at the same time."""
        return 1 if self.batch is None else max(1, self.batch // tile)

    def _of_classes(self, classes: int) -> _Counting:
        columns = np.arange(classes, dtype=np.int32)
        return jax.device_put(columns, NamedSharding(self._mesh, PartitionSpec())), self._choosing

    def _dispatch(
        self, block: Block, tile: int, span: np.ndarray, counting: _Counting
    ) -> Array | np.ndarray:
        # Like the key's generator: a vote must not depend on what the process has set.
        with jax.threefry_partitionable(True), precision(self.grid):
            columns, key = counting
            if self._replicas:
                return count_outside(
                    self._replicas, block, columns, key, span, grid=self.grid, tile=tile
                )
            return count_block(
                self._model,
                jax.device_put(block, NamedSharding(self._mesh, PartitionSpec("devices"))),
                columns,
                key,
                span,
                grid=self.grid,
                tile=tile,
                tiles=self._in_flight(tile),
                mesh=self._mesh,
            )

    def _compare(self, every: Block, key: Array, tile: int) -> NDArray[np.int64]:
        if self._comparison is None:
            return np.zeros(len(every.labels), np.int64)
        while True:
            try:
                return self._comparison.compare(every, key, tile)
            except jax.errors.JaxRuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(tile, error)

    def _pace(self, seconds: float) -> None:
        """Longer calls, or shorter ones, after one that took so long."""
        if seconds < _SHORT_CALL:
            self._steps = min(2 * self._steps, _MOST_STEPS)
        elif seconds > _LONG_CALL:
            self._steps = max(self._steps // 2, 1)

    def _shrink(self, tile: int, error: Exception) -> None:
        """Half the batch; an error where a single tile was too much."""
        if self.batch is None or self.batch < 2 * tile:
            raise UserError(
                f"the device has not enough memory for {tile} draws at once; use --dtype bfloat16 "
                "or a device with more memory"
            ) from error
        self.batch //= 2
        self._on_smaller(self.batch)


class PendingVotes:
    """Votes that the devices are counting.

    Attributes:
        compared: (images,) of how many of each image's draws the answers were compared
            (`votes.compared`).
    """

    def __init__(
        self,
        sampler: Sampler,
        calls: list[tuple[NDArray[np.int64], Block]],
        tile: int,
        span: np.ndarray,
        counting: _Counting,
        compared: NDArray[np.int64],
    ) -> None:
        self._sampler, self._calls, self._tile, self._span = sampler, calls, tile, span
        self._counting, self.compared = counting, compared
        self._begun, self._waiting = 0, deque[Array | np.ndarray | None]()
        self._begin(_CALLS_AHEAD)

    def result(self, advance: Callable[[int], None] = lambda draws: None) -> Votes:
        """The votes; waits until they are counted, telling of how many draws they are."""
        total = np.zeros((len(self.compared), 4, len(self._counting[0])), dtype=np.int64)
        for number, (rows, block) in enumerate(self._calls):
            clock = time.perf_counter()
            parts = self._fetch(self._waiting.popleft(), block).astype(np.int64)
            self._begin(number + 1 + _CALLS_AHEAD)
            self._sampler._pace(time.perf_counter() - clock)
            np.add.at(total, rows, parts)
            advance(int(parts[:, 0, -1].sum()))
        return Votes(*total.swapaxes(0, 1))

    def _begin(self, end: int) -> None:
        """Gives the devices the calls before `end`: JAX lets no more than some wait."""
        for _, block in self._calls[self._begun : end]:
            # Outside JAX votes are counted where they are waited for.
            self._waiting.append(None if self._sampler._replicas else self._try(block))
        self._begun = max(self._begun, min(end, len(self._calls)))

    def _try(self, block: Block) -> Array | np.ndarray | None:
        """Counts to come, or None where the devices' memory was too small already."""
        try:
            return self._sampler._dispatch(block, self._tile, self._span, self._counting)
        except jax.errors.JaxRuntimeError as error:
            if not _out_of_memory(error):
                raise
            self._sampler._shrink(self._tile, error)
            return None

    def _fetch(self, counts: Array | np.ndarray | None, block: Block) -> np.ndarray:
        while True:
            try:
                if counts is not None:
                    return np.asarray(counts)
            except jax.errors.JaxRuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._sampler._shrink(self._tile, error)
            counts = self._try(block)


def fresh_seed() -> int:
    """A seed that no network can have been made for: of the system's entropy."""
    return secrets.randbelow(SEEDS)


def _out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _checked(
    images: ArrayLike,
    labels: ArrayLike | None,
    indices: ArrayLike | None,
    law: Law | Sequence[Law],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Law]]:
    pixels = np.asarray(images, dtype=np.float32)
    if pixels.ndim != 4 or len(pixels) == 0:
        raise UserError(f"expected images (N, H, W, C) with N > 0, got shape {pixels.shape}")
    targets = _whole(labels, -(2**31), 2**31, "every label")
    numbers = np.arange(len(pixels)) if indices is None else np.asarray(indices)
    numbers = _whole(numbers, 0, INDICES, "every dataset index")
    laws = list(law) if isinstance(law, Sequence) else [law] * len(pixels)
    if not len(pixels) == len(targets) == len(numbers) == len(laws):
        raise UserError(
            f"{len(pixels)} images, {len(targets)} labels, {len(numbers)} indices and "
            f"{len(laws)} laws: their numbers must agree"
        )
    if any(one.dimension != pixels[0].size for one in laws):
        raise UserError(f"the noise must have the images' dimension {pixels[0].size}")
    return pixels, targets.astype(np.int32), numbers.astype(np.uint32), laws


def _whole(numbers: ArrayLike | None, low: int, end: int, what: str) -> np.ndarray:
    """Whole numbers in [low, end): any other would wrap in the compiled program, in silence.

    Raises:
        UserError: another number, named as `what`.
    """
    array = np.asarray(numbers)
    for one in array.ravel():
        if not isinstance(one, (int, np.integer)) or not low <= int(one) < end:
            raise UserError(f"{what} must be a whole number in [{low}, {end}), got {one}")
    return array
