"""Runs of `dsrs-jax certify` seen from outside: their rows, their files, their progress."""

import csv
import socket
import subprocess
import time
from pathlib import Path

# The noise that the tests' digits model is trained under and certified with.
SIGMA, K = 0.4, 28.0
# Enough work that a run is still at it when something happens to it: about 5 seconds on a core.
IMAGES = 16
# By name: which draws a run makes by itself depends on what they cost, as it was measured.
WORK = ["--n", "100000", "--stop", str(IMAGES), "--q-inside", "0.5", "--draws", "sound"]


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of a run's certificates.csv."""
    with open(out / "certificates.csv") as stream:
        return list(csv.DictReader(stream))


def record_files(out: Path, process: int | None = None) -> list[Path]:
    """A run's files of records, of one process or of all."""
    return sorted((out / "votes").glob(f"*.{'*' if process is None else process}.jsonl"))


def recorded(out: Path, process: int | None = None) -> int:
    """How many images are recorded."""
    return sum(file.read_bytes().count(b"\n") for file in record_files(out, process))


def wait_for_more(
    processes: list[subprocess.Popen[str]], out: Path, before: int, process: int | None = None
) -> bool:
    """Until there are more files of records than `before`; whether all were still at work then."""
    deadline = time.monotonic() + 300
    while len(record_files(out, process)) <= before:
        if any(one.poll() is not None for one in processes):
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


def joined(command: list[str], processes: int) -> list[list[str]]:
    """The command of each of so many processes of one run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        [*command, "--coordinator", f"localhost:{port}", "--num-processes", str(processes),
         "--process-id", str(number), "--patience", "3"]
        for number in range(processes)
    ]  # fmt: skip
