"""Proofs that are kept beside a run, so that an interrupted one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import flint

from dsrs_jax.proof import bound, claim, draws, enclosure, looks, plan, rows, schema
from dsrs_jax.proof.claim import Claim, solve

FILE = "proofs.jsonl"


class Damaged(Exception):
    """The file of proofs cannot be read or written: one line that says so."""


def prove_all(
    claims: Iterable[Claim],
    folder: Path | None,
    begin: Callable[[int], contextlib.AbstractContextManager[Callable[[int], None]]],
) -> dict[Claim, tuple[float, str]]:
    """(radius, "proved" or the reason) of each claim; a radius may be shortened (`claim.shrunk`).

    Args:
        claims: any; equal ones are proved once.
        folder: where each proof is kept, under a digest of its claim and of the code that checks
            it; None keeps nothing.
        begin: called with the number of proofs to make; a context whose value is told of each.

    Raises:
        Damaged: the file of proofs cannot be read or written.
    """
    file = None if folder is None else folder / FILE
    done = {} if file is None else _read(file)
    checked_by = _version()
    digests = {
        one: hashlib.sha256((checked_by + repr(one)).encode()).hexdigest() for one in set(claims)
    }
    answers = {
        one: done[key]
        for one, key in digests.items()
        if key in done and 0.0 < done[key][0] <= one.radius
    }
    left = sorted((one for one in digests if one not in answers), key=lambda one: digests[one])
    if not left:
        return answers
    try:
        with (
            contextlib.nullcontext() if file is None else open(file, "a") as stream,
            begin(len(left)) as advance,
        ):
            for one, radius, result in solve(left, shrink=True):
                answers[one] = radius, result
                if stream is not None:
                    stream.write(json.dumps([digests[one], radius, result]) + "\n")
                    stream.flush()
                advance(1)
    except OSError as error:
        raise Damaged(f"cannot write {file}: {error.strerror}") from error
    return answers


def _version() -> str:
    """What decides a proof: another version's proofs are made anew."""
    modules = (bound, claim, draws, enclosure, looks, plan, rows, schema)
    code = [Path(module.__file__ or "").read_bytes() for module in modules]
    return flint.__version__ + hashlib.sha256(b"".join(code)).hexdigest()


def _read(file: Path) -> dict[str, tuple[float, str]]:
    """The proofs of an earlier run; a line that a kill cut short is redone."""
    try:
        content = file.read_bytes()
        *whole, cut_short = content.split(b"\n")
        if cut_short:
            file.write_bytes(content[: -len(cut_short)])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Damaged(f"cannot read {file}, or write it: {error.strerror}") from error
    kept = {}
    for number, line in enumerate(whole, start=1):
        try:
            key, radius, result = json.loads(line.decode())
        except (ValueError, TypeError, RecursionError):
            key = radius = result = None
        if not (isinstance(key, str) and type(radius) is float and isinstance(result, str)):
            raise Damaged(f"{file}: line {number} is damaged; delete the line and run again")
        kept[key] = radius, result
    return kept
