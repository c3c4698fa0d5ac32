"""Looks: their shares of alpha hold together, whatever ends the draws."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Looks, lower_bound
from dsrs_jax.proof.looks import LAST, look


@given(st.integers(1, 2**31))
def test_the_shares_of_all_looks_are_no_more_than_alpha(planned: int) -> None:
    looks = Looks(planned)
    draws = [looks.draws(number) for number in range(1, LAST + 1)]
    shares = [looks.share(number) for number in range(1, LAST + 1)]
    assert all(share > 0 for share in shares)
    assert Fraction(7, 10) < sum(shares) <= 1
    assert draws == sorted(set(draws)) and draws[looks.planned_look - 1] == planned
    assert looks.up_to(4 * planned)[-3:] == (planned, 2 * planned, 4 * planned)
    # The proof has the same schedule, by itself.
    assert [look(planned, number) for number in range(1, LAST + 1)] == list(
        zip(draws, shares, strict=True)
    )


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.95, 0.999])
def test_who_stops_at_whatever_look_suits_him_errs_no_more_often_than_alpha(
    probability: float,
) -> None:
    """The most hostile rule: it stops as soon as a bound is false, and else goes on to 8N."""
    alpha, images, looks = 0.05, 100_000, Looks(20_000)
    rng = np.random.default_rng(0)
    votes, drawn = np.zeros(images, dtype=np.int64), 0
    wrong = np.zeros(images, dtype=bool)
    for number, draws in enumerate(looks.up_to(160_000), start=1):
        votes += rng.binomial(draws - drawn, probability, images)
        drawn = draws
        counts, place = np.unique(votes, return_inverse=True)
        false = lower_bound(counts, draws, alpha * float(looks.share(number))) > probability
        wrong |= false[place]
    assert wrong.mean() <= alpha + 4 * np.sqrt(alpha / images)
    assert wrong.mean() > alpha / 10  # the looks are not shy either
