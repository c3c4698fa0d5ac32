"""One way from votes to certificates: each cell of the table does what it should, and no more."""

import dataclasses

import numpy as np
import pytest

from dsrs_jax.bounds import Bound, Protocol, Search, interval, lower_bound
from dsrs_jax.certify import CertificateTable, Status, certify, certify_table
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import claim as claims
from dsrs_jax.proof import schema
from dsrs_jax.proof.rows import parse
from dsrs_jax.proof.schema import Method
from dsrs_jax.votes import Intervals, State, VoteTable

N, ALPHA = 10_000, 0.001
LAW = generalized_gaussian(784, 0.5, 380.0)
EXTRA = LAW.truncated(0.6)
PROTOCOL = Protocol(ALPHA)


def pooling_table(columns: int) -> VoteTable:
    """The paper's rule with a plus: images whose P draws were all right draw from P again."""
    each = (EXTRA, LAW, LAW, LAW, LAW)
    votes = [[9_900, 9_950], [N, N], [N, N - 40], [N - 1, N - 2], [N, 0]]
    whole = [row[:1] + row[1:] * columns for row in votes]
    names = ["p", "threshold_x+", "threshold_x2+"][: 1 + columns]
    return VoteTable.from_counts((LAW, *[each] * columns), whole, N, names=names)


@pytest.mark.slow
def test_further_draws_of_p_are_pooled() -> None:
    """Two rules share these draws: they count once."""
    protocol = dataclasses.replace(PROTOCOL, search=Search.GRID)
    table = certify_table(pooling_table(2), protocol)
    twice = certify(LAW, lower_bound([2 * N, 2 * N - 40], 2 * N, ALPHA / 2))
    assert [str(status) for status in table.status[1:3]] == ["pooled", "pooled"]
    # Also where other radii are multiples of a unit.
    np.testing.assert_array_equal(table.radius[1:3], twice.radius)
    np.testing.assert_array_equal(table.dsrs.multipliers[1:3, :1], twice.multipliers)
    np.testing.assert_array_equal(table.dsrs.bounds[1:3, :1], twice.bounds)
    assert np.all(table.dsrs.multipliers[1:3, 1:] == 0) and np.all(table.dsrs.bounds[1:3, 1:] == 0)
    # The file says of each column what its own votes say.
    own = lower_bound([N, N - 40], N, ALPHA / 4)
    np.testing.assert_array_equal(table.lower[1:3, 1], own)
    assert table.status[0] == Status.DSRS
    # One wrong answer among the first draws: the second sample is a law like any other.
    single = certify_table(
        VoteTable.from_counts((LAW, LAW, LAW), [[N - 1, N - 2, N - 2]], N), protocol
    )
    assert table.status[3] != Status.POOLED and table.radius[3] == single.radius[0] > 0
    # All wrong the second time: half of all draws prove nothing.
    assert table.radius[4] == 0 and table.status[4] == Status.NONE


@pytest.mark.slow
def test_draws_of_p_whose_number_is_not_known_are_not_pooled() -> None:
    """Nor those of an image of which P has none."""
    table = pooling_table(1)
    state, votes, draws = table.state.copy(), table.votes.copy(), table.draws.copy()
    state[1, 0] = State.MISSING
    votes[[2, 3], [0, 1]] = draws[[2, 3], [0, 1]] = -1
    low = np.zeros(votes.shape)
    low[2, 0] = 0.9
    intervals = Intervals(low, np.ones(votes.shape), ALPHA / 2)
    found = certify_table(
        dataclasses.replace(table, votes=votes, draws=draws, state=state, intervals=intervals),
        PROTOCOL,
    )
    assert not np.any(found.status == Status.POOLED)
    own = certify(LAW, [0.9], [LAW], [lower_bound([N - 40], N, ALPHA / 2)])
    assert found.radius[1] == 0 and found.radius[2] == own.radius[0]


@pytest.mark.slow
def test_only_complete_votes_count() -> None:
    cells = [(p, q) for p in State for q in State]
    whole = VoteTable.from_counts((LAW, EXTRA), [[9_900, 9_950]] * len(cells), N)
    table = certify_table(dataclasses.replace(whole, state=np.array(cells, dtype=object)), PROTOCOL)
    p, q = lower_bound([9_900, 9_950], N, ALPHA / 2)
    alone, both = certify(LAW, [p, p], [EXTRA], [[0.0, q]]).radius
    assert both > alone
    base = np.array([p is State.COMPLETE for p, _ in cells])
    second = base & [q is State.COMPLETE for _, q in cells]
    np.testing.assert_array_equal(table.lower, np.stack([base * p, second * q], axis=1))
    np.testing.assert_array_equal(table.radius, np.where(second, both, base * alone))
    np.testing.assert_array_equal(table.neyman_pearson.radius > 0, base)
    np.testing.assert_array_equal(table.dsrs.multipliers[:, 1] > 0, second)
    said = {State.UNREADABLE: Status.UNREADABLE, State.NOT_FINITE: Status.NOT_FINITE}
    without = [said.get(p, Status.NONE) for p, _ in cells]
    expected = np.where(second, Status.DSRS, np.where(base, Status.P, without))
    np.testing.assert_array_equal(table.status, expected)


def test_what_a_published_interval_is_good_for() -> None:
    """Counts are known in the first row; of the second only the interval is."""
    # So few votes that no radius is searched for.
    counts, known = np.array([[3_900, 3_950], [3_800, 3_900]]), np.array([[True], [False]])
    # Ends as somebody else computed them: a little off.
    low, high = (end * (1 - 1e-11) for end in interval(counts, N, ALPHA / 2))
    table = dataclasses.replace(
        VoteTable.from_counts((LAW, EXTRA), counts, N),
        votes=np.where(known, counts, -1),
        draws=np.where(known, N, -1) + np.zeros_like(counts),
        intervals=Intervals(low, high, ALPHA / 2),
    )
    for alpha, bound, counted, published in (
        # At the alpha of the publication the published ends themselves are used.
        (ALPHA, Bound.TWO_SIDED, low, low),
        # One-sided bounds are made of the counts; where there are none the published end holds too.
        (ALPHA, Bound.ONE_SIDED, lower_bound(counts, N, ALPHA / 2), low),
        # A smaller alpha: the published end may fail too often.
        (ALPHA / 2, Bound.ONE_SIDED, lower_bound(counts, N, ALPHA / 4), 0.0 * low),
        (ALPHA / 2, Bound.TWO_SIDED, interval(counts, N, ALPHA / 4)[0], 0.0 * low),
        # A larger one: it fails less often than it might.
        (2 * ALPHA, Bound.TWO_SIDED, interval(counts, N, ALPHA)[0], low),
    ):
        lower = certify_table(table, Protocol(alpha, bound)).lower
        np.testing.assert_array_equal(lower, np.where(known, counted, published))
    # Neyman-Pearson has all of alpha, unless it is the paper's.
    paper = Protocol(ALPHA, Bound.TWO_SIDED, paper_baseline=True)
    for protocol, first in ((PROTOCOL, lower_bound(3_900, N, ALPHA)), (paper, low[0, 0])):
        alone = certify_table(table, protocol).neyman_pearson.bounds[:, 0]
        np.testing.assert_array_equal(alone, [first, low[1, 0]])


@pytest.mark.slow
def test_the_grid_search_stops_at_a_multiple_of_its_unit() -> None:
    wrong = 10 ** np.random.default_rng(8).uniform(-4, 0, (100, 2))
    counts = VoteTable.from_counts((LAW, EXTRA), np.round(N * (1 - wrong)).astype(int), N)
    precise = certify_table(counts, PROTOCOL)
    start = certify(LAW, precise.lower[:, 0]).radius
    for unit in (0.05, 0.3):
        protocol = dataclasses.replace(PROTOCOL, search=Search.GRID, grid_unit=unit)
        grid = certify_table(counts, protocol)
        assert np.all(grid.radius <= precise.radius) and np.all(grid.radius >= start)
        multiple = np.abs(grid.radius / unit - np.round(grid.radius / unit)) < 1e-9
        assert np.all(multiple | (grid.radius == start))
        assert np.any(multiple & (grid.radius > start)) and np.any(~multiple)
        # The next multiple does not certify.
        assert np.all(np.floor(precise.radius / unit) * unit <= grid.radius + 1e-9)
        np.testing.assert_array_equal(grid.neyman_pearson.radius, precise.neyman_pearson.radius)
        expected = np.where(grid.radius > 0, precise.status, Status.NONE)
        np.testing.assert_array_equal(grid.status, expected)


def proved(table: CertificateTable) -> list[tuple[str, Method, float]]:
    """(index, method, radius) of all radii that a file of the table proves."""
    text = schema.text(schema.columns(table))
    rows, names = parse(text, "here")
    assert names == list(table.votes.names[1:]) and len(rows) == len(table)
    found = []
    for row in rows:
        assert row.wrong is None
        for method in Method:
            claim = claims.read(row.fields, names, method)
            if claim is not None:
                radius, result = claims.shrunk(claim)
                assert result == claims.PROVED and radius > claim.radius * (1 - 1e-7)
                found.append((row.fields["index"], method, claim.radius))
    return found


@pytest.mark.parametrize(
    ("bound", "search"),
    [
        (Bound.ONE_SIDED, Search.PRECISE),
        pytest.param(Bound.TWO_SIDED, Search.GRID, marks=pytest.mark.slow),
    ],
)
def test_what_is_written_is_read_back_and_proved(bound: Bound, search: Search) -> None:
    """Rows of every status: the proof recomputes each radius' bounds from its counts."""
    cut = LAW.truncated(0.7)
    votes = [
        [9_900, 9_950], [9_990, 5_000], [7_050, N], [N, N], [N, N - 3], [4_000, 4_000],
        [0, 0], [9_500, 0], [9_700, 9_900], [N - 1, N - 2],
    ]  # fmt: skip
    laws = [cut, cut, cut, LAW, LAW, cut, cut, cut, cut, LAW]
    draws = np.full((10, 2), N)
    draws[6], draws[7, 1] = 0, 0
    state = np.full((10, 2), State.COMPLETE, dtype=object)
    state[6], state[7, 1] = State.UNREADABLE, State.MISSING
    whole = VoteTable.from_counts(
        (LAW, tuple(laws)), votes, draws, names=["p", "threshold_x+"], index=np.arange(10) * 10
    )
    protocol = Protocol(ALPHA, bound, search)
    table = certify_table(dataclasses.replace(whole, state=state), protocol)
    assert " ".join(table.status) == "dsrs P Q pooled pooled none unreadable P dsrs P"
    radii = zip(table.neyman_pearson.radius, table.radius, strict=True)
    expected = [
        (str(10 * i), method, radius)
        for i, both in enumerate(radii)
        for method, radius in zip(Method, both, strict=True)
        if radius > 0
    ]
    assert proved(table) == expected and len(expected) == 16


@pytest.mark.slow
def test_counts_of_p_alone_are_proved_and_an_interval_is_not() -> None:
    """The proof believes counts and nothing else."""
    table = certify_table(VoteTable.from_counts([LAW], [9_900, 5_300, 100], N), PROTOCOL)
    np.testing.assert_array_equal(table.radius, table.neyman_pearson.radius)
    assert len(proved(table)) == 4
    low, high = interval([[9_900, 9_950]], N, ALPHA / 2)
    whole = VoteTable.from_counts((LAW, EXTRA), [[-1, -1]], -1)
    published = dataclasses.replace(whole, intervals=Intervals(low, high, ALPHA / 2))
    table = certify_table(published, Protocol(ALPHA, Bound.TWO_SIDED))
    assert table.radius[0] > 0
    rows, names = parse(schema.text(schema.columns(table)), "here")
    claim = claims.read(rows[0].fields, names, Method.DSRS)
    assert claim is not None and "not known" in claims.prove(claim)


def counts_inside(probability: list[float], draws: int, images: int) -> VoteTable:
    """Votes of images with these probabilities under P up to 0.5, up to 0.8, and P itself."""
    rng = np.random.default_rng(1)
    inner, middle, whole = probability
    # Of the shells, so that each law has its probability.
    shells = [inner, (0.8 * middle - 0.5 * inner) / 0.3, (whole - 0.8 * middle) / 0.2]
    drawn = rng.multinomial(draws, [0.5, 0.3, 0.2], images)
    votes, total = np.cumsum([rng.binomial(drawn, shells), drawn], axis=2)[:, :, [2, 0, 1]]
    laws, names = (LAW, LAW.truncated(0.5), LAW.truncated(0.8)), ["p", "inside_0.5", "inside_0.8"]
    return VoteTable.from_counts(laws, votes, total, names=names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "probability",
    [
        # Without a wrong draw more often than P's own bound may fail: what the rule is about.
        [0.985, 0.985, 0.985],
        [0.999, 0.99, 0.98],
        # Just too small for Neyman-Pearson at all of alpha, and at P's share.
        [0.05 ** (1 / 100) - 1e-6] * 3,
        [0.025 ** (1 / 100) - 1e-6] * 3,
    ],
)
def test_the_all_right_rule_fails_no_more_often_than_alpha(probability: list[float]) -> None:
    """The true radius is that of the worst classifier with the image's probabilities."""
    alpha, images = 0.05, 2_000
    table = counts_inside(probability, 100, images)
    both = np.hstack([table.votes, table.draws])
    rows, often = np.unique(both, axis=0, return_counts=True)
    few = VoteTable.from_counts(table.laws, rows[:, :3], rows[:, 3:], names=table.names)
    found = certify_table(few, Protocol(alpha))
    inner, middle, whole = probability
    truth = certify(LAW, [whole], few.laws[1:], [[inner], [middle]]).radius[0]
    for radius in (found.radius, found.neyman_pearson.radius):
        failures = np.sum(often[radius > truth + 1e-9])
        assert failures / images <= alpha + 4 * np.sqrt(alpha / images)


@pytest.mark.parametrize(
    "search", [Search.PRECISE, pytest.param(Search.GRID, marks=pytest.mark.slow)]
)
def test_an_image_without_a_wrong_draw_has_neyman_pearsons_radius(search: Search) -> None:
    laws, draws = (LAW, LAW.truncated(0.5)), [N, N // 2]
    votes = [[N, N // 2], [N - 1, N // 2], [N - 500, N // 2 - 100], [0, 0]]
    inside = VoteTable.from_counts(laws, votes, draws, names=["p", "inside_0.5"])
    table = certify_table(inside, dataclasses.replace(PROTOCOL, search=search))
    assert [str(one) for one in table.status[[0, 3]]] == ["all-right", "none"]
    whole, ceiling = certify(LAW, lower_bound([N, N], N, [ALPHA, ALPHA / 2])).radius
    assert table.radius[0] == whole > ceiling
    assert table.ceiling is not None
    np.testing.assert_array_equal(table.ceiling.radius, np.full(4, ceiling))
    assert np.all(table.radius[1:] <= ceiling)
    assert len(proved(table)) == 6
