"""Lower bounds in ball arithmetic against exact tails."""

from fractions import Fraction

import mpmath
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsrs_jax.proof.bound import lower_bound


@settings(max_examples=25)
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
