"""One way from votes to certificates: each cell of the table does what it should, and no more."""

import dataclasses

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsrs_jax.bounds import Bound, Protocol, Search, interval, lower_bound
from dsrs_jax.certify import CertificateTable, Status, certify, certify_table
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.proof import claim as claims
from dsrs_jax.proof import schema
from dsrs_jax.proof.rows import parse
from dsrs_jax.proof.schema import Method
from dsrs_jax.votes import Intervals, State, VoteTable

N, ALPHA = 10_000, 0.001
LAW = generalized_gaussian(784, 0.5, 380.0)
EXTRA = LAW.truncated(0.6)
PROTOCOL = Protocol(ALPHA)
LAWS = [
    generalized_gaussian(64, 0.5, 24.0),
    LAW,
    gaussian(784, 0.25),
    generalized_gaussian(150_528, 0.5, 75_260.0),
]


def random_counts(seed: int, rows: int, laws: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Votes and draws, each cell of other draws: from all of them right to none."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(1, 100_000, (rows, laws))
    wrong = 10 ** rng.uniform(-5, 0, (rows, laws))
    votes = np.round(draws * (1 - wrong)).astype(np.int64)
    votes[rng.random((rows, laws)) < 0.05] = 0
    return votes, draws


# A smaller failing example would take minutes to find and say no more.
@settings(max_examples=8, derandomize=True, phases=[Phase.generate])
@given(
    st.sampled_from(LAWS),
    st.sampled_from(["none", "truncated", "scaled", "each its own"]),
    st.integers(0, 2**31),
    st.sampled_from(Bound),
    st.booleans(),
)
def test_counts_become_bounds_and_bounds_become_radii(
    law: RadialLaw, kind: str, seed: int, bound: Bound, paper_baseline: bool
) -> None:
    rows = 30
    scaled, cut = law.with_sigma(law.sigma * 0.97), law.truncated(0.6)
    own = tuple(scaled if i % 2 else cut for i in range(rows))
    extra = {"none": [], "truncated": [cut], "scaled": [scaled], "each its own": [own]}[kind]
    size = 1 + len(extra)
    votes, draws = random_counts(seed, rows, size)
    protocol = Protocol(ALPHA, bound, paper_baseline=paper_baseline, base_share=None)
    counts = VoteTable.from_counts([law, *extra], votes, draws)
    table = certify_table(counts, protocol)

    def lower(column: int, alpha: float) -> NDArray[np.float64]:
        own = votes[:, column], draws[:, column]
        return lower_bound(*own, alpha) if bound is Bound.ONE_SIDED else interval(*own, alpha)[0]

    alone = certify(law, lower(0, ALPHA / size if paper_baseline else ALPHA))
    share = [lower(j, ALPHA / size) for j in range(size)]
    together = certify(law, share[0], extra, share[1:])
    np.testing.assert_array_equal(table.lower, np.stack(share, axis=1))
    for ours, expected in ((table.neyman_pearson, alone), (table.dsrs, together)):
        for name in ("radius", "multipliers", "bounds", "value", "error_bound", "solver"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    np.testing.assert_array_equal(table.radius, together.radius)
    assert table.votes is counts and len(table) == rows
    binds = together.binding()
    for radius, status, (own_binds, *others) in zip(table.radius, table.status, binds, strict=True):
        named = {(True, True): Status.DSRS, (True, False): Status.P, (False, True): Status.Q}
        assert status == (Status.NONE if radius == 0 else named[own_binds, any(others)])


def pooling_table(*, columns: int = 1) -> VoteTable:
    """The paper's rule with a plus: images whose P draws were all right draw from P again."""
    each = (EXTRA, LAW, LAW, LAW, LAW)
    votes = [[9_900, 9_950], [N, N], [N, N - 40], [N - 1, N - 2], [N, 0]]
    whole = [row[:1] + row[1:] * columns for row in votes]
    names = ["p", "threshold_x+", "threshold_x2+"][: 1 + columns]
    return VoteTable.from_counts((LAW, *[each] * columns), whole, N, names=names)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("search", Search)
def test_further_draws_of_p_are_pooled(columns: int, search: Search) -> None:
    """Several rules share these draws: they count once."""
    protocol = dataclasses.replace(PROTOCOL, search=search)
    table = certify_table(pooling_table(columns=columns), protocol)
    share = ALPHA / 2
    twice = certify(LAW, lower_bound([2 * N, 2 * N - 40], 2 * N, share))
    assert [str(status) for status in table.status[1:3]] == ["pooled", "pooled"]
    # Also where other radii are multiples of a unit.
    np.testing.assert_array_equal(table.radius[1:3], twice.radius)
    np.testing.assert_array_equal(table.dsrs.multipliers[1:3, :1], twice.multipliers)
    np.testing.assert_array_equal(table.dsrs.bounds[1:3, :1], twice.bounds)
    assert np.all(table.dsrs.multipliers[1:3, 1:] == 0) and np.all(table.dsrs.bounds[1:3, 1:] == 0)
    # The file says of each column what its own votes say.
    own = lower_bound([N, N - 40], N, share / columns)
    np.testing.assert_array_equal(table.lower[1:3, 1], own)
    assert table.status[0] == Status.DSRS
    # One wrong answer among the first draws: the second sample is a law like any other.
    single = certify_table(VoteTable.from_counts((LAW, *[LAW] * columns),
                           [[N - 1] + [N - 2] * columns], N), protocol)  # fmt: skip
    assert table.status[3] != Status.POOLED and table.radius[3] == single.radius[0] > 0
    # All wrong the second time: half of all draws prove nothing.
    assert table.radius[4] == 0 and table.status[4] == Status.NONE


def test_draws_of_p_whose_number_is_not_known_are_not_pooled() -> None:
    """Nor those of an image of which P has none."""
    table = pooling_table()
    state = table.state.copy()
    state[1, 0] = State.MISSING
    votes, draws = table.votes.copy(), table.draws.copy()
    votes[[2, 3], [0, 1]] = draws[[2, 3], [0, 1]] = -1
    low, high = np.zeros(votes.shape), np.ones(votes.shape)
    low[2, 0] = 0.9
    unknown = dataclasses.replace(
        table, votes=votes, draws=draws, state=state, intervals=Intervals(low, high, ALPHA / 2)
    )
    found = certify_table(unknown, PROTOCOL)
    assert not np.any(found.status == Status.POOLED)
    assert found.radius[1] == 0
    own = certify(LAW, [0.9], [LAW], [lower_bound([N - 40], N, ALPHA / 2)])
    assert found.radius[2] == own.radius[0]


def test_only_complete_votes_count() -> None:
    states = list(State)
    said = {State.UNREADABLE: Status.UNREADABLE, State.NOT_FINITE: Status.NOT_FINITE}
    cells = [(p, q) for p in states for q in states]
    whole = VoteTable.from_counts((LAW, EXTRA), [[9_900, 9_950]] * len(cells), N)
    table = certify_table(dataclasses.replace(whole, state=np.array(cells, dtype=object)), PROTOCOL)
    p, q = lower_bound([9_900, 9_950], N, ALPHA / 2)
    both = certify(LAW, [p], [EXTRA], [[q]]).radius[0]
    alone = certify(LAW, [p]).radius[0]
    assert both > alone
    for i, cell in enumerate(cells):
        if cell[0] is not State.COMPLETE:
            assert table.radius[i] == table.neyman_pearson.radius[i] == 0
            assert not table.lower[i].any()
            assert table.status[i] == said.get(cell[0], Status.NONE)
        elif cell[1] is not State.COMPLETE:
            assert table.radius[i] == pytest.approx(alone, rel=1e-9)
            assert table.status[i] == Status.P
            assert table.lower[i, 1] == 0 == table.dsrs.multipliers[i, 1]
        else:
            assert table.radius[i] == both and table.status[i] == Status.DSRS


def test_what_a_published_interval_is_good_for() -> None:
    """Counts are known in the first row; of the second only the interval is."""
    counts = np.array([[9_900, 9_950], [9_800, 9_900]])
    # Ends as somebody else computed them: a little off.
    low, high = (end * (1 - 1e-11) for end in interval(counts, N, ALPHA / 2))
    known = np.array([[True, True], [False, False]])
    whole = VoteTable.from_counts((LAW, EXTRA), counts, N)
    table = dataclasses.replace(
        whole,
        votes=np.where(known, counts, -1),
        draws=np.where(known, N, -1),
        intervals=Intervals(low, high, ALPHA / 2),
    )

    def lower(bound: Bound, alpha: float = ALPHA) -> NDArray[np.float64]:
        return certify_table(table, Protocol(alpha, bound)).lower

    # At the alpha of the publication the published ends themselves are used.
    np.testing.assert_array_equal(lower(Bound.TWO_SIDED), low)
    # One-sided bounds are made of the counts; where there are none the published end holds too.
    one_sided = lower_bound(counts, N, ALPHA / 2)
    np.testing.assert_array_equal(lower(Bound.ONE_SIDED), np.where(known, one_sided, low))
    # A smaller alpha: the published end may fail too often.
    for bound, expected in (
        (Bound.ONE_SIDED, lower_bound(counts, N, ALPHA / 4)),
        (Bound.TWO_SIDED, interval(counts, N, ALPHA / 4)[0]),
    ):
        found = lower(bound, ALPHA / 2)
        np.testing.assert_array_equal(found, np.where(known, expected, 0.0))
    # A larger one: it fails less often than it might.
    found = lower(Bound.TWO_SIDED, 2 * ALPHA)
    np.testing.assert_array_equal(found, np.where(known, interval(counts, N, ALPHA)[0], low))
    # Neyman-Pearson has all of alpha, unless it is the paper's.
    np.testing.assert_array_equal(
        certify_table(table, PROTOCOL).neyman_pearson.bounds[:, 0],
        [lower_bound(9_900, N, ALPHA), low[1, 0]],
    )
    paper = Protocol(ALPHA, Bound.TWO_SIDED, paper_baseline=True)
    np.testing.assert_array_equal(
        certify_table(table, paper).neyman_pearson.bounds[:, 0], low[:, 0]
    )


@pytest.mark.parametrize("unit", [0.05, 0.3])
def test_the_grid_search_stops_at_a_multiple_of_its_unit(unit: float) -> None:
    votes, _ = random_counts(8, 100, 2)
    counts = VoteTable.from_counts((LAW, EXTRA), np.minimum(votes % N + 1, N), N)
    precise = certify_table(counts, PROTOCOL)
    grid = certify_table(counts, dataclasses.replace(PROTOCOL, search=Search.GRID, grid_unit=unit))
    start = certify(LAW, precise.lower[:, 0]).radius
    assert np.all(grid.radius <= precise.radius) and np.all(grid.radius >= start)
    multiple = np.abs(grid.radius / unit - np.round(grid.radius / unit)) < 1e-9
    assert np.all(multiple | (grid.radius == start))
    # The next multiple does not certify.
    assert np.all(grid.radius[multiple] + unit > precise.radius[multiple])
    assert np.all((np.floor(precise.radius / unit) * unit <= start)[~multiple])
    assert np.any(multiple & (grid.radius > start)) and np.any(~multiple)
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


@pytest.mark.parametrize("search", Search)
@pytest.mark.parametrize("bound", Bound)
def test_what_is_written_is_read_back_and_proved(bound: Bound, search: Search) -> None:
    """Rows of every status: the proof recomputes each radius' bounds from its counts."""
    scaled, cut = LAW.with_sigma(0.4), LAW.truncated(0.7)
    votes = [
        [9_900, 9_950], [9_990, 5_000], [9_000, N], [N, N], [N, N - 3], [4_000, 4_000],
        [0, 0], [9_500, 0], [9_700, 9_900],
    ]  # fmt: skip
    laws = [cut, cut, scaled, LAW, LAW, cut, cut, cut, cut]
    draws = np.full((9, 2), N)
    draws[6], draws[7, 1] = 0, 0
    state = np.full((9, 2), State.COMPLETE, dtype=object)
    state[6], state[7, 1] = State.UNREADABLE, State.MISSING
    whole = VoteTable.from_counts(
        (LAW, tuple(laws)), votes, draws, names=["p", "threshold_x+"], index=np.arange(9) * 10
    )
    protocol = Protocol(ALPHA, bound, search)
    table = certify_table(dataclasses.replace(whole, state=state), protocol)
    statuses = "dsrs P Q pooled pooled none unreadable P dsrs"
    assert " ".join(table.status) == statuses
    expected = [
        (str(10 * i), method, radius)
        for i in range(9)
        for method, radius in (
            (Method.NEYMAN_PEARSON, table.neyman_pearson.radius[i]),
            (Method.DSRS, table.radius[i]),
        )
        if radius > 0
    ]
    assert proved(table) == expected and len(expected) == 14


def test_a_table_of_p_alone_is_proved() -> None:
    table = certify_table(VoteTable.from_counts([LAW], [9_900, 5_300, 100], N), PROTOCOL)
    np.testing.assert_array_equal(table.radius, table.neyman_pearson.radius)
    assert len(proved(table)) == 4


def test_what_rests_on_an_interval_alone_is_not_proved() -> None:
    """The proof believes counts and nothing else."""
    low, high = interval([[9_900, 9_950]], N, ALPHA / 2)
    whole = VoteTable.from_counts((LAW, EXTRA), [[-1, -1]], -1)
    published = dataclasses.replace(whole, intervals=Intervals(low, high, ALPHA / 2))
    table = certify_table(published, Protocol(ALPHA, Bound.TWO_SIDED))
    assert table.radius[0] > 0
    rows, names = parse(schema.text(schema.columns(table)), "here")
    claim = claims.read(rows[0].fields, names, Method.DSRS)
    assert claim is not None and "not known" in claims.prove(claim)


INSIDE_NAMES = ["p", "inside_0.5", "inside_0.8"]


def counts_inside(probability: list[float], draws: int, images: int, seed: int) -> VoteTable:
    """Votes of images with these probabilities under P up to 0.5, up to 0.8, and P itself."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(draws, [0.5, 0.3, 0.2], images)
    inner, middle, whole = probability
    # Of the shells, so that each law has its probability.
    shells = [inner, (0.8 * middle - 0.5 * inner) / 0.3, (whole - 0.8 * middle) / 0.2]
    votes = np.cumsum(rng.binomial(drawn, shells), axis=1)
    total = np.cumsum(drawn, axis=1)
    order = [2, 0, 1]
    laws = (LAW, LAW.truncated(0.5), LAW.truncated(0.8))
    return VoteTable.from_counts(laws, votes[:, order], total[:, order], names=INSIDE_NAMES)


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
    alpha, draws, images = 0.05, 100, 2_000
    table = counts_inside(probability, draws, images, 1)
    distinct = np.unique(np.hstack([table.votes, table.draws]), axis=0, return_counts=True)
    rows, often = distinct
    few = VoteTable.from_counts(table.laws, rows[:, :3], rows[:, 3:], names=INSIDE_NAMES)
    found = certify_table(few, Protocol(alpha))
    inner, middle, whole = probability
    truth = certify(LAW, [whole], few.laws[1:], [[inner], [middle]]).radius[0]
    for radius in (found.radius, found.neyman_pearson.radius):
        failures = np.sum(often[radius > truth + 1e-9])
        assert failures / images <= alpha + 4 * np.sqrt(alpha / images)


def test_an_image_without_a_wrong_draw_has_neyman_pearsons_radius() -> None:
    laws, draws = (LAW, LAW.truncated(0.5)), [N, N // 2]
    votes = [[N, N // 2], [N - 1, N // 2], [N - 500, N // 2 - 100], [0, 0]]
    inside = VoteTable.from_counts(laws, votes, draws, names=["p", "inside_0.5"])
    for search in Search:
        table = certify_table(inside, dataclasses.replace(PROTOCOL, search=search))
        assert [str(one) for one in table.status[[0, 3]]] == ["all-right", "none"]
        assert table.radius[0] == certify(LAW, lower_bound([N], N, ALPHA)).radius[0]
        assert table.ceiling is not None
        ceiling = certify(LAW, lower_bound([N], N, ALPHA / 2)).radius[0]
        np.testing.assert_array_equal(table.ceiling.radius, np.full(4, ceiling))
        assert np.all(table.radius[1:] <= ceiling) and table.radius[0] > ceiling
        assert len(proved(table)) == 6
    # Not where alpha is shared as in the paper, nor beside laws that have draws of their own.
    equal = certify_table(inside, dataclasses.replace(PROTOCOL, base_share=None))
    other = VoteTable.from_counts(laws, votes, draws, names=["p", "threshold_0.5"])
    for plain in (equal, certify_table(other, PROTOCOL)):
        assert plain.ceiling is None and plain.status[0] != Status.ALL_RIGHT
        assert plain.radius[0] < table.radius[0]
