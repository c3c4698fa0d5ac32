"""Runs that are ended in the middle, by force or by a signal, and taken up again."""

import importlib
import os
import signal
from pathlib import Path

import commands
import numpy as np
import pytest
from certify_runs import IMAGES, WORK, HeldRun, record_files, recorded, records_of

from dsrs_jax.run.main import main

EVENTS = ("open", "os.rename")
SHAPES = [(2048, 2), (1, 1), (3, 2)]  # batch and devices: each time another
# Looks at which images stop or, in rounds, go on; a second law that has draws of its own.
FEATURES = ["--n", "5000", "--stop", str(IMAGES), "--seed", "0", "--label", "predicted"]
FEATURES += ["--q-inside", "0.5", "--q-sigma", "0.3", "--radii", "0.2", "0.4", "0.6"]
FEATURES += ["--budget", "40000"]


@pytest.mark.process
@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    model: str, tmp_path: Path
) -> None:
    command = ["certify", "--model", model, *FEATURES, "--out"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main([*command, str(whole)]) == 0
    random = np.random.default_rng(0)
    for kill, (batch, devices) in enumerate(SHAPES):
        number, event = int(random.integers(4)), EVENTS[random.integers(2)]
        if kill > 1:  # in the second round
            number = -(-(IMAGES - len(records_of(out))) // devices)
        words = [*command, str(out), "--batch", str(batch)]
        HeldRun(words, tmp_path / f"gate {batch}", number, event, devices).kill()
    assert main([*command, str(out)]) == 0
    assert (out / "certificates.csv").read_bytes() == (whole / "certificates.csv").read_bytes()
    assert records_of(out) == records_of(whole)


@pytest.mark.process
def test_a_signal_ends_a_run_in_one_line_and_nothing_is_lost(
    model: str, whole: bytes, tmp_path: Path
) -> None:
    """As a scheduler terminates it."""
    out = tmp_path / "run"
    command = ["certify", "--model", model, *WORK, "--batch", "1", "--out", str(out)]
    held = HeldRun(command, tmp_path / "gate", number=2)
    held.wait()
    # It stands still while the images are counted; it is released with the signal.
    held.process.send_signal(signal.SIGSTOP)
    before = recorded(out)
    held.release()
    held.process.send_signal(signal.SIGTERM)
    held.process.send_signal(signal.SIGCONT)
    line = "dsrs-jax certify: terminated; the same command continues this run\n"
    assert commands.ended([held.process]) == [(143, line)]
    # The image that was counted already is written, and no other one is waited for.
    assert (before, recorded(out)) == (2, 3)
    assert not (out / "certificates.csv").exists()
    assert main(command) == 0
    assert (out / "certificates.csv").read_bytes() == whole


def test_an_interrupted_run_is_taken_up_where_it_was(
    model: str,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As above, in this process, by Ctrl-C just after the third file of records."""
    out, replace, files = tmp_path / "run", os.replace, list[Path]()
    command = ["certify", "--model", model, *WORK, "--out", str(out)]

    def interrupt(source: Path, target: Path) -> None:
        replace(source, target)
        files.extend([Path(target)] if str(target).endswith(".jsonl") else [])
        if len(files) == 3 and files[-1] == Path(target):
            signal.raise_signal(signal.SIGINT)

    recording = importlib.import_module("dsrs_jax.votes.recording")
    monkeypatch.setattr(recording, "_SECONDS_A_FILE", (0.0, 0.0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        assert main([*command, "--batch", "1"]) == 130
    error = capsys.readouterr().err
    commands.assert_one_line_error(error, "certify", "interrupted; the same command continues")
    before = {file: file.read_bytes() for file in record_files(out)}
    done = recorded(out)
    assert len(before) == 3 and not (out / "certificates.csv").exists()
    assert main(command) == 0
    assert f"{done} of {IMAGES} images were done before" in capsys.readouterr().out
    assert (out / "certificates.csv").read_bytes() == whole
    assert recorded(out) == IMAGES  # none of them twice
    assert all(file.read_bytes() == content for file, content in before.items())
