"""Trainings whose images are read as they are needed: kills, signals, processes, damage."""

import io
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
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

# Small mini-batches: an epoch has many of them, and takes most of a second. No image sits one out.
IMAGES, BATCH, PARTS, EPOCHS = 576, 32, 16, 3
EPOCH = IMAGES // BATCH * PARTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_in_folders(tmp_path_factory.mktemp("digits"), IMAGES)


@pytest.fixture(scope="module")
def command(folder: Path) -> list[str]:
    return [
        "train", "--dataset", "folder", "--data-dir", str(folder), "--arch", "digits_cnn",
        "--sigma", "0.5", "--k", "28", "--k-warmup", "2", "--batch", str(BATCH),
        "--num-noise-vec", str(PARTS), "--epochs", str(EPOCHS), "--lr", "0.01", "--ema", "0.9",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, whose images threads of its own process read."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*command, "--workers", "0", "--out", str(out)]) == 0
    assert steps(out) == EPOCHS * EPOCH
    return out


def _assert_equal(out: Path, whole: Path) -> None:
    assert fingerprint(out) == fingerprint(whole)
    assert rows(out) == rows(whole)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_worker_processes_change_nothing(
    workers: str, command: list[str], whole: Path, tmp_path: Path
) -> None:
    assert main([*command, "--workers", workers, "--out", str(tmp_path / "run")]) == 0
    _assert_equal(tmp_path / "run", whole)


def test_killed_within_an_epoch_it_ends_bit_for_bit_as_one_that_was_not(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = tmp_path / "killed"
    # A state after each step: a signal comes while one is written.
    often = [*command, "--save-every", "0.000001", "--out", str(killed)]
    process = start([*often, "--workers", "2"], jax.local_device_count())
    wait_for(process, killed, 20)
    end(process, signal.SIGKILL)
    found = steps(killed)
    assert 20 <= found < EPOCH and not (killed / "metrics.csv").exists()
    assert main([*command, "--out", str(killed)]) == 2
    assert f"0 epochs old and {found} steps; continue it with --resume" in capsys.readouterr().err
    process = start([*often, "--workers", "1", "--resume"], jax.local_device_count())
    wait_for(process, killed, found + 5)
    line = "dsrs-jax train: interrupted; --resume continues it\n"
    assert end(process, signal.SIGINT) == (130, line)
    assert found < steps(killed) < EPOCH
    assert [path.name for path in killed.glob("*state-*")] == [f"state-{steps(killed)}"]
    assert main([*command, "--resume", "--out", str(killed)]) == 0
    _assert_equal(killed, whole)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_told_to_end_within_an_epoch_it_loses_nothing(
    number: signal.Signals,
    code: int,
    word: str,
    command: list[str],
    whole: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    more = ["--workers", "2", "--out", str(out)]
    process = start([*command, *more], jax.local_device_count())
    wait_for(process, out, EPOCH)  # by itself it writes the states of whole epochs alone
    time.sleep(0.1)
    assert end(process, number) == (code, f"dsrs-jax train: {word}; --resume continues it\n")
    assert EPOCH < steps(out) < 2 * EPOCH
    assert main([*command, "--resume", "--out", str(out)]) == 0
    _assert_equal(out, whole)


def test_two_processes_read_their_shares(command: list[str], whole: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "first", tmp_path / "second"]
    more = ["--epochs", "2", "--workers", "1", "--out"]
    assert two_processes(*([*command, *more, str(out)] for out in outs)) == [(0, ""), (0, "")]
    assert not outs[1].exists()  # the first alone writes
    assert_as_one_process_would(rows(outs[0]), rows(whole)[:2])


def test_a_batch_that_processes_cannot_share_is_told_by_each(
    command: list[str], tmp_path: Path
) -> None:
    odd = [*command, "--batch", "33", "--num-noise-vec", "3", "--out", str(tmp_path / "run")]
    for code, said in two_processes(odd, odd):
        assert code == 2 and said.count("\n") == 1
        assert "a mini-batch of 11 images is no multiple of the 2 devices of 2 processes" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """The folder with a file of train/ and one of test/ that are cut short."""
    place = tmp_path / "damaged"
    shutil.copytree(folder, place)
    files = [sorted(place.glob(f"{split}/*/*.png"))[7] for split in ("train", "test")]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    return place, files


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_cannot_be_read_is_named(
    workers: str,
    command: list[str],
    damaged: tuple[Path, list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, files = damaged
    more = ["--data-dir", str(place), "--workers", workers, "--epochs", "2", "--out"]
    for number, file in enumerate(files):  # the second once the first is taken away
        assert main([*command, *more, str(tmp_path / f"run-{number}")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(file) in error and "--skip-unreadable" in error
        if number == 0:
            file.rename(tmp_path / file.name)
    (tmp_path / files[0].name).rename(files[0])
    out = tmp_path / "run"
    assert main([*command, *more, str(out), "--skip-unreadable"]) == 0
    # Once in two epochs, on a line that is not broken, and nothing else is said.
    lines = capsys.readouterr().err.splitlines()
    for line, file in zip(lines, files, strict=True):
        assert line.startswith("skipped image ") and str(file) in line
    assert [np.isfinite(float(row["loss"])) for row in rows(out)] == [True, True]
    # A share of the 29 images that could be read.
    for row in rows(out):
        right = 29 * float(row["test_accuracy"])
        assert right == pytest.approx(round(right), abs=1e-9)


def _folders(place: Path, folder: Path) -> None:
    """Sets that cannot be trained on, beside one another in `place`."""
    images = sorted(folder.glob("train/1/*.png"))
    for name in (
        "flat",
        "one/train/cat",
        "one_of_ten/train/9",
        *(f"three/train/{c}" for c in "abc"),
    ):
        (place / name).mkdir(parents=True)
        for image in images:
            shutil.copy(image, place / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", "flat"], "flat has images and no class folders"),
        (["--data-dir", "one"], "digits_cnn has 10 classes, folder has 1"),
        (["--data-dir", "one_of_ten"], "has images of one class alone"),
        (["--data-dir", "three"], "digits_cnn has 10 classes, folder has 3"),
        (["--data-dir", "nowhere"], "no such folder: nowhere"),
        (["--arch", "mnist_43"], "mnist_43 takes images (28, 28, 1)"),
        (["--num-noise-vec", "33"], "a batch of 32 cannot be cut into 33 parts"),
        (["--workers", "-1"], "--workers must not be negative, got -1"),
        (["--dataset", "digits", "--workers", "-1"], "--workers must not be negative, got -1"),
        (["--workers", "many"], "--workers"),
        (["--save-every", "0"], "--save-every must be positive, got 0"),
        (["--save-every", "nan"], "--save-every must be positive, got nan"),
        (["--ema", "1.5"], "--ema must lie in [0, 1), got 1.5"),
        (["--inside", "-1"], "--inside must lie in [0, 1), got -1"),
        (["--num-noise-vec", "2", "--accumulate", "3"], "16 images cannot be cut into 3 equal"),
        (["--accumulate", "0"], "--accumulate must be positive, got 0"),
        (["--data-dir", "tfds:no_such_set"], "build it once with `tfds build NAME"),
        (["--dataset", "imagenet", "--data-dir", "three", "--arch", "resnet18"], "WordNet id"),
    ],
)
def test_what_cannot_be_trained_on_is_told_before_anything_is_written(
    arguments: list[str],
    message: str,
    folder: Path,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _folders(tmp_path, folder)
    code = main([*command, "--out", "run", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and message in error
    assert error.count("\n") == 1 and error.startswith("dsrs-jax train: ")
    assert not (tmp_path / "run").exists()


def test_a_batch_has_no_more_images_than_the_set(
    command: list[str], folder: Path, tmp_path: Path
) -> None:
    """As for a set in memory."""
    more = ["--batch", "1000", "--num-noise-vec", "1", "--epochs", "1", "--out"]
    assert main([*command, *more, str(tmp_path / "run")]) == 0
    assert steps(tmp_path / "run") == 1


@pytest.fixture
def tfds_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a set that TFDS's own tools wrote: digits, to train and to test on."""
    tensorflow_datasets: Any = pytest.importorskip("tensorflow_datasets")
    features = tensorflow_datasets.features

    class TrainingDigits(tensorflow_datasets.core.GeneratorBasedBuilder):
        """Digits."""

        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self) -> Any:
            described = {
                "image": features.Image(shape=(8, 8, 1), dtype=np.uint8),
                "label": features.ClassLabel(num_classes=10),
            }
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(described)
            )

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {split: self._examples(split) for split in ("train", "test")}

        def _generate_examples(self) -> None:
            raise NotImplementedError

        def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            digits = data.load("digits", split)
            for index in range(64):
                image, label = digits[index]
                file = io.BytesIO()
                Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file, "PNG")
                yield index, {"image": io.BytesIO(file.getvalue()), "label": label}

    TrainingDigits(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    yield "tfds:training_digits"


def test_a_set_of_tfds_trains(tfds_set: str, command: list[str], tmp_path: Path) -> None:
    found = []
    for workers in ("0", "1"):
        out = tmp_path / f"run-{workers}"
        more = ["--dataset", "digits", "--data-dir", tfds_set, "--epochs", "1"]
        assert main([*command, *more, "--workers", workers, "--out", str(out)]) == 0
        found.append((fingerprint(out), rows(out)))
    assert found[0] == found[1]
    assert json.loads((out / "recipe.json").read_text())["dataset"] == "digits"
    assert models.load_model(out / "model").metadata.dataset == "digits"
    assert 0.0 <= float(rows(out)[0]["test_accuracy"]) <= 1.0
