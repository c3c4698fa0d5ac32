"""Proves finished files of certificates, from the files alone: no JAX, no model.

    python -m dsrs_jax.proof certificates.csv

docs/proof.md says which columns are read and what has to be trusted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dsrs_jax.proof.claim import PROVED, Claim, read, solve
from dsrs_jax.proof.schema import Method, NoCertificates, Row, rows_of


def files_in(place: Path) -> list[Path]:
    """The files of certificates that a path names: a run's folder has one or several.

    Raises:
        NoCertificates: a folder without any.
    """
    if not place.is_dir():
        return [place]
    found = sorted(place.glob("certificates*.csv"))
    if not found:
        raise NoCertificates(
            f"{place} holds no certificates.csv; give the folder of a run that is done"
        )
    return found


def check(file: Path, processes: int | None = None) -> int:
    """Proves a results file and prints what it found; the exit code (0 or 1).

    Raises:
        NoCertificates: as in `schema.rows_of`.
    """
    rows, names = rows_of(file)
    claims: list[tuple[Row, Method, Claim]] = []
    faults: list[tuple[int, str]] = []
    nothing = 0
    order = {id(row): number for number, row in enumerate(rows)}
    for number, row in enumerate(rows):
        if row.wrong is not None:
            faults.append((number, f"{row.place}: {row.wrong}"))
            continue
        for method in Method:
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


def check_all(place: Path, processes: int | None = None) -> int:
    """`check` of a file, or of every file of certificates in a folder.

    Raises:
        NoCertificates: there is none, or one is no file of certificates.
    """
    files = files_in(place)
    code = 0
    for file in files:
        if len(files) > 1:
            print(f"{file.name}: ", end="")
        code = max(code, check(file, processes))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all proved, 1 not all, 2 no file of certificates, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m dsrs_jax.proof",
        description="Proves every radius of a certificates.csv, from the file alone.",
    )
    parser.add_argument("file", type=Path, metavar="certificates.csv", help="or a run's folder")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")
    arguments = parser.parse_args(argv)
    try:
        return check_all(arguments.file, arguments.processes)
    except NoCertificates as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
