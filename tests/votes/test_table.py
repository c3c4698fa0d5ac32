"""The table of votes: what fits together, what does not, and parts of it."""

import dataclasses

import numpy as np
import pytest

from dsrs_jax.noise import gaussian, generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Intervals, SoundDraws, State, VoteTable

LAW = generalized_gaussian(64, 0.5, 28)
SCALED, INSIDE = LAW.with_sigma(0.4), LAW.truncated(0.5)
COUNTS = [[90, 80, 45], [100, 99, 50]]
DRAWS = [[100, 100, 50], [100, 100, 51]]
# Two images, three laws; the last column's law is the image's own, P itself for the second one.
TABLE = VoteTable.from_counts((LAW, SCALED, (INSIDE, LAW)), COUNTS, DRAWS)


def test_counts_become_a_complete_table_with_names_places_and_laws() -> None:
    assert len(TABLE) == 2 and TABLE.base == LAW and TABLE.names == ("p", "q1", "q2")
    assert TABLE.index.tolist() == [0, 1] and TABLE.label.tolist() == [-1, -1]
    assert TABLE.votes.tolist() == COUNTS and TABLE.draws.tolist() == DRAWS
    assert np.all(TABLE.state == State.COMPLETE) and TABLE.intervals is None
    found = [[TABLE.law(column, row) for column in range(3)] for row in range(2)]
    assert found == [[LAW, SCALED, INSIDE], [LAW, SCALED, LAW]]
    # A later column whose law is P holds further draws of P.
    assert [TABLE.more_of_base(j).tolist() for j in range(3)] == [[False] * 2] * 2 + [[False, True]]
    named = VoteTable.from_counts([LAW], [3], 5, names=["x"], index=[70], label=[9])
    assert (named.names, named.index.tolist(), named.label.tolist()) == (("x",), [70], [9])


def test_draws_are_given_for_all_at_once_or_one_by_one() -> None:
    two = (LAW, SCALED), [[7, 8], [9, 10]]
    for laws, votes, draws, expected in (
        ((LAW,), [7, 8], 10, [[10], [10]]),
        ((LAW,), [7, 8], [10, 11], [[10], [11]]),
        (*two, [20, 30], [[20, 30], [20, 30]]),
        (*two, [[20], [30]], [[20, 20], [30, 30]]),
    ):
        assert VoteTable.from_counts(laws, votes, draws).draws.tolist() == expected


@pytest.mark.parametrize(
    ("laws", "votes", "draws", "message"),
    [
        ((LAW, SCALED), [7, 8], 10, r"votes need the shape \(images, 2\) .* got \(2,\)"),
        ((LAW,), [[[7]]], 10, r"\(images, 1\)"),
        ((LAW,), [7, 8], [10, 10, 10], r"draws of shape \(3,\) do not fit"),
        ((INSIDE,), [7], 10, "must not be truncated"),
        (((LAW, LAW),), [7, 8], 10, "the first law is the smoothing law itself"),
        ((), np.zeros((2, 0)), 10, "needs arrays of shape"),
        ((LAW, (INSIDE,)), [[7, 8], [7, 8]], 10, "one for each image"),
        ((LAW, (INSIDE, gaussian(63, 0.5))), [[7, 8], [7, 8]], 10, "the same dimension"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    laws: tuple, votes: object, draws: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        VoteTable.from_counts(laws, votes, draws)


def test_some_of_the_laws_keep_all_that_is_known_of_them() -> None:
    low, state = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), TABLE.state.copy()
    state[0, 2] = State.MISSING
    table = dataclasses.replace(TABLE, state=state, intervals=Intervals(low, low + 0.1, 0.01))
    table = dataclasses.replace(table, seed=7, compared=100)
    part = table.only([0, 2])
    assert (part.seed, part.compared) == (7, 100)
    assert part.names == ("p", "q2") and part.laws == (LAW, (INSIDE, LAW))
    assert part.intervals is not None and part.intervals.alpha == 0.01
    for before, after in ((table, part), (table.intervals, part.intervals)):
        for name in ("draws", "votes", "state") if after is part else ("low", "high"):
            expected = getattr(before, name)[:, [0, 2]]
            np.testing.assert_array_equal(getattr(after, name), expected)
    # Arrays must have the table's shape.
    for change, message in (
        ({"names": ("p", "q1")}, r"2 images and 2 laws needs arrays of shape \(2, 2\)"),
        ({"intervals": part.intervals}, r"2 images and 3 laws needs arrays of shape \(2, 3\)"),
        ({"sound": SoundDraws(240, np.array([0]))}, "ambiguous ones of each image"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(TABLE, **change)
