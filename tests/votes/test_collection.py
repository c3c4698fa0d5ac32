"""Collecting votes: every record holds what the plan says, and a signal loses nothing finished."""

import functools
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dsrs_jax.bounds import Protocol
from dsrs_jax.data import Example
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.system.signals import exit_code
from dsrs_jax.votes import (
    RecordFolder,
    Sampler,
    SamplingPlan,
    State,
    collect,
    drawn,
    not_finite,
    problem_of,
    second_laws,
    table_of,
)

LAW = generalized_gaussian(64, 0.5, 28)
PROTOCOL = Protocol(alpha=0.001)
N = 8192  # the smallest number of draws with an interim look
EXTRA = second_laws(inside=(0.5,), sigma=(0.4,), threshold=("x+", "x2"))
PLAN = SamplingPlan(LAW, EXTRA, N)
IN_FLIGHT = 3  # blocks of images that are drawn at the same time


def half_space(images: Array) -> Array:
    """Class 1 where the first pixel is above 1/2."""
    first = images[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], axis=1)


def sampler() -> Sampler:
    return Sampler(half_space, cutoffs=PLAN.cutoffs)


def example(index: int, value: float, label: int = 1) -> Example:
    """An image of one value, which says how often it is of class 1; 99 is always."""
    return Example(index, np.full((8, 8, 1), value, dtype=np.float32), label)


def counts(one: Example, law: RadialLaw, first: int = 0) -> tuple[list[int], list[int]]:
    """(draws, right answers) inside the plan's cutoff and of all, drawn alone."""
    assert one.image is not None
    drawn = sampler().start(one.image[None], [one.label], law, N, indices=[one.index], first=first)
    found = drawn.result()
    return found.draws[0].tolist(), found.correct[0].tolist()


def test_every_record_holds_what_was_drawn_of_each_law(tmp_path: Path) -> None:
    mostly, always, seldom = example(3, 0.9), example(5, 99.0), example(8, 0.1)
    damaged = Example(9, None, -1, "cannot be read")
    advanced: list[int] = []
    examples = [mostly, always, seldom, damaged]
    with RecordFolder(tmp_path, {}) as folder:
        collect(PLAN, PROTOCOL, sampler(), examples, folder, advanced.append)
        records = folder.records
    assert sum(advanced) == 4 and sorted(records) == [3, 5, 8, 9]
    assert {problem_of(PLAN, record) for record in records.values()} == {None}
    for one in (mostly, always):
        record = records[one.index]
        assert record["label"] == 1 and "abstained" not in record
        (inside, everything), (inside_right, right) = counts(one, LAW)
        expected = [(everything, right), (inside, inside_right)]
        votes = np.array([right])
        for column, extra in enumerate(EXTRA[1:], start=2):
            law = PLAN.laws(extra, votes, PROTOCOL)
            law = law if isinstance(law, RadialLaw) else law[0]
            # Where a rule pools there are more draws of P, after the first ones.
            draws, correct = counts(one, law, first=N if law == LAW else 0)
            expected.append((draws[-1], correct[-1]))
            assert (law == LAW) == (one is always and column == 3)
        assert list(zip(record["draws"], record["votes"], strict=True)) == expected
    # What can have no radius is given up at the interim look: nothing more was drawn of it.
    assert records[8]["abstained"] is True
    assert records[8]["draws"][0] == PLAN.interim_look and records[8]["draws"][2:] == [0, 0, 0]
    assert records[8]["votes"][0] < PLAN.interim_look / 4
    assert records[9] == {"index": 9, "unreadable": "cannot be read"}

    table = table_of(PLAN, PROTOCOL, [records[index] for index in (9, 8, 5, 3)])
    assert table.names == PLAN.names and table.index.tolist() == [9, 8, 5, 3]
    assert table.label.tolist() == [-1, 1, 1, 1]
    assert [set(row) for row in table.state.tolist()] == [
        {State.UNREADABLE},
        {State.ABSTAINED},
        {State.COMPLETE},
        {State.COMPLETE},
    ]
    assert table.draws[0].tolist() == table.votes[0].tolist() == [0] * 5
    for row, index in enumerate((8, 5, 3), start=1):
        assert table.draws[row].tolist() == records[index]["draws"]
        assert table.votes[row].tolist() == records[index]["votes"]
    assert table.more_of_base(3).tolist() == [False, False, True, False]
    assert not table.more_of_base(4).any()
    assert table.laws[:3] == (LAW, LAW.truncated(0.5), LAW.with_sigma(0.4))


def test_a_record_says_how_many_draws_had_logits_that_are_not_finite(tmp_path: Path) -> None:
    def sometimes_nan(images: Array) -> Array:
        logits, last = half_space(images), images[:, -1, -1, 0]
        return logits.at[:, 0].set(jnp.where(last > 1.5, jnp.nan, logits[:, 0]))

    def sampler() -> Sampler:
        return Sampler(sometimes_nan, cutoffs=PLAN.cutoffs)

    some, none, every = example(3, 0.9), example(5, 0.9), example(8, 99.0)
    assert none.image is not None
    none.image[-1, -1] = -99.0
    with RecordFolder(tmp_path, {}) as folder:
        collect(PLAN, PROTOCOL, sampler(), [some, none, every], folder, lambda images: None)
    told: list[str] = []
    problem = functools.partial(problem_of, PLAN)
    with RecordFolder(tmp_path, {}, problem_of=problem, on_damaged=told.append) as folder:
        records = folder.records
    assert not told and sorted(records) == [3, 5, 8]
    # Of some, what is drawn of each law that has draws of its own; those inside P's are P's.
    votes = np.array([records[3]["votes"][0]])
    expected = 0
    for extra in (None, *EXTRA[1:]):
        law = LAW if extra is None else PLAN.laws(extra, votes, PROTOCOL)
        law = law if isinstance(law, RadialLaw) else law[0]
        assert some.image is not None
        drawn_alone = sampler().start(some.image[None], [1], law, N, indices=[3]).result()
        expected += int(drawn_alone.not_finite[0, -1])
    assert records[3]["not_finite"] == expected > 0
    assert drawn(PLAN, records[3]) == 4 * N
    assert "not_finite" not in records[5]
    assert records[8]["not_finite"] == drawn(PLAN, records[8]) == PLAN.interim_look
    assert not_finite(records.values()) == {3: expected, 8: PLAN.interim_look}
    table = table_of(PLAN, PROTOCOL, [records[index] for index in (3, 5, 8)])
    assert [set(row) for row in table.state.tolist()] == [
        {State.COMPLETE}, {State.COMPLETE}, {State.NOT_FINITE},
    ]  # fmt: skip


def test_a_rule_that_pools_goes_on_where_the_first_draws_ended(tmp_path: Path) -> None:
    # An image whose first N draws are all right, and not all of the next N: as those are pooled,
    # drawing the first ones again would be seen.
    shades = [example(index, value) for index in range(4) for value in np.linspace(1.5, 4, 26)]
    one = next(
        shade
        for shade in shades
        if counts(shade, LAW)[1][-1] == N and counts(shade, LAW, first=N)[1][-1] < N
    )
    with RecordFolder(tmp_path, {}) as folder:
        collect(PLAN, PROTOCOL, sampler(), [one], folder, lambda images: None)
        record = folder.records[one.index]
    column = PLAN.names.index("threshold_x+")
    assert record["votes"][0] == N
    assert record["draws"][column] == N
    assert record["votes"][column] == counts(one, LAW, first=N)[1][-1]


def test_no_records_are_an_empty_table() -> None:
    table = table_of(PLAN, PROTOCOL, [])
    assert len(table) == 0 and table.votes.shape == (0, 5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_signal_nothing_more_is_begun_and_all_that_was_done_is_written(
    number: signal.Signals, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, finished = [], 0
    devices = sampler().devices

    def examples() -> Iterator[Example]:
        for index in range(100 * devices):
            taken.append(index)
            yield example(index, 0.9)

    def advance(images: int) -> None:
        nonlocal finished
        assert finished < 2 * devices  # never called again after the signal
        finished += images
        if finished == 2 * devices:
            os.kill(os.getpid(), number)

    with RecordFolder(tmp_path, {}) as folder:
        found = exit_code(
            "program",
            lambda: collect(PLAN, PROTOCOL, sampler(), examples(), folder, advance),
            interrupted="go on",
        )
    assert found == code
    assert capsys.readouterr().err.count("\n") == 1
    assert len(taken) <= (2 + IN_FLIGHT) * devices
    with RecordFolder(tmp_path, {}) as folder:
        assert sorted(folder.records) == list(range(2 * devices))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_was_done_is_written_where_progress_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        with RecordFolder(tmp_path, {}) as folder:
            examples = [example(3, 0.9), example(5, 0.9)]
            collect(PLAN, PROTOCOL, sampler(), examples, folder, lambda count: print(count))

    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert exit_code("program", action, interrupted="go on") == 2
        monkeypatch.undo()
    assert "cannot write to standard output" in capsys.readouterr().err
    with RecordFolder(tmp_path, {}) as folder:
        assert folder.records
