"""certificates.csv: which columns it has, what stands in them, and how a row is read again.

Written by `columns` and `text`, read by `rows_of` and `read`; nothing else knows a column's name
but docs/certificates.md. A float is written with all digits that it needs.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

POOLED = "pooled"
_CLAIMS_NOTHING = ("none", "unreadable", "not-finite")
UNKNOWN = -1  # votes that nobody knows
_SIDES = {"one-sided": 1, "two-sided": 2}
_REQUIRED = (
    "index", "dimension", "sigma", "k", "eta", "bounds", "alpha_np", "alpha_dsrs", "n", "votes",
    "draws", "grid", "rounding", "ambiguous", "charge_p",
    "status", "radius_np", "radius_dsrs", "multiplier_np", "multiplier_p",
)  # fmt: skip
_REQUIRED_OF_A_LAW = ("sigma", "cutoff", "quantile", "votes", "draws", "charge")
SOUND, FLOAT32 = "sound", "float32"  # kinds of draws
# float() also takes 0_0.5, the digits of every script, and spaces.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST_GRID = 2**24
_LARGEST_WHOLE = 2**53  # a double names larger ones only now and then


_Number = TypeVar("_Number", int, float)


class Method(enum.StrEnum):
    """The two radii of a row."""

    NEYMAN_PEARSON = "np"
    DSRS = "dsrs"


def columns(table: Any) -> dict[str, list[Any]]:
    """The columns of a `certify.CertificateTable`, by name, in their order."""
    votes, size = table.votes, len(table)
    base, extra = votes.base, list(enumerate(votes.names))[1:]
    neyman_pearson, dsrs = table.neyman_pearson, table.dsrs
    found: dict[str, Any] = {
        "index": votes.index,
        "label": votes.label,
        "n": votes.draws[:, 0],
        "votes": votes.votes[:, 0],
        **_draws(votes, size),
        "dimension": [base.dimension] * size,
        "sigma": [float(base.sigma)] * size,
        "k": [float(base.k)] * size,
        "eta": [float(base.eta)] * size,
        "bounds": [table.protocol.bound] * size,
        "alpha_np": [table.alpha_neyman_pearson] * size,
        "alpha_dsrs": [table.protocol.alpha] * size,
        "lower_np": neyman_pearson.bounds[:, 0],
        "lower_p": dsrs.bounds[:, 0],
    }
    for j, name in extra:
        laws = [votes.law(j, i) for i in range(size)]
        found[f"sigma_{name}"] = [float(law.sigma) for law in laws]
        found[f"cutoff_{name}"] = [_or_nan(law.cutoff) for law in laws]
        found[f"quantile_{name}"] = [_or_nan(law.quantile) for law in laws]
        found[f"draws_{name}"] = votes.draws[:, j]
        found[f"votes_{name}"] = votes.votes[:, j]
        found[f"charge_{name}"] = _charge(votes, j)
        found[f"lower_{name}"] = table.lower[:, j]
    found["radius_np"] = neyman_pearson.radius
    found["radius_dsrs"] = dsrs.radius
    found["multiplier_np"] = neyman_pearson.multipliers[:, 0]
    found["multiplier_p"] = dsrs.multipliers[:, 0]
    found |= {f"multiplier_{name}": dsrs.multipliers[:, j] for j, name in extra}
    found["value"], found["error_bound"] = dsrs.value, dsrs.error_bound
    found["status"], found["solver"] = table.status, dsrs.solver
    if table.proofs is not None:
        found["proof_np"], found["proof_dsrs"] = table.proofs
    return {name: list(column) for name, column in found.items()}


def _draws(votes: Any, size: int) -> dict[str, list[Any]]:
    if votes.sound is None:
        empty = ("grid", "rounding", "ambiguous", "charge_p")
        return {"draws": [FLOAT32] * size, **{name: [math.nan] * size for name in empty}}
    return {
        "draws": [SOUND] * size,
        "grid": [votes.sound.grid] * size,
        "rounding": [votes.sound.rounding] * size,
        "ambiguous": votes.sound.ambiguous,
        "charge_p": _charge(votes, 0),
    }


def _charge(votes: Any, column: int) -> list[float]:
    return [math.nan] * len(votes) if votes.sound is None else votes.charge(column).tolist()


def text(columns: Mapping[str, Iterable[Any]]) -> str:
    """The columns under their names as CSV; nan as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    written = [[_cell(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*written, strict=True))
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):  # numpy's float64 too
        return "" if math.isnan(value) else repr(float(value))
    return str(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


class NoCertificates(Exception):
    """The file is not there, or is no file of certificates: one line that says so."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a file: its fields by column, or what is wrong with it."""

    place: str
    fields: dict[str, str]
    wrong: str | None = None


@dataclasses.dataclass(frozen=True)
class LawFields:
    """What a row says of one law; cutoff and quantile are None where it is not cut off.

    The charge is that of sound draws, else 0.
    """

    name: str
    sigma: float
    cutoff: float | None
    quantile: float | None
    votes: int
    draws: int
    multiplier: float
    charge: float


@dataclasses.dataclass(frozen=True)
class SoundFields:
    """What a row says of its draws, where they were sound."""

    grid: int
    rounding: float
    ambiguous: int


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a row says of one of its radii.

    Attributes:
        method: which of them.
        radius: > 0, in pixel units.
        alpha: failure probability of the certificate.
        sides: 1 or 2: of the intervals whose lower ends the bounds are.
        pooled: whether it is Neyman-Pearson's from twice the draws of P.
        dimension, k, eta: of all laws.
        laws: that the radius follows from, P first.
        sound: None where the draws were floating-point numbers.
    """

    method: Method
    radius: float
    alpha: float
    sides: int
    pooled: bool
    dimension: int
    k: float
    eta: float
    laws: tuple[LawFields, ...]
    sound: SoundFields | None


def law_names(columns: Iterable[str]) -> list[str]:
    """The extra laws of a file, from the names of its columns."""
    start = "multiplier_"
    names = [column.removeprefix(start) for column in columns if column.startswith(start)]
    return [name for name in names if name not in (Method.NEYMAN_PEARSON, "p")]


def as_number(written: str) -> float:
    """The finite number that a text names, in ASCII and without spaces.

    Raises:
        ValueError: it names none.
    """
    if _NUMBER.fullmatch(written) is None:
        raise ValueError(f"{written!r}, not a number")
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"{written}, which no double holds")
    return value


def as_whole(written: str) -> int:
    """The whole number that a text names.

    Raises:
        ValueError: it names none, or one that a double need not hold.
    """
    value = as_number(written)
    if value != math.floor(value) or abs(value) >= _LARGEST_WHOLE:
        raise ValueError(f"{written}, not a whole number below 2^53")
    return int(value)


def read(row: Mapping[str, str], names: Sequence[str], method: Method) -> Fields | None:
    """What a row says of one of its radii; None for a radius of 0.

    Raises:
        ValueError: a field is missing, no number, or outside its domain; the message says which.
    """

    def number(column: str) -> float:
        return _said(as_number, row, column)

    def whole(column: str) -> int:
        return _said(as_whole, row, column)

    def unless_empty(column: str) -> float | None:
        return None if row[column] == "" else number(column)

    radius = number(f"radius_{method}")
    if radius < 0.0:
        raise ValueError(f"radius_{method} is negative")
    if radius == 0.0:
        return None
    if method is Method.DSRS and row["status"] in _CLAIMS_NOTHING:
        raise ValueError(f"radius_dsrs is positive, the status {row['status']!r} says that it is 0")
    sides = _SIDES.get(row["bounds"])
    if sides is None:
        raise ValueError(f"bounds is {row['bounds']!r}, not {' or '.join(_SIDES)}")
    alpha = number(f"alpha_{method}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha_{method} is outside (0, 1)")
    sound = None
    kind = row.get("draws", "")
    if kind == SOUND:
        sound = SoundFields(whole("grid"), number("rounding"), whole("ambiguous"))
        if not (0 < sound.grid <= _LARGEST_GRID and sound.ambiguous >= 0):
            raise ValueError("grid or ambiguous is outside its domain")
    elif kind != FLOAT32:
        raise ValueError(f"draws is {kind!r}, not {SOUND} or {FLOAT32}")

    def charge(column: str) -> float:
        return number(column) if sound is not None else 0.0

    own = "multiplier_np" if method is Method.NEYMAN_PEARSON else "multiplier_p"
    votes, draws, weight = whole("votes"), whole("n"), number(own)
    laws = [LawFields("p", number("sigma"), None, None, votes, draws, weight, charge("charge_p"))]
    for name in names if method is Method.DSRS else ():
        sigma, weight = number(f"sigma_{name}"), number(f"multiplier_{name}")
        cutoff, quantile = unless_empty(f"cutoff_{name}"), unless_empty(f"quantile_{name}")
        votes, draws = whole(f"votes_{name}"), whole(f"draws_{name}")
        taken = charge(f"charge_{name}")
        laws.append(LawFields(name, sigma, cutoff, quantile, votes, draws, weight, taken))
    if any(law.multiplier < 0.0 for law in laws):
        raise ValueError("a multiplier is negative")
    if not any(law.multiplier for law in laws):
        raise ValueError("all multipliers are 0")
    pooled = method is Method.DSRS and row["status"] == POOLED
    dimension, k, eta = whole("dimension"), number("k"), number("eta")
    return Fields(method, radius, alpha, sides, pooled, dimension, k, eta, tuple(laws), sound)


def _said(meaning: Callable[[str], _Number], row: Mapping[str, str], column: str) -> _Number:
    try:
        return meaning(row.get(column) or "")
    except ValueError as error:
        raise ValueError(f"{column} is {error}") from None


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

    An image has one row: a second one says that it is.

    Raises:
        NoCertificates: columns are missing, or their names cannot be shown.
    """
    lines = content.split("\n")
    header = _cells(lines[0])
    names = law_names(header)
    per_law = (f"{what}_{name}" for name in names for what in _REQUIRED_OF_A_LAW)
    missing = [column for column in (*_REQUIRED, *per_law) if column not in header]
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
                first = row_of.setdefault(_said(as_whole, fields, "index"), number)
                if first != number:
                    wrong = f"row {first} is of the same image"
            except ValueError as error:
                wrong = str(error)
        index = fields.get("index", "?")
        shown = index if index.isascii() and index.isdigit() else ascii(index)
        rows.append(Row(f"row {number} (index {shown})", fields, wrong))
    return rows, names


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []
