"""The compiled count: noise, forward pass, argmax and counting in one program.

A draw is a function of (seed, dataset index, law, draw number) alone: its key is folded from
these four, one draw at a time. Its vote must be, too, and a network's logits depend in their last
digits on how many images it is given at once. So noise and forward pass always run on tiles of
one fixed shape, each with the same draws of one image, whatever the batch and the number of
devices; the tiles of a request are cut evenly between the devices.

The bits are JAX's counter-based Threefry, whose streams do not depend on sharding. It is not the
fastest generator, but a draw's key can be folded from its number.

Draws are float32 (`RadialLaw.draw`: image plus noise, both rounded), or sound (`noise.sound`): the
images are cells of a grid, the noise a number of cells, and what the network sees is their sum,
rounded once. Everything but the network is then traced in JAX's 64-bit mode (`precision`).

What is counted has columns: cutoffs, within which the label's votes are counted apart, or all
classes, of which each has its own votes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt32
from numpy.typing import NDArray

from dsrs_jax.noise import Law, RadialLaw, sound

if TYPE_CHECKING:
    _Leaf = Any
else:
    _Leaf = Array | np.ndarray  # on the way to the devices

# Cutoffs, the last one infinite; or the classes 0, 1, ..., where votes of all of them are counted.
Columns = Float[Array, " columns"] | Int32[Array, " columns"]

# What the program's whole numbers hold: seeds and dataset indices are below these, and so is
# the number of draws of one image under one law. Beyond, they would wrap.
SEEDS = INDICES = 2**32
DRAWS = 2**31


def share_out(
    images: int, devices: int, begin: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The tiles begin ... end - 1 of each image, cut evenly between the devices.

    Every device gets rows of (image, first tile, last tile + 1), as many as any can need: two, or
    one where there is one device. `images` is at most `devices`.
    """
    tiles = end - begin
    part = -(-images * tiles // devices)
    rows = []
    for device in range(devices):
        place, stop = device * part, min((device + 1) * part, images * tiles)
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


def can_be_sound() -> bool:
    """Whether this process's devices compute float64 as IEEE says: TPUs make it of smaller ones."""
    return jax.local_devices()[0].platform != "tpu"


def stream(law: Law) -> int:
    """The number that tells a law's draws from those of every other law (32 bits of a hash)."""
    numbers = tuple(law.parameters().values())
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


class Block(NamedTuple):
    """One compiled call's work, split over the devices along the first axis.

    A row is one image, or the cells of one, and the tiles begin ... end - 1 of its draws.
    """

    images: (
        Float32[_Leaf, "rows height width channels"] | Int32[_Leaf, "rows height width channels"]
    )
    labels: Int32[_Leaf, " rows"]
    indices: UInt32[_Leaf, " rows"]
    streams: UInt32[_Leaf, " rows"]
    begin: Int32[_Leaf, " rows"]
    end: Int32[_Leaf, " rows"]
    laws: Law


def precision(grid: int | None) -> AbstractContextManager[None]:
    """Where `count_block` has to be called: sound draws are float64's."""
    return contextlib.nullcontext() if grid is None else jax.enable_x64(True)


@partial(jax.jit, static_argnames=("grid", "tile", "tiles", "mesh"))
def count_block(
    model: Callable[[Array], Array],
    block: Block,
    columns: Columns,
    key: Key[Array, ""],
    span: Int32[Array, " two"],
    *,
    grid: int | None,
    tile: int,
    tiles: int,
    mesh: Mesh,
) -> Int32[Array, "rows four columns"]:
    """Counts of each row: the draws, the right answers, and the draws that can have no vote.

    These are the draws whose logits are not all finite, and those that are ambiguous
    (`noise.sound`; of float32 draws nobody knows, and it is 0). `grid` is the number of the grid's
    steps in a unit of pixels, None for float32 draws. Of a column that is a class right is an
    answer that is this class, whatever the label.
    """

    def one_device(
        model: Callable[[Array], Array],
        block: Block,
        columns: Columns,
        key: Key[Array, ""],
        span: Int32[Array, " two"],
    ) -> Int32[Array, "share four columns"]:
        return lax.map(
            lambda one: _count_image(model, one, columns, key, span, grid, tile, tiles), block
        )

    everywhere, split = PartitionSpec(), PartitionSpec("devices")
    return jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(everywhere, split, everywhere, everywhere, everywhere),
        out_specs=split,
        check_vma=False,
    )(model, block, columns, key, span)


def _count_image(
    model: Callable[[Array], Array],
    one: Block,
    columns: Columns,
    key: Key[Array, ""],
    span: Int32[Array, " two"],
    grid: int | None,
    tile: int,
    tiles: int,
) -> Int32[Array, "four columns"]:
    def count(number: Int32[Array, ""]) -> Int32[Array, "four columns"]:
        seen = draw_tile(one, key, number, grid, tile)
        with jax.enable_x64(False) if grid is not None else contextlib.nullcontext():
            logits = model(seen.images)
        return count_tile(one, seen, number, logits, columns, span)

    def step(number: Int32[Array, ""], counts: Int32[Array, "four columns"]) -> Array:
        # Tiles that do not wait for one another: the device may work on them at the same time.
        first = one.begin + number * tiles
        return sum((count(first + i) for i in range(tiles)), counts)

    steps = (one.end - one.begin + tiles - 1) // tiles
    return lax.fori_loop(0, steps, step, jnp.zeros((4, columns.shape[0]), jnp.int32))


class Seen(NamedTuple):
    """What the network sees of a tile's draws, and the ends between which their levels lie."""

    numbers: Int32[Array, " tile"]
    images: Float32[Array, "tile height width channels"]
    smallest_level: Float[Array, " tile"]
    largest_level: Float[Array, " tile"]
    ambiguous: Bool[Array, " tile"]


def draw_tile(
    one: Block, key: Key[Array, ""], number: Int32[Array, ""], grid: int | None, tile: int
) -> Seen:
    """The tile with this number of the draws of one row of a block."""
    image_key = jax.random.fold_in(jax.random.fold_in(key, one.indices), one.streams)
    numbers = number * tile + jnp.arange(tile, dtype=jnp.int32)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(image_key, numbers)
    shape = (len(keys), *one.images.shape)
    if grid is None:
        levels, noise = jax.vmap(one.laws.draw)(keys)
        ambiguous = jnp.zeros(len(keys), bool)
        return Seen(numbers, one.images[None] + noise.reshape(shape), levels, levels, ambiguous)
    assert isinstance(one.laws, RadialLaw)
    drawn = jax.vmap(sound.draw, in_axes=(None, 0, None))(one.laws, keys, grid)
    cells = one.images[None] + drawn.cells.reshape(shape)
    return Seen(
        numbers,
        # In float64, so that it is the float32 next to the quotient, as NumPy's is: a compiler
        # multiplies by 1/grid instead, which is exact enough here and would not be in float32.
        (cells.astype(jnp.float64) / grid).astype(jnp.float32),
        drawn.level * (1.0 - sound.ROUNDING),
        drawn.level * (1.0 + sound.ROUNDING),
        drawn.ambiguous,
    )


@partial(jax.jit, static_argnames=("grid", "tile"))
def drawn(
    one: Block, key: Key[Array, ""], number: Int32[Array, ""], *, grid: int | None, tile: int
) -> Seen:
    """`draw_tile`, compiled by itself."""
    return draw_tile(one, key, number, grid, tile)


def count_tile(
    one: Block,
    seen: Seen,
    number: Int32[Array, ""],
    logits: Float[Array, "tile classes"],
    columns: Columns,
    span: Int32[Array, " two"],
) -> Int32[Array, "four columns"]:
    """What a tile adds to the counts, from the logits of what was seen (`count_block`)."""
    answer = jnp.argmax(logits, axis=-1).astype(jnp.int32)[:, None]
    finite = jnp.all(jnp.isfinite(logits), axis=-1)[:, None]
    ambiguous = seen.ambiguous[:, None]
    counted = (number < one.end) & (seen.numbers >= span[0]) & (seen.numbers < span[1])
    if jnp.issubdtype(columns.dtype, jnp.integer):  # classes
        right = (answer == columns[None, :]) & finite & ~ambiguous
        inside = jnp.broadcast_to(counted[:, None], right.shape)
    else:
        right = (answer == one.labels) & finite & ~ambiguous
        # What lowers the bound: a right answer counts where it is surely inside, a wrong one where
        # it may be.
        level = jnp.where(right, seen.largest_level[:, None], seen.smallest_level[:, None])
        inside = (level <= columns[None, :]) & counted[:, None]
    kinds = [inside, *(inside & each for each in (right, ~finite, ambiguous))]
    return jnp.sum(jnp.stack(kinds), axis=1, dtype=jnp.int32)
