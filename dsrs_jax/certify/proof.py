"""Proofs of the certificates in a results file, from the file alone: no JAX, no model.

    python -m dsrs_jax.certify.proof certificates.csv

For both radii of every row (Neyman-Pearson's and DSRS's) the lower bounds are computed from the
counts of votes and rounded down, g at the stored multipliers and radius is enclosed in a ball
(enclosure.py), and the radius is proved where the ball's lower end is above 1/2. What else the row
says (its float bounds, its g, an earlier proof) is not read. docs/proof.md has the columns and
says what has to be trusted.

Exit codes: 0 every certificate is proved, 1 at least one is not (each is listed with its reason),
2 no such file or no certificates in it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flint import arb

from dsrs_jax.certify.enclosure import Family, Law, enclose, lower_bound

PROVED = "proved"
METHODS = ("np", "dsrs")
_RULE = "threshold_"  # how the names of laws begin that a rule picks
_FIRST_SHRINK = 1e-9  # relative
_SHRINKS = 20  # each twice the one before: to 5e-4 of the radius
_REQUIRED = (
    "dimension", "sigma", "k", "eta", "bounds", "alpha_np", "alpha_dsrs", "n", "votes", "status",
    "radius_np", "radius_dsrs", "multiplier_np", "multiplier_p",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Claim:
    """What one radius of a row claims, and the counts that it claims it from.

    Attributes:
        family: the laws, P first.
        votes, draws: of each law; votes of -1 are not known.
        alpha: failure probability of the whole certificate.
        parts: the bounds that share it equally: each fails with probability alpha/parts.
        multipliers: of each law, >= 0.
        radius: > 0, in pixels.
    """

    family: Family
    votes: tuple[int, ...]
    draws: tuple[int, ...]
    alpha: float
    parts: int
    multipliers: tuple[float, ...]
    radius: float


def prove(claim: Claim) -> str:
    """PROVED, or the reason why the claim is not proved."""
    bounds = []
    for votes, draws, weight in zip(claim.votes, claim.draws, claim.multipliers, strict=True):
        if weight == 0.0:  # the law plays no part
            votes = draws = 0
        if not 0 <= votes <= draws:
            return "the counts of votes are not known" if votes == -1 else "impossible counts"
        bounds.append(lower_bound(votes, draws, claim.alpha, claim.parts))
    return verdict(enclose(claim.family, bounds, claim.multipliers, claim.radius))


def verdict(ball: arb) -> str:
    """What a ball around g says: PROVED where all of it is above 1/2, or why it is not."""
    if not ball.is_finite():
        return "g could not be enclosed"
    if ball.lower() > 0.5:
        return PROVED
    if ball.upper() < 0.5:
        return f"g is {float(ball.mid()):.12g}, below 1/2"
    return f"g is {float(ball.mid()):.15g} to within {float(ball.rad()):.1g}: not surely above 1/2"


def shrunk(claim: Claim) -> tuple[float, str]:
    """The radius that is proved, the claim's or one shorter by 1e-9, 2e-9, 4e-9, ... of it.

    Where none is proved the claim's own radius comes back with the reason.
    """
    first = result = prove(claim)
    radius = claim.radius
    for attempt in range(_SHRINKS if first.startswith("g is") else 0):
        if result == PROVED:
            break
        radius = claim.radius * (1.0 - _FIRST_SHRINK * 2.0**attempt)
        result = prove(dataclasses.replace(claim, radius=radius))
    return (radius, PROVED) if result == PROVED else (claim.radius, first)


def law_names(columns: Iterable[str]) -> list[str]:
    """The extra laws of a file, from the names of its columns."""
    start = "multiplier_"
    names = [column.removeprefix(start) for column in columns if column.startswith(start)]
    return [name for name in names if name not in ("np", "p")]


def read(row: Mapping[str, str], names: Sequence[str], method: str) -> Claim | None:
    """The claim of one of a row's radii ("np" or "dsrs"); None for a radius of 0.

    A row of status `pooled` claims Neyman-Pearson's radius from P's draws and as many again, at
    P's share of alpha, which needs all of the first ones to be right (Li et al., ICML 2022).

    Raises:
        ValueError: a field is missing, no number, or outside its domain; the message says which.
    """

    def number(column: str) -> float:
        text = row.get(column)
        try:
            value = float(text or "")
        except ValueError:
            raise ValueError(f"{column} is {text!r}, not a number") from None
        if not math.isfinite(value):
            raise ValueError(f"{column} is {text}")
        return value

    def whole(column: str) -> int:
        value = number(column)
        if value != math.floor(value):
            raise ValueError(f"{column} is {row[column]}, not a whole number")
        return int(value)

    radius = number(f"radius_{method}")
    if radius < 0.0:
        raise ValueError(f"radius_{method} is negative")
    if radius == 0.0:
        return None
    sides = {"one-sided": 1, "two-sided": 2}.get(row["bounds"])
    if sides is None:
        raise ValueError(f"bounds is {row['bounds']!r}, not one-sided or two-sided")
    alpha = number(f"alpha_{method}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha_{method} is outside (0, 1)")
    pooled = method == "dsrs" and row["status"] == "pooled"
    own = "multiplier_np" if method == "np" else "multiplier_p"
    laws, weights = [Law(number("sigma"))], [number(own)]
    votes, draws = [whole("votes")], [whole("n")]
    parts = sides
    if method == "dsrs":
        parts = sides * (1 + len(names))
        for name in names:
            cutoff = None if row[f"cutoff_{name}"] == "" else number(f"cutoff_{name}")
            laws.append(Law(number(f"sigma_{name}"), cutoff))
            weights.append(number(f"multiplier_{name}"))
            votes.append(whole(f"votes_{name}"))
            draws.append(whole(f"draws_{name}"))
    if any(weight < 0.0 for weight in weights):
        raise ValueError("a multiplier is negative")
    if not any(weights):
        raise ValueError("all multipliers are 0")
    if pooled:
        # Only the rules' own laws have draws of P that are not among its first n.
        more = {
            (votes[j], draws[j])
            for j, name in enumerate(names, start=1)
            if name.startswith(_RULE) and laws[j] == laws[0]
        }
        if len(more) != 1 or votes[0] != draws[0] or any(weights[1:]):
            raise ValueError("pooled, but not from twice the draws of P with the first all right")
        [(right, drawn)] = more
        parts = 1 + len(names)  # these bounds are one-sided
        votes, draws = [votes[0] + right], [draws[0] + drawn]
        laws, weights = laws[:1], weights[:1]
    family = Family(whole("dimension"), number("k"), number("eta"), tuple(laws))
    return Claim(family, tuple(votes), tuple(draws), alpha, parts, tuple(weights), radius)


def solve(
    claims: Iterable[Claim], processes: int | None = None, *, shrink: bool = False
) -> Iterator[tuple[Claim, float, str]]:
    """(claim, radius, PROVED or the reason) of each distinct claim, in their order.

    Args:
        claims: any; equal ones are proved once.
        processes: default: one for each core.
        shrink: whether a radius that fails may be shortened (`shrunk`).
    """
    distinct = list(dict.fromkeys(claims))
    wanted = min(processes or os.cpu_count() or 1, len(distinct))
    if wanted <= 1:
        yield from ((claim, *_answer(claim, shrink)) for claim in distinct)
        return
    # A fork of a process that runs JAX's threads may hang; a fresh interpreter needs none of it.
    context = multiprocessing.get_context("spawn")
    with context.Pool(wanted, _leave_interrupts_to_the_parent) as pool:
        jobs = ((claim, shrink) for claim in distinct)
        for claim, answer in zip(distinct, pool.imap(_job, jobs, chunksize=4), strict=True):
            yield (claim, *answer)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(job: tuple[Claim, bool]) -> tuple[float, str]:
    return _answer(*job)


def _answer(claim: Claim, shrink: bool) -> tuple[float, str]:
    return shrunk(claim) if shrink else (claim.radius, prove(claim))


class NoCertificates(Exception):
    """The file is not there, or is no file of certificates: one line that says so."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a file: its fields by column, or what is wrong with it."""

    place: str
    fields: dict[str, str]
    wrong: str | None = None


def rows_of(file: Path) -> tuple[list[Row], list[str]]:
    """The rows of a results file and the names of its extra laws; a damaged row says so.

    Raises:
        NoCertificates: no such file, or columns are missing.
    """
    try:
        text = file.read_bytes().decode(errors="replace")
    except OSError as error:
        raise NoCertificates(f"cannot read {file}: {error.strerror}") from None
    lines = text.split("\n")
    header = _cells(lines[0])
    names = law_names(header)
    per_law = (f"{what}_{name}" for name in names for what in ("sigma", "cutoff", "votes", "draws"))
    missing = [column for column in (*_REQUIRED, *per_law) if column not in header]
    if missing:
        raise NoCertificates(
            f"{file} is no file of certificates that can be proved: it has no column {missing[0]}"
        )
    if len(set(header)) < len(header):
        raise NoCertificates(f"{file} has two columns of one name: which one counts is not said")
    rows = []
    # Line by line: a stray quote must not swallow the rows that follow.
    for number, line in enumerate(lines[1:], start=1):
        last = number == len(lines) - 1
        if line == "" and last:
            break
        cells = _cells(line)
        fields = dict(zip(header, cells, strict=False))
        wrong = None
        if len(cells) != len(header):
            wrong = f"{len(cells)} fields where the header has {len(header)}"
        elif last:
            wrong = "the file ends inside this row"
        rows.append(Row(f"row {number} (index {fields.get('index', '?')})", fields, wrong))
    return rows, names


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []


def check(file: Path, processes: int | None = None) -> int:
    """Proves a results file and prints what it found; the exit code (0 or 1).

    Raises:
        NoCertificates: as in `rows_of`.
    """
    rows, names = rows_of(file)
    claims: list[tuple[Row, str, Claim]] = []
    faults: list[tuple[int, str]] = []
    nothing = 0
    order = {id(row): number for number, row in enumerate(rows)}
    for number, row in enumerate(rows):
        if row.wrong is not None:
            faults.append((number, f"{row.place}: {row.wrong}"))
            continue
        for method in METHODS:
            try:
                claim = read(row.fields, names, method)
            except ValueError as error:
                faults.append((number, f"{row.place}, radius_{method}: {error}"))
                continue
            if claim is None:
                nothing += 1
            else:
                claims.append((row, method, claim))
    answers: dict[Claim, str] = {}
    total = len({claim for _, _, claim in claims})
    for claim, _, result in solve((claim for _, _, claim in claims), processes):
        answers[claim] = result
        if sys.stderr.isatty():
            print(f"\r{len(answers)} of {total}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    proved = sum(answers[claim] == PROVED for _, _, claim in claims)
    for row, method, claim in claims:
        if answers[claim] != PROVED:
            place = f"{row.place}, radius_{method}"
            faults.append((order[id(row)], f"{place} = {claim.radius!r}: {answers[claim]}"))
    for _, fault in sorted(faults):
        print(f"unproved: {fault}")
    print(
        f"{len(rows)} rows: {proved} radii proved, {len(faults)} unproved, "
        f"{nothing} are 0 and claim nothing"
    )
    return 1 if faults or not rows else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all proved, 1 not all, 2 no file of certificates, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m dsrs_jax.certify.proof",
        description="Proves every radius of a certificates.csv, from the file alone.",
    )
    parser.add_argument("file", type=Path, metavar="certificates.csv")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")
    arguments = parser.parse_args(argv)
    try:
        return check(arguments.file, arguments.processes)
    except NoCertificates as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    # By its own name, so that the processes that are started find the same classes.
    from dsrs_jax.certify import proof

    sys.exit(proof.main())
