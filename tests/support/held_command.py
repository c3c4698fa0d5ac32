"""`dsrs-jax` that writes the records of each block at once, and waits at one of these files.

    python held_command.py GATE NUMBER EVENT COMMAND ...

At the NUMBER-th EVENT of Python's audit hooks that is about a file of records (`open` to write it,
`os.rename` to its name) it makes GATE/held, and waits until GATE/go is there.
"""

import importlib
import os
import sys
import time
from pathlib import Path

from dsrs_jax.run.main import entry


def hold(gate: Path, number: int, event: str) -> None:
    """Waits there, unless this process's parent ends."""
    parent, count = os.getppid(), 0

    def at(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if name != event or ".jsonl" not in str(arguments[0]):
            return
        if name == "open" and "w" not in str(arguments[1]):
            return
        count += 1
        if count == number + 1:
            (gate / "held").touch()
            while not (gate / "go").exists() and os.getppid() == parent:
                time.sleep(0.005)

    sys.addaudithook(at)


if __name__ == "__main__":
    _, folder, which, what, *words = sys.argv
    importlib.import_module("dsrs_jax.votes.recording")._SECONDS_A_FILE = (0.0, 0.0)
    hold(Path(folder), int(which), what)
    sys.argv = ["dsrs-jax", *words]
    entry()
