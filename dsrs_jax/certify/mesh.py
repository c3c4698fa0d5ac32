"""Where the panels of the dual's integrals lie, for each instance where its integrands change."""

from __future__ import annotations

import math
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
_FARTHEST = 1e6  # in standard deviations of the cosine law


class Resolution(NamedTuple):
    """How finely the integrals are cut.

    Attributes:
        panels: at least so many.
        order: nodes in each.
        rounds: of mesh refinement.
        corners: of a small dimension's integrands that are looked for.
        grading: panels shrink towards a layer by this weight of the distance's logarithm; 0 finds
            the layer but may leave its foot to a wide panel.
    """

    panels: int
    order: int
    rounds: int
    corners: int
    grading: float


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
        found = grid
        grid = _redistribute(
            grid,
            *_coordinates(laws, theta, radius, grid, resolution.grading),
            resolution.panels + 1 if last else count,
        )
    # A law without an end adds an empty panel at the end of all.
    extra = [laws.edge[1:]]
    if laws.cosine.small is not None:
        corners = _tangency(laws, theta, radius, found, resolution.corners)
        around = jnp.asarray(around_corner(laws.cosine.small))
        extra.append((corners[:, None] + around[None, :]).reshape(-1))
    inside = jnp.clip(jnp.concatenate(extra), grid[0], grid[-1])
    return jnp.sort(jnp.concatenate([grid, inside]))


def _coordinates(
    laws: LawArrays, theta: Array, radius: Array, y: Float64[Array, " points"], grading: float
) -> tuple[Float64[Array, "coordinates points"], Float64[Array, " points"]]:
    point = integrand.at(laws, theta, radius, y, y[None, :] <= laws.edge[:, None])
    # In a small dimension all of [-1, 1] is followed as closely as the reach of a large one's.
    root_d = jnp.maximum(jnp.sqrt(laws.cosine.dimension), COSINE_REACH)
    level = integrand.levels(laws, y)
    densities = _deviate(laws.shape[:, None], level)
    shifted = _deviate(laws.shape[0], point.shifted_level)
    return jnp.concatenate(
        [densities, shifted[None, :], _graded(point.uncut * root_d, grading), 6.0 * point.share]
    ), _importance(theta, point)


def _importance(theta: Array, point: integrand.Point) -> Float64[Array, " points"]:
    """1 where the integrands are largest, a twentieth less for each factor of 10, down to 0.1."""
    log_mass = jnp.max(theta[:, None] + point.log_density, axis=0)
    log_mass = jnp.maximum(log_mass, jnp.log(jnp.maximum(point.shifted_density, 1e-300)))
    return jnp.clip(1.0 + (log_mass - jnp.max(log_mass)) / (20.0 * math.log(10.0)), 0.1, 1.0)


def _graded(cosine: Float64[Array, "..."], grading: float) -> Float64[Array, "..."]:
    """Cosines in standard deviations, and by their logarithm where the cosine law has ended.

    The panels beside a layer then shrink towards it: a wide panel that holds the layer's foot in
    a corner would miss it, and so would its halves.
    """
    size = jnp.clip(jnp.abs(cosine), 0.0, _FARTHEST)
    far = COSINE_REACH + grading * jnp.log(jnp.maximum(size, COSINE_REACH) / COSINE_REACH)
    return jnp.sign(cosine) * jnp.where(size > COSINE_REACH, far, size)


def _deviate(shape: Array, level: Array) -> Float64[Array, "..."]:
    """A level's distance from its law's mode in standard deviations, as its density sees it."""
    root = jnp.sqrt(2.0 * shape * jnp.maximum(excess(shape, level), 0.0))
    return jnp.clip(jnp.sign(level - shape) * root, -REACH, REACH)


def _redistribute(
    grid: Float64[Array, " points"],
    coordinates: Float64[Array, "coordinates points"],
    importance: Float64[Array, " points"],
    count: int,
) -> Float64[Array, " count"]:
    steps = jnp.abs(jnp.diff(coordinates, axis=-1))
    width = jnp.diff(grid)
    wide = (width > 2.0 * _ASIDE)[None, :]
    steps = jnp.where(jnp.isfinite(steps) & wide, steps, 0.0)
    variation = jnp.sum(steps, axis=0) * jnp.maximum(importance[1:], importance[:-1])
    # A floor keeps every stretch of the range covered even where nothing seems to change.
    variation = variation + 0.02 * jnp.sum(variation) * width / (grid[-1] - grid[0])
    total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(variation)])
    targets = jnp.linspace(0.0, 1.0, count) * total[-1]
    return jnp.interp(targets, total, grid)


def around_corner(dimension: int) -> np.ndarray:
    """Where panels end beside a corner: under dimension 8 it needs panels that shrink towards it.

    Returns:
        Distances in y, in ascending order, 0 for the corner itself.
    """
    if dimension >= 8:
        return np.zeros(1)
    steps = 0.15 ** np.arange(1.0, 10.0)
    return np.concatenate([-steps, [0.0], steps[::-1]])


def _tangency(
    laws: LawArrays,
    theta: Array,
    radius: Array,
    grid: Float64[Array, " points"],
    count: int,
) -> Float64[Array, " corners"]:
    """Where c reaches 1 or -1, or rho* 0: the corners of a small dimension's integrands.

    The first `count` between points of a grid that has found the layers; for 1 and -1 separately,
    since c may go from one to the other between two points. Where there are fewer, the lower end.
    """

    def beyond(points: Array) -> Bool[Array, "kinds points"]:
        present = points[None, :] <= laws.edge[:, None]
        # Where the shifted centre lies on the boundary of S, |c| leaves 1 only to second order on
        # one side: without this margin rounding would hide the corner within 1e-8.
        point = integrand.at(laws, theta, radius, points, present)
        c, nearly = point.cosine, 1.0 - 2e-15
        return jnp.stack([c >= nearly, c <= -nearly, point.shifted_level <= 0.0])

    known = beyond(grid)
    crossing = known[:, 1:] != known[:, :-1]
    kind, cell = jnp.nonzero(crossing, size=count, fill_value=0)
    low, high = grid[cell], grid[cell + 1]
    column = jnp.arange(count)
    at_low = beyond(low)[kind, column]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        same = beyond(middle)[kind, column] == at_low
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    low, high = jax.lax.fori_loop(0, 52, halve, (low, high))
    return jnp.where(crossing[kind, cell], high, grid[0])


def cut(
    edges: Float64[Array, " edges"], halved: Bool[Array, ""] | None
) -> Float64[Array, " panels"]:
    """Panels cut in two, or (for one compiled function) followed each by an empty one."""
    if halved is None:
        return edges
    between = jnp.where(halved, 0.5 * (edges[1:] + edges[:-1]), edges[:-1])
    both = jnp.stack([edges[:-1], between], axis=1).reshape(-1)
    return jnp.concatenate([both, edges[-1:]])
