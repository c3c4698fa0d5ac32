"""Balls hold what three other ways compute; lower bounds are next to the exact ones."""

import dataclasses
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import slow_reference as reference
import thirty_digits
from flint import arb, ctx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_claims import claims_of, family_of

from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof.bound import lower_bound
from dsrs_jax.proof.enclosure import Family, LawNumbers, enclose


def holds(ball: arb, value: mpmath.mpf) -> bool:
    with ctx.workprec(120):
        return ball.contains(arb(mpmath.nstr(value, 25)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dimension", "k", "extra", "far"),
    [
        (784, 380.0, ["scaled"], True),
        (150_528, 75_260.0, ["truncated"], False),
        (150_528, 0.0, ["truncated"], True),
    ],
)
def test_the_ball_holds_thirty_digits(
    dimension: int, k: float, extra: list[str], far: bool
) -> None:
    """At the optimum and away from it; benchmarks/proof.py does 500."""
    laws, claim = claims_of(dimension, k, extra)[0]
    rng = np.random.default_rng(dimension)
    multipliers = [w * (1 + far * rng.uniform(-0.5, 2)) for w in claim.multipliers]
    radius = claim.radius * (0.8 if far else 1.0)
    bounds = rng.uniform(0.6, 0.999, len(laws)).tolist()
    ball = enclose(claim.family, [arb(p) for p in bounds], multipliers, radius)
    assert holds(ball, thirty_digits.g(laws, bounds, multipliers, radius))
    assert float(ball.rad()) < 1e-12


@settings(max_examples=min(25, settings.default.max_examples))
@given(
    st.sampled_from([2, 3, 8, 64, 784, 150_528]),
    st.floats(0.1, 3.0),
    st.floats(0.05, 3.0),
    st.floats(0.1, 4.0),
)
def test_gaussian_closed_form(dimension: int, sigma: float, shift: float, deviate: float) -> None:
    """max over lambda of g is Phi(Phi^-1(p) - r/sigma): Cohen et al. (ICML 2019)."""
    radius = shift * sigma
    family = Family(dimension, 0.0, 2.0, (LawNumbers(sigma),))
    r = mpmath.mpf(radius) / mpmath.mpf(sigma)
    weight = float(mpmath.exp(r * deviate - r * r / 2))
    p = mpmath.ncdf(deviate)
    with ctx.workprec(140):
        bound = arb(mpmath.nstr(p, 35))
    ball = enclose(family, [bound], [weight], radius)
    # A multiplier rounded to a float changes g in second order: by 1e-31.
    assert holds(ball, mpmath.ncdf(deviate - r))
    # In the smallest dimensions the integrator may give up at a corner: wide, never wrong.
    assert float(ball.rad()) < 1e-11 or dimension < 8


@pytest.mark.parametrize("dimension", [8, 20, 64])
def test_any_multipliers_and_any_number_of_laws(dimension: int) -> None:
    """Against SciPy, where mpmath's evaluation does not reach: corners, J = 4, other eta."""
    rng = np.random.default_rng(dimension)
    for eta, k in ((2.0, 0.0), (1.0, 0.3 * dimension), (3.0, 0.45 * dimension)):
        law = generalized_gaussian(dimension, 0.5, k, eta)
        laws = (law, *(law.truncated(b) for b in (0.2, 0.4, 0.8)), law.with_sigma(0.45))
        weights = 10 ** rng.uniform(-1, 2, 5) * (rng.random(5) < 0.8)
        weights[1] = 1.0
        radius = float(rng.uniform(0.05, 1.0))
        ball = enclose(family_of(laws), [arb(1)] * 5, weights.tolist(), radius)
        outside, shifted = reference.integrals(laws, weights, radius)
        assert float(ball) == pytest.approx(float(weights @ outside + shifted), abs=1e-8)
        assert float(ball.rad()) < 1e-11


def test_numbers_outside_their_domain_are_refused() -> None:
    good, nan = Family(64, 0.0, 2.0, (LawNumbers(0.5),)), float("nan")
    for changes in (
        {"k": 32.0}, {"k": -1.0}, {"k": nan}, {"eta": 0.0}, {"dimension": 1},
        {"laws": (LawNumbers(0.0),)}, {"laws": (LawNumbers(0.5, 1.0),)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            dataclasses.replace(good, **changes)
    for weight, radius in ((-1.0, 0.1), (0.0, 0.1), (nan, 0.1), (1.0, 0.0), (1.0, float("inf"))):
        with pytest.raises(ValueError):
            enclose(good, [arb(0.9)], [weight], radius)


@given(
    st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.floats(1e-9, 0.4),
    st.integers(1, 5),
)
@example((6, 7), 1e-9, 1)
def test_bounds_are_below_the_exact_ones_and_next_to_them(
    counts: tuple[int, int], alpha: float, parts: int
) -> None:
    votes, draws = counts
    bound = lower_bound(votes, draws, alpha, Fraction(1, parts))
    mantissa, exponent = bound.man_exp()

    def tail(p: mpmath.mpf) -> mpmath.mpf:
        a, b = votes, draws - votes + 1
        if votes == draws:
            return p**draws
        if 2 * votes > draws:
            return 1 - mpmath.betainc(b, a, 0, 1 - p, regularized=True)
        return mpmath.betainc(a, b, 0, p, regularized=True)

    with mpmath.workdps(45):
        p = mpmath.mpf(int(mantissa)) * mpmath.mpf(2) ** int(exponent)
        wanted = mpmath.mpf(alpha) / parts
        assert tail(p) < wanted
        # A small tail that is computed as 1 less its complement has lost digits.
        gap = mpmath.mpf(10) ** -14 + mpmath.mpf(10) ** -22 / wanted
        assert tail(p + (1 - p) * gap) > wanted
