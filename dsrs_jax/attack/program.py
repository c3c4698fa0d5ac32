"""The compiled loop: many images under attack at once, each at its own step.

A draw is a function of (seed, what it is for, dataset index, budget, start, step, draw number)
alone, and noise and forward passes run on tiles of one shape (votes/kernel.py says why): what
becomes of an image depends neither on the images beside it nor on the number of devices, and an
attack that was interrupted ends as one that was not.

Gradients are taken under float32 draws, image plus noise both rounded: they only search. What is
counted, by checks and fresh draws, is counted of the classifier that certificates speak of: with a
grid the draws are sound ones (`attack.cells`), and everything but them is traced in JAX's 32-bit
mode.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt32

from dsrs_jax.attack import balls
from dsrs_jax.attack.cells import seen_cells
from dsrs_jax.attack.gradient import LOSSES, MEAN_SOFTMAX, Tile, ascent
from dsrs_jax.noise import Law, RadialLaw
from dsrs_jax.system.errors import UserError

if TYPE_CHECKING:
    _Leaf = Any
else:
    _Leaf = Array | np.ndarray  # on the way to the devices

# What draws are for: each has streams of its own.
GRADIENT, CHECK, START, CLEAN, RECHECK = range(5)


@dataclasses.dataclass(frozen=True)
class Attack:
    """How an image is attacked.

    Attributes:
        norm: of the ball, one of `balls.NORMS`.
        steps: at most, from one start.
        samples: draws of a step's gradient.
        votes: draws of the check after each step, and of the one without a perturbation.
        step_size: length of a step, in parts of the ball's radius.
        random_starts: how many; 0: one, from the image itself.
        loss: whose gradient, one of `gradient.LOSSES`.
        fixed_draws: whether all steps of an image have the gradient's draws in common.
        clip: whether attacked images stay in [0, 1].
        recheck: fresh draws that must confirm what a check found; 0: it stands as it is.
        alpha: probability, at most, that an image is called broken, or wrong without a
            perturbation, by fresh draws and is not; over all checks that they look into.

    Raises:
        UserError: a value outside its domain.
    """

    norm: str = balls.L2
    steps: int = 200
    samples: int = 100
    votes: int = 100
    step_size: float = 0.01
    random_starts: int = 0
    loss: str = MEAN_SOFTMAX
    fixed_draws: bool = False
    clip: bool = False
    recheck: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        for value, known in ((self.norm, balls.NORMS), (self.loss, LOSSES)):
            if value not in known:
                raise UserError(f"unknown {value!r}; known: {', '.join(known)}")
        for name in ("steps", "samples", "votes", "random_starts", "recheck"):
            value, least = getattr(self, name), 0 if name in ("random_starts", "recheck") else 1
            if not least <= value < 2**31:
                raise UserError(f"{name} must be a whole number of at least {least}, got {value}")
        if not (self.step_size > 0.0 and math.isfinite(self.step_size)):
            raise UserError(f"step_size must be positive and finite, got {self.step_size:g}")
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"alpha must lie in (0, 1), got {self.alpha:g}")

    def tiling(self, most: int) -> tuple[int, int, int]:
        """(images in a group, draws in a tile of the gradient's, and of the check's).

        A forward pass has at most `most` images: all draws of a group, or a part of one image's.
        """
        gradient, check = (-(-n // -(-n // most)) for n in (self.samples, self.votes))
        return max(1, most // max(gradient, check)), gradient, check


class Rows(NamedTuple):
    """Attacks that run at the same time: of an image, with a budget (`budget_of`), from a start."""

    images: Float32[_Leaf, "rows height width channels"]
    labels: Int32[_Leaf, " rows"]
    indices: UInt32[_Leaf, " rows"]
    budgets: UInt32[_Leaf, " rows"]
    starts: UInt32[_Leaf, " rows"]
    radii: Float32[_Leaf, " rows"]


class Course(NamedTuple):
    """How far each is.

    Attributes:
        offsets: what is added to the images.
        steps: taken from this start.
        idle: how many of them found no gradient.
        lost: whether the last check gave another answer more votes than the label.
        active: whether it goes on.
    """

    offsets: Float32[_Leaf, "rows height width channels"]
    steps: Int32[_Leaf, " rows"]
    idle: Int32[_Leaf, " rows"]
    lost: Bool[_Leaf, " rows"]
    active: Bool[_Leaf, " rows"]


def budget_of(norm: str, radius: float) -> int:
    """The number that tells a ball's draws from those of every other one (32 bits of a hash)."""
    return int.from_bytes(hashlib.sha256(f"{norm} {radius!r}".encode()).digest()[:4], "little")


@partial(jax.jit, static_argnames=("attack", "grid", "most", "longest", "mesh"))
def advance(
    model: Callable[[Array], Array],
    law: Law,
    key: Key[Array, ""],
    rows: Rows,
    course: Course,
    *,
    attack: Attack,
    grid: int | None,
    most: int,
    longest: int,
    mesh: Mesh,
) -> Course:
    """Up to `longest` steps of each active row: a group (`Attack.tiling`, with `most`) a device.

    A single step is compiled without a loop (`gradient.ascent` says why).
    """
    one_device = partial(_advance_group, attack=attack, grid=grid, most=most, longest=longest)
    return _on_each_device(one_device, mesh)(model, law, key, rows, course)


@partial(jax.jit, static_argnames=("grid", "tile", "mesh"))
def count_classes(
    model: Callable[[Array], Array],
    law: Law,
    key: Key[Array, ""],
    rows: Rows,
    looked_at: tuple[Float32[Array, "rows height width channels"], Int32[Array, " rows"]],
    purpose: UInt32[Array, ""],
    draws: Int32[Array, ""],
    *,
    grid: int | None,
    tile: int,
    mesh: Mesh,
) -> Int32[Array, "rows answers"]:
    """Votes for each answer (`_votes`) in draws of each row, one row after the other on a device.

    They are votes at the attacked images `looked_at[0]`, found in the steps `looked_at[1]`.
    """

    def one_device(model: Any, law: Law, key: Array, rows: Rows, looked_at: Any) -> Array:
        def count(one: tuple[Rows, tuple[Array, Array]]) -> Array:
            # A group of one image.
            row, (attacked, step) = jax.tree.map(lambda leaf: leaf[None], one)
            keys = _keys(key, purpose, row, step)
            return _votes(model, law, row, attacked, keys, grid, tile, draws)[0]

        return lax.map(count, (rows, looked_at))

    return _on_each_device(one_device, mesh)(model, law, key, rows, looked_at)


def _on_each_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A function of (model, law, key, rows, more of each row), each device with its own rows."""

    def in_32_bits(*arguments: Any) -> Any:
        with jax.enable_x64(False):
            return function(*arguments)

    everywhere, split = PartitionSpec(), PartitionSpec("devices")
    return jax.shard_map(
        in_32_bits,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, split, split),
        out_specs=split,
        check_vma=False,
    )


def _advance_group(
    model: Callable[[Array], Array],
    law: Law,
    key: Key[Array, ""],
    rows: Rows,
    course: Course,
    *,
    attack: Attack,
    grid: int | None,
    most: int,
    longest: int,
) -> Course:
    _, gradient_tile, check_tile = attack.tiling(most)
    none = jnp.zeros_like(course.steps)
    lengths = np.float32(attack.step_size) * rows.radii

    def placed(offsets: Array) -> Array:
        """In the ball, and among images where that is asked for."""
        inside = balls.within(attack.norm, offsets, rows.radii)
        return jnp.clip(rows.images + inside, 0.0, 1.0) - rows.images if attack.clip else inside

    if attack.random_starts:
        keys = _keys(key, np.uint32(START), rows, none)
        draw = partial(balls.uniform, attack.norm, shape=rows.images.shape[1:])
        begun = placed(jax.vmap(lambda one, radius: draw(one, radius=radius))(keys, rows.radii))
        fresh = (course.steps == 0)[:, None, None, None]
        course = course._replace(offsets=jnp.where(fresh, begun, course.offsets))

    def any_active(state: tuple[Array, Course]) -> Array:
        return (state[0] < longest) & jnp.any(state[1].active)

    def step(state: tuple[Array, Course]) -> tuple[Array, Course]:
        number, now = state
        here = rows.images + now.offsets
        keys = _keys(key, np.uint32(GRADIENT), rows, none if attack.fixed_draws else now.steps)
        found = ascent(
            model, here, rows.labels,
            lambda tile: _noise(
                law, keys, here.shape, tile, gradient_tile, np.int32(attack.samples)
            ),
            -(-attack.samples // gradient_tile), attack.loss, unroll=longest == 1,
        )  # fmt: skip
        direction, there = balls.steepest(attack.norm, found.direction)
        moved = placed(now.offsets + lengths[:, None, None, None] * direction)
        votes = _votes(
            model, law, rows, rows.images + moved, _keys(key, np.uint32(CHECK), rows, now.steps),
            grid, check_tile, np.int32(attack.votes),
        )  # fmt: skip
        own = jnp.take_along_axis(votes, rows.labels[:, None], axis=1)[:, 0]
        lost = jnp.max(votes, axis=1) > own  # an even vote leaves the label where it is
        idle = now.idle + (~there).astype(jnp.int32)
        goes_on = ~lost & (now.steps + 1 < attack.steps)
        after = Course(moved, now.steps + 1, idle, lost, goes_on)
        kept = jax.tree.map(
            lambda new, old: jnp.where(now.active.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            after,
            now,
        )
        return number + 1, kept

    begin = (jnp.int32(0), course)
    return (step(begin) if longest == 1 else lax.while_loop(any_active, step, begin))[1]


def _keys(
    key: Key[Array, ""], purpose: UInt32[_Leaf, ""] | np.uint32, rows: Rows, steps: Array
) -> Key[Array, " images"]:
    """The key of each row's draws at a step."""
    own = jax.random.fold_in(key, purpose)

    def fold(*numbers: Array) -> Array:
        found = own
        for number in numbers:
            found = jax.random.fold_in(found, number)
        return found

    return jax.vmap(fold)(rows.indices, rows.budgets, rows.starts, steps)


def _keys_of_tile(
    keys: Key[Array, " images"], number: Int32[Array, ""], tile: int
) -> tuple[Int32[Array, " tile"], Key[Array, "images tile"]]:
    """The numbers of a tile's draws, and the key of each one of each image."""
    numbers = number * tile + jnp.arange(tile, dtype=jnp.int32)
    return numbers, jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, numbers)


def _noise(
    law: Law,
    keys: Key[Array, " images"],
    shape: tuple[int, ...],
    number: Int32[Array, ""],
    tile: int,
    draws: Int32[_Leaf, ""] | np.int32,
) -> Tile:
    """The tile with this number of each image's draws, and which of them are among the draws."""
    numbers, own = _keys_of_tile(keys, number, tile)
    law = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), law)
    noise = jax.vmap(jax.vmap(lambda key: law.draw(key)[1]))(own)
    return noise.reshape(shape[0], tile, *shape[1:]), numbers < draws


def _votes(
    model: Callable[[Array], Array],
    law: Law,
    rows: Rows,
    attacked: Float32[Array, "images height width channels"],
    keys: Key[Array, " images"],
    grid: int | None,
    tile: int,
    draws: Int32[_Leaf, ""] | np.int32,
) -> Int32[Array, "images answers"]:
    """Votes for each class and, last, for none: of draws whose logits are not all finite.

    An ambiguous draw, which may be another, votes for the label: nothing is broken by it.
    """
    seen = jax.ShapeDtypeStruct((len(attacked) * tile, *attacked.shape[1:]), attacked.dtype)
    classes = jax.eval_shape(model, seen).shape[-1]

    def count(number: Int32[Array, ""], counts: Array) -> Array:
        if grid is None:
            noise, counted = _noise(law, keys, attacked.shape, number, tile, draws)
            noisy, ambiguous = attacked[:, None] + noise, jnp.zeros(noise.shape[:2], bool)
        else:
            noisy, ambiguous, counted = _cells(
                law, rows.images, attacked, keys, grid, number, tile, draws
            )
        logits = model(noisy.reshape(-1, *noisy.shape[2:])).reshape(*noisy.shape[:2], -1)
        finite = jnp.all(jnp.isfinite(logits), axis=-1)
        answers = jnp.where(finite, jnp.argmax(logits, axis=-1).astype(jnp.int32), classes)
        answers = jnp.where(ambiguous, rows.labels[:, None], answers)[..., None]
        each = answers == jnp.arange(classes + 1, dtype=jnp.int32)[None, None]
        return counts + jnp.sum(each & counted[None, :, None], axis=1, dtype=jnp.int32)

    none = jnp.zeros((len(attacked), classes + 1), jnp.int32)
    return lax.fori_loop(0, (draws + tile - 1) // tile, count, none)


def _cells(
    law: Law,
    images: Float32[Array, "images height width channels"],
    attacked: Float32[Array, "images height width channels"],
    keys: Key[Array, " images"],
    grid: int,
    number: Int32[Array, ""],
    tile: int,
    draws: Int32[_Leaf, ""] | np.int32,
) -> tuple[
    Float32[Array, "images tile height width channels"], Bool[Array, "images tile"],
    Bool[Array, " tile"],
]:  # fmt: skip
    """As `_noise`, what is seen of sound draws: images of cells, and which are ambiguous."""
    assert isinstance(law, RadialLaw)
    numbers, own = _keys_of_tile(keys, number, tile)
    with jax.enable_x64(True):
        flat = (len(images), law.dimension)
        wide = images.astype(jnp.float64)
        shifts = (attacked.astype(jnp.float64) - wide) * grid
        wholes = jnp.rint(wide * grid)
        of_image = jax.vmap(partial(seen_cells, law), in_axes=(0, None, None, None))
        seen, ambiguous = jax.vmap(of_image, in_axes=(0, None, 0, 0))(
            own, grid, wholes.reshape(flat), shifts.reshape(flat)
        )
    return seen.reshape(len(images), tile, *images.shape[1:]), ambiguous, numbers < draws
