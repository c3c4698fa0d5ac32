"""Runs of `dsrs-jax certify` seen from outside: their rows, their files, where they wait."""

import csv
import json
import signal
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import commands
import numpy as np
from PIL import Image

from dsrs_jax.run.main import main

Once = Callable[[str, Callable[[Path], None]], Path]  # of the fixture `once`
# The noise that the tests' digits model is trained under and certified with.
SIGMA, K = 0.4, 28.0
DRAWS, IMAGES = 10_000, 16
# By name: which draws a run makes by itself depends on what they cost, as it was measured.
WORK = ["--n", str(DRAWS), "--stop", str(IMAGES), "--q-inside", "0.5", "--seed", "0"]
FINISHED = ["--n", "2000", "--skip", "20", "--seed", "0", "--prove"]
FINISHED += ["--q-inside", "0.4", "--q-inside", "0.7"]


def finished(once: Once, model: str) -> Path:
    """A run of `FINISHED` that all tests share: they change copies of it."""

    def make(folder: Path) -> None:
        with unittest.mock.patch("os.cpu_count", return_value=1):  # it proves in this process
            assert main(["certify", "--model", model, *FINISHED, "--out", str(folder)]) == 0

    return once("finished", make)


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of a run's certificates.csv."""
    return list(csv.DictReader((out / "certificates.csv").read_text().splitlines()))


def record_files(out: Path, process: int | None = None) -> list[Path]:
    """A run's files of records, of one process or of all."""
    return sorted((out / "votes").glob(f"*.{'*' if process is None else process}.jsonl"))


def recorded(out: Path, process: int | None = None) -> int:
    """How many images are recorded."""
    return sum(file.read_bytes().count(b"\n") for file in record_files(out, process))


def records_of(out: Path) -> dict[int, dict[str, Any]]:
    """The records of a run, of each image the one with the most looks."""
    lines = [line for file in record_files(out) for line in file.read_text().splitlines()]
    records = sorted(map(json.loads, lines), key=lambda record: len(record.get("earlier", [])))
    return {record["index"]: record for record in records}


def save_png(file: Path, image: np.ndarray) -> None:
    """An image (H, W, 1) in [0, 1] as a file, in a folder that is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file)


class HeldRun:
    """The command in a process that writes each block's records and waits at one of the files.

    Args:
        words: of the command.
        gate: a folder that is not there.
        number: of the file of records, of those that this process writes, from 0.
        event: "open": it waits before the file; "os.rename": before a whole file has its name.
        devices: that it sees.
    """

    def __init__(
        self, words: Sequence[str], gate: Path, number: int, event: str = "open", devices: int = 1
    ) -> None:
        gate.mkdir()
        self._gate = gate
        program = str(Path(__file__).with_name("held_command.py"))
        self.process = commands.start(words, devices, (program, str(gate), str(number), event))

    def wait(self) -> None:
        """Until it waits there."""
        commands.wait_until((self._gate / "held").exists, self.process)

    def kill(self) -> None:
        """Ends it where it waits."""
        self.wait()
        commands.end(self.process, signal.SIGKILL)

    def release(self) -> None:
        """Lets it work again."""
        (self._gate / "go").touch()
