"""The rows of a file of certificates: what is damaged says so, and nothing else is lost."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from dsrs_jax.proof import plan, schema


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
        content = file.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise NoCertificates(f"cannot read {file}: {error.strerror}") from None
    return parse(content, str(file))


def parse(content: str, source: str) -> tuple[list[Row], list[str]]:
    """The rows of a results file's content; `source` is its name for messages.

    An image has one row: a second one says that it is. What was fixed for the run (`plan.fields`)
    is the same in all of them: a row says where it differs from most.

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
    rows: list[Row] = []
    row_of: dict[int, int] = {}  # by image
    fields_of: dict[int, dict[str, plan.Value]] = {}  # what belongs to the run, by row
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
                index = schema.said(schema.as_whole, fields, "index")
                if index < 0:
                    raise ValueError(f"index is {index}, below 0")
                if (first := row_of.setdefault(index, number)) != number:
                    raise ValueError(f"row {first} is of the same image")
                fields_of[len(rows)] = plan.fields(fields, names)
            except ValueError as error:
                wrong = str(error)
        cell = fields.get("index", "?")
        shown = cell if cell.isascii() and cell.isdigit() else ascii(cell)
        rows.append(Row(f"row {number} (index {shown})", fields, wrong))
    for place, wrong in zip(fields_of, plan.differences(list(fields_of.values())), strict=True):
        rows[place] = dataclasses.replace(rows[place], wrong=wrong)
    return rows, names


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []
