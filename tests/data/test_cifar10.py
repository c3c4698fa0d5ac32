"""CIFAR-10's two forms of files hold the same images, and a pickle may not run a program."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dsrs_jax import data
from dsrs_jax.system.errors import UserError

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.integers(0, 256, (7, 3072), dtype=np.uint8)
LABELS = [3, 8, 8, 0, 6, 6, 1]


def _python(folder: Path, name: str, values: np.ndarray, labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {b"batch_label": b"testing", b"labels": labels, b"data": values, b"filenames": [b""]}
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def _binary(folder: Path, name: str, values: np.ndarray, labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([np.array(labels, np.uint8)[:, None], values], axis=1)
    (folder / f"{name}.bin").write_bytes(rows.tobytes())


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py", "cifar-10-batches-bin"])
@pytest.mark.parametrize("write", [_python, _binary])
def test_both_forms_hold_the_same_images(tmp_path: Path, write, inside: str) -> None:
    write(tmp_path / inside, "test_batch", VALUES, LABELS)
    for i in range(1, 6):
        write(tmp_path / inside, f"data_batch_{i}", VALUES[i : i + 1], LABELS[i : i + 1])
    test = data.load("cifar10", "test", tmp_path)
    assert test.image_shape == (32, 32, 3) and test.classes == 10 and test.order == "original"
    assert [test[i][1] for i in range(7)] == LABELS
    # Red first, row by row: the value at (row 2, column 5) of channel 1 is number 1024 + 69.
    assert test[4][0][2, 5, 1] == np.float32(VALUES[4, 1024 + 69]) / np.float32(255)
    train = data.load("cifar10", "train", tmp_path)
    assert [train[i][1] for i in range(5)] == LABELS[1:6]


class _Program:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_is_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": _Program(), b"labels": []}))
    with pytest.raises(UserError, match="it asks for"):
        data.load("cifar10", "test", tmp_path)
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "damaged or no batch"),
        (pickle.dumps({b"data": VALUES, b"labels": LABELS})[:-40], "damaged or no batch"),
        (pickle.dumps({b"data": VALUES[:, :9], b"labels": LABELS}), "no batch of CIFAR-10"),
        (pickle.dumps({b"data": VALUES, b"labels": [10] * 7}), "0 to 9"),
        (pickle.dumps({b"data": VALUES, b"labels": 3}), "labels are no list of whole numbers"),
        (pickle.dumps({b"data": VALUES, b"labels": ["a"] * 7}), "no list of whole numbers"),
        (pickle.dumps({b"data": VALUES, b"labels": [0.5] * 7}), "no list of whole numbers"),
    ],
)
def test_damaged_python_batches(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.load("cifar10", "test", tmp_path)


def test_a_binary_batch_cut_short(tmp_path: Path) -> None:
    _binary(tmp_path, "test_batch", VALUES, LABELS)
    file = tmp_path / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="no multiple of 3073"):
        data.load("cifar10", "test", tmp_path)
