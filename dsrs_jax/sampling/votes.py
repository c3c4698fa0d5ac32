"""Votes of a classifier under a law: drawn, classified and counted on the devices.

A draw is a function of (seed, dataset index, law, draw number) alone: its key is folded from
these four, one draw at a time. Its vote must be, too, and a network's logits depend in their last
digits on how many images it is given at once. So noise and forward pass always run on tiles of
one fixed shape, whatever the batch, the block of images and the number of devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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
        law: the noise, of dimension H*W*C; or one law for each image, alike but for their numbers.
        n: draws for each image, fixed before sampling; > 0.
        indices: (images,) dataset indices, which seed the noise; 0, 1, ... unless given.
        seed: seed of the whole experiment.
        first: number of the first draw (to draw more under a law that was drawn from before).
        cutoffs: levels at which draws inside are counted apart (a truncated law's `cutoff`).
        batch: draws in flight on one device, in whole tiles (`tile_size`); one tile unless given.

    Raises:
        UserError: shapes that do not fit, or n or batch is not positive.
    """
    pixels, targets, numbers, laws = _checked(images, labels, indices, law)
    if n < 1:
        raise UserError(f"the number of draws must be positive, got {n}")
    if batch is not None and batch < 1:
        raise UserError(f"the batch must be positive, got {batch}")
    tile = tile_size(pixels[0].size)
    tiles = 1 if batch is None else -(-min(batch, n) // tile)
    model = classifier if isinstance(classifier, Classifier) else jax.tree_util.Partial(classifier)
    streams = np.array([stream(one) for one in laws], dtype=np.uint32)
    stacked = jax.tree.map(lambda *numbers: np.array(numbers, dtype=np.float32), *laws)
    mesh = _local_mesh()
    width = mesh.size  # one image a device and call: a killed run loses little
    draws, right = [], []
    for start in range(0, len(pixels), width):
        rows = np.arange(start, min(start + width, len(pixels)))
        padded = np.concatenate([rows, np.full(width - len(rows), rows[0])])
        # Images that only fill the block draw nothing.
        amounts = np.where(np.arange(width) < len(rows), n, 0).astype(np.int32)
        block = _Block(
            pixels[padded],
            targets[padded],
            numbers[padded],
            streams[padded],
            jnp.asarray(amounts),
            jax.tree.map(lambda leaf, padded=padded: leaf[padded], stacked),
        )
        counted = _count_block(
            model,
            jax.device_put(block, NamedSharding(mesh, PartitionSpec("images"))),
            np.asarray([*cutoffs, np.inf], dtype=np.float32),
            jax.random.key(seed),
            np.int32(first),
            tile=tile,
            tiles=tiles,
            mesh=mesh,
        )
        both = np.asarray(counted)[: len(rows)]
        draws.append(both[:, 0])
        right.append(both[:, 1])
    return Votes(np.concatenate(draws).astype(np.int64), np.concatenate(right).astype(np.int64))


def tile_size(dimension: int) -> int:
    """Draws in one forward pass, from the number of pixel values alone: it is part of a vote."""
    return min(1024, max(64, 2**20 // dimension))


def stream(law: RadialLaw) -> int:
    """The number that tells a law's draws from those of every other law (32 bits of a hash)."""
    numbers = (law.dimension, law.sigma, law.k, law.eta, law.cutoff)
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


class _Block(NamedTuple):
    """One compiled call's images, split over the devices along the first axis."""

    images: Float32[Array, "block height width channels"]
    labels: Int32[Array, " block"]
    indices: UInt32[Array, " block"]
    streams: UInt32[Array, " block"]
    amounts: Int32[Array, " block"]
    laws: RadialLaw


@partial(jax.jit, static_argnames=("tile", "tiles", "mesh"))
def _count_block(
    model: Callable[[Array], Array],
    block: _Block,
    cutoffs: Float32[Array, " cutoffs"],
    key: Key[Array, ""],
    first: Int32[Array, ""],
    *,
    tile: int,
    tiles: int,
    mesh: Mesh,
) -> Int32[Array, "block two cutoffs"]:
    def one_device(
        model: Callable[[Array], Array],
        block: _Block,
        cutoffs: Float32[Array, " cutoffs"],
        key: Key[Array, ""],
        first: Int32[Array, ""],
    ) -> Int32[Array, "share two cutoffs"]:
        return lax.map(
            lambda one: _count_image(model, one, cutoffs, key, first, tile, tiles), block
        )

    everywhere, split = PartitionSpec(), PartitionSpec("images")
    return jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(everywhere, split, everywhere, everywhere, everywhere),
        out_specs=split,
        check_vma=False,
    )(model, block, cutoffs, key, first)


def _count_image(
    model: Callable[[Array], Array],
    one: _Block,
    cutoffs: Float32[Array, " cutoffs"],
    key: Key[Array, ""],
    first: Int32[Array, ""],
    tile: int,
    tiles: int,
) -> Int32[Array, "two cutoffs"]:
    image_key = jax.random.fold_in(jax.random.fold_in(key, one.indices), one.streams)

    def count_tile(number: Int32[Array, ""]) -> Int32[Array, "two cutoffs"]:
        place = number * tile + jnp.arange(tile, dtype=jnp.int32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(image_key, first + place)
        levels, noise = jax.vmap(one.laws.draw)(keys)
        logits = model(one.images[None] + noise.reshape(tile, *one.images.shape))
        answer = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        right = (answer == one.labels) & jnp.all(jnp.isfinite(logits), axis=-1)
        inside = (levels[:, None] <= cutoffs[None, :]) & (place < one.amounts)[:, None]
        both = jnp.stack([inside, inside & right[:, None]])
        return jnp.sum(both, axis=1, dtype=jnp.int32)

    def step(number: Int32[Array, ""], counts: Int32[Array, "two cutoffs"]) -> Array:
        # Tiles that do not wait for one another: the device may work on them at the same time.
        return sum((count_tile(number * tiles + i) for i in range(tiles)), counts)

    steps = (one.amounts + tiles * tile - 1) // (tiles * tile)
    return lax.fori_loop(0, steps, step, jnp.zeros((2, cutoffs.shape[0]), jnp.int32))


def _local_mesh() -> Mesh:
    devices = np.array(jax.local_devices())
    return Mesh(devices, ("images",), axis_types=(AxisType.Auto,))


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
