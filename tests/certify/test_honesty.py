"""No radius exceeds the distance at which a known classifier's answer really changes.

The smoothed probabilities of a half-space and of a ball are integrals of one variable.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from dsrs_jax.certify import certify
from dsrs_jax.noise import RadialLaw, generalized_gaussian

Numbers = NDArray[np.float64]
Right = Callable[[RadialLaw], float]  # the probability under a law

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


def half_space(law: RadialLaw, rng: np.random.Generator) -> tuple[Right, float]:
    """Right where x_1 <= a: shifted by a, the probability is 1/2."""
    a = rng.uniform(0.01, 4.0) * law.sigma
    return lambda one: 1 - mean_over_radius(one, lambda rho: above(a / rho, one.dimension)), a


def ball(law: RadialLaw, rng: np.random.Generator) -> tuple[Right, float] | None:
    """Right inside (or outside) of a ball; the worst shift is away from (towards) its centre."""
    inside = bool(rng.random() < 0.5)
    level = special.gammaincinv(law.shape, rng.uniform(0.3, 0.9999))
    radius = law.scale * level ** (1 / law.eta)
    away = rng.uniform(0.0, 3.0) * law.sigma

    def probability(one: RadialLaw, from_centre: float) -> float:
        def share(rho: Numbers) -> Numbers:
            # |rho u - b| <= R
            c = (rho**2 + from_centre**2 - radius**2) / (2 * rho * max(from_centre, 1e-9 * radius))
            return above(c, one.dimension)

        value = mean_over_radius(one, share)
        return value if inside else 1 - value

    def half(low: float, high: float) -> float:
        return optimize.brentq(lambda b: probability(law, b) - 0.5, low, high, xtol=1e-12)

    if probability(law, away) <= 0.5:
        return None
    distance = np.inf
    if inside:
        far = away + law.sigma
        while probability(law, far) > 0.5:
            far = 2 * far
        distance = half(away, far) - away
    elif probability(law, 0.0) < 0.5:
        distance = away - half(0.0, away)
    return lambda one: probability(one, away), distance


IN_FULL = [(64, 0.0), (64, 0.6), (784, 1.0), (3_072, 0.3), (150_528, 0.0), (150_528, 0.5)]


@pytest.mark.parametrize(
    ("dimension", "free"),  # d - 2k from 4 to d
    [(784, 0.0), *(pytest.param(*numbers, marks=pytest.mark.slow) for numbers in IN_FULL)],
)
def test_a_classifier_keeps_its_answer_within_its_radius(dimension: int, free: float) -> None:
    law = generalized_gaussian(dimension, 0.5, 0.5 * (dimension - 4.0 * (dimension / 4.0) ** free))
    rng = np.random.default_rng(dimension)
    extra: list[RadialLaw] = []
    bounds, distances = [], []
    for i in range(24):
        found = (half_space if i % 2 else ball)(law, rng)
        if found is None or (p := max(found[0](law) - SLACK, 0.0)) >= 1 - 1e-7:
            continue
        for q in (
            law.truncated(rng.uniform(0.05, 0.95)),
            law.with_sigma(law.sigma * rng.uniform(0.6, 1.4)),
        ):
            extra.append(q)
            bounds.append((p, max(found[0](q) - SLACK, 0.0)))
            distances.append(found[1])
    # Neyman-Pearson's radius is never longer than these.
    radius = certify(law, np.array(bounds)[:, 0], [extra], [np.array(bounds)[:, 1]]).radius
    assert np.all(radius <= np.array(distances) + 1e-7)
    assert np.sum(radius > 0.5 * np.array(distances)) > 10  # and they are not far from it
