"""Sets in memory: digits, MNIST, CIFAR-10, .npz; their grids; damaged files and other content."""

import gzip
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from dsrs_jax import data
from dsrs_jax.data import cells_of, grid_of
from dsrs_jax.system.errors import UserError


def _idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def _binary(values: np.ndarray, labels: list[int]) -> bytes:
    return np.concatenate([np.array(labels, np.uint8)[:, None], values], axis=1).tobytes()


def _python(values: Any, labels: Any) -> bytes:
    content = {b"batch_label": b"testing", b"labels": labels, b"data": values, b"filenames": [b""]}
    return pickle.dumps(content, protocol=2)


def _saved(save: Any, *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    content = io.BytesIO()
    save(content, *arrays, **named)
    return content.getvalue()


def _npz(images: np.ndarray, labels: np.ndarray) -> bytes:
    return _saved(np.savez_compressed, images=images, labels=labels)


def _flipped(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 0xFF
    return bytes(damaged)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
PIXELS = np.arange(5 * 28 * 28).astype(np.uint8).reshape(5, 28, 28)
GZIPPED = gzip.compress(_idx(np.arange(5)))
VALUES = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
CLASSES = [3, 8, 8, 0, 6, 6, 1]
BYTES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
FOUR = np.array([2, 0, 1, 2])
MNIST = {IMAGES: _idx(PIXELS), f"{LABELS}.gz": GZIPPED}  # one file plain, one gzipped


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_digits_two_splits_are_the_whole_set_in_its_order() -> None:
    whole = load_digits()
    fifth = np.arange(1797) % 5 == 0
    for split, chosen in (("test", fifth), ("train", ~fifth)):
        found = data.load("digits", split)
        np.testing.assert_array_equal(found.images[..., 0] * 16, whole.images[chosen])
        np.testing.assert_array_equal(found.labels, whole.target[chosen])
        assert found.images.dtype == np.float32 and found.labels.dtype == np.int32
        assert (found.image_shape, found.classes, found.grid) == ((8, 8, 1), 10, 240)
        assert len(found) == chosen.sum()
    np.testing.assert_array_equal(found[1436][0], found.images[-1])
    assert found[1436][1] == found.labels[-1]
    with pytest.raises(IndexError):
        found[1437]
    with pytest.raises(UserError, match=r"unknown dataset 'mnits'; known: digits, mnist"):
        data.load("mnits")
    with pytest.raises(UserError, match=r"unknown split 'dev'; known: train, test"):
        data.load("digits", "dev")


@pytest.mark.slow
def test_the_real_files_of_mnist(mnist_dir: Path) -> None:
    test, train = (data.load("mnist", split, mnist_dir) for split in ("test", "train"))
    assert test.images.shape == (10000, 28, 28, 1) and train.images.shape == (60000, 28, 28, 1)
    assert test.images.dtype == np.float32 and test.labels.dtype == np.int32 and test.grid == 255
    # The first labels, the class counts, and the pixels' moments of every description of MNIST.
    assert (*test.labels[:5], *train.labels[:5]) == (7, 2, 1, 0, 4, 5, 0, 4, 1, 9)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == counts
    assert abs(train.images.mean(dtype=np.float64) - 0.1307) < 1e-4
    assert abs(train.images.std(dtype=np.float64) - 0.3081) < 1e-4


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_plain_and_gzipped_files_of_mnist_are_read_alike(name: str, tmp_path: Path) -> None:
    _write(tmp_path, MNIST)
    found = data.load(name, "test", tmp_path)
    assert found.images.shape == (5, 28, 28, 1) and found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.images[0, 9, 3, 0] == 1.0  # pixel 9·28 + 3 = 255
    assert found.images[0, 0, 7, 0] == np.float32(7) / np.float32(255)


@pytest.mark.parametrize(
    ("form", "suffix", "inside"),
    [
        (_python, "", ""),
        (_python, "", "cifar-10-batches-py"),
        (_binary, ".bin", "cifar-10-batches-bin"),
    ],
)
def test_both_forms_of_cifar10_hold_the_same_images(form, suffix, inside, tmp_path) -> None:
    batches = {
        f"data_batch_{i}{suffix}": form(VALUES[i : i + 1], [CLASSES[i]]) for i in range(1, 6)
    }
    _write(tmp_path / inside, batches | {f"test_batch{suffix}": form(VALUES, CLASSES)})
    test, train = (data.load("cifar10", split, tmp_path) for split in ("test", "train"))
    assert test.image_shape == (32, 32, 3) and test.classes == 10 and test.order == "original"
    assert [test[i][1] for i in range(7)] == CLASSES
    # Red first, row by row: the value at (row 2, column 5) of channel 1 is number 1024 + 69.
    assert test[4][0][2, 5, 1] == np.float32(VALUES[4, 1024 + 69]) / np.float32(255)
    assert [train[i][1] for i in range(5)] == CLASSES[1:6]


class _Program:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_is_a_program_is_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, {"test_batch": _python(_Program(), [])})
    with pytest.raises(UserError, match="it asks for"):
        data.load("cifar10", "test", tmp_path)
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_bytes_and_floats_of_an_npz_hold_the_same_images(tmp_path: Path) -> None:
    floats = BYTES.astype(np.float32) / np.float32(255)
    for images in (BYTES, floats, BYTES / 255):
        _write(tmp_path, {"set.npz": _npz(images, FOUR)})
        found = data.load("npz", "test", tmp_path / "set.npz")
        assert found.image_shape == (6, 5, 3) and found.classes == 3 and found.grid == 255
        np.testing.assert_array_equal(found.images, floats)
        assert found.images.dtype == np.float32 and found.labels.tolist() == FOUR.tolist()
    unlabelled = data.from_arrays(BYTES / 1020, None, "npz", "test")
    assert (unlabelled.grid, unlabelled.classes) == (1020, 0)
    assert set(unlabelled.labels) == {data.UNLABELLED}


OTHER_CONTENT = [
    ("mnist", IMAGES, _idx(PIXELS)[:15], "is cut short"),
    ("mnist", IMAGES, _idx(PIXELS)[:-1], "is cut short"),
    ("mnist", IMAGES, _idx(PIXELS) + b"\0", "is cut short or damaged"),
    ("mnist", IMAGES, _idx(np.arange(50)), "begins with 2049, not 2051"),
    ("mnist", IMAGES, struct.pack(">4i", 2051, -1, 28, 28), "is cut short or damaged"),
    ("mnist", IMAGES, _idx(np.zeros((5, 32, 32))), "holds 32x32 images"),
    ("mnist", IMAGES, _idx(PIXELS[1:]), "has 4 images but .* has 5 labels"),
    ("mnist", f"{LABELS}.gz", GZIPPED[:-1], "is not a whole gzip file"),
    ("mnist", f"{LABELS}.gz", _flipped(GZIPPED, -6), "is not a whole gzip file"),  # checksum
    ("mnist", f"{LABELS}.gz", b"this is no gzip file", "is not a whole gzip file"),
    ("mnist", f"{LABELS}.gz", gzip.compress(_idx(np.arange(6, 11))), "holds the label 10"),
    ("cifar10", "test_batch", pickle.dumps([1, 2]), "damaged or no batch"),
    ("cifar10", "test_batch", _python(VALUES, CLASSES)[:-40], "damaged or no batch"),
    ("cifar10", "test_batch", _python(VALUES[:, :9], CLASSES), "its data are"),
    ("cifar10", "test_batch", _python(VALUES, [10] * 7), "labels must be 0 to 9"),
    ("cifar10", "test_batch", _python(VALUES, 3), "no list of whole numbers"),
    ("cifar10", "test_batch", _python(VALUES, [0.5] * 7), "no list of whole numbers"),
    ("cifar10", "test_batch.bin", _binary(VALUES, CLASSES)[:-1], "no multiple of 3073"),
    ("npz", "set.npz", b"something else", r"is not a \.npz file with `images`"),
    ("npz", "set.npz", pickle.dumps(BYTES), "is not a"),
    ("npz", "set.npz", _npz(BYTES, FOUR)[:-30], "is not a"),
    ("npz", "set.npz", _flipped(_npz(BYTES, FOUR), 100), "Error -3"),  # zlib's
    ("npz", "set.npz", _flipped(_saved(np.savez, images=BYTES), 400), "Bad CRC-32"),
    ("npz", "set.npz", _saved(np.save, BYTES), r"it is one array \(4, 6, 5, 3\)"),
    ("npz", "set.npz", _saved(np.savez, labels=FOUR), "is not a"),
    ("npz", "set.npz", _npz(BYTES[0], FOUR), "it has"),
    ("npz", "set.npz", _npz(BYTES, FOUR[:2]), "it has"),
    ("npz", "set.npz", _npz(BYTES[:, :0], FOUR), "it has"),
    ("npz", "set.npz", _npz(BYTES, FOUR + 0.5), "its labels are not"),
    ("npz", "set.npz", _npz(BYTES, FOUR - 1), "its labels are not"),
    ("npz", "set.npz", _npz(BYTES, FOUR + 2**32), "has the label"),
    ("npz", "set.npz", _npz(BYTES, FOUR.astype(np.uint64) + 2**63), "has the label"),
    ("npz", "set.npz", _npz(BYTES.astype(np.float32), FOUR), "beyond"),
    ("npz", "set.npz", _npz(np.full((4, 6, 5, 3), np.nan), FOUR), "beyond"),
    ("npz", "set.npz", _npz(np.array([None] * 4), FOUR), "is not a"),
    ("npz", "set.npz", _npz(BYTES / 255 + 0j, FOUR), "images are complex"),
    ("npz", "set.npz", _npz(BYTES > 9, FOUR), "images are bool"),
    ("npz", "set.npz", _npz(BYTES.astype(np.int64) % 2, FOUR), "images are int"),
    ("npz", "set.npz", _npz(BYTES.astype("U3"), FOUR), "images are <U3"),
]


@pytest.mark.parametrize("row", range(len(OTHER_CONTENT)))
def test_damaged_files_and_other_content_are_refused_in_one_line(row: int, tmp_path: Path) -> None:
    name, file, content, message = OTHER_CONTENT[row]
    _write(tmp_path, (MNIST if name == "mnist" else {}) | {file: content})
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, "test", tmp_path / file if name == "npz" else tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


GRIDS = [255 << power for power in range(9)]


@given(grid=st.sampled_from([*GRIDS, 240, 16]), seed=st.integers(0, 2**32 - 1))
def test_cells_are_the_numbers_that_an_image_was_made_of(grid: int, seed: int) -> None:
    cells = np.random.default_rng(seed).integers(0, grid + 1, (2, 5, 4, 3)).astype(np.int32)
    images = cells.astype(np.float32) / np.float32(grid)
    np.testing.assert_array_equal(cells_of(images, grid), cells)
    found = grid_of(images)
    if grid in GRIDS:
        # The coarsest one that holds them, which is seldom a coarser one than theirs.
        assert found is not None and grid % found == 0
        np.testing.assert_array_equal(cells_of(images, found) * (grid // found), cells)


@pytest.mark.parametrize("value", [0.1001, 1 / 254, 1e-9, np.nan, np.inf, -np.inf, 1e30])
def test_what_lies_on_no_grid_is_refused(value: float) -> None:
    images = np.full((1, 2, 2, 1), 51 / 255, np.float32)
    assert grid_of(images) == 255
    images[0, 0, 0, 0] = value
    assert grid_of(images) is None
    with pytest.raises(UserError, match="no multiples of 1/255"):
        cells_of(images, 255)
