"""What stands under the integrals of the dual, at given points of the radius (dual.py).

Everything is a function of y = log(rho/s_0): the densities of the laws, their shares in h, the
distance rho* at which p equals h, and the two cosines.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float64

from dsrs_jax.certify.laws import LawArrays
from dsrs_jax.noise.radial import log_level_density

# A density ratio h/p beyond e^(+-1e6) puts rho* out of reach of every law.
_LARGEST_LOG_RATIO = 1e6


def log_densities(laws: LawArrays, y: Float64[Array, " nodes"]) -> Float64[Array, "laws nodes"]:
    """log of the density of y = log rho under each law, as if none had ended at y."""
    return (
        jnp.log(laws.eta)[:, None]
        + log_level_density(laws.shape[:, None], levels(laws, y))
        - laws.log_quantile[:, None]
    )


def levels(laws: LawArrays, y: Float64[Array, " nodes"]) -> Float64[Array, "laws nodes"]:
    return jnp.exp(laws.eta[:, None] * (y[None, :] - laws.offset[:, None]))


class Point(NamedTuple):
    log_density: Float64[Array, "laws nodes"]  # of y = log rho, law by law
    share: Float64[Array, "laws nodes"]  # lambda_j q_j/h
    cosine: Float64[Array, " nodes"]
    shifted_y: Float64[Array, " nodes"]  # log rho*
    shifted_density: Float64[Array, " nodes"]  # f_0(rho*) drho*/dy
    shifted_cosine: Float64[Array, " nodes"]
    cosine_by_log_ratio: Float64[Array, " nodes"]  # dc/dlog(h/p)
    shifted_level: Float64[Array, " nodes"]
    # The two cosines before they are cut to [-1, 1]: how far a point is from the boundary of S.
    uncut: Float64[Array, "cosines nodes"]


def at(
    laws: LawArrays,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    y: Float64[Array, " nodes"],
    present: Bool[Array, "laws nodes"],
) -> Point:
    """Everything that is needed at nodes y; `present`: the laws that have not ended there."""
    level = levels(laws, y)
    whole = log_densities(laws, y)
    base_log_density = whole[0]
    log_density = jnp.where(present, whole, -jnp.inf)
    log_terms = theta[:, None] + (log_density - base_log_density[None, :])
    largest = jnp.max(log_terms, axis=0)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    log_ratio = largest + jnp.log(jnp.sum(jnp.exp(log_terms - largest[None, :]), axis=0))
    log_ratio = jnp.clip(log_ratio, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    share = jnp.exp(log_terms - log_ratio[None, :])

    eta, two_k = laws.eta[0], laws.two_k[0]
    shift = _level_shift(log_ratio, level[0], two_k / eta)  # L
    shifted_level = level[0] * jnp.exp(shift)
    shifted_y = y + shift / eta
    rho = jnp.exp(y)
    shifted_rho = jnp.exp(shifted_y)
    growth = rho * rho * jnp.expm1(2.0 * shift / eta)  # rho*^2 - rho^2
    steepness = two_k + eta * shifted_level  # -dlog p/dlog rho at rho*
    fall = jnp.sum(share * (laws.two_k[:, None] + laws.eta[:, None] * level), axis=0)
    log_shifted = log_level_density(
        jnp.broadcast_to(laws.shape[0], shifted_level.shape), shifted_level
    )
    shifted_density = eta * jnp.exp(log_shifted) * fall / jnp.maximum(steepness, 1e-300)
    uncut = jnp.stack(
        [
            (radius * radius - growth) / (2.0 * rho * radius),
            (-growth - radius * radius) / (2.0 * jnp.maximum(shifted_rho, 1e-300) * radius),
        ]
    )
    cosine, shifted_cosine = jnp.clip(uncut, -1.0, 1.0)
    return Point(
        log_density=log_density,
        share=share,
        cosine=cosine,
        shifted_y=jnp.maximum(shifted_y, -600.0),
        shifted_density=shifted_density,
        shifted_cosine=shifted_cosine,
        # 1e-150: the product with rho must not underflow, in whatever order it is computed.
        cosine_by_log_ratio=shifted_rho
        * shifted_rho
        / (rho * radius * jnp.maximum(steepness, 1e-150)),
        shifted_level=shifted_level,
        uncut=uncut,
    )


def _level_shift(
    log_ratio: Float64[Array, "..."], level: Float64[Array, "..."], k_ratio: Float64[Array, ""]
) -> Float64[Array, "..."]:
    """L with k' L + u (e^L - 1) = -log_ratio, k' = 2k/eta; -inf where h exceeds p everywhere.

    The left side is convex and increasing in L, so Newton's method descends to the root from
    any start to its right; three tangents give such starts. (The Wright omega function gives the
    same root, but L is what the cosines need, to full relative precision near 0.)
    """
    target = -log_ratio
    safe_k = jnp.where(k_ratio > 0.0, k_ratio, 1.0)
    start = jnp.minimum(
        target / (k_ratio + level),
        jnp.where(
            target > 0.0, jnp.log1p(jnp.maximum(target, 0.0) / level), (target + level) / safe_k
        ),
    )

    def newton(_: Array, shift: Array) -> Array:
        grown = level * jnp.exp(shift)
        error = k_ratio * shift + level * jnp.expm1(shift) - target
        return shift - error / (k_ratio + grown)

    root = jax.lax.fori_loop(0, 7, newton, start)
    gaussian = jnp.log1p(jnp.maximum(target / level, -1.0))
    return jnp.where(k_ratio > 0.0, root, gaussian)
