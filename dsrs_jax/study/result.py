"""What comes of a study."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
    """A table, the picture of it, and what it says.

    Attributes:
        columns: names, each with its unit where it has one.
        rows: cells. Radii are as they were certified, with all their digits.
        picture: a PNG's content.
        finding: one sentence with the numbers that matter.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    picture: bytes
    finding: str

    def csv(self) -> str:
        """The table as a file has it."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()
