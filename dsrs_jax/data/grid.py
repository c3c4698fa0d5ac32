"""Grids on which images lie: whole multiples of 1/255, or of a finer step.

Sound draws (`noise.sound`) add whole numbers to an image, so its values must be whole numbers, too.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32

from dsrs_jax.system.errors import UserError

EIGHT_BITS = 255
_FINEST = 8  # of the grids 255 * 2^j


def grid_of(images: Float32[np.ndarray, "*shape"]) -> int | None:
    """The coarsest of the grids 255 * 2^j, j = 0 ... 8, that holds all images; None: none does."""
    for power in range(_FINEST + 1):
        grid = EIGHT_BITS << power
        if _lies_on(images, grid):
            return grid
    return None


def cells_of(images: Float32[np.ndarray, "*shape"], grid: int) -> Int32[np.ndarray, "*shape"]:
    """The images in steps of 1/grid.

    Raises:
        UserError: a value is no multiple of it.
    """
    if not _lies_on(images, grid):
        raise UserError(
            f"an image has values that are no multiples of 1/{grid}, as sound draws need them: "
            "round the images, or use --draws float32"
        )
    return _nearest(images, grid)


def _lies_on(images: np.ndarray, grid: int) -> bool:
    # As a network sees a cell: the float32 next to the quotient. Beyond 2^24 cells these are no
    # longer told apart, and nan is no number of cells.
    if not np.all(np.abs(images) < 2.0**24 / grid):
        return False
    return bool(np.all(_nearest(images, grid).astype(np.float32) / np.float32(grid) == images))


def _nearest(images: np.ndarray, grid: int) -> np.ndarray:
    return np.rint(images.astype(np.float64) * grid).astype(np.int32)
