"""The true radius of the classifier that is right in a ball, by other formulas."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from dsrs_jax.certify import evaluate
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.study.ball import growth, mass_in_ball, true_radius
from dsrs_jax.study.dimension import DIMENSIONS, INSIDE, SIGMA
from dsrs_jax.study.lengths import length_at, share_within, whole


def mass_by_adaptive_quadrature(ball: RadialLaw, move: float) -> float:
    """E of Beta((d-1)/2, (d-1)/2)'s distribution at (T^2 - (rho - r)^2)/(4 r rho), over the level.

    The formula of Li et al. (ICML 2022), appendix; the angle's variable is (1 + cos)/2.
    """
    d, a, edge = ball.dimension, float(ball.shape), float(ball.truncation_radius)

    def integrand(level: float) -> float:
        rho = float(ball.scale) * level ** (1 / float(ball.eta))
        place = (edge**2 - (rho - move) ** 2) / (4.0 * move * rho)
        inside = special.betainc((d - 1) / 2, (d - 1) / 2, min(max(place, 0.0), 1.0))
        return inside * math.exp((a - 1) * math.log(level) - level - special.gammaln(a))

    ends = special.gammaincinv(a, 1e-14), special.gammainccinv(a, 1e-14)
    width = move / math.sqrt(d)
    near = [math.sqrt(edge**2 - move**2) + width * z for z in (-8, -4, -2, 0, 2, 4, 8)]
    marks = [(max(rho, 1e-9) / float(ball.scale)) ** float(ball.eta) for rho in near]
    edges = sorted({*ends, *(min(max(mark, ends[0]), ends[1]) for mark in marks)})
    parts = [integrate.quad(integrand, *two, limit=200)[0] for two in itertools.pairwise(edges)]
    return float(sum(parts))


@pytest.mark.parametrize("left", [10, 30, None])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_radius_is_that_of_the_papers_formula_at_every_dimension(
    d: int, left: int | None
) -> None:
    law = gaussian(d, SIGMA) if left is None else generalized_gaussian(d, SIGMA, (d - left) / 2)
    ball = law.truncated(INSIDE)
    found = true_radius(ball)
    near = optimize.brentq(
        lambda r: mass_by_adaptive_quadrature(ball, r) - 0.5, 0.99 * found, 1.01 * found,
        xtol=1e-9 * found,
    )  # fmt: skip
    assert abs(found - near) < 1e-6 * near
    if left is not None and d >= 3072:  # and the limit of large d
        assert abs(found / math.sqrt(d) - growth(ball)) < 0.01 * growth(ball)


@pytest.mark.parametrize("d", [100, 784])
def test_no_more_can_be_certified_and_dsrs_certifies_it(d: int) -> None:
    ball = generalized_gaussian(d, SIGMA, (d - 10) / 2).truncated(INSIDE)
    radius = true_radius(ball)
    # Q_A = 1: the multiplier of Q may be as large as one likes. A finite one gives up a little
    # about the moved centre, where the moved density is larger still.
    lengths = radius * np.array([1 - 1e-4, 1 + 1e-4])
    g, error = evaluate([whole(ball), ball], [[0.0, 1.0]] * 2, [[0.0, 1e300]] * 2, lengths)
    assert g[0] - error[0] > 0.5 > g[1] + error[1]


@settings(max_examples=10)
@given(
    d=st.integers(2, 40),
    singular=st.floats(0.0, 0.9),
    quantile=st.floats(0.55, 0.95),
    move=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_mass_in_the_ball_is_that_of_draws(
    d: int, singular: float, quantile: float, move: float, seed: int
) -> None:
    ball = generalized_gaussian(d, 0.7, singular * (d - 0.5) / 2).truncated(quantile)
    edge, n = float(ball.truncation_radius), 100_000
    generator = np.random.default_rng(seed)
    rho = length_at(whole(ball), generator.uniform(size=n))
    cosine = 2.0 * generator.beta((d - 1) / 2, (d - 1) / 2, n) - 1.0
    away = np.sqrt(rho**2 + (move * edge) ** 2 + 2.0 * rho * move * edge * cosine)
    found = mass_in_ball(ball, move * edge)
    assert abs(np.mean(away <= edge) - found) < 5.5 * math.sqrt(0.25 / n)


@given(
    share=st.floats(1e-3, 1.0 - 1e-3), k=st.floats(0.0, 30.0), eta=st.sampled_from([0.5, 2.0, 6.0]),
    cut=st.sampled_from([None, 0.3, 0.8]),
)  # fmt: skip
def test_lengths_and_shares_are_inverse(
    share: float, k: float, eta: float, cut: float | None
) -> None:
    law = generalized_gaussian(64, 0.5, k, eta)
    law = law if cut is None else law.truncated(cut)
    length = length_at(law, share)
    assert 0.0 < length <= law.truncation_radius * (1 + 1e-12)
    np.testing.assert_allclose(share_within(law, length), share, rtol=1e-9)
