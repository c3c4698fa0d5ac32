"""The log that the field has written since Cohen et al. (2019): a line an image, tabs between.

    idx  label  predict  radius  correct  time

`predict` is -1 for an abstention; `radius` is of the predicted class, whether it is right or not.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from dsrs_jax.proof import schema
from dsrs_jax.report import rounded_down
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import write_whole

HEADER = ("idx", "label", "predict", "radius", "correct", "time")
ABSTAINED = -1
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_ANSWERS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_SHOWN = 5  # sentences of one kind


@dataclasses.dataclass(frozen=True)
class LogLine:
    """What a log says of one image.

    Attributes:
        index: place in the data set.
        label: the true class; predict: the smoothed classifier's, or -1.
        radius: in pixel units; `written` is its text.
        correct: whether the prediction is the label; False where the columns contradict each other.
    """

    index: int
    label: int
    predict: int
    radius: float
    correct: bool
    written: str

    @property
    def certified(self) -> float:
        """The radius around an image that is classified right, else 0."""
        return self.radius if self.correct and self.predict != ABSTAINED else 0.0


def is_log(file: Path) -> bool:
    """Whether a file begins as such a log does."""
    try:
        with open(file, "rb") as stream:
            begin = stream.read(200)
    except OSError:
        return False
    return _is_header(begin.decode("utf-8-sig", errors="replace").split("\n")[0])


def _is_header(line: str) -> bool:
    return line.split()[:5] == list(HEADER[:5])


def read_log(file: Path) -> tuple[list[LogLine], list[str]]:
    """The lines of a log, by index, and sentences on those that are damaged or contradictory.

    Of several lines of an image the first counts.

    Raises:
        UserError: the file cannot be read, or is no such log, or has no line of an image.
    """
    try:
        written = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if written.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{file} is UTF-16; save it as UTF-8")
    content = written.decode("utf-8-sig", errors="replace")
    first, *lines = content.split("\n")
    if not _is_header(first):
        raise UserError(
            f"{file} is no log of certified radii: its first line is not `{' '.join(HEADER)}`"
        )
    found: dict[int, LogLine] = {}
    damaged, twice, contradictory = list[str](), list[str](), list[str]()
    line_of: dict[int, int] = {}  # by image
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        if _is_header(line):
            twice.append(f"{place}: a second header (two logs in one file?).")
            continue
        # Without an end of line it may be cut, but for a time in the last column.
        if number == len(lines) + 1 and len(_cells(line)) < len(HEADER):
            damaged.append(f"{place}: the file ends inside this line; it is left out.")
            continue
        try:
            log_line, contradiction = _line(_cells(line))
        except ValueError as error:
            damaged.append(f"{place}: {error}; it is left out.")
            continue
        index = log_line.index
        if line_of.setdefault(index, number) != number:
            twice.append(
                f"{place}: index {index} is that of line {line_of[index]}, too (two logs in one "
                "file?); it is left out."
            )
            continue
        found[index] = log_line
        if contradiction:
            contradictory.append(f"{place}: {contradiction}; it does not count as certified.")
    if not found:
        why = f" ({damaged[0]})" if damaged else ""
        raise UserError(f"{file} has no line of an image{why}")
    sentences = [*_some(file, damaged), *_some(file, twice), *_some(file, contradictory)]
    return [found[index] for index in sorted(found)], sentences


def _some(file: Path, sentences: list[str]) -> list[str]:
    more = len(sentences) - _SHOWN
    rest = [f"{file}: and {more:,} more such lines."] if more > 0 else []
    return sentences[:_SHOWN] + rest


def _cells(line: str) -> list[str]:
    """What stands between tabs, which may be nothing; between spaces where there are no tabs."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else line.split()


def _line(cells: list[str]) -> tuple[LogLine, str]:
    """A line, and how its columns contradict each other, if they do."""
    if len(cells) < 5:
        raise ValueError(f"{len(cells)} columns where a log has {len(HEADER)}")
    row = dict(zip(HEADER, cells, strict=False))
    if _NUMBER.fullmatch(row["radius"]) is None:
        raise ValueError(f"radius is {row['radius']!r}, no number from 0 on")
    radius = schema.said(schema.as_radius, row, "radius")
    index, label, predict = (schema.said(schema.as_whole, row, name) for name in HEADER[:3])
    correct = _ANSWERS.get(row["correct"].lower())
    if correct is None:
        raise ValueError(f"correct is {row['correct']!r}, not 0 or 1")
    if index < 0 or predict < ABSTAINED:
        raise ValueError("idx or predict is outside its domain")
    contradiction = ""
    if label >= 0 and correct != (predict == label):
        contradiction = f"correct is {row['correct']}, but predict is {predict} and label {label}"
    elif predict == ABSTAINED and radius > 0.0:
        contradiction = f"predict is {predict}, an abstention, but radius is {row['radius']}"
    return LogLine(
        index, label, predict, radius, correct and not contradiction, row["radius"]
    ), contradiction


def write_log(file: Path, rows: Iterable[tuple[int, int, int, float]]) -> None:
    """Writes (index, label, class, radius) as a log: without a radius the class is abstained."""
    lines = ["\t".join(HEADER)]
    for index, label, predicted, radius in rows:
        said = [index, label, predicted if radius > 0.0 else ABSTAINED, rounded_down(radius)]
        said.append(int(radius > 0.0 and predicted == label))
        lines.append("\t".join(map(str, [*said, "0:00:00"])))
    write_whole(file, "\n".join(lines) + "\n")
