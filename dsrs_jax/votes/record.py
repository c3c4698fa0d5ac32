"""What is recorded of one image, and what records say together.

A record is {"index", "label", "image", "draws", "votes"}: "image" is the digest of image and label
(earlier versions wrote none), the last two have an entry for each law of the plan, P first;
"abstained": true where the image was given up; "not_finite" and "ambiguous": how many of all draws
had logits that are not all finite, or were ambiguous (`noise.sound`), where there are any;
"earlier": such counts at each look before the last one; "predicted": {"class", "votes"}, where
draws of their own chose the class whose votes are counted, and how many of them it had; "compared":
of how many draws the answers were compared with those elsewhere (`compared`). Of an image
that cannot be read it is {"index", "unreadable": why}. `problem_of` says what is no such record.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.data import Example
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.plan import Kind, SamplingPlan
from dsrs_jax.votes.records import EARLIER, looks_of
from dsrs_jax.votes.table import Chosen, Counted, LookedAt, SoundDraws, State, VoteTable

# Which images go on after a look; and the radius to expect of counts: (images,) each.
GoesOn = Callable[[Counted], NDArray[np.bool_]]
RadiusOf = Callable[[Counted], NDArray[np.float64]]

NOT_FINITE, AMBIGUOUS, COMPARED = "not_finite", "ambiguous", "compared"
COUNTS = ("draws", "votes", NOT_FINITE, AMBIGUOUS)
PREDICTED = "predicted"
NOTHING = {State.UNREADABLE.value: ""}
_MOST_LOOKS = 40


def table_of(
    plan: SamplingPlan,
    protocol: Protocol,
    records: Sequence[Mapping[str, Any]],
    grid: int | None = None,
    radius_of: RadiusOf | None = None,
    seed: int | None = None,
) -> VoteTable:
    """The records of a run as a `VoteTable`, in their order.

    Args:
        plan, protocol, records: of the run.
        grid, seed: as for `Sampler`.
        radius_of: what radius to expect of counts; of several looks the one with the largest gives
            its counts. Else the last one does.
    """
    size, laws = len(records), 1 + len(plan.extra)
    number = _best_looks(records, radius_of)
    taken = [_at(record, look) for record, look in zip(records, number.tolist(), strict=True)]
    nothing = [0] * laws
    draws = np.array([counts.get("draws", nothing) for counts in taken], dtype=np.int64)
    votes = np.array([counts.get("votes", nothing) for counts in taken], dtype=np.int64)
    draws, votes = draws.reshape(size, laws), votes.reshape(size, laws)
    own = [_state(plan, counts) for counts in taken]
    ambiguous = np.array([counts.get(AMBIGUOUS, 0) for counts in taken], dtype=np.int64)
    label = np.array([record.get("label", -1) for record in records], dtype=np.int64)
    chosen, label = (None, label) if not plan.n0 else _chosen(plan, records, label)
    return VoteTable(
        names=plan.names,
        laws=(plan.law, *(plan.laws(extra, votes[:, 0], protocol) for extra in plan.extra)),
        index=np.array([record["index"] for record in records], dtype=np.int64),
        label=label,
        draws=draws,
        votes=votes,
        state=np.array(own, dtype=object)[:, None].repeat(laws, axis=1),
        sound=None if grid is None else SoundDraws(grid, ambiguous),
        looked=None if plan.looks is None else LookedAt(plan.looks, number),
        chosen=chosen,
        seed=seed,
        compared=sum(record.get(COMPARED, 0) for record in records),
    )


def _chosen(
    plan: SamplingPlan, records: Sequence[Mapping[str, Any]], label: NDArray[np.int64]
) -> tuple[Chosen, NDArray[np.int64]]:
    """How the classes were chosen, and which; -1 of an image that could not be read."""
    nothing = {"class": -1, "votes": 0}
    found = [record.get(PREDICTED, nothing) for record in records]
    classes, votes = (
        np.array([one[what] for one in found], dtype=np.int64) for what in ("class", "votes")
    )
    return Chosen(plan.n0, votes, label), classes


def _best_looks(
    records: Sequence[Mapping[str, Any]], radius_of: RadiusOf | None
) -> NDArray[np.int64]:
    """(images,) number of the look that is used of each record, from 1; 0 of an unreadable one."""
    best = np.array([looks_of(record) for record in records], dtype=np.int64)
    if radius_of is None:
        return best
    for number in sorted(set(best.tolist()) - {0, 1}):
        rows = np.flatnonzero(best == number)
        own = [records[i] for i in rows.tolist()]
        expected = [radius_of(counted(own, look)) for look in range(1, number + 1)]
        best[rows] = number - np.argmax(expected[::-1], axis=0)  # of equal ones the last
    return best


def _at(record: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The counts of a record at a look."""
    return record if number >= looks_of(record) else record[EARLIER][number - 1]


def counted(records: Sequence[Mapping[str, Any]], number: int) -> Counted:
    """The counts of readable records at a look that all of them had."""
    at = [_at(record, number) for record in records]
    draws, votes = (np.array([counts[what] for counts in at]) for what in ("draws", "votes"))
    return Counted(np.array([record["index"] for record in records]), number, draws, votes)


def unfinished(
    plan: SamplingPlan,
    records: Mapping[int, dict[str, Any]],
    indices: Iterable[int],
    goes_on: GoesOn | None,
) -> list[int]:
    """Which images need draws, those with fewer looks first; the others are done.

    Args:
        plan: the laws and looks.
        records: what there is, by index.
        indices: the images.
        goes_on: the rule for looks before the last; None where there is one look only.
    """
    by_looks: dict[int, list[int]] = {}
    for index in indices:
        by_looks.setdefault(looks_of(records.get(index, NOTHING)), []).append(index)
    found = list(by_looks.pop(0, []))
    for number, own in sorted(by_looks.items()):
        if goes_on is not None and number < len(plan.schedule):
            on = goes_on(counted([records[index] for index in own], number))
            found += [index for index, more in zip(own, on.tolist(), strict=True) if more]
    return found


def _state(plan: SamplingPlan, record: Mapping[str, Any]) -> State:
    if 0 < record.get(NOT_FINITE, 0) == drawn(plan, record):
        return State.NOT_FINITE
    said = (State.ABSTAINED, State.UNREADABLE)  # as a key
    return next((state for state in said if state in record), State.COMPLETE)


def drawn(plan: SamplingPlan, record: Mapping[str, Any]) -> int:
    """The draws that were made of an image; those inside a level are P's own, and count once."""
    return sum(count for count, _ in _own(plan, record))


def not_finite(records: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """How many draws had logits that are not all finite, by index, where there are any."""
    return {record["index"]: record[NOT_FINITE] for record in records if NOT_FINITE in record}


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
    if not _is_choice(plan, record.get(PREDICTED)):
        return "predicted is no class that draws of this run chose"
    compared = record.get(COMPARED, 0)
    if type(compared) is not int or not 0 <= compared < 2**53:
        return "compared is no count"
    if record.get(State.ABSTAINED, True) is not True:
        return "abstained is not true"
    earlier = record.get(EARLIER, [])
    if not isinstance(earlier, list) or (EARLIER in record and (plan.looks is None or not earlier)):
        return "earlier is no list of looks, or this run has none"
    if not all(isinstance(counts, dict) for counts in earlier):
        return "earlier is no list of looks"
    if len(earlier) >= _MOST_LOOKS or (plan.looks is not None and State.ABSTAINED in record):
        return "more looks than there are, or abstained beside them"
    looks = [*earlier, record]
    for number, counts in enumerate(looks, start=1):
        n = plan.n if plan.looks is None else plan.looks.draws(number)
        if problem := _problem_of_counts(plan, counts, n, State.ABSTAINED not in record):
            return problem
    grows = all(
        before <= after and draws - before <= total - after
        for one, other in itertools.pairwise(looks)
        for before, draws, after, total in zip(
            one["votes"], one["draws"], other["votes"], other["draws"], strict=True
        )
    )
    return None if grows else "the looks contradict one another"


def _is_choice(plan: SamplingPlan, predicted: Any) -> bool:
    """Whether a record says how its class was chosen, where the plan chooses it, else nothing."""
    if not plan.n0 or not isinstance(predicted, dict):
        return not plan.n0 and predicted is None
    label, votes = predicted.get("class"), predicted.get("votes")
    if len(predicted) != 2 or type(label) is not int or type(votes) is not int:
        return False
    return 0 <= label < 2**31 and 0 <= votes <= plan.n0


def _problem_of_counts(
    plan: SamplingPlan, counts: Mapping[str, Any], n: int, complete: bool
) -> str | None:
    """Why these are no counts of `n` draws under each law, or of no more where not `complete`."""
    for name in ("draws", "votes"):
        given = counts.get(name)
        if not isinstance(given, list) or len(given) != 1 + len(plan.extra):
            return f"{name} are not {1 + len(plan.extra)} counts"
        if any(type(count) is not int or not 0 <= count <= n for count in given):
            return f"{name} are not counts of at most {n}"
    laws = list(zip(counts["draws"], counts["votes"], strict=True))
    # Draws inside a level are among those inside the next one, and the last one's among P's.
    nested = [*laws[1 : 1 + len(plan.of_kind(Kind.INSIDE))], laws[0]]
    own = _own(plan, counts)
    if complete and any(count != n for count, _ in own):
        return f"draws are not {n}"
    wrong = [(count - right, right) for count, right in nested]
    for name in (NOT_FINITE, AMBIGUOUS):
        odd = counts.get(name, 1)
        if type(odd) is not int or odd < 1:
            return f"{name} is no positive count"
        if name in counts and odd > sum(count - right for count, right in own):
            return "the counts contradict one another"
    if any(count < right for count, right in laws) or any(
        inner[0] > outer[0] or inner[1] > outer[1] for inner, outer in itertools.pairwise(wrong)
    ):
        return "the counts contradict one another"
    return None


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
