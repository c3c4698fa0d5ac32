"""The rows of a file of certificates: what is damaged says so, and nothing else is lost."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dsrs_jax.proof import schema

# Fixed beforehand, for all rows of a file.
_PROTOCOL = ("share_p", "planned", "ceiling", "label_from")


class NoCertificates(Exception):
    """The file is not there, or is no file of certificates: one line that says so."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a file: its fields by column, or what is wrong with it."""

    place: str
    fields: dict[str, str]
    wrong: str | None = None


def law_names(columns: Iterable[str]) -> list[str]:
    """The extra laws of a file, from the names of its columns."""
    start = "multiplier_"
    names = [column.removeprefix(start) for column in columns if column.startswith(start)]
    return [name for name in names if name not in (schema.Method.NEYMAN_PEARSON, "p")]


def rows_of(file: Path) -> tuple[list[Row], list[str]]:
    """The rows of a results file and the names of its extra laws; a damaged row says so.

    Raises:
        NoCertificates: no such file, or columns are missing.
    """
    try:
        content = file.read_bytes().decode(errors="replace")
    except OSError as error:
        raise NoCertificates(f"cannot read {file}: {error.strerror}") from None
    return parse(content, str(file))


def parse(content: str, source: str) -> tuple[list[Row], list[str]]:
    """The rows of a results file's content; `source` is its name for messages.

    An image has one row: a second one says that it is. Looks, P's share of alpha, whether the
    all-right rule is in force and whose class is certified are fixed before sampling: a row says
    where it differs from most.

    Raises:
        NoCertificates: columns are missing, or their names cannot be shown.
    """
    lines = content.split("\n")
    header = _cells(lines[0])
    names = law_names(header)
    per_law = (f"{what}_{name}" for name in names for what in schema.REQUIRED_OF_A_LAW)
    missing = [column for column in (*schema.REQUIRED, *per_law) if column not in header]
    if missing:
        raise NoCertificates(
            f"{source} is no file of certificates that can be proved: it has no column {missing[0]}"
        )
    if len(set(header)) < len(header):
        raise NoCertificates(f"{source} has two columns of one name: which one counts is not said")
    if not all(column.isprintable() for column in header):
        raise NoCertificates(f"{source} names its columns in characters that cannot be shown")
    rows = []
    row_of: dict[int, int] = {}  # by image
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
        else:
            try:
                first = row_of.setdefault(schema.said(schema.as_whole, fields, "index"), number)
                if first != number:
                    wrong = f"row {first} is of the same image"
            except ValueError as error:
                wrong = str(error)
        index = fields.get("index", "?")
        shown = index if index.isascii() and index.isdigit() else ascii(index)
        rows.append(Row(f"row {number} (index {shown})", fields, wrong))
    return _of_one_protocol(rows), names


def _of_one_protocol(rows: list[Row]) -> list[Row]:
    """The rows; those of another protocol than most of the others say so."""
    whole = [row for row in rows if row.wrong is None]
    usual = Counter(map(_protocol, whole)).most_common(1)
    checked = []
    for row in rows:
        if row.wrong is None and (own := _protocol(row)) != usual[0][0]:
            said = next(
                f"{name} is {mine or 'nothing'!r}, of other rows {other or 'nothing'!r}"
                for name, mine, other in zip(_PROTOCOL, own, usual[0][0], strict=True)
                if mine != other
            )
            row = dataclasses.replace(row, wrong=said)
        checked.append(row)
    return checked


def _protocol(row: Row) -> tuple[str, ...]:
    share_p, planned, ceiling = (row.fields[name] for name in _PROTOCOL[:3])
    label_from = row.fields.get("label_from", schema.GIVEN)
    return share_p, planned, "a number" if ceiling else "", label_from


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []
