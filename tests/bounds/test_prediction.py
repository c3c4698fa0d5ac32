"""Predictions: the binomial test of the two leading classes, and what it promises."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.bounds import fewest_draws, predict
from dsrs_jax.system.errors import UserError

COUNTS = st.lists(st.integers(0, 60), min_size=2, max_size=5)


def two_leading(votes: list[int]) -> tuple[int, int]:
    first, second, *_ = sorted(range(len(votes)), key=lambda label: (-votes[label], label))
    return first, second


@given(votes=COUNTS, alpha=st.floats(1e-6, 0.5))
def test_it_is_scipys_test_of_the_two_leading_classes(votes: list[int], alpha: float) -> None:
    found = predict(np.array([votes]), alpha)
    first, second = two_leading(votes)
    assert (found.leading[0], found.second[0]) == (first, second)
    assert (found.votes[0], found.second_votes[0]) == (votes[first], votes[second])
    expected = 1.0
    if total := votes[first] + votes[second]:
        expected = stats.binomtest(votes[first], total, 0.5).pvalue
    assert found.p_value[0] == pytest.approx(expected, rel=1e-9)
    assume(abs(expected - alpha) > 1e-9)
    assert found.decided[0] == (expected <= alpha)


@given(
    votes=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    of_each=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    lost=st.integers(0, 5),
    distance=st.sampled_from([0.0, 1e-10, 0.01]),
)
def test_an_ambiguous_draw_decides_nothing_whatever_it_was(
    votes: list[int], of_each: list[int], lost: int, distance: float
) -> None:
    """`of_each` are the classes that the ambiguous draws had in truth, `lost` had none."""
    ambiguous = np.array([sum(of_each) + lost])
    found = predict(np.array([votes]), 0.05, ambiguous, distance)
    true_votes = np.array([votes]) + np.array([of_each])
    true = predict(true_votes, 0.05 - distance)
    if found.decided[0]:
        assert true.decided[0] and true.leading[0] == found.leading[0]
    assert found.p_value[0] >= min(1.0, predict(np.array([votes]), 0.05).p_value[0] + distance)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize(
    "probabilities", [(0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.4, 0.35, 0.25), (0.45, 0.1, 0.45)]
)
def test_a_wrong_class_has_probability_alpha_at_most(
    probabilities: tuple[float, ...], alpha: float
) -> None:
    """Of all outcomes of 30 draws, by their probabilities; where classes tie each is wrong."""
    n = 30
    outcomes = np.array(
        [(a, b, n - a - b) for a, b in itertools.product(range(n + 1), repeat=2) if a + b <= n]
    )
    found = predict(outcomes, alpha)
    largest = max(probabilities)
    unique = probabilities.count(largest) == 1
    right = (np.array(probabilities)[found.leading] == largest) & unique
    chance = stats.multinomial(n, probabilities).pmf(outcomes)
    assert chance.sum() == pytest.approx(1.0)
    assert chance[found.decided & ~right].sum() <= alpha


@given(alpha=st.floats(1e-9, 0.9))
def test_fewer_draws_or_one_class_never_decide(alpha: float) -> None:
    fewest = fewest_draws(alpha)
    votes = np.array([[fewest, 0], [fewest - 1, 0], [fewest - 2, 0]]).clip(0)
    assert predict(votes, alpha).decided[0] and not predict(votes, alpha).decided[2]
    with pytest.raises(UserError, match="fewer than two classes"):
        predict(np.array([[3]]), 0.1)
