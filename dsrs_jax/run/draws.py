"""Which draws a run makes: sound ones, unless they cannot be had or cost too much."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
from rich.console import Console

from dsrs_jax import data
from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import from_first, together
from dsrs_jax.votes import Sampler, can_be_sound, tile_size

SOUND, FLOAT32 = KINDS = ("sound", "float32")
_MOST = 0.10  # of the time that sampling takes with float32 draws
_TRIALS = 5
_SHORTEST = 0.05  # seconds of a trial


def grid_for_all(
    wanted: str | None,
    earlier: str | None,
    dataset: data.Dataset,
    classifier: BaseClassifier,
    law: RadialLaw,
    *,
    measure: bool,
    first: bool,
    console: Console,
) -> int | None:
    """The grid of sound draws, or None for float32 ones, as process 0 decides for all.

    Args:
        wanted: "sound", "float32", or None where nobody said.
        earlier: which ones the run was begun with.
        dataset, classifier, law: what is sampled.
        measure: whether the run is long enough to find out what sound draws cost; a shorter one
            makes them.
        first: whether this is process 0, which says in a line which ones, and why.
        console: for the line.

    Raises:
        UserError: sound draws are wanted and cannot be had.
    """

    def decide() -> int:
        if not first:
            return 0
        return _grid(wanted or earlier, dataset, classifier, law, measure, console) or 0

    return int(from_first(np.array(together(decide), np.int32))) or None


def _grid(
    kind: str | None,
    dataset: data.Dataset,
    classifier: BaseClassifier,
    law: RadialLaw,
    measure: bool,
    console: Console,
) -> int | None:
    if kind == FLOAT32:
        return None
    problem = "" if can_be_sound() else "this device has no IEEE float64"
    if not problem and dataset.grid is None:
        problem = "the images lie on no grid of 1/(255 * 2^j), j = 0 ... 8"
    if problem and kind == SOUND:
        raise UserError(f"no sound draws: {problem}; use --draws float32")
    if problem:
        console.print(f"Draws: float32, which no proof covers ({problem}).", soft_wrap=True)
        return None
    assert dataset.grid is not None
    cost = ""
    if kind is None and measure:
        share = _cost(classifier, law, dataset.grid, dataset.image_shape)
        cost = f"{100 * share:.1f}% more time than float32"
        if not share < _MOST:
            console.print(
                f"Draws: float32, which no proof covers; --draws sound costs {cost}.",
                soft_wrap=True,
            )
            return None
        cost = f"; they cost {cost}"
    console.print(f"Draws: sound, on a grid of 1/{dataset.grid}{cost}.", soft_wrap=True)
    return dataset.grid


def describe(grid: int | None) -> str:
    """The kind of draws."""
    return FLOAT32 if grid is None else SOUND


def _cost(
    classifier: BaseClassifier, law: RadialLaw, grid: int, image_shape: tuple[int, int, int]
) -> float:
    """How much longer sampling takes with sound draws than with float32 ones, relative."""
    tile = tile_size(math.prod(image_shape), jax.local_devices()[0].platform)
    samplers = Sampler(classifier), Sampler(classifier, grid=grid)

    def seconds(sampler: Sampler, tiles: int) -> float:
        return seconds_of(sampler, law, image_shape, tiles * tile)

    tiles = 1
    for sampler in samplers:
        seconds(sampler, tiles)  # compiles
    while seconds(samplers[0], tiles) < _SHORTEST:
        tiles *= 2
    taken = [[seconds(sampler, tiles) for sampler in samplers] for _ in range(_TRIALS)]
    plain, sound = np.min(taken, axis=0).tolist()
    return float(max(0.0, sound / plain - 1.0))


def seconds_of(
    sampler: Sampler, law: RadialLaw, image_shape: tuple[int, int, int], n: int
) -> float:
    """That n draws of one black image for each device take."""
    images = np.zeros((sampler.devices, *image_shape), np.float32)
    clock = time.perf_counter()
    sampler.start(images, np.zeros(len(images), np.int32), law, n).result()
    return time.perf_counter() - clock
