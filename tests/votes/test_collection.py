"""Collecting votes: every record holds what the plan says, and a signal loses nothing finished."""

import functools
import itertools
import os
import signal
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
    """Class 1 where the first pixel is above 1/2; no finite logits where the last is above 1.5."""
    first, last = images[:, 0, 0, 0], images[:, -1, -1, 0]
    return jnp.stack([jnp.where(last > 1.5, jnp.nan, 0.5 - first), first - 0.5], axis=1)


@functools.cache
def sampler() -> Sampler:
    return Sampler(half_space, cutoffs=PLAN.cutoffs)


def example(index: int, value: float, last: float = -99.0) -> Example:
    """An image of one value, which says how often it is of class 1; 99 is always."""
    image = np.full((8, 8, 1), value, dtype=np.float32)
    image[-1, -1] = last
    return Example(index, image, 1)


def nothing(draws: int) -> None:
    """Nobody looks on."""


def counts(one: Example, law: RadialLaw, first: int = 0) -> np.ndarray:
    """Draws, right answers, those not finite: inside the plan's cutoff and of all, drawn alone."""
    assert one.image is not None
    alone = sampler().start(one.image[None], [1], law, N, indices=[one.index], first=first)
    return np.stack(alone.result()[:3])[:, 0]


def test_every_record_holds_what_was_drawn_of_each_law(tmp_path: Path) -> None:
    # The first N draws of this one are all right, and not all of the next N: as those are pooled,
    # drawing the first ones again would be seen.
    right = next(
        one
        for one in map(example, itertools.repeat(5), np.linspace(1.5, 4, 100))
        if counts(one, LAW)[1, 1] == N and counts(one, LAW, first=N)[1, 1] < N
    )
    mostly, some, seldom = example(3, 0.9), example(11, 0.9, 0.9), example(8, 0.1)
    odd, damaged = example(10, 99.0, 99.0), Example(9, None, -1, "cannot be read")
    advanced, spared = list[int](), list[int]()
    examples = [mostly, right, seldom, damaged, odd, some]
    with RecordFolder(tmp_path, {}) as folder:
        collect(PLAN, PROTOCOL, sampler(), examples, folder, advanced.append, spared.append)
    problem = functools.partial(problem_of, PLAN)
    with RecordFolder(tmp_path, {}, problem_of=problem, on_damaged=pytest.fail) as folder:
        records = folder.records
    assert sorted(records) == [3, 5, 8, 9, 10, 11]
    assert sum(advanced) == sum(drawn(PLAN, record) for record in records.values())
    assert sum(advanced) + sum(spared) == 6 * PLAN.most_draws
    for one in (mostly, right, some):
        record = records[one.index]
        assert record["label"] == 1 and "abstained" not in record
        of_p = counts(one, LAW)
        expected, votes = [of_p[:, 1], of_p[:, 0]], of_p[1, 1:]
        for column, extra in enumerate(EXTRA[1:], start=2):
            law = PLAN.laws(extra, votes, PROTOCOL)
            law = law if isinstance(law, RadialLaw) else law[0]
            # Where a rule pools there are more draws of P, after the first ones.
            expected.append(counts(one, law, first=N if law == LAW else 0)[:, 1])
            assert (law == LAW) == (one is right and column == 3)
        own = np.transpose(expected)
        assert [record["draws"], record["votes"]] == own[:2].tolist()
        lost = int(own[2].sum() - own[2, 1])  # those inside P's are P's
        assert record.get("not_finite", 0) == lost and (lost > 0) == (one is some)
        assert drawn(PLAN, record) == 4 * N
    # What can have no radius is given up at the interim look: nothing more was drawn of it.
    assert records[8]["abstained"] is True
    assert records[8]["draws"][0] == PLAN.interim_look and records[8]["draws"][2:] == [0, 0, 0]
    assert records[8]["votes"][0] < PLAN.interim_look / 4
    assert records[9] == {"index": 9, "unreadable": "cannot be read"}
    assert records[10]["not_finite"] == drawn(PLAN, records[10]) == PLAN.interim_look
    assert not_finite(records.values()).keys() == {10, 11}

    order = [9, 8, 5, 3, 10]
    table = table_of(PLAN, PROTOCOL, [records[index] for index in order])
    assert table.names == PLAN.names and table.index.tolist() == order
    assert table.label.tolist() == [-1, 1, 1, 1, 1]
    states = [State.UNREADABLE, State.ABSTAINED, *[State.COMPLETE] * 2, State.NOT_FINITE]
    assert table.state.tolist() == [[state] * 5 for state in states]
    for row, index in enumerate(order):
        assert table.draws[row].tolist() == records[index].get("draws", [0] * 5)
        assert table.votes[row].tolist() == records[index].get("votes", [0] * 5)
    assert table.more_of_base(3).tolist() == [False, False, True, False, False]
    assert table.laws[:3] == (LAW, LAW.truncated(0.5), LAW.with_sigma(0.4))
    assert table_of(PLAN, PROTOCOL, []).votes.shape == (0, 5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_signal_nothing_more_is_begun_and_all_that_was_done_is_written(
    number: signal.Signals, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, finished, devices = [], 0, sampler().devices

    def examples() -> Iterator[Example]:
        for index in range(100 * devices):
            taken.append(index)
            yield example(index, 0.9)

    def spare(draws: int) -> None:
        """Of a block that is finished."""
        nonlocal finished
        assert finished < 2  # never called again after the signal
        finished += 1
        if finished == 2:
            os.kill(os.getpid(), number)

    with RecordFolder(tmp_path, {}) as folder:
        found = exit_code(
            "program",
            lambda: collect(PLAN, PROTOCOL, sampler(), examples(), folder, nothing, spare),
            interrupted="go on",
        )
    assert found == code
    assert capsys.readouterr().err.count("\n") == 1
    assert len(taken) <= (2 + IN_FLIGHT) * devices
    with RecordFolder(tmp_path, {}) as folder:
        assert sorted(folder.records) == list(range(2 * devices))


def test_what_was_done_is_written_where_progress_cannot_be_printed(tmp_path: Path) -> None:
    def spare(draws: int) -> None:
        raise OSError("No space left on device")

    with RecordFolder(tmp_path, {}) as folder, pytest.raises(OSError):
        collect(PLAN, PROTOCOL, sampler(), [example(3, 0.9)], folder, nothing, spare)
    with RecordFolder(tmp_path, {}) as folder:
        assert folder.records.keys() == {3}
