"""Runs of `dsrs-jax train` seen from outside: in processes of their own, and what they leave."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrs_jax import data, models

ROOT = Path(__file__).resolve().parents[2]
_SPEED = ("images_per_second", "input_wait")


def start(arguments: list[str], devices: int = 1) -> subprocess.Popen[str]:
    """The command in a process of its own, and a session, on so many virtual devices."""
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "dsrs_jax", *arguments],
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows(out: Path) -> list[dict[str, str]]:
    """metrics.csv, but for how fast it was."""
    with open(out / "metrics.csv") as stream:
        found = list(csv.DictReader(stream))
    return [{name: v for name, v in row.items() if name not in _SPEED} for row in found]


def fingerprint(out: Path) -> str:
    """Of the model that a run made: two that agree have the same parameters, bit for bit."""
    return models.load_model(out / "model").fingerprint()


def steps(out: Path) -> int:
    """How many steps the newest state has behind it; 0 without one."""
    return max((int(path.name[6:]) for path in out.glob("state-*")), default=0)


def wait_for(process: subprocess.Popen[str], out: Path, least: int) -> int:
    """The steps of the newest state, as soon as they are `least` or more."""
    deadline = time.monotonic() + 300
    while (found := steps(out)) < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """(exit code, what it said to stderr) of a run that gets a signal, its workers too, as from a
    terminal or a scheduler; but SIGKILL alone, of which they must hear by themselves.

    None of the session's processes is left.
    """
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while left := _session(process.pid):
        assert time.monotonic() < deadline, f"processes are left: {left}"
        time.sleep(0.02)
    return process.returncode, said


def _session(leader: int) -> list[str]:
    """Command lines of the processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile
            continue
    return found


def two_processes(*arguments: list[str]) -> list[tuple[int, str]]:
    """(exit code, what it said to stderr) of each of two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    joined = ["--coordinator", f"localhost:{port}", "--num-processes", "2"]
    processes = [
        start([*own, *joined, "--process-id", str(number)]) for number, own in enumerate(arguments)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def assert_as_one_process_would(ours: list[dict[str, str]], one: list[dict[str, str]]) -> None:
    """The rows of processes that share each step, beside those of one process: sums round."""
    for mine, theirs in zip(ours, one, strict=True):
        for name, value in theirs.items():
            assert float(mine[name]) == pytest.approx(float(value), rel=1e-4, abs=3e-3)


def digits_in_folders(place: Path, training: int = 300, test: int = 30) -> Path:
    """The digits as PNG files, train/CLASS/INDEX.png and test/CLASS/INDEX.png."""
    for split, many in (("train", training), ("test", test)):
        digits = data.load("digits", split)
        for index in range(many):
            image, label = digits[index]
            file = place / split / str(label) / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file)
    return place
