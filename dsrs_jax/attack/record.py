"""What is recorded of an image under attack, and the table that records make.

A record is {"index", "label", "clean", "right", "tries"}: "clean" are the votes without a
perturbation, of the label and of the class next to it; "tries" has an object for each ball that was
tried, smallest first (`Try`). A "p_value" stands where fresh draws confirmed what a check found, in
a try, or in the record of an image that is wrong. Whoever writes it adds what else an image is
known by. Of an image that cannot be read it is {"index", "unreadable": why}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsrs_jax.attack.outcome import Outcome
from dsrs_jax.attack.program import Attack

UNREADABLE = "unreadable"
COLUMNS = (
    "index", "label", "clean", "radius", "voted", "broken", "broken_within", "perturbation",
    "start", "steps", "idle_steps", "label_votes", "other_votes", "p_value",
)  # fmt: skip


def as_record(outcome: Outcome) -> dict[str, Any]:
    """The record, as JSON can hold it."""
    tries = []
    for one in outcome.tries:
        made: dict[str, Any] = {
            "radius": one.radius,
            "voted": one.voted,
            "broken": one.broken,
            "start": one.start,
            "steps": one.steps,
            "idle": one.idle,
        }
        if one.perturbation is not None:
            made["perturbation"] = one.perturbation
        if one.recheck is not None:
            made["recheck"] = list(one.recheck)
        if one.p_value is not None:
            made["p_value"] = one.p_value
        tries.append(made)
    made = {
        "index": outcome.index,
        "label": outcome.label,
        "clean": list(outcome.clean),
        "right": outcome.right,
        "tries": tries,
    }
    return made if outcome.p_value is None else made | {"p_value": outcome.p_value}


def problem_of(attack: Attack, radii: Sequence[float], record: Mapping[str, Any]) -> str | None:
    """Why a record, read from a file, is none of this attack in these balls; None if it is one."""
    if UNREADABLE in record:
        said = set(record) == {"index", UNREADABLE} and isinstance(record[UNREADABLE], str)
        return None if said else "unreadable, not why"
    if type(record.get("label")) is not int:
        return "no label"
    if not _is_votes(record.get("clean")):
        return "clean is no pair of votes"
    if type(record.get("right")) is not bool or ("p_value" in record and record["right"]):
        return "not whether it is right"
    if "p_value" in record and not _confirms(attack, record["p_value"]):
        return "a p-value that confirms nothing"
    tries = record.get("tries")
    if not isinstance(tries, list) or not all(isinstance(one, dict) for one in tries):
        return "tries is no list"
    if not record["right"]:
        return "tries of an image that is wrong" if tries else None
    tried = [one.get("radius") for one in tries]
    if tried != list(radii[: len(tried)]):
        return "the balls are others"
    for one in tries:
        if not all(type(one.get(name)) is bool for name in ("voted", "broken")):
            return "a try that does not say what became of it"
        if not all(type(one.get(name)) is int for name in ("start", "steps", "idle")):
            return "a try without its steps"
        norm = one.get("perturbation")
        within = isinstance(norm, float) and 0.0 <= norm <= one["radius"] and math.isfinite(norm)
        if one["broken"] != within or (norm is not None) != one["broken"]:
            return "broken and its perturbation contradict one another"
        if "recheck" in one and not _is_votes(one["recheck"]):
            return "recheck is no pair of votes"
        if (one["broken"] and attack.recheck > 0) != ("p_value" in one):
            return "broken and its p-value contradict one another"
        if "p_value" in one and not ("recheck" in one and _confirms(attack, one["p_value"])):
            return "a p-value that confirms nothing"
    broken = [one["broken"] for one in tries]
    if any(broken[:-1]) or (len(tries) < len(radii) and not any(broken)):
        return "the tries contradict one another"
    return None


def _is_votes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) is int and one >= 0 for one in value)
    )


def _confirms(attack: Attack, value: Any) -> bool:
    return isinstance(value, float) and 0.0 <= value <= attack.alpha


def rows_of(
    radii: Sequence[float], records: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of attack.csv: each image in each ball, with the values of COLUMNS.

    What broke an image in one ball lies in all larger ones: their rows repeat it, and
    `broken_within` is the ball that it was found in. An image that is wrong without a perturbation
    has a row for each ball, too, with nothing but that and the fresh votes that confirm it.
    """
    for record in records:
        if UNREADABLE in record:
            continue
        clean = record["right"]
        found: dict[str, Any] = {}
        voted = False
        for number, radius in enumerate(radii):
            row = {"index": record["index"], "label": record["label"], "radius": radius}
            row["clean"] = "right" if clean else "wrong"
            if not clean:
                if "p_value" in record:
                    label, other = record["clean"]
                    row |= {"label_votes": label, "other_votes": other}
                yield row | {"p_value": record.get("p_value")}
                continue
            if number < len(record["tries"]):
                one = record["tries"][number]
                voted |= one["voted"]
                label, other = one.get("recheck", (None, None))
                found = {
                    "broken": int(one["broken"]),
                    "broken_within": one["radius"] if one["broken"] else None,
                    "perturbation": one.get("perturbation"),
                    "start": one["start"],
                    "steps": one["steps"],
                    "idle_steps": one["idle"],
                    "label_votes": label,
                    "other_votes": other,
                    "p_value": one.get("p_value"),
                }
            yield row | {"voted": int(voted)} | found
