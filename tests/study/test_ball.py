"""The true radius of the classifier that is right in a ball, by other formulas."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special

from dsrs_jax.certify import evaluate
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.study.ball import growth, true_radius
from dsrs_jax.study.dimension import INSIDE, SIGMA
from dsrs_jax.study.lengths import whole


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


@pytest.mark.parametrize(
    ("d", "left"),
    list(itertools.product([40, 784, 12_000, 150_528], [10, 30, None])),
)
def test_the_radius_is_that_of_the_papers_formula(d: int, left: int | None) -> None:
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


def test_no_more_can_be_certified_and_dsrs_certifies_it() -> None:
    ball = generalized_gaussian(784, SIGMA, 387.0).truncated(INSIDE)
    radius = true_radius(ball)
    # Q_A = 1: the multiplier of Q may be as large as one likes. A finite one gives up a little
    # about the moved centre, where the moved density is larger still.
    lengths = radius * np.array([1 - 1e-4, 1 + 1e-4])
    g, error = evaluate([whole(ball), ball], [[0.0, 1.0]] * 2, [[0.0, 1e300]] * 2, lengths)
    assert g[0] - error[0] > 0.5 > g[1] + error[1]
