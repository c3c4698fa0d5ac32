"""No radius exceeds the distance at which a known classifier's answer really changes.

The smoothed probabilities of a half-space and of a ball are integrals of one variable.
"""

from collections.abc import Callable

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, special, stats

from dsrs_jax.certify import certify
from dsrs_jax.noise import RadialLaw, generalized_gaussian

Numbers = NDArray[np.float64]

DIMENSIONS = (64, 784, 150_528)
# The bounds handed to `certify` are lowered by more than these integrals err.
SLACK = 1e-10


def mean_over_radius(law: RadialLaw, share: Callable[[Numbers], Numbers]) -> float:
    """E share(|x|): Gauss-Legendre panels in the level's range, cut at a truncation."""
    level = stats.gamma((law.dimension - 2 * law.k) / law.eta)
    low, high = level.ppf(1e-14), law.cutoff or level.isf(1e-14)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(np.log(low), np.log(high), 400)
    half = 0.5 * np.diff(edges)[:, None]
    log_level = (0.5 * (edges[1:] + edges[:-1]))[:, None] + half * nodes
    u = np.exp(log_level)
    mass = half * weights * np.exp(level.logpdf(u) + log_level)
    return float((mass * share(law.scale * u ** (1 / law.eta))).sum() / mass.sum())


def above(cosine: Numbers, dimension: int) -> Numbers:
    """P(cosine > c) for a uniform direction."""
    half = 0.5 * (dimension - 1)
    c = np.clip(cosine, -1, 1)
    tail = 0.5 * special.betainc(half, 0.5, 1 - c * c)
    centre = 0.5 - 0.5 * special.betainc(0.5, half, c * c)
    tail = np.where(c * c * dimension < 0.5, centre, tail)
    return np.where(c >= 0, tail, 1 - tail)


@st.composite
def families(draw: st.DrawFn) -> tuple[RadialLaw, list[RadialLaw]]:
    dimension = draw(st.sampled_from(DIMENSIONS))
    free = draw(st.floats(0.0, 1.0))  # d - 2k from 4 to d
    k = 0.5 * (dimension - 4.0 * (dimension / 4.0) ** free)
    law = generalized_gaussian(dimension, 0.5, k)
    extra = [
        law.truncated(draw(st.floats(0.05, 0.95))),
        law.with_sigma(law.sigma * draw(st.floats(0.6, 1.4))),
    ]
    return law, extra


def check(
    law: RadialLaw, extra: list[RadialLaw], right: Callable[[RadialLaw], float], distance: float
) -> None:
    p = max(right(law) - SLACK, 0.0)
    assume(p < 1 - 1e-7)
    bounds = [max(right(q) - SLACK, 0.0) for q in extra]
    # Neyman-Pearson's radius is never longer than these.
    radii = certify(law, np.full(len(extra), p), [extra], [bounds]).radius
    assert max(radii) <= distance + 1e-7


@settings(max_examples=12)
@given(families(), st.floats(0.01, 4.0))
def test_half_space(family: tuple[RadialLaw, list[RadialLaw]], deviations: float) -> None:
    """Right where x_1 <= a: shifted by a, the probability is 1/2."""
    law, extra = family
    a = deviations * law.sigma

    def right(one: RadialLaw) -> float:
        return 1 - mean_over_radius(one, lambda rho: above(a / rho, one.dimension))

    check(law, extra, right, a)


@settings(max_examples=12)
@given(families(), st.floats(0.3, 0.9999), st.floats(0.0, 3.0), st.booleans())
def test_ball(
    family: tuple[RadialLaw, list[RadialLaw]], quantile: float, deviations: float, inside: bool
) -> None:
    """Right inside (or outside) of a ball; the worst shift is away from (towards) its centre."""
    law, extra = family
    level = special.gammaincinv(law.shape, quantile)
    ball = law.scale * level ** (1 / law.eta)
    away = deviations * law.sigma

    def probability(one: RadialLaw, from_centre: float) -> float:
        def share(rho: Numbers) -> Numbers:
            # |rho u - b| <= R
            c = (rho**2 + from_centre**2 - ball**2) / (2 * rho * max(from_centre, 1e-9 * ball))
            return above(c, one.dimension)

        value = mean_over_radius(one, share)
        return value if inside else 1 - value

    assume(probability(law, away) > 0.5)
    if inside:
        far = away + law.sigma
        while probability(law, far) > 0.5:
            far = 2 * far
        tip = optimize.brentq(lambda b: probability(law, b) - 0.5, away, far, xtol=1e-12)
        distance = tip - away
    elif probability(law, 0.0) < 0.5:
        distance = away - optimize.brentq(
            lambda b: probability(law, b) - 0.5, 0.0, away, xtol=1e-12
        )
    else:
        distance = np.inf
    check(law, extra, lambda one: probability(one, away), distance)
