"""Votes of a classifier under a law: drawn, classified and counted on the devices.

A draw is a function of (seed, dataset index, law, draw number) alone: its key is folded from
these four, one draw at a time. Its vote must be, too, and a network's logits depend in their last
digits on how many images it is given at once. So noise and forward pass always run on tiles of
one fixed shape, each with the same draws of one image, whatever the batch and the number of
devices; the tiles of a request are cut evenly between the devices.

The bits are JAX's counter-based Threefry, whose streams do not depend on sharding. It is not the
fastest generator, but noise takes about 2% of mnist_43's time on a CPU (`benchmarks/sampling.py`
measures it), and a draw's key can be folded from its number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, Key, UInt32
from numpy.typing import ArrayLike, NDArray

from dsrs_jax.errors import UserError
from dsrs_jax.models import Classifier
from dsrs_jax.noise import RadialLaw

if TYPE_CHECKING:
    _Leaf = Array
else:
    _Leaf = Array | np.ndarray  # on the way to the devices

# What `Sampler.tune` tries, and when it is content.
_TILES_IN_FLIGHT = (1, 2, 4, 8)
_TRIALS = 3
_WORTHWHILE = 1.05
_LONG_COMPILATION = 20.0  # seconds


class Votes(NamedTuple):
    """Counts for each image: (images, cutoffs + 1) whole numbers.

    Column j counts the draws whose level is at most cutoff j (so they are draws of the law
    truncated there); the last column counts all draws.

    Attributes:
        draws: how many draws there were.
        right: how many of them were classified as the label.
    """

    draws: NDArray[np.int64]
    right: NDArray[np.int64]


def count_votes(
    classifier: Classifier | Callable[[Array], Array],
    images: ArrayLike,
    labels: ArrayLike,
    law: RadialLaw | Sequence[RadialLaw],
    n: int,
    *,
    indices: ArrayLike | None = None,
    seed: int = 0,
    first: int = 0,
    cutoffs: Sequence[float] = (),
    batch: int | None = None,
) -> Votes:
    """How often `classifier` answers `labels` on noisy images, in `n` draws for each image.

    A draw whose logits are not all finite votes for no class.

    Args:
        classifier: from float32 images (N, H, W, C) in [0, 1] plus noise to logits (N, classes);
            a `Classifier`, or any function that JAX can trace.
        images: (images, H, W, C) float32 in [0, 1].
        labels: (images,) the class whose votes are counted.
        law: the noise, of dimension H*W*C; or one law for each image.
        n: draws for each image, fixed before sampling; > 0.
        indices: (images,) dataset indices, which seed the noise; 0, 1, ... unless given.
        seed: seed of the whole experiment.
        first: number of the first draw (to draw more under a law that was drawn from before).
        cutoffs: levels at which draws inside are counted apart (a truncated law's `cutoff`).
        batch: draws in flight on one device, in whole tiles (`tile_size`); one tile unless given.

    Raises:
        UserError: shapes that do not fit, or n or batch is not positive.
    """
    sampler = Sampler(classifier, seed=seed, cutoffs=cutoffs, batch=batch)
    return sampler.start(images, labels, law, n, indices=indices, first=first).result()


class Sampler:
    """Counts votes of one classifier on all local devices, several requests in flight.

    Args:
        classifier, seed, cutoffs, batch: as for `count_votes`.
        on_smaller: called with the new batch when the devices' memory did not hold the old one.
    """

    def __init__(
        self,
        classifier: Classifier | Callable[[Array], Array],
        *,
        seed: int = 0,
        cutoffs: Sequence[float] = (),
        batch: int | None = None,
        on_smaller: Callable[[int], None] = lambda batch: None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UserError(f"the batch must be positive, got {batch}")
        self._model = (
            classifier if isinstance(classifier, Classifier) else jax.tree_util.Partial(classifier)
        )
        self._key = jax.random.key(seed)
        self._cutoffs = np.asarray([*cutoffs, np.inf], dtype=np.float32)
        self._on_smaller = on_smaller
        devices = np.array(jax.local_devices())
        self._mesh = Mesh(devices, ("devices",), axis_types=(AxisType.Auto,))
        self._platform = devices[0].platform
        self.batch = batch

    @property
    def devices(self) -> int:
        """How many images a request should have to keep every device busy."""
        return self._mesh.size

    def tune(self, image: ArrayLike, law: RadialLaw) -> int:
        """Sets `batch` to the fastest one, found by doubling from one tile, and returns it.

        Doubling ends where it no longer gains, where the devices' memory is full, or where a
        program takes long to compile.

        Args:
            image: (H, W, C), whatever the labels.
            law: a law of its dimension.
        """
        pixels = np.asarray(image, dtype=np.float32)[None].repeat(self.devices, axis=0)
        labels = np.zeros(self.devices, dtype=np.int32)
        tile = tile_size(pixels[0].size, self._platform)
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
            if seconds[0] > _LONG_COMPILATION:
                break
        self.batch = best
        return best

    def start(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        law: RadialLaw | Sequence[RadialLaw],
        n: int,
        *,
        indices: ArrayLike | None = None,
        first: int = 0,
    ) -> PendingVotes:
        """Gives the devices work and returns at once; arguments as for `count_votes`."""
        pixels, targets, numbers, laws = _checked(images, labels, indices, law)
        if n < 1:
            raise UserError(f"the number of draws must be positive, got {n}")
        tile = tile_size(pixels[0].size, self._platform)
        streams = np.array([stream(one) for one in laws], dtype=np.uint32)
        whole = [_with_cutoff(one) for one in laws]
        stacked = jax.tree.map(lambda *numbers: np.array(numbers, dtype=np.float32), *whole)
        groups = []
        for start in range(0, len(pixels), self._mesh.size):
            size = min(self._mesh.size, len(pixels) - start)
            shares: Any = _shares(size, self._mesh.size, first // tile, -(-(first + n) // tile))
            image, begin, end = shares
            rows = start + image
            block = _Block(
                pixels[rows],
                targets[rows],
                numbers[rows],
                streams[rows],
                begin,
                end,
                jax.tree.map(lambda leaf, rows=rows: leaf[rows], stacked),
            )
            groups.append((image, size, block))
        return PendingVotes(self, groups, tile, np.array([first, first + n], dtype=np.int32))

    def _dispatch(self, block: _Block, tile: int, span: np.ndarray) -> Array:
        return _count_block(
            self._model,
            jax.device_put(block, NamedSharding(self._mesh, PartitionSpec("devices"))),
            self._cutoffs,
            self._key,
            span,
            tile=tile,
            tiles=1 if self.batch is None else max(1, self.batch // tile),
            mesh=self._mesh,
        )

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
    """Votes that the devices are counting."""

    def __init__(
        self,
        sampler: Sampler,
        groups: list[tuple[NDArray[np.int64], int, _Block]],
        tile: int,
        span: np.ndarray,
    ) -> None:
        self._sampler, self._groups, self._tile, self._span = sampler, groups, tile, span
        self._counts: list[Array | None] = [self._try(block) for _, _, block in groups]

    def result(self) -> Votes:
        """The votes; waits until they are counted."""
        draws, right = [], []
        for counts, (image, size, block) in zip(self._counts, self._groups, strict=True):
            both = self._fetch(counts, block).astype(np.int64)
            total = np.zeros((size, *both.shape[1:]), dtype=np.int64)
            np.add.at(total, image, both)
            draws.append(total[:, 0])
            right.append(total[:, 1])
        return Votes(np.concatenate(draws), np.concatenate(right))

    def _try(self, block: _Block) -> Array | None:
        """Counts to come, or None where the devices' memory was too small already."""
        try:
            return self._sampler._dispatch(block, self._tile, self._span)
        except jax.errors.JaxRuntimeError as error:
            if not _out_of_memory(error):
                raise
            self._sampler._shrink(self._tile, error)
            return None

    def _fetch(self, counts: Array | None, block: _Block) -> np.ndarray:
        while True:
            try:
                if counts is not None:
                    return np.asarray(counts)
            except jax.errors.JaxRuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._sampler._shrink(self._tile, error)
            counts = self._try(block)


def _out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _shares(
    images: int, devices: int, begin: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The tiles begin ... end - 1 of each image, cut evenly between the devices.

    Every device gets rows of (image, first tile, last tile + 1), as many as any can need: two, or
    one where there is one device. `images` is at most `devices`.
    """
    tiles = end - begin
    share = -(-images * tiles // devices)
    rows = []
    for device in range(devices):
        place, stop = device * share, min((device + 1) * share, images * tiles)
        mine = []
        while place < stop:
            image, tile = divmod(place, tiles)
            count = min(tiles - tile, stop - place)
            mine.append((image, begin + tile, begin + tile + count))
            place += count
        mine += [(0, 0, 0)] * (min(2, devices) - len(mine))
        rows += mine
    image, first, last = np.array(rows).T
    return image, first.astype(np.int32), last.astype(np.int32)


def tile_size(dimension: int, platform: str) -> int:
    """Draws in one forward pass, from the number of pixel values and the kind of device alone.

    It is part of a vote (see above). A CPU is fastest where a tile's activations stay in its
    caches (measured on two cores, draws a second: mnist_43 7,600 at 64, 4,100 at 1,024; resnet50
    31 at 8, 26 at 16); other devices want many draws at once.
    """
    if platform == "cpu":
        return 1024 if dimension <= 256 else 64 if dimension <= 4096 else 8
    return min(4096, max(128, 2**21 // dimension))


def stream(law: RadialLaw) -> int:
    """The number that tells a law's draws from those of every other law (32 bits of a hash)."""
    numbers = (law.dimension, law.sigma, law.k, law.eta, law.cutoff)
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


class _Block(NamedTuple):
    """One compiled call's work, split over the devices along the first axis.

    A row is one image and the tiles begin ... end - 1 of its draws.
    """

    images: Float32[_Leaf, "rows height width channels"]
    labels: Int32[_Leaf, " rows"]
    indices: UInt32[_Leaf, " rows"]
    streams: UInt32[_Leaf, " rows"]
    begin: Int32[_Leaf, " rows"]
    end: Int32[_Leaf, " rows"]
    laws: RadialLaw


@partial(jax.jit, static_argnames=("tile", "tiles", "mesh"))
def _count_block(
    model: Callable[[Array], Array],
    block: _Block,
    cutoffs: Float32[Array, " cutoffs"],
    key: Key[Array, ""],
    span: Int32[Array, " two"],
    *,
    tile: int,
    tiles: int,
    mesh: Mesh,
) -> Int32[Array, "rows two cutoffs"]:
    def one_device(
        model: Callable[[Array], Array],
        block: _Block,
        cutoffs: Float32[Array, " cutoffs"],
        key: Key[Array, ""],
        span: Int32[Array, " two"],
    ) -> Int32[Array, "share two cutoffs"]:
        return lax.map(lambda one: _count_image(model, one, cutoffs, key, span, tile, tiles), block)

    everywhere, split = PartitionSpec(), PartitionSpec("devices")
    return jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(everywhere, split, everywhere, everywhere, everywhere),
        out_specs=split,
        check_vma=False,
    )(model, block, cutoffs, key, span)


def _count_image(
    model: Callable[[Array], Array],
    one: _Block,
    cutoffs: Float32[Array, " cutoffs"],
    key: Key[Array, ""],
    span: Int32[Array, " two"],
    tile: int,
    tiles: int,
) -> Int32[Array, "two cutoffs"]:
    image_key = jax.random.fold_in(jax.random.fold_in(key, one.indices), one.streams)

    def count_tile(number: Int32[Array, ""]) -> Int32[Array, "two cutoffs"]:
        place = number * tile + jnp.arange(tile, dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(image_key, place)
        levels, noise = jax.vmap(one.laws.draw)(keys)
        logits = model(one.images[None] + noise.reshape(tile, *one.images.shape))
        answer = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        right = (answer == one.labels) & jnp.all(jnp.isfinite(logits), axis=-1)
        counted = (number < one.end) & (place >= span[0]) & (place < span[1])
        inside = (levels[:, None] <= cutoffs[None, :]) & counted[:, None]
        both = jnp.stack([inside, inside & right[:, None]])
        return jnp.sum(both, axis=1, dtype=jnp.int32)

    def step(turn: Int32[Array, ""], counts: Int32[Array, "two cutoffs"]) -> Array:
        # Tiles that do not wait for one another: the device may work on them at the same time.
        first = one.begin + turn * tiles
        return sum((count_tile(first + i) for i in range(tiles)), counts)

    turns = (one.end - one.begin + tiles - 1) // tiles
    return lax.fori_loop(0, turns, step, jnp.zeros((2, cutoffs.shape[0]), jnp.int32))


def _with_cutoff(law: RadialLaw) -> RadialLaw:
    """The law with the cutoff that truncates nothing, so that all laws share a program."""
    if law.cutoff is not None:
        return law
    return dataclasses.replace(law, cutoff=np.inf, quantile=1.0)


def _checked(
    images: ArrayLike,
    labels: ArrayLike,
    indices: ArrayLike | None,
    law: RadialLaw | Sequence[RadialLaw],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[RadialLaw]]:
    pixels = np.asarray(images, dtype=np.float32)
    if pixels.ndim != 4 or len(pixels) == 0:
        raise UserError(f"expected images (N, H, W, C) with N > 0, got shape {pixels.shape}")
    targets = np.asarray(labels, dtype=np.int32)
    numbers = np.arange(len(pixels)) if indices is None else np.asarray(indices)
    laws = [law] * len(pixels) if isinstance(law, RadialLaw) else list(law)
    if not len(pixels) == len(targets) == len(numbers) == len(laws):
        raise UserError(
            f"{len(pixels)} images, {len(targets)} labels, {len(numbers)} indices and "
            f"{len(laws)} laws: their numbers must agree"
        )
    if any(one.dimension != pixels[0].size for one in laws):
        raise UserError(f"the noise must have the images' dimension {pixels[0].size}")
    return pixels, targets, numbers.astype(np.uint32), laws
