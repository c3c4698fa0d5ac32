"""Proves finished files of certificates, from the files alone: no JAX, no model.

    python -m dsrs_jax.proof certificates.csv

docs/proof.md says which columns are read and what has to be trusted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dsrs_jax.proof.claim import PROVED, Claim, read, solve
from dsrs_jax.proof.rows import NoCertificates, Row, rows_of
from dsrs_jax.proof.schema import PREDICTED, Method, as_whole


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


def check(file: Path, processes: int | None = None, *, prefix: str = "") -> int:
    """Proves a results file and prints what it found; the exit code (0 or 1).

    The last line says what was proved. `prefix` begins every line.

    Raises:
        NoCertificates: as in `rows.rows_of`.
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
    proved = [one for one in claims if answers[one[2]] == PROVED]
    for row, method, claim in claims:
        if answers[claim] != PROVED:
            place = f"{row.place}, radius_{method}"
            faults.append((order[id(row)], f"{place} = {claim.radius!r}: {answers[claim]}"))
    for _, fault in sorted(faults):
        _print(f"{prefix}unproved: {fault}")
    _print(
        f"{prefix}{len(rows)} rows: {len(proved)} radii proved, {len(faults)} unproved, "
        f"{nothing} are 0 and claim nothing"
    )
    _print(f"{prefix}{_what_was_proved(proved, names)}")
    return 1 if faults or not rows else 0


def _print(line: str) -> None:
    """Prints a line; what standard output has no characters for, a file may hold, is escaped."""
    encoding = sys.stdout.encoding or "ascii"
    print(line.encode(encoding, "backslashreplace").decode(encoding))


def _what_was_proved(proved: Sequence[tuple[Row, Method, Claim]], names: Sequence[str]) -> str:
    """One line: what a reader who sees only it has to know of the radii that are proved."""
    if not proved:
        return "Nothing was proved."
    claims, rows = [claim for _, _, claim in proved], [row for row, _, _ in proved]
    families = [claim.family for claim in claims]
    counts: dict[str, list[int]] = {}
    for claim in claims:
        for name, draws, weight in zip(
            ("P", *names),
            claim.draws,
            claim.multipliers,
            strict=False,  # a pooled one has P alone
        ):
            if weight > 0.0:
                counts.setdefault(name, []).append(draws)
    draws_of = ", ".join(f"{_span(drawn)} of {name}" for name, drawn in counts.items())
    return (
        f"Proved: of {len({row.place for row in rows}):,} images of dimension "
        f"{_span(family.dimension for family in families)}, radii up to "
        f"{max(claim.radius for claim in claims):.4g}, each wrong with probability at most alpha = "
        f"{_span(claim.alpha for claim in claims)}, under the law P of "
        f"sigma = {_span(family.laws[0].sigma for family in families)}, "
        f"k = {_span(family.k for family in families)}, "
        f"eta = {_span(family.eta for family in families)}; draws of an image: {draws_of}; "
        f"{_of_the_classes(rows)}{_of_the_looks(rows)}{_of_the_network(rows)}"
        f"{_of_the_draws(claims)}"
    )


def _of_the_classes(rows: Sequence[Row]) -> str:
    """Whose class is certified, where it is not the data set's."""
    if rows[0].fields.get("label_from") != PREDICTED:
        return ""
    return "the class of each is the one that draws of its own chose, right or wrong; "


def _of_the_looks(rows: Sequence[Row]) -> str:
    """Which plan of looks the draws belong to, where there is one."""
    taken = {
        (as_whole(row.fields["planned"]), as_whole(row.fields["look"]))
        for row in rows
        if row.fields["planned"]
    }
    if not taken:
        return ""
    return (
        f"each at one look, {_span(number for _, number in taken)}, of a schedule of looks with "
        f"{_span(planned for planned, _ in taken)} planned draws; "
    )


def _of_the_network(rows: Sequence[Row]) -> str:
    """The seed of its draws, and whether its answers were seen to be those for one image alone."""
    seed, compared = (rows[0].fields[column] for column in ("seed", "compared"))
    network = (
        "no answers of the network in a batch of one image were compared with others: that it "
        "is a function of one image is taken on trust; "
    )
    if compared and (count := as_whole(compared)):
        network = f"the network's answers to {count:,} draws were the same in a mixed batch; "
    return (f"seed {as_whole(seed)}; " if seed else "") + network


def _of_the_draws(claims: Sequence[Claim]) -> str:
    """What is proved of the draws, and what is not."""
    sound = [claim.sound for claim in claims if claim.sound is not None]
    if not sound:
        return (
            "the draws are not covered: they are floating-point numbers, and that they have the "
            "law P is taken on trust"
        )
    grids = _span(one.grid for one in sound)
    taken = max(max(one.charges) for one in sound)
    return (
        f"sound draws on a grid of 1/{grids}, of an image {_span(one.ambiguous for one in sound)} "
        f"ambiguous, by a rounding error of {_span(one.rounding for one in sound)}, and counted as "
        f"wrong, up to {taken:.2g} taken off a bound for their uniforms of 64 bits"
    )


def _span(values: Iterable[float]) -> str:
    """The one value, or the ends of several and how many they are."""
    found = sorted(set(values))
    first, last = (f"{value:,}".removesuffix(".0") for value in (found[0], found[-1]))
    return first if len(found) == 1 else f"{first} to {last} ({len(found):,} values)"


def check_all(place: Path, processes: int | None = None) -> int:
    """`check` of a file, or of every file of certificates in a folder.

    Of several files one that is none is named, and the exit code is 1.

    Raises:
        NoCertificates: there is none, or all are no files of certificates.
    """
    files = files_in(place)
    if len(files) == 1:
        return check(files[0], processes)
    code, refused = 0, []
    for file in files:
        try:
            code = max(code, check(file, processes, prefix=f"{file.name}: "))
        except NoCertificates as error:
            refused.append(str(error))
    if len(refused) == len(files):
        raise NoCertificates("; ".join(refused))
    for line in refused:
        _print(f"unproved: {line}")
    return 1 if refused else code


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all proved, 1 not all, 2 told in one line, 130 interrupted, 141 nobody reads."""
    parser = argparse.ArgumentParser(
        prog="python -m dsrs_jax.proof",
        description="Proves every radius of a certificates.csv, from the file alone.",
    )
    parser.add_argument("file", type=Path, metavar="certificates.csv", help="or a run's folder")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")
    arguments = parser.parse_args(argv)
    try:
        code = check_all(arguments.file, arguments.processes)
        sys.stdout.flush()
        return code
    except NoCertificates as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # what is printed has no room, or its reader has gone
        # Nor has what is left, which Python would try once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"cannot go on: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
