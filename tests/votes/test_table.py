"""The table of votes: what fits together, what does not, and parts of it."""

import dataclasses

import numpy as np
import pytest

from dsrs_jax.noise import gaussian, generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Intervals, State, VoteTable

LAW = generalized_gaussian(64, 0.5, 28)
SCALED, INSIDE = LAW.with_sigma(0.4), LAW.truncated(0.5)
COUNTS = [[90, 80, 45], [100, 99, 50]]
DRAWS = [[100, 100, 50], [100, 100, 51]]


def made() -> VoteTable:
    """Two images, three laws; the last column's law is the image's own."""
    return VoteTable.from_counts((LAW, SCALED, (INSIDE, LAW)), COUNTS, DRAWS)


def test_counts_become_a_complete_table_with_names_and_places() -> None:
    table = made()
    assert len(table) == 2 and table.base == LAW
    assert table.names == ("p", "q1", "q2")
    assert table.index.tolist() == [0, 1] and table.label.tolist() == [-1, -1]
    assert table.votes.tolist() == COUNTS and table.draws.tolist() == DRAWS
    assert np.all(table.state == State.COMPLETE) and table.intervals is None
    named = VoteTable.from_counts(
        [LAW, SCALED], [[3, 4]], 5, names=["p", "sigma_0.4"], index=[70], label=[9]
    )
    assert named.names == ("p", "sigma_0.4")
    assert named.index.tolist() == [70] and named.label.tolist() == [9]


@pytest.mark.parametrize(
    ("laws", "votes", "draws", "expected"),
    [
        ((LAW,), [7, 8, 9], 10, [[10], [10], [10]]),
        ((LAW,), [7, 8, 9], [10, 11, 12], [[10], [11], [12]]),
        ((LAW,), [[7], [8]], [[10], [11]], [[10], [11]]),
        ((LAW, SCALED), [[7, 8], [9, 10]], 20, [[20, 20], [20, 20]]),
        ((LAW, SCALED), [[7, 8], [9, 10]], [20, 30], [[20, 30], [20, 30]]),
        ((LAW, SCALED), [[7, 8], [9, 10]], [[20], [30]], [[20, 20], [30, 30]]),
    ],
)
def test_draws_are_given_for_all_at_once_or_one_by_one(
    laws: tuple, votes: list, draws: object, expected: list[list[int]]
) -> None:
    table = VoteTable.from_counts(laws, votes, draws)
    assert table.draws.tolist() == expected
    assert table.votes.shape == table.draws.shape == table.state.shape


@pytest.mark.parametrize(
    ("laws", "votes", "draws", "message"),
    [
        ((LAW, SCALED), [7, 8], 10, r"votes need the shape \(images, 2\) .* got \(2,\)"),
        ((LAW,), [[7, 8]], 10, r"\(images, 1\)"),
        ((LAW,), [[[7]]], 10, r"\(images, 1\)"),
        ((LAW, SCALED), [[7, 8]], [10, 10, 10], r"draws of shape \(3,\) do not fit"),
        ((LAW,), [7, 8], [10, 10, 10], r"draws of shape \(3,\) do not fit"),
        ((INSIDE,), [7], 10, "must not be truncated"),
        (((LAW, LAW),), [7, 8], 10, "the first law is the smoothing law itself"),
        ((), np.zeros((2, 0)), 10, "needs arrays of shape"),
        ((LAW, (INSIDE,)), [[7, 8], [7, 8]], 10, "one for each image"),
        ((LAW, gaussian(63, 0.5)), [[7, 8]], 10, "the same dimension"),
        ((LAW, (INSIDE, gaussian(63, 0.5))), [[7, 8], [7, 8]], 10, "the same dimension"),
    ],
)
def test_what_does_not_fit_together_is_told(
    laws: tuple, votes: object, draws: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        VoteTable.from_counts(laws, votes, draws)


@pytest.mark.parametrize("what", ["names", "intervals"])
def test_every_array_must_have_the_table_s_shape(what: str) -> None:
    table = made()
    if what == "names":
        with pytest.raises(UserError, match=r"2 images and 2 laws needs arrays of shape \(2, 2\)"):
            dataclasses.replace(table, names=("p", "q1"))
    else:
        ends = Intervals(np.zeros((2, 2)), np.ones((2, 2)), 0.01)
        with pytest.raises(UserError, match=r"2 images and 3 laws needs arrays of shape \(2, 3\)"):
            dataclasses.replace(table, intervals=ends)


def test_a_cell_s_law_is_the_column_s_or_the_image_s_own() -> None:
    table = made()
    found = [[table.law(column, row) for column in range(3)] for row in range(2)]
    assert found == [[LAW, SCALED, INSIDE], [LAW, SCALED, LAW]]


def test_further_draws_of_p_are_those_of_a_later_column_whose_law_is_p() -> None:
    table = made()
    assert [table.more_of_base(column).tolist() for column in range(3)] == [
        [False, False],
        [False, False],
        [False, True],
    ]


def test_some_of_the_laws_keep_all_that_is_known_of_them() -> None:
    low = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    table = made()
    state = table.state.copy()
    state[0, 2] = State.MISSING
    table = dataclasses.replace(table, state=state, intervals=Intervals(low, low + 0.1, 0.01))
    part = table.only([0, 2])
    assert part.names == ("p", "q2") and part.laws == (LAW, (INSIDE, LAW))
    for name in ("draws", "votes", "state"):
        np.testing.assert_array_equal(getattr(part, name), getattr(table, name)[:, [0, 2]])
    np.testing.assert_array_equal(part.index, table.index)
    assert part.intervals is not None and part.intervals.alpha == 0.01
    np.testing.assert_array_equal(part.intervals.low, low[:, [0, 2]])
    np.testing.assert_array_equal(part.intervals.high, low[:, [0, 2]] + 0.1)
    alone = made().only([0])
    assert alone.names == ("p",) and alone.intervals is None
    with pytest.raises(UserError, match="the first law is the smoothing law itself"):
        table.only([2])
