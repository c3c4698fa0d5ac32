"""Which draws a run makes: sound ones, but where float32 ones are asked for."""

from __future__ import annotations

from dsrs_jax import data
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import can_be_sound

SOUND, FLOAT32 = KINDS = ("sound", "float32")


def grid_of(kind: str, dataset: data.Dataset) -> int | None:
    """The grid of sound draws, or None for float32 ones, which no proof covers.

    Raises:
        UserError: sound draws are asked for and cannot be had.
    """
    if kind == FLOAT32:
        return None
    problem = "" if can_be_sound() else "this device has no IEEE float64"
    if not problem and dataset.grid is None:
        problem = "the images lie on no grid of 1/(255 * 2^j), j = 0 ... 8"
    if problem:
        raise UserError(
            f"no sound draws: {problem}; float32 ones can be had, which no proof covers: --draws "
            "float32, or draws='float32' in Python"
        )
    return dataset.grid


def describe(grid: int | None) -> str:
    """The kind of draws."""
    return FLOAT32 if grid is None else SOUND
