"""Collects the votes that certificates need: which draws of which images, block by block.

Blocks overlap: while one waits for its counts, the devices already work on the next. Whoever is
hopeless after a first look is not drawn further, which may only cost it its radius of 0 (design:
stopping early is allowed only to abstain).
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrs_jax import data, sampling
from dsrs_jax.certify import interval, lower_bound
from dsrs_jax.certify.thresholds import pools, threshold
from dsrs_jax.noise import RadialLaw

# Draws after which an image is looked at for the first time; the paper's code looks at 4,000.
LOOK = 4096
_BLOCKS_IN_FLIGHT = 3
# A file of records is written after a hundredth of the time that the run has taken so far, within
# these seconds: a killed run loses about so much, and a long one leaves hundreds of files.
_SECONDS_A_FILE = (0.5, 60.0)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The laws that are drawn from, and how the failure probability is shared between them."""

    law: RadialLaw
    inside: tuple[RadialLaw, ...]  # P truncated: read off P's own draws
    scaled: tuple[RadialLaw, ...]  # P with another sigma: drawn separately
    rules: tuple[str, ...]  # P truncated by a rule: drawn separately
    n: int
    alpha: float
    one_sided: bool

    @property
    def share(self) -> float:
        """Failure probability of each of the J + 1 bounds; together they fail with alpha."""
        return self.alpha / (1 + len(self.inside) + len(self.scaled) + len(self.rules))

    @property
    def cutoffs(self) -> list[float]:
        """Levels within which P's draws are counted apart."""
        return [law.cutoff for law in self.inside if law.cutoff is not None]

    @property
    def look(self) -> int:
        """Draws of P before the first look; 0 where looking would save little."""
        return LOOK if self.n >= 2 * LOOK else 0

    def lower(
        self, votes: NDArray[np.int64], draws: NDArray[np.int64], alpha: float
    ) -> NDArray[np.float64]:
        """Lower bounds of the kind that was asked for, each failing with probability `alpha`."""
        if self.one_sided:
            return lower_bound(votes, draws, alpha)
        return interval(votes, draws, alpha)[0]

    def hopeless(self, votes: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the votes say, with P's share of alpha, that less than half of P is right."""
        return lower_bound(draws - votes, draws, self.share) > 0.5


class _Block(NamedTuple):
    """Images of one turn, and their records."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    records: list[dict[str, Any]]

    def only(self, rows: NDArray[np.int64]) -> _Block:
        records = [self.records[i] for i in rows.tolist()]
        return _Block(self.images[rows], self.labels[rows], self.indices[rows], records)


def collect(
    protocol: Protocol,
    sampler: sampling.Sampler,
    examples: Iterable[data.Example],
    directory: sampling.RunDirectory,
    advance: Callable[[int], None],
) -> None:
    """Draws all that the protocol asks for on every example, and records it.

    A record is {"index", "label", "p": {"draws", "votes"}, "scaled": [{"votes"}, ...],
    "threshold": [{"quantile", "votes"} or {"pooled", "votes"}, ...]}; `draws` and `votes` of P are
    counted inside every cutoff and, last, in all. An image that is hopeless has "abstained": true,
    and no draws beyond those that showed it; one that cannot be read has only "unreadable": why.
    """
    waiting: list[dict[str, Any]] = []
    begun = written = time.monotonic()
    shortest, longest = _SECONDS_A_FILE
    try:
        blocks = (_draw(protocol, sampler, block) for block in _cut(examples, sampler.devices))
        for records in _interleaved(blocks, _BLOCKS_IN_FLIGHT):
            waiting += records
            advance(len(records))
            now = time.monotonic()
            if now - written > min(max((now - begun) / 100, shortest), longest):
                directory.append(waiting)
                waiting, written = [], now
    except KeyboardInterrupt:
        directory.append(waiting)
        raise
    directory.append(waiting)


def _cut(examples: Iterable[data.Example], size: int) -> Iterator[list[data.Example]]:
    remaining = iter(examples)
    while block := list(itertools.islice(remaining, size)):
        yield block


_Drawing = Generator[None, None, list[dict[str, Any]]]
_Start = Callable[..., sampling.PendingVotes]


def _interleaved(jobs: Iterator[_Drawing], depth: int) -> Iterator[list[dict[str, Any]]]:
    """What the jobs return. A job yields when it has given the devices work; others come next."""
    active: deque[_Drawing] = deque()
    for job in itertools.chain(jobs, [None] * depth):
        if job is not None:
            active.append(job)
        while len(active) >= (depth if job is not None else 1):
            turn = active.popleft()
            try:
                next(turn)
                active.append(turn)
            except StopIteration as stop:
                yield stop.value


def _draw(protocol: Protocol, sampler: sampling.Sampler, examples: list[data.Example]) -> _Drawing:
    """Draws all that the protocol asks for on the images of a block."""
    records: list[dict[str, Any]] = []
    readable = []
    for example in examples:
        if example.image is None:
            records.append({"index": example.index, sampling.UNREADABLE: example.problem})
        else:
            readable.append(example)
            records.append({"index": example.index, "label": example.label})
    if not readable:
        return records
    block = _Block(
        np.stack([example.image for example in readable if example.image is not None]),
        np.array([example.label for example in readable]),
        np.array([example.index for example in readable]),
        [record for record in records if sampling.UNREADABLE not in record],
    )

    def start(
        block: _Block, law: RadialLaw | list[RadialLaw], n: int, first: int = 0
    ) -> sampling.PendingVotes:
        return sampler.start(block.images, block.labels, law, n, indices=block.indices, first=first)

    for first, n in ((0, protocol.look), (protocol.look, protocol.n - protocol.look)):
        if n == 0 or not block.records:
            continue
        pending = start(block, protocol.law, n, first)
        yield
        counted = pending.result()
        for i, record in enumerate(block.records):
            before = record.get("p", {"draws": 0, "votes": 0})
            record["p"] = {
                "draws": (np.array(before["draws"]) + counted.draws[i]).tolist(),
                "votes": (np.array(before["votes"]) + counted.right[i]).tolist(),
            }
            record |= {"scaled": [], "threshold": []}
        votes = np.array([record["p"]["votes"][-1] for record in block.records])
        hopeless = protocol.hopeless(votes, np.full_like(votes, first + n))
        for i in np.flatnonzero(hopeless).tolist():
            block.records[i]["abstained"] = True
        block = block.only(np.flatnonzero(~hopeless))
    if block.records:
        yield from _draw_separately(protocol, start, block)
    return records


def _draw_separately(
    protocol: Protocol, start: _Start, block: _Block
) -> Generator[None, None, None]:
    """The laws that have draws of their own, on images whose votes under P are counted."""
    right = np.array([record["p"]["votes"][-1] for record in block.records])
    lower = protocol.lower(right, np.full_like(right, protocol.n), protocol.share)
    everyone = np.arange(len(right))
    # What is being counted, and the entries of the records that the counts belong to.
    waiting: list[tuple[sampling.PendingVotes, list[dict[str, Any]]]] = []
    for law in protocol.scaled:
        entries: list[dict[str, Any]] = [{} for _ in everyone]
        waiting.append((start(block, law, protocol.n), entries))
        for record, entry in zip(block.records, entries, strict=True):
            record["scaled"].append(entry)
    for rule in protocol.rules:
        pooled = (right == protocol.n) & pools(rule)
        entries = [
            {"pooled": True} if more else {"quantile": threshold(rule, bound)}
            for more, bound in zip(pooled.tolist(), lower.tolist(), strict=True)
        ]
        for record, entry in zip(block.records, entries, strict=True):
            record["threshold"].append(entry)
        for rows in (np.flatnonzero(pooled), np.flatnonzero(~pooled)):
            chosen = [entries[i] for i in rows.tolist()]
            if not chosen:
                continue
            if pooled[rows[0]]:  # more draws of P, after those that there are
                pending = start(block.only(rows), protocol.law, protocol.n, protocol.n)
            else:
                laws = [protocol.law.truncated(entry["quantile"]) for entry in chosen]
                pending = start(block.only(rows), laws, protocol.n)
            waiting.append((pending, chosen))
    if waiting:
        yield
    for pending, entries in waiting:
        for entry, count in zip(entries, pending.result().right[:, -1].tolist(), strict=True):
            entry["votes"] = count
