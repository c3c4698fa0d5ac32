"""The classifier that is right inside a ball of noise and nowhere else, and its true radius.

Li et al. (ICML 2022), Definition 3 and Theorem 2: "concentration". The smoothed classifier keeps
its answer up to the move r at which half of the moved noise is still inside the ball,

    int f(rho) P(cos < (T^2 - rho^2 - r^2)/(2 rho r)) drho = 1/2,

f the density of the noise's length, T the radius of the ball, cos the cosine between a uniform
direction and the move. From Q = P truncated at T, under which it is always right, DSRS certifies
just that: no method can more.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from dsrs_jax.noise import RadialLaw
from dsrs_jax.study.lengths import length_at, share_within, whole

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_LAYER = np.array([-9.0, -6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0, 9.0])


def mass_in_ball(ball: RadialLaw, move: float) -> float:
    """The probability that P, moved by 0 < `move` < T, gives to the ball |x| <= T.

    Args:
        ball: P truncated at T.
        move: length of the move.
    """
    law, edge = whole(ball), float(ball.truncation_radius)
    # The integrand falls from 1 to 0 about where the cosine is 0, within move/sqrt(d) of it.
    centre = math.sqrt(edge**2 - move**2)
    width = move / math.sqrt(law.dimension)
    marks = share_within(law, np.maximum(centre + width * _LAYER, 0.0))
    edges = np.unique(np.concatenate([[0.0, 1.0], marks, np.linspace(0.0, 1.0, 9)]))
    half = 0.5 * np.diff(edges)[:, None]
    share = edges[:-1, None] + half * (1.0 + _NODES)
    rho = length_at(law, np.minimum(share, np.nextafter(1.0, 0.0)))
    cosine = np.clip((edge**2 - rho**2 - move**2) / (2.0 * rho * move), -1.0, 1.0)
    degrees = 0.5 * (law.dimension - 1)
    return float(np.sum(half * _WEIGHTS * special.betainc(degrees, degrees, 0.5 * (1.0 + cosine))))


def true_radius(ball: RadialLaw) -> float:
    """The largest move that leaves half of P inside the ball; 0 where less is inside before."""
    if float(ball.quantile or 1.0) <= 0.5:
        return 0.0
    edge = float(ball.truncation_radius)
    return float(
        optimize.brentq(lambda r: mass_in_ball(ball, r) - 0.5, 1e-6 * edge, edge, xtol=1e-12 * edge)
    )


def growth(ball: RadialLaw) -> float:
    """What `true_radius`/(sigma sqrt(d)) tends to for large d, where d - 2k and eta = 2 stay.

    In a high dimension |x + move|^2 = |x|^2 + move^2 but for a vanishing part, and |x|^2 is
    sigma^2 d u/a, u a Gamma(a) level: u_b - u_1/2 = a (move/sigma)^2/d at the quantiles b and 1/2.
    """
    a = float(ball.shape)
    b = float(ball.quantile or 1.0)
    return math.sqrt((special.gammaincinv(a, b) - special.gammaincinv(a, 0.5)) / a)
