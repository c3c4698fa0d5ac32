"""One evaluation of the dual: the function whose value above 1/2 certifies a radius.

Let P be shifted by a vector of length r, and let bounds p_j <= P(f right under law j) hold for the
laws Q_0 = P, Q_1, ..., Q_J. For every multiplier vector lambda >= 0 (weak duality; J = 0 is
Neyman-Pearson, J = 1 is DSRS: Li et al., ICML 2022, section 5)

    P_shifted(f right) >= g(lambda; r) = sum_j lambda_j p_j - integral (h - p_shifted)_+ dx,
                        h = sum_j lambda_j q_j.

For lambda >= 0 and densities that fall with the radius g falls with r, so what holds at r holds at
every smaller one; a negative multiplier would lose that. With S = {x: p_shifted(x) < h(|x|)}

    g = sum_j lambda_j [Q_j(not S) - (1 - p_j)] + P_shifted(S).

Writing it with the complement of S keeps its relative precision when the bounds are near 1 and
the multipliers are large.

**The integrals.** On the sphere |x| = rho a point lies in S iff its distance from the shifted
centre exceeds rho*, where p(rho*) = h(rho). With L = log(u*/u), u and u* the levels of rho and
rho* under P, L solves

    (2k/eta) L + u (e^L - 1) = -log(h/p)

and the point lies in S iff its cosine with the axis is below c; with the integration variable
of the shifted mass changed from the distance to rho,

    Q_j(not S) = int f_j(rho) P(cosine > c) drho,
                                                  c  = (r^2 - rho^2 (e^(2L/eta) - 1))/(2 rho r),
    P_shifted(S) = int f_0(rho*) rho*'(rho) P(cosine < c~) drho,
                                                  c~ = (-rho^2 (e^(2L/eta) - 1) - r^2)/(2 rho* r).

Where a truncated law ends, rho* jumps, and P_shifted(S) gains the piece of `_jump`.

Everything is computed in the variable y = log(rho/s_0) with r in units of s_0 (the scale of P),
by Gauss-Legendre panels that are laid, for each instance, where the integrands change.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64, Int

from dsrs_jax.certify import cosine, integrand
from dsrs_jax.certify.laws import LawArrays
from dsrs_jax.certify.mesh import COSINE_REACH, Resolution, around_corner, cut, panel_edges
from dsrs_jax.noise.radial import log_level_density


class Evaluation(NamedTuple):
    """The integrals of one instance at multipliers e^theta and radius r (in units of s_0).

    `outside[j]` is Q_j(not S), `shifted` is P_shifted(S). `curvature[j, k]` is
    e^theta_j dQ_j(S)/dtheta_k, symmetric and positive semidefinite; `drift[j]` is dQ_j(S)/dr;
    `slope` is dg/dr at fixed multipliers. `parts` are the pieces, all positive, of which
    sum_j e^theta_j outside[j] + shifted is the sum: one for each panel before it may be cut.
    """

    outside: Float64[Array, " laws"]
    shifted: Float64[Array, ""]
    curvature: Float64[Array, "laws laws"]
    drift: Float64[Array, " laws"]
    slope: Float64[Array, ""]
    parts: Float64[Array, " panels"]


def evaluate(
    laws: LawArrays,
    theta: Float64[Array, " laws"],
    radius: Float64[Array, ""],
    resolution: Resolution,
    halved: Bool[Array, ""] | None = None,
    truncated: bool | Bool[Array, ""] = True,
) -> Evaluation:
    """The integrals at one instance; `jax.vmap` over laws, theta and radius for many.

    Args:
        laws: the laws.
        theta: log multipliers; -inf (or anything below -700) switches a law off. At least one
            is finite.
        radius: |delta|/s_0 > 0.
        resolution: static.
        halved: whether to cut every panel in two: the difference tells the error of the quadrature.
            None compiles for whole panels only.
        truncated: False skips what truncated laws alone need. One flag for all instances of a
            `jax.vmap`, so that it remains a branch.
    """
    laws = jax.tree.map(jnp.asarray, laws)
    edges = cut(panel_edges(laws, theta, radius, resolution), halved)
    nodes, weights = np.polynomial.legendre.leggauss(resolution.order)
    half = 0.5 * (edges[1:] - edges[:-1])
    middle = 0.5 * (edges[1:] + edges[:-1])
    y = (middle[:, None] + half[:, None] * jnp.asarray(nodes)[None, :]).reshape(-1)
    weight = (half[:, None] * jnp.asarray(weights)[None, :]).reshape(-1)
    present = jnp.repeat(middle[None, :] <= laws.edge[:, None], resolution.order, axis=1)

    point = integrand.at(laws, theta, radius, y, present)
    mass = weight[None, :] * jnp.exp(point.log_density)  # (laws, nodes)
    masses_outside = mass * cosine.upper_tail(point.cosine, laws.cosine)[None, :]
    outside = _sum(masses_outside)
    shifted_mass = weight * point.shifted_density
    shifted_inside = shifted_mass * cosine.upper_tail(-point.shifted_cosine, laws.cosine)
    shifted = jnp.sum(shifted_inside)

    edge_density = cosine.density(point.cosine, laws.cosine)
    surface = mass * edge_density[None, :]
    response = point.share * point.cosine_by_log_ratio[None, :]
    multipliers = jnp.exp(theta)
    of_node = jnp.sum(multipliers[:, None] * masses_outside, axis=0) + shifted_inside
    parts = _of_panels(of_node.reshape(-1, resolution.order), halved)
    curvature = multipliers[:, None] * jnp.sum(surface[:, None, :] * response[None, :, :], axis=-1)
    rho = jnp.exp(y)
    drift = _sum(surface * (1.0 / rho - point.cosine / radius)[None, :])
    shifted_surface = shifted_mass * cosine.density(point.shifted_cosine, laws.cosine)
    shifted_rate = -jnp.exp(-point.shifted_y) - point.shifted_cosine / radius
    slope = jnp.sum(shifted_surface * shifted_rate) - jnp.dot(multipliers, drift)

    if len(theta) > 1:

        def jumps() -> tuple[Float64[Array, " panels"], Float64[Array, ""]]:
            each = jax.vmap(lambda j: _jump(laws, theta, radius, j, resolution.order, halved))
            pieces, rates = each(jnp.arange(1, len(theta)))
            return pieces.reshape(-1), jnp.sum(rates)

        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(jumps))
        pieces, rate = jax.lax.cond(truncated, jumps, lambda: none)
        shifted, slope = shifted + jnp.sum(pieces), slope + rate
        parts = jnp.concatenate([parts, pieces])
    return Evaluation(outside, shifted, curvature, drift, slope, parts)


def _of_panels(
    values: Float64[Array, "pieces order"], halved: Bool[Array, ""] | None
) -> Float64[Array, " panels"]:
    """Sums over whole panels of what stands at the nodes of their halves (`mesh.cut`)."""
    sums = jnp.sum(values, axis=1)
    return sums if halved is None else jnp.sum(sums.reshape(-1, 2), axis=1)


def _jump(
    laws: LawArrays,
    theta: Array,
    radius: Array,
    j: Int[Array, ""],
    order: int,
    halved: Bool[Array, ""] | None,
) -> tuple[Float64[Array, " panels"], Float64[Array, ""]]:
    """What P_shifted(S), panel by panel, and dg/dr gain where law j ends.

    At distances v between rho*_- and rho*_+:

        int f_0(v) P(cosine < (T^2 - v^2 - r^2)/(2 v r)) dv

    The integrand steps from f_0(v) to 0 around v = sqrt(T^2 - r^2), within about r/sqrt(d): panel
    edges stand there. For r > T it has no such step, and differs from f_0(v) between r - T and
    r + T alone.
    """
    ends = jnp.isfinite(laws.edge[j])
    edge = jnp.where(ends, laws.edge[j], laws.grid[-1])
    index = jnp.arange(laws.edge.shape[0])
    # Laws that end at the same radius end one after the other, in their order.
    later = (laws.edge > edge) | ((laws.edge == edge) & (index > j))
    present = jnp.stack([later | (index == j), later], axis=1)
    point = integrand.at(laws, theta, radius, jnp.stack([edge, edge]), present)
    marks = laws.base_marks
    start, end = jnp.clip(point.shifted_y, marks[0], marks[-1])

    t = jnp.exp(edge)
    spread = jnp.minimum(COSINE_REACH / jnp.sqrt(laws.cosine.dimension), 1.0)
    beyond = radius > t
    steps = spread * jnp.where(
        beyond, jnp.array([-1.0, -1.0, -0.5, -0.5, 0.0]), jnp.array([-1.0, 1.0, -0.5, 0.5, 0.0])
    )
    sign = jnp.where(beyond, jnp.array([1.0, -1.0, 1.0, -1.0, 1.0]), 1.0)
    under = jnp.maximum((t - radius) * (t + radius) + (radius * steps) ** 2, 0.0)
    layer = jnp.log(jnp.maximum(-radius * steps + sign * jnp.sqrt(under), 1e-300))
    if laws.cosine.small is not None:
        # The first two are where c is -1 or 1 for the last time, and corners.
        around = jnp.asarray(around_corner(laws.cosine.small))
        layer = jnp.concatenate([layer[2:], (layer[:2, None] + around[None, :]).reshape(-1)])
    edges = cut(jnp.sort(jnp.clip(jnp.concatenate([marks, layer]), start, end)), halved)

    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = 0.5 * (edges[1:] - edges[:-1])
    y = 0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * jnp.asarray(nodes)[None, :]
    v = jnp.exp(y)
    level = jnp.exp(laws.eta[0] * y)
    density = laws.eta[0] * jnp.exp(
        log_level_density(jnp.broadcast_to(laws.shape[0], level.shape), level)
    )
    mass = half[:, None] * jnp.asarray(weights)[None, :] * density
    # (T - v)(T + v) keeps the layer around v = T sharp.
    c = ((t - v) * (t + v) - radius * radius) / (2.0 * v * radius)
    c = jnp.clip(c, -1.0, 1.0)
    pieces = _of_panels(mass * cosine.upper_tail(-c, laws.cosine), halved)
    rate = jnp.sum(mass * cosine.density(c, laws.cosine) * (-1.0 / v - c / radius))
    return jnp.where(ends, pieces, 0.0), jnp.where(ends, rate, 0.0)


def _sum(values: Float64[Array, "laws nodes"]) -> Float64[Array, " laws"]:
    return jnp.sum(values, axis=-1)
