"""Collects the votes that certificates need: which draws of which images, block by block.

Blocks overlap: while one waits for its counts, the devices already work on the next. An image that
can have no radius after the interim look is not drawn further, which may only cost it its
radius (docs/scale.md, "The interim look").

A record is {"index", "label", "image", "draws", "votes"}: "image" is the digest of image and label
(earlier versions wrote none), the last two have an entry for each law of the plan, P first;
"abstained": true where the image was given up; "not_finite" and "ambiguous": how many of all draws
had logits that are not all finite, or were ambiguous (`noise.sound`), where there are any. Of an
image that cannot be read it is {"index", "unreadable": why}. `problem_of` says what is no such
record.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.data import Example
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.output import OutputError
from dsrs_jax.system.signals import last_words
from dsrs_jax.votes.plan import Kind, SamplingPlan
from dsrs_jax.votes.records import RecordFolder
from dsrs_jax.votes.sampler import PendingVotes, Sampler, Votes
from dsrs_jax.votes.table import SoundDraws, State, VoteTable

_NOT_FINITE, _AMBIGUOUS = "not_finite", "ambiguous"
_BLOCKS_IN_FLIGHT = 3
# A file of records is written after a hundredth of the time that the run has taken so far, within
# these seconds: a killed run loses about so much, and a long one leaves hundreds of files.
_SECONDS_A_FILE = (0.5, 60.0)


def table_of(
    plan: SamplingPlan,
    protocol: Protocol,
    records: Sequence[dict[str, Any]],
    grid: int | None = None,
) -> VoteTable:
    """The records of a run as a `VoteTable`, in their order; `grid` as for `Sampler`."""
    size, laws = len(records), 1 + len(plan.extra)
    nothing = [0] * laws
    draws = np.array([record.get("draws", nothing) for record in records], dtype=np.int64)
    votes = np.array([record.get("votes", nothing) for record in records], dtype=np.int64)
    draws, votes = draws.reshape(size, laws), votes.reshape(size, laws)
    own = [_state(plan, record) for record in records]
    ambiguous = np.array([record.get(_AMBIGUOUS, 0) for record in records], dtype=np.int64)
    return VoteTable(
        names=plan.names,
        laws=(plan.law, *(plan.laws(extra, votes[:, 0], protocol) for extra in plan.extra)),
        index=np.array([record["index"] for record in records], dtype=np.int64),
        label=np.array([record.get("label", -1) for record in records], dtype=np.int64),
        draws=draws,
        votes=votes,
        state=np.array(own, dtype=object)[:, None].repeat(laws, axis=1),
        sound=None if grid is None else SoundDraws(grid, ambiguous),
    )


def _state(plan: SamplingPlan, record: Mapping[str, Any]) -> State:
    if 0 < record.get(_NOT_FINITE, 0) == drawn(plan, record):
        return State.NOT_FINITE
    said = (State.ABSTAINED, State.UNREADABLE)  # as a key
    return next((state for state in said if state in record), State.COMPLETE)


def drawn(plan: SamplingPlan, record: Mapping[str, Any]) -> int:
    """The draws that were made of an image; those inside a level are P's own, and count once."""
    return sum(count for count, _ in _own(plan, record))


def not_finite(records: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """How many draws had logits that are not all finite, by index, where there are any."""
    return {record["index"]: record[_NOT_FINITE] for record in records if _NOT_FINITE in record}


def _own(plan: SamplingPlan, record: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(draws, votes) of the laws that have draws of their own, P first."""
    laws = list(zip(record.get("draws", ()), record.get("votes", ()), strict=True))
    return [*laws[:1], *laws[1 + len(plan.of_kind(Kind.INSIDE)) :]]


def problem_of(plan: SamplingPlan, record: Mapping[str, Any]) -> str | None:
    """Why a record, read from a file, is none that `collect` writes for a plan; None if it is one.

    Args:
        plan: the laws, and how many draws each gets.
        record: any object of JSON with an index.
    """
    if State.UNREADABLE in record:
        said = set(record) == {"index", State.UNREADABLE}
        return None if said and isinstance(record[State.UNREADABLE], str) else "unreadable, not why"
    label, image = record.get("label"), record.get("image", "0" * 16)
    if type(label) is not int or not -(2**31) <= label < 2**31:
        return "no label"
    if not isinstance(image, str) or re.fullmatch("[0-9a-f]{16}", image) is None:
        return "image is no digest"
    for name in ("draws", "votes"):
        counts = record.get(name)
        if not isinstance(counts, list) or len(counts) != 1 + len(plan.extra):
            return f"{name} are not {1 + len(plan.extra)} counts"
        if any(type(count) is not int or not 0 <= count <= plan.n for count in counts):
            return f"{name} are not counts of at most {plan.n}"
    if record.get(State.ABSTAINED, True) is not True:
        return "abstained is not true"
    laws = list(zip(record["draws"], record["votes"], strict=True))
    # Draws inside a level are among those inside the next one, and the last one's among P's.
    nested = [*laws[1 : 1 + len(plan.of_kind(Kind.INSIDE))], laws[0]]
    own = _own(plan, record)
    if State.ABSTAINED not in record and any(count != plan.n for count, _ in own):
        return f"draws are not {plan.n}"
    wrong = [(count - right, right) for count, right in nested]
    for name in (_NOT_FINITE, _AMBIGUOUS):
        odd = record.get(name, 1)
        if type(odd) is not int or odd < 1:
            return f"{name} is no positive count"
        if name in record and odd > sum(count - right for count, right in own):
            return "the counts contradict one another"
    if any(count < right for count, right in laws) or any(
        inner[0] > outer[0] or inner[1] > outer[1] for inner, outer in itertools.pairwise(wrong)
    ):
        return "the counts contradict one another"
    return None


def collect(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    examples: Iterable[Example],
    folder: RecordFolder,
    advance: Callable[[int], None],
) -> None:
    """Draws all that the plan asks for on every example, and records it.

    Args:
        plan: the laws.
        protocol: when an image is given up, and which bound the threshold rules go by.
        sampler: of the classifier, with the plan's cutoffs.
        examples: the images.
        folder: where the records go; what is finished is written also when the run is ended.
        advance: called with the number of images that were finished.
    """
    waiting: list[dict[str, Any]] = []
    lock = threading.Lock()

    def write() -> None:
        nonlocal waiting
        with lock:
            folder.append(waiting)
            waiting = []

    begun = written = time.monotonic()
    shortest, longest = _SECONDS_A_FILE
    blocks = (_draw(plan, protocol, sampler, block) for block in _cut(examples, sampler.devices))
    with last_words(write):
        try:
            for records in _interleaved(blocks, _BLOCKS_IN_FLIGHT):
                with lock:
                    waiting += records
                advance(len(records))
                now = time.monotonic()
                if now - written > min(max((now - begun) / 100, shortest), longest):
                    write()
                    written = now
        except (KeyboardInterrupt, OutputError):
            write()
            raise
        write()


def digest(image: np.ndarray, label: int) -> str:
    """16 hexadecimal digits that tell one image and its label from any other.

    Args:
        image: (H, W, C), as the data set gives it.
        label: its class.
    """
    what = f"{image.shape} {image.dtype} {label}\n".encode()
    return hashlib.sha256(what + image.tobytes()).hexdigest()[:16]


def confirm(examples: Iterable[Example], records: Mapping[int, dict[str, Any]]) -> None:
    """Compares images with those that were recorded under their indices.

    A record without a digest, as earlier versions wrote it, is compared by its label.

    Raises:
        UserError: an image or a label is another one, or the image cannot be read any more.
    """
    for example in examples:
        record = records[example.index]
        if example.image is None:
            what = f"cannot be read any more ({example.problem})"
        elif example.label != record["label"]:
            what = f"has the label {example.label}, and had {record['label']}"
        elif record.get("image", "") not in ("", digest(example.image, example.label)):
            what = "is another image"
        else:
            continue
        raise UserError(
            f"index {example.index} {what}: the recorded votes are not of these data; give the "
            "data that the run was begun with, or another --out"
        )


def _cut(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while block := list(itertools.islice(remaining, size)):
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

    def add(self, column: int, counted: Votes, order: list[int]) -> None:
        """Adds counts, in this order of theirs, to the records' from `column` on."""
        rows = zip(*(counts.tolist() for counts in counted), strict=True)
        for record, (draws, correct, *odd) in zip(self.records, rows, strict=True):
            for j, place in enumerate(order, start=column):
                record["draws"][j] += draws[place]
                record["votes"][j] += correct[place]
            for name, counts in zip((_NOT_FINITE, _AMBIGUOUS), odd, strict=True):
                if counts[-1]:
                    record[name] = record.get(name, 0) + counts[-1]


def _draw(
    plan: SamplingPlan, protocol: Protocol, sampler: Sampler, examples: list[Example]
) -> _Drawing:
    """Draws all that the plan asks for on the images of a block."""
    records: list[dict[str, Any]] = []
    readable, laws = [], 1 + len(plan.extra)
    for example in examples:
        if example.image is None:
            records.append({"index": example.index, State.UNREADABLE.value: example.problem})
        else:
            readable.append(example)
            records.append(
                {
                    "index": example.index,
                    "label": example.label,
                    "image": digest(example.image, example.label),
                    "draws": [0] * laws,
                    "votes": [0] * laws,
                }
            )
    if not readable:
        return records
    block = _Block(
        np.stack([example.image for example in readable if example.image is not None]),
        np.array([example.label for example in readable]),
        np.array([example.index for example in readable]),
        [record for record in records if "draws" in record],
    )
    inside = len(plan.of_kind(Kind.INSIDE))
    order = [inside, *range(inside)]  # the last count is of all draws
    for first, n in ((0, plan.interim_look), (plan.interim_look, plan.n - plan.interim_look)):
        if n == 0 or not block.records:
            continue
        pending = block.start(sampler, plan.law, n, first)
        yield
        block.add(0, pending.result(), order)
        votes = np.array([record["votes"][0] for record in block.records])
        abstains = protocol.abstains_early(votes, np.full_like(votes, first + n), laws)
        for i in np.flatnonzero(abstains).tolist():
            block.records[i][State.ABSTAINED.value] = True
        block = block.only(np.flatnonzero(~abstains))
    if block.records:
        yield from _draw_separately(plan, protocol, sampler, block)
    return records


def _draw_separately(
    plan: SamplingPlan, protocol: Protocol, sampler: Sampler, block: _Block
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
        part.add(column, pending.result(), [-1])
