"""The commands that a document gives, as a shell would split them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commands(document: str) -> list[list[str]]:
    """The words after `dsrs-jax` of each command of a document, a path below the project."""
    text = (ROOT / document).read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    dsrs-jax (.*)$", text, re.M)]
