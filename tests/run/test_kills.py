"""Runs that are ended in the middle, by force or by a signal, and taken up again."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from certify_runs import WORK, record_files, recorded, wait_for_more

from dsrs_jax.run.main import main

Start = Callable[..., subprocess.Popen[str]]
KILLS = 5
SHAPES = [(1, 1), (1, 2), (2048, 1)]  # batch and devices: each time another
IN_FLIGHT = 3  # blocks, here of one image each


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--out", str(out)]
    random = np.random.default_rng(0)
    for kill in range(KILLS):
        batch, devices = SHAPES[kill % len(SHAPES)]
        process = start([*command, "--batch", str(batch)], devices)
        if kill == 1:  # before anything is written in this turn
            time.sleep(random.uniform(0.0, 4.0))
        elif wait_for_more([process], out, len(record_files(out))):
            time.sleep(random.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
    assert main(["certify", *command]) == 0
    assert (out / "certificates.csv").read_bytes() == whole


def test_a_signal_ends_a_run_in_one_line_and_nothing_is_lost(
    model: str, whole: bytes, start: Start, tmp_path: Path
) -> None:
    """Ctrl-C, and then the run that goes on is terminated by a scheduler."""
    out = tmp_path / "run"
    command = ["--model", model, *WORK, "--batch", "1", "--out", str(out)]
    for number, code, word in (
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
    ):
        process = start(command)
        assert wait_for_more([process], out, len(record_files(out)))
        # It stands still while the images are counted, and goes on with the signal.
        process.send_signal(signal.SIGSTOP)
        before = recorded(out)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, error = process.communicate(timeout=300)
        assert process.returncode == code
        assert error == f"dsrs-jax certify: {word}; the same command continues this run\n"
        # What was counted already is written, and no more than was in flight is waited for.
        assert before <= recorded(out) <= before + IN_FLIGHT
    assert not (out / "certificates.csv").exists()
    assert main(["certify", *command]) == 0
    assert (out / "certificates.csv").read_bytes() == whole
