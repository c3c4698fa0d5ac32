"""One evaluation of the dual: the function whose value above 1/2 certifies a radius.

Let P be moved by a vector of length r, and let bounds p_j <= P(f right under law j) hold for the
laws Q_0 = P, Q_1, ..., Q_J. For every multiplier vector lambda >= 0 (weak duality; J = 0 is
Neyman-Pearson, J = 1 is DSRS: Li et al., ICML 2022, section 5)

    P_moved(f right) >= g(lambda; r) = sum_j lambda_j p_j - integral (h - p_moved)_+ dx,
                        h = sum_j lambda_j q_j.

With S = {x: p_moved(x) < h(|x|)} this is

    g = sum_j lambda_j [Q_j(not S) - (1 - p_j)] + P_moved(S).

Writing it with the complement of S keeps its relative precision when the bounds are near 1 and
the multipliers are large.

**The integrals.** On the sphere |x| = rho a point lies in S iff its distance from the moved
centre exceeds rho*, where p(rho*) = h(rho). With L = log(u*/u), u and u* the levels of rho and
rho* under P, L solves

    (2k/eta) L + u (e^L - 1) = -log(h/p)

and the point lies in S iff its cosine with the axis is below c; with the integration variable
of the moved mass changed from the distance to rho,

    Q_j(not S) = int f_j(rho) P(cosine > c) drho,
                                                  c  = (r^2 - rho^2 (e^(2L/eta) - 1))/(2 rho r),
    P_moved(S) = int f_0(rho*) rho*'(rho) P(cosine < c~) drho,
                                                  c~ = (-rho^2 (e^(2L/eta) - 1) - r^2)/(2 rho* r).

Where a truncated law ends, rho* jumps, and P_moved(S) gains the piece of `_jump`.

Everything is computed in the variable y = log(rho/s_0) with r in units of s_0 (the scale of P),
by Gauss-Legendre panels that are laid, for each instance, where the integrands change.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64

from dsrs_jax.certify import cosine
from dsrs_jax.noise.radial import RadialLaw, excess, log_level_density

# Densities are followed to this many standard deviations: e^(-12^2/2) is 5e-32.
_REACH = 12.0
# Beyond this many standard deviations the cosine law is a step to double precision.
_COSINE_REACH = 9.0
# A density ratio h/p beyond e^(+-1e6) puts rho* out of reach of every law.
_LARGEST_LOG_RATIO = 1e6
_BASE_POINTS = 17
_BASE_MARKS = np.array([-9.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 9.0])
# Levels below e^-600 are taken for that: only shapes under 0.1 reach them.
_SMALLEST_LOG_LEVEL = -600.0

if TYPE_CHECKING:
    _Leaf = Array
else:
    _Leaf = Array | np.ndarray  # families are stacked on the host


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Family:
    """The laws Q_0 = P, Q_1 ... Q_J of a certificate, in units of the scale of P.

    Built by `family_of` on the host, in float64. All arrays but the last two have one entry a law;
    families of many instances are stacked into one with leading axes.
    """

    shape: Float64[_Leaf, "*rows laws"]
    eta: Float64[_Leaf, "*rows laws"]
    two_k: Float64[_Leaf, "*rows laws"]
    offset: Float64[_Leaf, "*rows laws"]  # log(s_j/s_0)
    log_quantile: Float64[_Leaf, "*rows laws"]
    edge: Float64[_Leaf, "*rows laws"]  # log(T_j/s_0), infinite for a law that is not truncated
    grid: Float64[_Leaf, "*rows points"]  # covers every law to _REACH standard deviations
    base_marks: Float64[_Leaf, "*rows marks"]  # covers P alone, in steps of 2 standard deviations
    dimension: int = dataclasses.field(metadata={"static": True})
    truncated: tuple[int, ...] = dataclasses.field(metadata={"static": True})


class Resolution(NamedTuple):
    """How finely the integrals are cut: panels, nodes in each, and rounds of mesh refinement."""

    panels: int
    order: int
    rounds: int


class Evaluation(NamedTuple):
    """The integrals of one instance at multipliers e^theta and radius r (in units of s_0).

    `outside[j]` is Q_j(not S), `moved` is P_moved(S). `curvature[j, k]` is
    e^theta_j dQ_j(S)/dtheta_k, symmetric and positive semidefinite; `drift[j]` is dQ_j(S)/dr;
    `slope` is dg/dr at fixed multipliers.
    """

    outside: Float64[Array, " laws"]
    moved: Float64[Array, ""]
    curvature: Float64[Array, "laws laws"]
    drift: Float64[Array, " laws"]
    slope: Float64[Array, ""]


def family_of(laws: tuple[RadialLaw, ...]) -> Family:
    """The numbers that the integrals need, from laws whose first is P (not truncated)."""
    base = laws[0]
    shape = np.array([law.shape for law in laws])
    eta = np.array([law.eta for law in laws], dtype=np.float64)
    offset = np.array([math.log(law.scale / base.scale) for law in laws])
    truncated = tuple(j for j, law in enumerate(laws) if law.cutoff is not None)
    edge = np.array(
        [
            math.inf if law.cutoff is None else math.log(law.cutoff) / law.eta + offset[j]
            for j, law in enumerate(laws)
        ]
    )
    deviations = np.linspace(-_REACH, _REACH, _BASE_POINTS)
    grids = [
        (np.log(_level_at(shape[j], deviations)) / eta[j] + offset[j]) for j in range(len(laws))
    ]
    edges = [edge[j : j + 1] for j in truncated]
    return Family(
        shape=jnp.asarray(shape),
        eta=jnp.asarray(eta),
        two_k=jnp.asarray([2.0 * law.k for law in laws], dtype=jnp.float64),
        offset=jnp.asarray(offset),
        log_quantile=jnp.asarray([math.log(law.quantile or 1.0) for law in laws]),
        edge=jnp.asarray(edge),
        grid=jnp.asarray(np.sort(np.concatenate(grids + edges))),
        base_marks=jnp.asarray(np.log(_level_at(shape[0], _BASE_MARKS)) / eta[0]),
        dimension=base.dimension,
        truncated=truncated,
    )


def _level_at(shape: float, deviation: np.ndarray) -> np.ndarray:
    """Levels u with sign(u - a) sqrt(2 a (t - log(1 + t))) = deviation, t = u/a - 1 (bisection)."""
    target = 0.5 * deviation**2 / shape
    upward = deviation > 0
    low = np.where(upward, 0.0, -target - 1.0)  # of log(1 + t)
    high = np.where(upward, np.log1p(target + np.sqrt(2.0 * target) + 1.0), 0.0)
    for _ in range(80):
        middle = 0.5 * (low + high)
        rises = (np.expm1(middle) - middle > target) == upward
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return np.exp(np.maximum(math.log(shape) + 0.5 * (low + high), _SMALLEST_LOG_LEVEL))


def evaluate(
    family: Family,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    resolution: Resolution,
    halved: Bool[Array, ""] | None = None,
) -> Evaluation:
    """The integrals at one instance; `jax.vmap` over theta and radius for many.

    Args:
        family: the laws.
        theta: log multipliers; -inf (or anything below -700) switches a law off. At least one
            is finite.
        radius: |delta|/s_0 > 0.
        resolution: static.
        halved: whether to cut every panel in two: the difference tells the error of the quadrature.
            None compiles for whole panels only.
    """
    edges = _cut(_mesh(family, theta, radius, resolution), halved)
    nodes, weights = np.polynomial.legendre.leggauss(resolution.order)
    half = 0.5 * (edges[1:] - edges[:-1])
    middle = 0.5 * (edges[1:] + edges[:-1])
    y = (middle[:, None] + half[:, None] * jnp.asarray(nodes)[None, :]).reshape(-1)
    weight = (half[:, None] * jnp.asarray(weights)[None, :]).reshape(-1)
    present = jnp.repeat(middle[None, :] <= family.edge[:, None], resolution.order, axis=1)

    point = _at(family, theta, radius, y, present)
    mass = weight[None, :] * jnp.exp(point.log_density)  # (laws, nodes)
    outside = _sum(mass * cosine.upper_tail(point.cosine, family.dimension)[None, :])
    moved_mass = weight * point.moved_density
    moved = jnp.sum(moved_mass * cosine.upper_tail(-point.moved_cosine, family.dimension))

    edge_density = cosine.density(point.cosine, family.dimension)
    surface = mass * edge_density[None, :]
    response = point.share * point.cosine_by_log_ratio[None, :]
    multipliers = jnp.exp(theta)
    curvature = multipliers[:, None] * jnp.sum(surface[:, None, :] * response[None, :, :], axis=-1)
    rho = jnp.exp(y)
    drift = _sum(surface * (1.0 / rho - point.cosine / radius)[None, :])
    moved_surface = moved_mass * cosine.density(point.moved_cosine, family.dimension)
    moved_rate = -jnp.exp(-point.moved_y) - point.moved_cosine / radius
    slope = jnp.sum(moved_surface * moved_rate) - jnp.dot(multipliers, drift)

    for j in family.truncated:
        piece, rate = _jump(family, theta, radius, j, resolution.order, halved)
        moved, slope = moved + piece, slope + rate
    return Evaluation(outside, moved, curvature, drift, slope)


def log_densities(family: Family, y: Float64[Array, " nodes"]) -> Float64[Array, "laws nodes"]:
    """log of the density of y = log rho under each law, as if none had ended at y."""
    return (
        jnp.log(family.eta)[:, None]
        + log_level_density(family.shape[:, None], _levels(family, y))
        - family.log_quantile[:, None]
    )


def _levels(family: Family, y: Float64[Array, " nodes"]) -> Float64[Array, "laws nodes"]:
    return jnp.exp(family.eta[:, None] * (y[None, :] - family.offset[:, None]))


class _Point(NamedTuple):
    log_density: Float64[Array, "laws nodes"]  # of y = log rho, law by law
    share: Float64[Array, "laws nodes"]  # lambda_j q_j/h
    cosine: Float64[Array, " nodes"]
    moved_y: Float64[Array, " nodes"]  # log rho*
    moved_density: Float64[Array, " nodes"]  # f_0(rho*) drho*/dy
    moved_cosine: Float64[Array, " nodes"]
    cosine_by_log_ratio: Float64[Array, " nodes"]  # dc/dlog(h/p)
    moved_level: Float64[Array, " nodes"]


def _at(
    family: Family,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    y: Float64[Array, " nodes"],
    present: Bool[Array, "laws nodes"],
) -> _Point:
    """Everything that is needed at nodes y; `present`: the laws that have not ended there."""
    level = _levels(family, y)
    whole = log_densities(family, y)
    base_log_density = whole[0]
    log_density = jnp.where(present, whole, -jnp.inf)
    log_terms = theta[:, None] + (log_density - base_log_density[None, :])
    largest = jnp.max(log_terms, axis=0)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    log_ratio = largest + jnp.log(jnp.sum(jnp.exp(log_terms - largest[None, :]), axis=0))
    log_ratio = jnp.clip(log_ratio, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    share = jnp.exp(log_terms - log_ratio[None, :])

    eta, two_k = family.eta[0], family.two_k[0]
    shift = _level_shift(log_ratio, level[0], two_k / eta)  # L
    moved_level = level[0] * jnp.exp(shift)
    moved_y = y + shift / eta
    rho = jnp.exp(y)
    moved_rho = jnp.exp(moved_y)
    growth = rho * rho * jnp.expm1(2.0 * shift / eta)  # rho*^2 - rho^2
    steepness = two_k + eta * moved_level  # -dlog p/dlog rho at rho*
    fall = jnp.sum(share * (family.two_k[:, None] + family.eta[:, None] * level), axis=0)
    log_moved = log_level_density(jnp.broadcast_to(family.shape[0], moved_level.shape), moved_level)
    moved_density = eta * jnp.exp(log_moved) * fall / jnp.maximum(steepness, 1e-300)
    return _Point(
        log_density=log_density,
        share=share,
        cosine=jnp.clip((radius * radius - growth) / (2.0 * rho * radius), -1.0, 1.0),
        moved_y=jnp.maximum(moved_y, -600.0),
        moved_density=moved_density,
        moved_cosine=jnp.clip(
            (-growth - radius * radius) / (2.0 * jnp.maximum(moved_rho, 1e-300) * radius), -1.0, 1.0
        ),
        # 1e-150: the product with rho must not underflow, in whatever order it is computed.
        cosine_by_log_ratio=moved_rho * moved_rho / (rho * radius * jnp.maximum(steepness, 1e-150)),
        moved_level=moved_level,
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


def _mesh(
    family: Family,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    resolution: Resolution,
) -> Float64[Array, " edges"]:
    """Panel edges in y that share out the variation of everything in the integrands.

    The coordinates followed are each law's density (as its normal deviate), the moved law's, the
    two cosines (in standard deviations of the cosine law) and the shares of the laws in h. Each
    round lays a grid that gives equal parts of their total variation to every cell, so a layer
    that one grid cell hides is found by the next round.
    """
    grid = family.grid
    count = max(48, 2 * resolution.panels)
    for turn in range(resolution.rounds):
        last = turn == resolution.rounds - 1
        grid = _redistribute(
            grid,
            _coordinates(family, theta, radius, grid),
            resolution.panels + 1 if last else count,
        )
    extra = [family.edge[j : j + 1] for j in family.truncated]
    if family.dimension < cosine.SMALLEST_SERIES_DIMENSION:
        corners = _tangency(family, theta, radius)
        extra.append(
            (corners[:, None] + jnp.asarray(_around_corner(family.dimension))[None, :]).reshape(-1)
        )
    if extra:
        inside = jnp.clip(jnp.concatenate(extra), grid[0], grid[-1])
        grid = jnp.sort(jnp.concatenate([grid, inside]))
    return grid


def _coordinates(
    family: Family, theta: Array, radius: Array, y: Float64[Array, " points"]
) -> Float64[Array, "coordinates points"]:
    point = _at(family, theta, radius, y, y[None, :] <= family.edge[:, None])
    root_d = math.sqrt(family.dimension)
    level = _levels(family, y)
    densities = _deviate(family.shape[:, None], level)
    moved = _deviate(family.shape[0], point.moved_level)
    cosines = jnp.stack([point.cosine, point.moved_cosine]) * root_d
    return jnp.concatenate(
        [
            densities,
            moved[None, :],
            jnp.clip(cosines, -_COSINE_REACH, _COSINE_REACH),
            6.0 * point.share,
        ]
    )


def _deviate(shape: Array, level: Array) -> Float64[Array, "..."]:
    """A level's distance from its law's mode in standard deviations, as its density sees it."""
    root = jnp.sqrt(2.0 * shape * jnp.maximum(excess(shape, level), 0.0))
    return jnp.clip(jnp.sign(level - shape) * root, -_REACH, _REACH)


def _redistribute(
    grid: Float64[Array, " points"], coordinates: Float64[Array, "coordinates points"], count: int
) -> Float64[Array, " count"]:
    steps = jnp.abs(jnp.diff(coordinates, axis=-1))
    steps = jnp.where(jnp.isfinite(steps), steps, 0.0)
    variation = jnp.sum(steps, axis=0)
    width = jnp.diff(grid)
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


def _tangency(family: Family, theta: Array, radius: Array) -> Float64[Array, " two"]:
    """The points where |c| reaches 1, at which the cosine law of a small dimension has a corner."""
    count = 64
    y = jnp.linspace(family.grid[0], family.grid[-1], count)

    def beyond(points: Array) -> Array:
        present = points[None, :] <= family.edge[:, None]
        # Where the moved centre lies on the boundary of S, |c| leaves 1 only to second order on one
        # side: without this margin rounding would hide the corner within 1e-8.
        c = _at(family, theta, radius, points, present).cosine
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


def _cut(
    edges: Float64[Array, " edges"], halved: Bool[Array, ""] | None
) -> Float64[Array, " panels"]:
    """Panels cut in two, or (for one compiled function) followed each by an empty one."""
    if halved is None:
        return edges
    between = jnp.where(halved, 0.5 * (edges[1:] + edges[:-1]), edges[:-1])
    both = jnp.stack([edges[:-1], between], axis=1).reshape(-1)
    return jnp.concatenate([both, edges[-1:]])


def _jump(
    family: Family,
    theta: Array,
    radius: Array,
    j: int,
    order: int,
    halved: Bool[Array, ""] | None,
) -> tuple[Float64[Array, ""], Float64[Array, ""]]:
    """What P_moved(S) and dg/dr gain where law j ends: distances v between rho*_- and rho*_+.

        int f_0(v) P(cosine < (T^2 - v^2 - r^2)/(2 v r)) dv

    The integrand steps from f_0(v) to 0 around v = sqrt(T^2 - r^2), within about r/sqrt(d): panel
    edges stand there.
    """
    edge = family.edge[j]
    index = jnp.arange(family.edge.shape[0])
    # Laws that end at the same radius end one after the other, in their order.
    later = (family.edge > edge) | ((family.edge == edge) & (index > j))
    present = jnp.stack([later | (index == j), later], axis=1)
    point = _at(family, theta, radius, jnp.stack([edge, edge]), present)
    marks = family.base_marks
    start, end = jnp.clip(point.moved_y, marks[0], marks[-1])

    t = jnp.exp(edge)
    spread = min(_COSINE_REACH / math.sqrt(family.dimension), 1.0)
    steps = spread * jnp.array([1.0, 0.5, 0.0, -0.5, -1.0])
    under = jnp.maximum(t * t - radius * radius * (1.0 - steps * steps), 0.0)
    layer = jnp.log(jnp.maximum(-radius * steps + jnp.sqrt(under), 1e-300))
    edges = _cut(jnp.sort(jnp.clip(jnp.concatenate([marks, layer]), start, end)), halved)

    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = 0.5 * (edges[1:] - edges[:-1])
    y = 0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * jnp.asarray(nodes)[None, :]
    v = jnp.exp(y)
    level = jnp.exp(family.eta[0] * y)
    density = family.eta[0] * jnp.exp(
        log_level_density(jnp.broadcast_to(family.shape[0], level.shape), level)
    )
    mass = half[:, None] * jnp.asarray(weights)[None, :] * density
    # (T - v)(T + v) keeps the layer around v = T sharp.
    c = ((t - v) * (t + v) - radius * radius) / (2.0 * v * radius)
    c = jnp.clip(c, -1.0, 1.0)
    piece = jnp.sum(mass * cosine.upper_tail(-c, family.dimension))
    rate = jnp.sum(mass * cosine.density(c, family.dimension) * (-1.0 / v - c / radius))
    return piece, rate


def _sum(values: Float64[Array, "laws nodes"]) -> Float64[Array, " laws"]:
    return jnp.sum(values, axis=-1)
