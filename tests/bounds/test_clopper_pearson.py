"""Clopper-Pearson bounds against exact binomial tails."""

from fractions import Fraction
from math import comb

import flint
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.bounds import interval, lower_bound
from dsrs_jax.system.errors import UserError

ALPHAS = st.floats(1e-9, 0.4)
COUNTS = st.integers(1, 200_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact_upper_tail(votes: int, draws: int, probability: float) -> Fraction:
    """P(at least `votes` of `draws`) in rational arithmetic."""
    p = Fraction(probability)
    return sum(
        (comb(draws, m) * p**m * (1 - p) ** (draws - m) for m in range(votes, draws + 1)),
        Fraction(0),
    )


@given(COUNTS, ALPHAS)
def test_bounds_agree_with_scipy(counts: tuple[int, int], alpha: float) -> None:
    votes, draws = counts
    test = stats.binomtest(votes, draws, alternative="greater")
    expected = test.proportion_ci(1 - alpha, method="exact").low
    assert lower_bound(votes, draws, alpha) == pytest.approx(expected, rel=1e-7)
    low, high = interval(votes, draws, alpha)
    expected = stats.binomtest(votes, draws).proportion_ci(1 - alpha, method="exact")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), rel=1e-7)
    assert low <= votes / draws <= high


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), ALPHAS)
def test_bound_is_rounded_outward(counts: tuple[int, int], alpha: float) -> None:
    """At the bound, `votes` or more happen with probability at most alpha, and hardly less."""
    bound = float(lower_bound(*counts, alpha))
    tail = exact_upper_tail(*counts, bound)
    assert tail <= Fraction(alpha)
    assert float(tail) > alpha * (1 - 1e-7)
    high = float(interval(*counts, alpha)[1])
    if counts[0] < counts[1]:
        assert 1 - exact_upper_tail(counts[0] + 1, counts[1], high) <= Fraction(alpha) / 2


@given(
    st.floats(0, 9)
    .map(lambda power: int(10**power))
    .flatmap(
        lambda n: st.tuples(
            st.one_of(st.integers(1, n), st.integers(max(1, n - 50), n)), st.just(n)
        )
    ),
    ALPHAS,
)
@example((23_447, 137_007), 2e-4)
@example((97_837_324, 527_725_536), 3.9e-9)
def test_the_exact_tail_at_a_bound_is_not_above_alpha(
    counts: tuple[int, int], alpha: float
) -> None:
    votes, draws = counts
    with flint.ctx.workprec(160):
        a, b = flint.arb(votes), flint.arb(draws - votes + 1)
        p = flint.arb(float(lower_bound(votes, draws, alpha)))
        if 2 * votes <= draws:
            tail = p.beta_lower(a, b, regularized=1)
        else:
            tail = 1 - (1 - p).beta_lower(b, a, regularized=1)
        assert tail <= flint.arb(alpha)
        # And not by much: a bound that is 0 would pass the line above.
        assert tail > flint.arb(alpha) * (1 - 1e-4)


def test_ends_of_the_domain() -> None:
    assert lower_bound(0, 100, 0.01) == 0.0
    assert lower_bound(0, 0, 0.01) == 0.0
    assert lower_bound(100, 100, 0.01) == pytest.approx(0.01 ** (1 / 100), rel=1e-9)
    assert interval(100, 100, 0.01)[1] == 1.0
    low, high = interval(0, 0, 0.01)
    assert (low, high) == (0.0, 1.0)
    assert lower_bound(np.array([[1], [2]]), np.array([5, 10, 20]), 0.1).shape == (2, 3)


@pytest.mark.parametrize(
    ("votes", "draws", "alpha"),
    [(-1, 5, 0.1), (6, 5, 0.1), (0.5, 5, 0.1), (np.nan, 5, 0.1), (1, 5.5, 0.1), (1, 5, 0.0),
     (1, 5, 1.0), (1, 5, np.nan), (1, 10**9 + 1, 0.1)],
)  # fmt: skip
def test_numbers_outside_their_domain_are_refused(votes: float, draws: float, alpha: float) -> None:
    for function in (lower_bound, interval):
        with pytest.raises(UserError) as error:
            function(votes, draws, alpha)
        assert "\n" not in str(error.value)
