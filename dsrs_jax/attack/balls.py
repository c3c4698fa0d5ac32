"""The balls that perturbations lie in: l2 and l-infinity.

An offset is a float32 (H, W, C) image, what an attack adds to one; a radius is in units of a
pixel's range [0, 1]. Compiled functions take several offsets, each with a radius of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key

L2, LINF = NORMS = ("l2", "linf")
Offsets = Float[Array, "images height width channels"]
Radii = Float[Array, " images"]


def within(norm: str, offsets: Offsets, radii: Radii) -> Offsets:
    """The nearest offsets in the balls; what lies inside stays where it is.

    A norm is at most radius (1 + 2e-7): lengths are summed in float64, since a float32 sum of
    784 equal squares is off by 1e-5 already.
    """
    if norm == LINF:
        ends = jnp.broadcast_to(_of_images(radii), offsets.shape)
        return jnp.clip(offsets, -ends, ends)
    with jax.enable_x64(True):
        lengths = _lengths(offsets)
        shorter = _of_images(radii).astype(jnp.float64) / jnp.maximum(lengths, _TINY)
        scale = jnp.minimum(1.0, shorter).astype(offsets.dtype)
    return offsets * scale


def steepest(norm: str, gradients: Offsets) -> tuple[Offsets, Bool[Array, " images"]]:
    """The steps of norm 1 along which a loss grows fastest, and whether there are any.

    For l2 the gradient's direction, for l-infinity its signs. A gradient that is zero, or has a
    value that is not finite, has none: its step is zero.
    """
    finite = jnp.all(jnp.isfinite(gradients), axis=(1, 2, 3))
    there = finite & jnp.any(gradients != 0.0, axis=(1, 2, 3))
    known = jnp.where(_of_images(there), gradients, jnp.zeros_like(gradients))
    if norm == LINF:
        return jnp.sign(known), there
    with jax.enable_x64(True):
        scale = (1.0 / jnp.maximum(_lengths(known), _TINY)).astype(known.dtype)
    return known * scale, there


def uniform(
    norm: str, key: Key[Array, ""], shape: tuple[int, ...], radius: Float[Array, ""]
) -> Float32[Array, "height width channels"]:
    """One offset, uniformly distributed in the ball.

    For l2 its direction is that of a normal vector and its length radius U^(1/d); for l-infinity
    each value is uniform, since that ball is a cube.
    """
    if norm == LINF:
        return radius * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
    direction_key, length_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, shape, jnp.float32)
    # From (0, 1], whose logarithm is finite.
    share = 1.0 - jax.random.uniform(length_key, (), jnp.float32)
    length = radius * jnp.exp(jnp.log(share) / direction.size)
    return direction * (length * jax.lax.rsqrt(jnp.sum(direction * direction)))


def distance(norm: str, one: np.ndarray, other: np.ndarray) -> float:
    """Between two images, in float64."""
    difference = one.astype(np.float64) - other.astype(np.float64)
    if norm == LINF:
        return float(np.max(np.abs(difference)))
    return float(np.linalg.norm(difference.ravel()))


def exactly_within(norm: str, image: np.ndarray, offset: np.ndarray, radius: float) -> np.ndarray:
    """The float32 image + offset, moved back towards the image where rounding took it too far.

    Its distance from the image, computed in float64, is at most `radius`.
    """
    moved = image + offset
    shorter = 1.0
    while distance(norm, moved, image) > radius:
        if norm == LINF:
            far = np.abs(moved.astype(np.float64) - image.astype(np.float64)) > radius
            moved = np.where(far, np.nextafter(moved, image), moved)
        else:
            shorter *= radius / distance(norm, moved, image) * (1.0 - 1e-7)
            moved = (image.astype(np.float64) + shorter * offset.astype(np.float64)).astype(
                np.float32
            )
    return moved


_TINY = 1e-38  # about the smallest length of which float32 holds the inverse


def _lengths(offsets: Offsets) -> Float[Array, "images 1 1 1"]:
    """l2 norms in float64, inside JAX's 64-bit mode."""
    wide = offsets.astype(jnp.float64)
    return jnp.sqrt(jnp.sum(wide * wide, axis=(1, 2, 3), keepdims=True))


def _of_images(values: Array) -> Array:
    return values[:, None, None, None]
