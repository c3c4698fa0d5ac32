"""The log that the field has written since Cohen et al. (2019): a line an image, tabs between.

    idx  label  predict  radius  correct  time

`predict` is -1 for an abstention; `radius` is of the predicted class, whether it is right or not.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path

from dsrs_jax.report import rounded_down
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import write_whole

HEADER = ("idx", "label", "predict", "radius", "correct", "time")
ABSTAINED = -1
_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclasses.dataclass(frozen=True)
class LogLine:
    """What a log says of one image.

    Attributes:
        index: place in the data set.
        label: the true class; predict: the smoothed classifier's, or -1.
        radius: in pixel units; `written` is its text.
        correct: whether the prediction is the label.
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
    return begin.decode(errors="replace").split("\n")[0].split()[:5] == list(HEADER[:5])


def read_log(file: Path) -> tuple[list[LogLine], list[str]]:
    """The lines of a log, and a sentence for each that is none.

    Of an image that stands twice the last line counts, as of one that was begun again.

    Raises:
        UserError: the file cannot be read, or is no such log.
    """
    try:
        content = file.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    first, *lines = content.split("\n")
    if first.split()[:5] != list(HEADER[:5]):
        raise UserError(
            f"{file} is no log of certified radii: its first line is not `{' '.join(HEADER)}`"
        )
    found: dict[int, LogLine] = {}
    wrong = []
    for number, line in enumerate(lines, start=2):
        words = line.split()
        if not words:
            continue
        if number == len(lines) + 1:  # no end of line after it
            wrong.append(f"{file}, line {number}: the file ends inside this line; it is left out.")
            continue
        try:
            one = _line(words)
        except ValueError as error:
            wrong.append(f"{file}, line {number}: {error}; it is left out.")
            continue
        found[one.index] = one
    return [found[index] for index in sorted(found)], wrong


def _line(words: list[str]) -> LogLine:
    if len(words) < 5:
        raise ValueError(f"{len(words)} columns where a log has {len(HEADER)}")
    if _NUMBER.fullmatch(words[3]) is None or not math.isfinite(float(words[3])):
        raise ValueError(f"the radius is {words[3]!r}, no number from 0 on")
    try:
        index, label, predict, correct = (int(words[column]) for column in (0, 1, 2, 4))
    except ValueError:
        raise ValueError("idx, label, predict and correct must be whole numbers") from None
    if index < 0 or correct not in (0, 1) or predict < ABSTAINED:
        raise ValueError("idx, predict or correct is outside its domain")
    return LogLine(index, label, predict, float(words[3]), correct == 1, words[3])


def write_log(file: Path, rows: Iterable[tuple[int, int, int, float]]) -> None:
    """Writes (index, label, class, radius) as a log: without a radius the class is abstained."""
    lines = ["\t".join(HEADER)]
    for index, label, predicted, radius in rows:
        said = [index, label, predicted if radius > 0.0 else ABSTAINED, rounded_down(radius)]
        said.append(int(radius > 0.0 and predicted == label))
        lines.append("\t".join(map(str, [*said, "0:00:00"])))
    write_whole(file, "\n".join(lines) + "\n")
