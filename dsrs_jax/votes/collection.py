"""Collects the votes that certificates need: which draws of which images, block by block.

Blocks overlap: while one waits for its counts, the devices already work on the next. Where votes
are looked at several times (`SamplingPlan.looks`), a rule says after each look which images go on;
else an image that can have no radius after the interim look is not drawn further, which may only
cost it its radius (docs/scale.md, "The interim look").
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.data import Example
from dsrs_jax.noise import RadialLaw
from dsrs_jax.votes.plan import Kind, SamplingPlan
from dsrs_jax.votes.record import (
    AMBIGUOUS,
    COMPARED,
    COUNTS,
    NOT_FINITE,
    NOTHING,
    PREDICTED,
    GoesOn,
    counted,
    digest,
    drawn,
)
from dsrs_jax.votes.recording import recording
from dsrs_jax.votes.records import EARLIER, RecordFolder, looks_of
from dsrs_jax.votes.sampler import PendingVotes, Sampler
from dsrs_jax.votes.table import State

_BLOCKS_IN_FLIGHT = 3


def collect(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    examples: Iterable[Example],
    folder: RecordFolder,
    advance: Callable[[int], None],
    spare: Callable[[int], None],
    goes_on: GoesOn | None = None,
    classes: int | None = None,
) -> None:
    """Draws all that the plan asks for on every example, and records it.

    Of an image with a record its further looks are drawn.

    Args:
        plan: the laws.
        protocol: when an image is given up, and which bound the threshold rules go by.
        sampler: of the classifier, with the plan's cutoffs.
        examples: the images.
        folder: where the records go; what is finished is written also when the run is ended.
        advance: called with the number of draws that were counted.
        spare: called with the number of draws that an image did not need, when it is finished.
        goes_on: where the plan has looks: which images are drawn further after each.
        classes: of the classifier, where the plan has draws that choose one.
    """
    blocks = (
        _draw(
            plan,
            protocol,
            sampler,
            block,
            [folder.records.get(one.index) for one in block],
            goes_on,
            classes,
            advance,
        )
        for block in _cut(examples, sampler.devices, folder.records)
    )
    with recording(folder) as add:
        for records in _interleaved(blocks, _BLOCKS_IN_FLIGHT):
            add(records)
            spare(sum(plan.most_draws - drawn(plan, record) for record in records))


def _cut(
    examples: Iterable[Example], size: int, records: Mapping[int, dict[str, Any]]
) -> Iterator[list[Example]]:
    """Blocks of images whose votes were looked at equally often, as `unfinished` orders them."""

    def looks(example: Example) -> int:
        return looks_of(records.get(example.index, NOTHING))

    for _, alike in itertools.groupby(examples, looks):
        while block := list(itertools.islice(alike, size)):
            yield block


_Drawing = Generator[None, None, list[dict[str, Any]]]


def _interleaved(jobs: Iterator[_Drawing], depth: int) -> Iterator[list[dict[str, Any]]]:
    """What the jobs return. A job yields when it has given the devices work; others come next."""
    active: deque[_Drawing] = deque()
    for job in itertools.chain(jobs, [None] * depth):
        if job is not None:
            active.append(job)
        while len(active) >= (depth if job is not None else 1):
            current = active.popleft()
            try:
                next(current)
                active.append(current)
            except StopIteration as stop:
                yield stop.value


class _Block(NamedTuple):
    """Images that are drawn together, and their records."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    records: list[dict[str, Any]]

    def only(self, rows: NDArray[np.int64]) -> _Block:
        records = [self.records[i] for i in rows.tolist()]
        return _Block(self.images[rows], self.labels[rows], self.indices[rows], records)

    def start(
        self, sampler: Sampler, law: RadialLaw | list[RadialLaw], n: int, first: int = 0
    ) -> PendingVotes:
        return sampler.start(self.images, self.labels, law, n, indices=self.indices, first=first)

    def begin_look(self) -> None:
        """Keeps the counts of each record as those of an earlier look."""
        for record in self.records:
            if any(record["draws"]):
                counts = {key: record[key] for key in COUNTS if key in record}
                counts |= {what: list(counts[what]) for what in ("draws", "votes")}
                record.setdefault(EARLIER, []).append(counts)

    def add(
        self, column: int, pending: PendingVotes, order: list[int], advance: Callable[[int], None]
    ) -> None:
        """Adds counts, in this order of theirs, to the records' from `column` on."""
        rows = zip(*(counts.tolist() for counts in pending.result(advance)), strict=True)
        for record, compared in zip(self.records, pending.compared.tolist(), strict=True):
            record[COMPARED] += compared
        for record, (draws, correct, *odd) in zip(self.records, rows, strict=True):
            for j, place in enumerate(order, start=column):
                record["draws"][j] += draws[place]
                record["votes"][j] += correct[place]
            for name, counts in zip((NOT_FINITE, AMBIGUOUS), odd, strict=True):
                if counts[-1]:
                    record[name] = record.get(name, 0) + counts[-1]


def _draw(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    examples: list[Example],
    earlier: list[dict[str, Any] | None],
    goes_on: GoesOn | None,
    classes: int | None,
    advance: Callable[[int], None],
) -> _Drawing:
    """Draws all that the plan asks for on the images of a block, after what there is of them."""
    records: list[dict[str, Any]] = []
    readable, laws = [], 1 + len(plan.extra)
    for example, record in zip(examples, earlier, strict=True):
        if example.image is None:
            records.append({"index": example.index, State.UNREADABLE.value: example.problem})
            continue
        readable.append(example)
        if record is not None and State.UNREADABLE not in record:
            own = copy.deepcopy(record)
        else:
            own = {
                "index": example.index,
                "label": example.label,
                "image": digest(example.image, example.label),
                "draws": [0] * laws,
                "votes": [0] * laws,
                COMPARED: 0,
            }
        records.append(own)
    if not readable:
        return records
    block = _Block(
        np.stack([example.image for example in readable if example.image is not None]),
        np.array([example.label for example in readable]),
        np.array([example.index for example in readable]),
        [record for record in records if "draws" in record],
    )
    if plan.n0:
        assert classes is not None
        yield from _choose(plan, sampler, block, classes)
        chosen = [record[PREDICTED]["class"] for record in block.records]
        block = block._replace(labels=np.array(chosen))
    if plan.looks is None:
        yield from _draw_at_once(plan, protocol, sampler, block, advance)
    else:
        assert goes_on is not None
        yield from _draw_in_looks(plan, sampler, block, goes_on, advance)
    return records


def _choose(
    plan: SamplingPlan, sampler: Sampler, block: _Block, classes: int
) -> Generator[None, None, None]:
    """Chooses the class of images whose records do not say it: most votes, of equal the lowest."""
    rows = [i for i, record in enumerate(block.records) if PREDICTED not in record]
    if not rows:
        return
    part = block.only(np.array(rows))
    pending = sampler.start(
        part.images, None, plan.law, plan.n0, indices=part.indices, classes=classes
    )
    yield
    votes = pending.result().correct
    for record, own in zip(part.records, votes, strict=True):
        best = int(np.argmax(own))
        record[PREDICTED] = {"class": best, "votes": int(own[best])}


def _order(plan: SamplingPlan) -> list[int]:
    """Which of a sampler's counts are those of P and of the laws inside it: the last is of all."""
    inside = len(plan.of_kind(Kind.INSIDE))
    return [inside, *range(inside)]


def _draw_in_looks(
    plan: SamplingPlan,
    sampler: Sampler,
    block: _Block,
    goes_on: GoesOn,
    advance: Callable[[int], None],
) -> Generator[None, None, None]:
    """Draws look after look, of all laws together, while the rule goes on with an image."""
    schedule = plan.schedule
    fresh = not any(block.records[0]["draws"])
    number = 0 if fresh else looks_of(block.records[0])
    separate = [
        (column, extra)
        for column, extra in enumerate(plan.extra, start=1)
        if extra.kind is not Kind.INSIDE
    ]
    while block.records and number < len(schedule):
        first = schedule[number - 1] if number else 0
        n = schedule[number] - first
        waiting = [(0, _order(plan), block.start(sampler, plan.law, n, first))]
        for column, extra in separate:
            waiting.append((column, [-1], block.start(sampler, plan.fixed_law(extra), n, first)))
        yield
        block.begin_look()
        for column, order, pending in waiting:
            block.add(column, pending, order, advance)
        number += 1
        if number < len(schedule):
            block = block.only(np.flatnonzero(goes_on(counted(block.records, number))))


def _draw_at_once(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    block: _Block,
    advance: Callable[[int], None],
) -> Generator[None, None, None]:
    """Draws all n, but of images that the interim look gives up."""
    laws = 1 + len(plan.extra)
    for first, n in ((0, plan.interim_look), (plan.interim_look, plan.n - plan.interim_look)):
        if n == 0 or not block.records:
            continue
        pending = block.start(sampler, plan.law, n, first)
        yield
        block.add(0, pending, _order(plan), advance)
        votes = np.array([record["votes"][0] for record in block.records])
        abstains = protocol.abstains_early(votes, np.full_like(votes, first + n), laws)
        for i in np.flatnonzero(abstains).tolist():
            block.records[i][State.ABSTAINED.value] = True
        block = block.only(np.flatnonzero(~abstains))
    if block.records:
        yield from _draw_separately(plan, protocol, sampler, block, advance)


def _draw_separately(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    block: _Block,
    advance: Callable[[int], None],
) -> Generator[None, None, None]:
    """The laws that have draws of their own, on images whose votes under P are counted."""
    votes = np.array([record["votes"][0] for record in block.records])
    # What is being counted: the images, their column, and the promise.
    waiting: list[tuple[_Block, int, PendingVotes]] = []
    for column, extra in enumerate(plan.extra, start=1):
        if extra.kind is Kind.INSIDE:
            continue
        laws = plan.laws(extra, votes, protocol)
        if isinstance(laws, RadialLaw):
            waiting.append((block, column, block.start(sampler, laws, plan.n)))
            continue
        more = np.array([law == plan.law for law in laws])
        if more.any():  # draws of P, after those that there are
            part = block.only(np.flatnonzero(more))
            waiting.append((part, column, part.start(sampler, plan.law, plan.n, plan.n)))
        if not more.all():
            part = block.only(np.flatnonzero(~more))
            chosen = [law for law in laws if law != plan.law]
            waiting.append((part, column, part.start(sampler, chosen, plan.n)))
    if waiting:
        yield
    for part, column, pending in waiting:
        part.add(column, pending, [-1], advance)
