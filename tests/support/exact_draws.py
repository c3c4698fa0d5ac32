"""Sound draws to sixty digits: the function of random bits that `noise.sound` computes in float64.

Written from the definition alone: Box and Muller's transform of uniforms of 64 bits, Marsaglia and
Tsang's level, the scale from (d, k, eta, sigma), in balls (Arb), with no octants and no series.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flint import arb, ctx

from dsrs_jax.noise import RadialLaw

ctx.prec = 220
ATTEMPTS = 100  # at a level; where 70% are rejected, more are needed once in 10^15 draws


class Bits(NamedTuple):
    """The random bits of draws: (draws, ATTEMPTS, 4) of levels, (draws, 2, pairs) of directions."""

    level: np.ndarray
    direction: np.ndarray


@functools.partial(jax.jit, static_argnums=1)
def _bits(keys, pairs):
    def one(key):
        level_key, direction_key = jax.random.split(key)
        tries = jax.vmap(
            lambda i: jax.random.bits(jax.random.fold_in(level_key, i), (4,), "uint64")
        )
        return (
            tries(jnp.arange(ATTEMPTS, dtype=jnp.int32)),
            jax.random.bits(direction_key, (2, pairs), "uint64"),
        )

    return jax.lax.map(one, keys)


def bits_of(law: RadialLaw, keys: jax.Array) -> Bits:
    """The bits of the draws that these keys make; in JAX's 64-bit mode."""
    level, direction = _bits(keys, (law.dimension + 1) // 2)
    return Bits(np.asarray(level), np.asarray(direction))


def uniform(bits: int) -> arb:
    return (arb(int(bits)) + arb(1) / 2) / arb(2) ** 64


def level_of(law: RadialLaw, tries: np.ndarray) -> arb:
    """The level that the attempts' bits give; rejections by the law's cutoff count as others."""
    for four in tries.tolist():
        level = attempted(law, four)
        if level is not None:
            return level
    raise AssertionError("too few attempts")


def attempted(law: RadialLaw, four: list[int]) -> arb | None:
    """The level of one attempt, if it is accepted."""
    shape = (law.dimension - 2 * arb(law.k)) / arb(law.eta)
    small = bool(shape < 1)
    start = shape + small - arb(1) / 3
    # `noise.sound` takes the acceptance from the second number, the angle from the third.
    first, second, third, fourth = four
    deviate = (-2 * uniform(first).log()).sqrt() * (2 * uniform(third)).cos_pi()
    root = 1 + deviate / (9 * start).sqrt()
    if root < 0:
        return None
    v = root**3
    if not uniform(second).log() < deviate**2 / 2 + start * (1 - v + v.log()):
        return None
    level = start * v
    if small:
        level *= uniform(fourth) ** (1 / shape)
    return level if law.cutoff is None or level < law.cutoff else None


def scale_of(law: RadialLaw) -> arb:
    """s, from E|x|^2 = sigma^2 d and the moments of a Gamma law."""
    shape = (law.dimension - 2 * arb(law.k)) / arb(law.eta)
    moment = ((shape + 2 / arb(law.eta)).lgamma() - shape.lgamma()).exp()
    return arb(law.sigma) * (law.dimension / moment).sqrt()


def coordinates_of(
    law: RadialLaw, scale: arb, level: arb, direction: np.ndarray, grid: int
) -> list[arb]:
    """e in steps of the grid: the cosines of all pairs, then the sines."""
    lengths = [(-2 * uniform(bits).log()).sqrt() for bits in direction[0].tolist()]
    angles = [2 * uniform(bits) for bits in direction[1].tolist()]
    first = [r * angle.cos_pi() for r, angle in zip(lengths, angles, strict=True)]
    second = [r * angle.sin_pi() for r, angle in zip(lengths, angles, strict=True)]
    normal = [*first, *second][: law.dimension]
    norm = sum((z * z for z in normal), arb(0)).sqrt()
    factor = scale * level ** (1 / arb(law.eta)) * grid / norm
    return [factor * z for z in normal]
