"""Alpha is divided once, and an interim look gives up only what is lost."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.bounds import Bound, Protocol, interval, lower_bound
from dsrs_jax.system.errors import UserError

ALPHAS = st.floats(1e-9, 0.4)
LAWS = st.integers(1, 5)


@given(ALPHAS, LAWS, st.integers(1, 300), st.floats(0.5, 1.0))
def test_all_bounds_hold_together(alpha: float, laws: int, draws: int, truth: float) -> None:
    """The union bound: `laws` bounds fail with a probability of no more than alpha in all."""
    outcomes = np.arange(draws + 1)
    weights = stats.binom.pmf(outcomes, draws, truth)
    for bound in Bound:
        for base_share in (None, 0.3, 0.5):
            protocol = Protocol(alpha, bound, base_share=base_share)
            fails = 0.0
            for own in alpha * protocol.shares(laws):
                fails += weights[protocol.lower(outcomes, draws, own) > truth].sum()
            assert fails <= alpha * (1 + 1e-9)


@given(ALPHAS, LAWS)
def test_neyman_pearson_has_all_of_alpha_unless_it_is_the_papers(alpha: float, laws: int) -> None:
    protocol = Protocol(alpha)
    paper = dataclasses.replace(protocol, paper_baseline=True, base_share=None)
    assert protocol.alpha_neyman_pearson(laws) == alpha
    assert paper.alpha_neyman_pearson(laws) == alpha * (1 / laws)
    assert paper.alpha_neyman_pearson(1) == alpha


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), ALPHAS)
def test_the_kinds_of_bound(counts: tuple[int, int], alpha: float) -> None:
    one, two = (Protocol(alpha, bound).lower(*counts, alpha) for bound in Bound)
    assert one == lower_bound(*counts, alpha)
    assert two == interval(*counts, alpha)[0] == lower_bound(*counts, alpha / 2)


@given(ALPHAS, LAWS, st.integers(1, 300), st.sampled_from(Bound))
def test_no_image_that_could_have_a_radius_is_given_up(
    alpha: float, laws: int, draws: int, bound: Bound
) -> None:
    protocol = Protocol(alpha, bound)
    own = alpha * protocol.shares(laws)[0]
    votes = np.arange(draws + 1)
    given_up = protocol.abstains_early(votes, np.full_like(votes, draws), laws)
    assert np.all(protocol.lower(votes, draws, alpha)[given_up] < 0.5)
    # Of two counts the lower one is given up first, and no probability of 1/2 or more is likely to
    # have been the cause.
    assert np.all(given_up[:-1] >= given_up[1:])
    assert stats.binom.pmf(votes, draws, 0.5)[given_up].sum() <= own * (1 + 1e-9)
    # With enough draws all of them wrong, the look does give up.
    assert given_up[0] == (0.5**draws < own)


def test_the_all_right_rule_is_not_the_papers_nor_for_laws_with_draws_of_their_own() -> None:
    inside = ["p", "inside_0.3", "inside_0.5"]
    assert Protocol(0.1).all_right(inside)
    for names in (["p"], ["p", "threshold_0.5"], ["p", "inside_0.3", "scale_0.8"]):
        assert not Protocol(0.1).all_right(names)
    assert not Protocol(0.1, base_share=None).all_right(inside)
    assert not Protocol(0.1, paper_baseline=True).all_right(inside)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alpha", (0.0, 1.0, np.nan)),
        ("grid_unit", (0.0, np.nan)),
        ("base_share", (0.0, 1.0, np.nan)),
    ],
)
def test_numbers_outside_their_domain_are_refused(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(UserError) as error:
            Protocol(**{"alpha": 0.001, name: value})
        assert "\n" not in str(error.value)
