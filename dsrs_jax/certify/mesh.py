"""Where the panels of the dual's integrals lie, for each instance where its integrands change."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64

from dsrs_jax.certify import integrand
from dsrs_jax.certify.laws import REACH, LawArrays
from dsrs_jax.noise.radial import excess

# Beyond this many standard deviations the cosine law is a step to double precision.
COSINE_REACH = 9.0
_ASIDE = 1e-13  # in y


class Resolution(NamedTuple):
    """How finely the integrals are cut: panels, nodes in each, and rounds of mesh refinement."""

    panels: int
    order: int
    rounds: int


def panel_edges(
    laws: LawArrays,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    resolution: Resolution,
) -> Float64[Array, " edges"]:
    """Panel edges in y that share out the variation of everything in the integrands.

    The coordinates followed are each law's density (as its normal deviate), the shifted law's, the
    two cosines (in standard deviations of the cosine law) and the shares of the laws in h. Each
    round lays a grid that gives equal parts of their total variation to every cell, so a layer
    that one grid cell hides is found by the next round.
    """
    grid = laws.grid
    count = max(48, 2 * resolution.panels)
    # On either side of where a law ends: what jumps there is no layer that panels could follow.
    ends = jnp.concatenate([laws.edge[1:], laws.edge[1:] + _ASIDE])
    for round_ in range(resolution.rounds):
        grid = jnp.sort(jnp.concatenate([grid, jnp.clip(ends, grid[0], grid[-1])]))
        last = round_ == resolution.rounds - 1
        grid = _redistribute(
            grid,
            _coordinates(laws, theta, radius, grid),
            resolution.panels + 1 if last else count,
        )
    # A law without an end adds an empty panel at the end of all.
    extra = [laws.edge[1:]]
    if laws.cosine.small is not None:
        corners = _tangency(laws, theta, radius)
        around = jnp.asarray(_around_corner(laws.cosine.small))
        extra.append((corners[:, None] + around[None, :]).reshape(-1))
    inside = jnp.clip(jnp.concatenate(extra), grid[0], grid[-1])
    return jnp.sort(jnp.concatenate([grid, inside]))


def _coordinates(
    laws: LawArrays, theta: Array, radius: Array, y: Float64[Array, " points"]
) -> Float64[Array, "coordinates points"]:
    point = integrand.at(laws, theta, radius, y, y[None, :] <= laws.edge[:, None])
    # In a small dimension all of [-1, 1] is followed as closely as the reach of a large one's.
    root_d = jnp.maximum(jnp.sqrt(laws.cosine.dimension), COSINE_REACH)
    level = integrand.levels(laws, y)
    densities = _deviate(laws.shape[:, None], level)
    shifted = _deviate(laws.shape[0], point.shifted_level)
    cosines = jnp.stack([point.cosine, point.shifted_cosine]) * root_d
    return jnp.concatenate(
        [
            densities,
            shifted[None, :],
            jnp.clip(cosines, -COSINE_REACH, COSINE_REACH),
            6.0 * point.share,
        ]
    )


def _deviate(shape: Array, level: Array) -> Float64[Array, "..."]:
    """A level's distance from its law's mode in standard deviations, as its density sees it."""
    root = jnp.sqrt(2.0 * shape * jnp.maximum(excess(shape, level), 0.0))
    return jnp.clip(jnp.sign(level - shape) * root, -REACH, REACH)


def _redistribute(
    grid: Float64[Array, " points"], coordinates: Float64[Array, "coordinates points"], count: int
) -> Float64[Array, " count"]:
    steps = jnp.abs(jnp.diff(coordinates, axis=-1))
    width = jnp.diff(grid)
    wide = (width > 2.0 * _ASIDE)[None, :]
    steps = jnp.where(jnp.isfinite(steps) & wide, steps, 0.0)
    variation = jnp.sum(steps, axis=0)
    # A floor keeps every stretch of the range covered even where nothing seems to change.
    variation = variation + 0.02 * jnp.sum(variation) * width / (grid[-1] - grid[0])
    total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(variation)])
    targets = jnp.linspace(0.0, 1.0, count) * total[-1]
    return jnp.interp(targets, total, grid)


def _around_corner(dimension: int) -> np.ndarray:
    """Where panels end near a corner: below dimension 8 it needs panels that shrink towards it."""
    if dimension >= 8:
        return np.zeros(1)
    steps = 10.0 ** np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -8.0])
    return np.concatenate([-steps, [0.0], steps[::-1]])


def _tangency(laws: LawArrays, theta: Array, radius: Array) -> Float64[Array, " two"]:
    """The points where |c| reaches 1, at which the cosine law of a small dimension has a corner."""
    count = 64
    y = jnp.linspace(laws.grid[0], laws.grid[-1], count)

    def beyond(points: Array) -> Array:
        present = points[None, :] <= laws.edge[:, None]
        # Where the shifted centre lies on the boundary of S, |c| leaves 1 only to second order on
        # one side: without this margin rounding would hide the corner within 1e-8.
        c = integrand.at(laws, theta, radius, points, present).cosine
        return jnp.abs(c) >= 1.0 - 2e-15

    crossing = beyond(y)[1:] != beyond(y)[:-1]
    first = jnp.argmax(crossing)
    last = count - 2 - jnp.argmax(crossing[::-1])
    low = jnp.stack([y[first], y[last]])
    high = jnp.stack([y[first + 1], y[last + 1]])
    at_low = beyond(low)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        same = beyond(middle) == at_low
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    low, high = jax.lax.fori_loop(0, 52, halve, (low, high))
    return high


def cut(
    edges: Float64[Array, " edges"], halved: Bool[Array, ""] | None
) -> Float64[Array, " panels"]:
    """Panels cut in two, or (for one compiled function) followed each by an empty one."""
    if halved is None:
        return edges
    between = jnp.where(halved, 0.5 * (edges[1:] + edges[:-1]), edges[:-1])
    both = jnp.stack([edges[:-1], between], axis=1).reshape(-1)
    return jnp.concatenate([both, edges[-1:]])
