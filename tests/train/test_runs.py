"""The command: a run that was ended continues bit for bit, alone or shared by processes."""

import contextlib
import io
import itertools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commands import (
    HANGING,
    assert_one_line_error,
    end,
    ended,
    environment,
    joined,
    refused,
    start,
    wait_until,
)
from PIL import Image
from training_runs import digits_in_folders, outcome, rows, steps

from dsrs_jax import data, models
from dsrs_jax.run.main import main
from dsrs_jax.train import record, trainer

EPOCHS, EPOCH = 3, 10  # steps of an epoch: five batches of two parts
RECIPE = ["train", "--k", "28", "--k-warmup", "3", "--num-noise-vec", "2", "--lr", "0.05"]
IN_MEMORY = [*RECIPE, "--batch", "256", "--arch", "digits_cnn"]
STREAMED = [*RECIPE, "--batch", "32", "--arch", "digits_cnn", "--dataset", "folder", "--ema", "0.9"]
LINES = {
    number: f"dsrs-jax train: {word}; --resume continues it\n"
    for number, word in (
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "terminated"),
        (signal.SIGHUP, "ended, as the terminal closed"),
        (signal.SIGUSR1, "ended by SIGUSR1"),
    )
}
# A terminal that closes sends SIGHUP to the session that it controls.
IN_A_TERMINAL = """
import fcntl, termios
from dsrs_jax.run.main import entry
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
entry()
"""
Run = tuple[list[str], Path]  # a command, and what it leaves when nothing happens to it
OFTEN = ["--save-every", "1e-9"]  # a state after each step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_in_folders(tmp_path_factory.mktemp("digits"), 5 * 32)


@pytest.fixture(scope="module", params=["in memory", "streamed"])
def run(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    words = IN_MEMORY if request.param == "in memory" else [*STREAMED, "--data-dir", str(folder)]
    command = [*words, "--epochs", str(EPOCHS)]
    whole = tmp_path_factory.mktemp("whole") / "run"
    assert main([*command, "--out", str(whole)]) == 0
    return command, whole


def _resumed(command: list[str], out: Path, *more: str) -> tuple[str, list[dict[str, str]]]:
    assert main([*command, "--resume", "--out", str(out), *more]) == 0
    return outcome(out)


def _states(out: Path) -> list[str]:
    """Those that are being written, too."""
    return sorted(path.name for path in out.glob("*state-*"))


def _at_call(
    patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, action: Callable[[], object]
) -> None:
    """Has the call of this number, from 1, of a function do something more at its end."""
    original, calls = getattr(owner, name), itertools.count(1)

    def function(*arguments: Any) -> Any:
        result = original(*arguments)
        if next(calls) == number:
            action()
        return result

    patch.setattr(owner, name, function)


def test_a_run_leaves_its_last_state_and_a_row_an_epoch(run: Run) -> None:
    _, whole = run
    assert [int(row["epoch"]) for row in rows(whole)] == list(range(EPOCHS))
    assert all(0.0 <= float(row["test_accuracy"]) <= 1.0 for row in rows(whole))
    assert list(whole.glob("events.out*"))
    assert _states(whole) == [f"state-{EPOCHS * EPOCH}"]
    dataset = json.loads((whole / "recipe.json").read_text())["dataset"]
    assert models.load_model(whole / "model").metadata.dataset == dataset


@pytest.mark.parametrize(
    ("run", "number", "at", "more"),
    [
        # As the next step is prepared, and while a state is written that is not there yet.
        ("streamed", signal.SIGUSR1, (trainer, "law_at", 6), []),
        ("in memory", signal.SIGTERM, (record, "write_arrays", 5), OFTEN),
    ],
    indirect=["run"],
)
def test_a_signal_within_an_epoch_loses_no_step(
    number: signal.Signals,
    at: tuple[Any, str, int],
    more: list[str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, whole = run
    with monkeypatch.context() as patch:
        _at_call(patch, *at, lambda: signal.raise_signal(number))
        assert main([*command, *more, "--out", str(tmp_path / "run")]) == 128 + number
    assert capsys.readouterr().err == LINES[number]
    assert _states(tmp_path / "run") == ["state-5"]
    assert _resumed(command, tmp_path / "run") == outcome(whole)


@pytest.mark.process
def test_a_training_whose_terminal_closes_ends_with_its_state(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *IN_MEMORY, "--epochs", "1000000", "--out", str(out)],
        env=environment(), stdin=its, stdout=its, stderr=its, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    os.set_blocking(ours, False)

    def has_a_state() -> int:
        with contextlib.suppress(BlockingIOError):  # what it prints would fill the terminal
            os.read(ours, 1 << 16)
        return steps(out)

    before = wait_until(has_a_state, process)
    os.close(ours)
    assert process.wait(HANGING) == 128 + signal.SIGHUP
    assert steps(out) >= before


@pytest.mark.parametrize("run", ["in memory"], indirect=True)
def test_what_a_killed_run_leaves_is_continued(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copies of a run as it writes a state of epoch 2: within it, and at its end, after the row."""
    command, whole = run
    out, copies = tmp_path / "run", {n: tmp_path / f"{n}" for n in (5, EPOCH)}
    assert main([*command, "--epochs", "1", "--out", str(out)]) == 0
    with monkeypatch.context() as patch:
        for number, copy in copies.items():
            keep = partial(shutil.copytree, out, copy)
            _at_call(patch, record, "write_arrays", number, keep)
        _resumed(command, out, *OFTEN, "--epochs", "2")
    for number, copy in copies.items():
        assert len(_states(copy)) == 2 and steps(copy) == EPOCH + number - 1
        age = f"1 epochs old and {number - 1} steps; continue it with --resume"
        refused(capsys, [*command, "--out", str(copy)], age)
        assert _resumed(command, copy) == outcome(whole)
        assert _states(copy) == [f"state-{EPOCHS * EPOCH}"]
    # More epochs may be asked for later; no other noise.
    _resumed(command, copy, "--epochs", str(EPOCHS + 1))
    assert rows(copy)[:EPOCHS] == rows(whole) and len(rows(copy)) == EPOCHS + 1
    other = [*command, "--resume", "--sigma", "0.6", "--out", str(copy)]
    refused(capsys, other, "begun with sigma = 0.5, not 0.6")


def test_a_training_says_what_it_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, command = tmp_path / "model", [*IN_MEMORY, "--resume", "--out", str(tmp_path)]
    begins = f"{tmp_path} has no state to continue from: the training begins."
    nothing = f"{model} has all 1 epochs: nothing to train"
    for epochs, lines in ((1, [begins, f"saved {model}"]), (1, [nothing]), (2, [f"saved {model}"])):
        capsys.readouterr()
        assert main([*command, "--epochs", str(epochs)]) == 0
        printed = capsys.readouterr().out.splitlines()
        known = (begins, nothing, f"saved {model}")
        assert [line for line in printed if line in known] == lines
    message = f"{tmp_path} is 2 epochs old already; ask for more than 1 by --epochs"
    refused(capsys, [*command, "--epochs", "1"], message)
    assert steps(tmp_path) == 2 * EPOCH and len(rows(tmp_path)) == 2


@pytest.mark.process
@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    run: Run, tmp_path: Path
) -> None:
    """It is stopped where it is when it is seen to have a state, and then ended by a signal."""
    command, whole = run
    out, random = tmp_path / "run", np.random.default_rng(0)
    # It does not end by itself, however late it is stopped.
    endless = [*command, *OFTEN, "--epochs", "1000000", "--resume", "--out", str(out)]
    signals = (signal.SIGKILL, signal.SIGHUP if "--data-dir" in command else signal.SIGINT)
    for workers, number in zip((2, 1), signals, strict=True):
        least = steps(out) + int(random.integers(1, EPOCH))
        process = start([*endless, "--workers", str(workers)], jax.local_device_count())
        wait_until(lambda least=least: steps(out) >= least, process)
        process.send_signal(signal.SIGSTOP)
        before = steps(out)
        if number == signal.SIGKILL:
            assert end(process, number)[0] == -number
        else:
            os.killpg(process.pid, number)
            assert end(process, signal.SIGCONT) == (128 + number, LINES[number])
        assert steps(out) >= before
    shutil.copytree(whole, tmp_path / "whole")
    more = ["--epochs", str(max(EPOCHS, steps(out) // EPOCH + 1))]
    assert _resumed(command, out, *more) == _resumed(command, tmp_path / "whole", *more)


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_continue_as_one_process_would(run: Run, tmp_path: Path) -> None:
    """What one process began; each has a device of its own, and no disk is common to both."""
    command, whole = run
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*command, "--epochs", "1", "--out", str(first)]) == 0
    more = ["--epochs", "2", "--workers", "1", "--resume", "--out"]
    words = joined(*([*command, *more, str(out)] for out in (first, second)))
    assert ended([start(own) for own in words]) == [(0, ""), (0, "")]
    assert not second.exists()  # the first alone writes
    for shared, alone in zip(rows(first), rows(whole)[:2], strict=True):
        for name, value in alone.items():  # sums round
            assert float(shared[name]) == pytest.approx(float(value), rel=1e-4, abs=3e-3)


@pytest.mark.process
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("--out a_file/run", "--out run", "cannot make the folder"),
        ("--out run", "--out run --sigma 0.6", "other settings or other data"),
        ("--out run", "--out run --pretrained none", "no such file or folder"),
        (*["--out run --batch 33 --num-noise-vec 3"] * 2, "a mini-batch of 11 images is no"),
    ],
)
def test_a_mistake_in_one_process_ends_them_all(
    first: str, second: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_text("")
    command = [*STREAMED, "--data-dir", str(folder), "--epochs", "1"]
    with contextlib.chdir(tmp_path):
        words = joined(*([*command, *own.split()] for own in (first, second)))
        codes, errors = zip(*ended([start(own) for own in words]), strict=True)
    assert codes == (2, 2) and any(message in error for error in errors)
    for error in errors:
        assert message in error or "another process of this run failed" in error
        assert_one_line_error(error, "train")
    assert not list(tmp_path.glob("*/state-*"))


def test_a_training_that_diverges_ends_in_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, whole = run
    out = shutil.copytree(whole, tmp_path / "run")
    recipe = (out / "recipe.json").read_text()
    (out / "recipe.json").write_text(recipe.replace('_rate": 0.05', '_rate": 1e+30'))
    more = ["--resume", "--epochs", str(EPOCHS + 1), "--lr", "1e30", "--out", str(out)]
    message = f"diverged: the mean loss of epoch {EPOCHS + 1} is nan"
    refused(capsys, [*command, *more], message, "smaller learning rate than 1e+30")
    assert outcome(out) == outcome(whole)


def test_training_starts_from_a_run_or_its_model(run: Run, tmp_path: Path) -> None:
    command, whole = run
    for name, source in (("run", whole), ("model", whole / "model")):
        more = ["--epochs", "1", "--pretrained", str(source), "--out", str(tmp_path / name)]
        assert main([*command, *more]) == 0
        recipe = json.loads((tmp_path / name / "recipe.json").read_text())
        assert recipe["pretrained"] == outcome(whole)[0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "model")
    # Its first epoch goes on where the run ended.
    assert float(rows(tmp_path / "run")[0]["loss"]) < 0.9 * float(rows(whole)[0]["loss"])


def test_images_of_ones_own_are_trained_on(tmp_path: Path) -> None:
    digits = data.in_memory(data.load("digits", "train"))
    np.savez(tmp_path / "images.npz", images=digits.images, labels=digits.labels)
    out, again = tmp_path / "out", tmp_path / "again"
    command = [*IN_MEMORY, "--sigma", "0.25", "--epochs"]
    own = ["--dataset", "npz", "--data-dir", str(tmp_path / "images.npz")]
    assert main([*command, "3", *own, "--out", str(out)]) == 0
    # The file has no other images to test on.
    assert rows(out)[-1]["test_accuracy"] == "nan" and float(rows(out)[-1]["accuracy"]) > 0.5
    assert models.load_model(out / "model").metadata.dataset == "npz"
    # It is a model of the digits, too: their input is scaled alike.
    assert main([*command, "1", "--pretrained", str(out), "--out", str(again)]) == 0
    assert float(rows(again)[0]["accuracy"]) > 0.5 and float(rows(again)[0]["test_accuracy"]) > 0.5


def test_an_image_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(folder, tmp_path / "damaged")
    files = [sorted(place.glob(f"{split}/*/*.png"))[7] for split in ("train", "test")]
    command = [*STREAMED, "--data-dir", str(place), "--epochs", "2", "--out"]
    whole = files[0].read_bytes()
    files[1].write_bytes(files[1].read_bytes()[:60])
    refused(capsys, [*command, str(tmp_path / "a")], str(files[1]), "--skip-unreadable")
    files[0].write_bytes(whole[:60])
    refused(capsys, [*command, str(tmp_path / "b")], str(files[0]), "--skip-unreadable")
    out = tmp_path / "run"
    assert main([*command, str(out), "--skip-unreadable"]) == 0
    # Once in two epochs, on a line that is not broken, and nothing else is said.
    lines = capsys.readouterr().err.splitlines()
    for line, file in zip(lines, files, strict=True):
        assert line.startswith("skipped image ") and str(file) in line
    for row in rows(out):
        assert np.isfinite(float(row["loss"]))
        right = 29 * float(row["test_accuracy"])  # of the 29 images that could be read
        assert right == pytest.approx(round(right), abs=1e-9)


@pytest.mark.others
def test_a_set_of_tfds_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    class Squares(tfds.testing.DummyMnist):
        """Grey ones in MNIST's layout, to train and to test on."""

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for index in range(20):
                file = io.BytesIO()
                Image.new("L", (28, 28), 12 * index).save(file, "PNG")
                yield index, {"image": io.BytesIO(file.getvalue()), "label": index % 10}

    Squares(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    words = ["--dataset", "mnist", "--data-dir", "tfds:squares", "--arch", "lenet", "--batch", "10"]
    assert main(["train", *words, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["dataset"] == "mnist"
    assert models.load_model(tmp_path / "run" / "model").metadata.dataset == "mnist"
    [row] = rows(tmp_path / "run")
    assert 0.0 <= float(row["test_accuracy"]) <= 1.0 and steps(tmp_path / "run") == 2
