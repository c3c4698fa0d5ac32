"""The command: a killed run ends as if it had not been, processes train together, mistakes."""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from training_runs import (
    assert_as_one_process_would,
    digits_in_folders,
    end,
    fingerprint,
    rows,
    start,
    steps,
    two_processes,
    wait_for,
)

from dsrs_jax import data, models
from dsrs_jax.run.main import main

COMMAND = [
    "train", "--method", "smoothmix", "--sigma", "0.5", "--k", "28", "--k-warmup", "3",
    "--batch", "128", "--num-noise-vec", "2", "--num-steps", "1", "--epochs", "10", "--lr", "0.05",
]  # fmt: skip
EPOCH = 22  # steps: eleven batches of two parts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*COMMAND, "--out", str(out)]) == 0
    return out


def test_a_run_leaves_its_last_state_and_a_row_an_epoch(whole: Path) -> None:
    assert [int(row["epoch"]) for row in rows(whole)] == list(range(10))
    assert list(whole.glob("events.out*"))
    assert [path.name for path in whole.glob("state-*")] == [f"state-{10 * EPOCH}"]


def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = tmp_path / "killed"
    # A state after each step: a signal comes while one is written.
    often = [*COMMAND, "--save-every", "0.000001", "--out", str(killed)]
    # A test before may have given this process more devices than one.
    process = start(often, jax.local_device_count())
    wait_for(process, killed, EPOCH + 1)
    end(process, signal.SIGKILL)
    assert EPOCH < steps(killed) < 2 * EPOCH
    assert main([*COMMAND, "--out", str(killed)]) == 2
    assert "--resume" in capsys.readouterr().err
    resume = [*COMMAND, "--resume", "--out", str(killed)]
    assert main([*resume, "--sigma", "0.6"]) == 2
    assert "begun with sigma = 0.5, not 0.6" in capsys.readouterr().err
    assert main(resume) == 0
    assert fingerprint(killed) == fingerprint(whole)
    assert rows(killed) == rows(whole)
    # More epochs may be asked for later; what is done is done.
    assert main([*resume, "--epochs", "11"]) == 0
    assert rows(killed)[:10] == rows(whole) and len(rows(killed)) == 11


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_told_to_end_while_it_writes_a_state_it_loses_nothing(
    number: signal.Signals, code: int, word: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    often = [*COMMAND, "--save-every", "0.000001", "--out", str(out)]
    process = start(often, jax.local_device_count())
    found = wait_for(process, out, EPOCH + 1)
    assert end(process, number) == (code, f"dsrs-jax train: {word}; --resume continues it\n")
    assert found <= steps(out) < 2 * EPOCH
    assert [path.name for path in out.glob("*state-*")] == [f"state-{steps(out)}"]
    assert main([*COMMAND, "--resume", "--out", str(out)]) == 0
    assert fingerprint(out) == fingerprint(whole) and rows(out) == rows(whole)


def test_a_training_that_diverges_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*COMMAND, "--epochs", "1", "--out", str(out)]) == 0
    before = fingerprint(out)
    (out / "recipe.json").write_text(
        (out / "recipe.json").read_text().replace('"learning_rate": 0.05', '"learning_rate": 1e+30')
    )
    capsys.readouterr()
    assert main([*COMMAND, "--epochs", "2", "--resume", "--lr", "1e30", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "smaller learning rate than 1e+30" in error
    assert "diverged: the mean loss of epoch 2 is nan" in error
    assert fingerprint(out) == before and len(rows(out)) == 1


def test_training_starts_from_a_run_or_its_model(whole: Path, tmp_path: Path) -> None:
    for name, source in (("run", whole), ("model", whole / "model")):
        more = ["--epochs", "1", "--pretrained", str(source), "--out", str(tmp_path / name)]
        assert main([*COMMAND, *more]) == 0
        recipe = json.loads((tmp_path / name / "recipe.json").read_text())
        assert recipe["pretrained"] == fingerprint(whole)
    again = rows(tmp_path / "run")
    assert again == rows(tmp_path / "model")
    # Without noise that grows, its first epoch goes on where the run ended.
    assert float(again[0]["loss"]) < 0.9 * float(rows(whole)[0]["loss"])


def test_two_processes_continue_as_one_process_would(whole: Path, tmp_path: Path) -> None:
    """What one process began; each has a device of its own, and no disk is common to both."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*COMMAND, "--epochs", "1", "--out", str(first)]) == 0
    more = ["--epochs", "3", "--resume", "--out"]
    commands = [[*COMMAND, *more, str(out)] for out in (first, second)]
    assert two_processes(*commands) == [(0, ""), (0, "")]
    assert not second.exists()  # the first alone writes
    assert len(rows(first)) == 3
    assert_as_one_process_would(rows(first), rows(whole)[:3])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["--out", "a_file/run"], ["--out", "run"], "cannot make the folder"),
        (["--out", "run"], ["--out", "run", "--sigma", "0.6"], "other settings or other data"),
        (["--out", "run"], ["--out", "run", "--pretrained", "none"], "no such checkpoint"),
    ],
)
def test_a_mistake_in_one_process_ends_them_all(
    first: list[str],
    second: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    ended = two_processes([*COMMAND, *first], [*COMMAND, *second])
    assert [code for code, _ in ended] == [2, 2]
    assert all(text.count("\n") == 1 for _, text in ended)
    assert sum(message in text for _, text in ended) == 1
    assert sum("another process of this run failed" in text for _, text in ended) == 1
    assert not list(tmp_path.glob("*/state-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "vit"], "invalid choice"),
        (["--arch", "mnist_43"], "mnist_43 takes images (28, 28, 1)"),
        (["--method", "trades"], "invalid choice"),
        (["--dataset", "svhn"], "invalid choice"),
        (["--dataset", "mnist"], "--data-dir"),
        (["--dataset", "cifar10"], "--dataset cifar10 needs --arch"),
        (["--k", "32"], "2k < 64"),
        (["--sigma", "0"], "sigma must be positive"),
        (["--epochs", "0"], "epochs must be positive"),
        (["--batch", "-1"], "batch must be positive"),
        (["--lr", "nan"], "learning rate must be positive"),
        (["--seed", "-1"], "the seed must lie in [0, 2^32), got -1"),
        (["--seed", "4294967296"], "the seed must lie in [0, 2^32), got 4294967296"),
        (["--num-noise-vec", "200", "--batch", "100"], "cannot be cut into 200 parts"),
        (["--pretrained", "no/such/model"], "no such checkpoint"),
        (["--out", "taken"], "exists and holds no run"),
        (["--out", "a_file/run"], "cannot make the folder"),
        (["--out", "a_file"], "exists and holds no run"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_the_first_epoch(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("all of it\n")
    (tmp_path / "a_file").write_text("")
    code = main(["train", "--epochs", "1", "--out", "run", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and message in error
    assert error.count("\n") == 1 and error.startswith("dsrs-jax train: ")
    assert not list(tmp_path.glob("*/state-*"))
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "all of it\n"


def _images_of_ones_own(kind: str, place: Path) -> Path:
    """The digits as a file, or as folders of files with test images beside them."""
    if kind == "npz":
        training = data.in_memory(data.load("digits", "train"))
        np.savez(place / "images.npz", images=training.images, labels=training.labels)
        return place / "images.npz"
    return digits_in_folders(place)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_images_of_ones_own_are_trained_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out, again = _images_of_ones_own(kind, tmp_path), tmp_path / "out", tmp_path / "again"
    command = ["train", "--dataset", kind, "--data-dir", str(images), "--arch", "digits_cnn"]
    command += ["--sigma", "0.25", "--epochs", "5", "--batch", "64", "--lr", "0.1"]
    assert main([*command, "--out", str(out)]) == 0
    tested = kind == "folder"  # the file has no other images than those
    assert ("on test images" in capsys.readouterr().out) == tested
    assert (rows(out)[-1]["test_accuracy"] == "nan") != tested
    assert float(rows(out)[-1]["accuracy"]) > 0.5
    model = models.load_model(out / "model")
    assert model.metadata.dataset == kind
    # It is a model of the digits, too, whose input is scaled as theirs.
    more = ["train", "--pretrained", str(out), "--epochs", "1", "--batch", "64"]
    assert main([*more, "--sigma", "0.25", "--out", str(again)]) == 0
    digits = data.in_memory(data.load("digits"))
    answers = np.argmax(model(jax.numpy.asarray(digits.images)), axis=1)
    assert np.mean(answers == digits.labels) > 0.7
