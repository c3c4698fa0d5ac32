"""What the classifier that rounds its input sees of noise at an attacked image, off the grid.

Certificates of sound draws (`noise.sound`) speak of the classifier that rounds its input to a grid,
and of every real perturbation. So an attacked image m/grid + offset, with whole numbers m, keeps
its place between the grid's points: rounded is the sum with the noise, exactly or not at all.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Float64, Key

from dsrs_jax.noise import RadialLaw, sound

# For products and sums of whole, shift and noise, each of at most three roundings of 2^-53.
_SUMS = 2.0**-50


def seen_cells(
    law: RadialLaw,
    key: Key[Array, ""],
    grid: int,
    whole: Float64[Array, " dimension"],
    shift: Float64[Array, " dimension"],
) -> tuple[Float32[Array, " dimension"], Bool[Array, ""]]:
    """What the network sees of one draw, and whether it is ambiguous: may be another.

    Needs JAX's 64-bit mode.

    Args:
        law: its numbers in float64.
        key: of the draw; the noise is the same as `sound.draw` makes of it.
        grid: steps in a unit of pixels.
        whole: the image's cells, whole numbers.
        shift: the perturbation in steps of the grid, to a relative error of 2^-52.
    """
    found = sound.coordinates(law, key, grid)
    noise = jnp.concatenate([found.first, found.second])[: law.dimension]
    exact = whole + shift + noise
    cells = jnp.rint(exact)
    error = sound.ROUNDING / jnp.minimum(1.0, jnp.asarray(law.eta, jnp.float64)) * jnp.abs(noise)
    error += _SUMS * (jnp.abs(whole) + jnp.abs(shift) + jnp.abs(noise))
    # Beyond int32 a cell is no number any more; nor is nan, of which no comparison holds.
    certain = (jnp.abs(exact - cells) + error < 0.5) & (jnp.abs(exact) < 2.0**30)
    # By way of int32, as votes are counted: a float's cell may be -0.
    pixels = (cells.astype(jnp.int32).astype(jnp.float64) / grid).astype(jnp.float32)
    return pixels, found.undecided | ~jnp.all(certain)
