"""Batches from disk: which images they have, whoever reads them; damage, memory, and ends."""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import end, start
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dsrs_jax import data
from dsrs_jax.data import Dataset, Stream, StreamedBatch, stream
from dsrs_jax.system.errors import UserError

CLASSES = ("n01440764", "n02102040", "n02979186")
LABELS = (0, 217, 482)
SIZE, BATCH = 43, 8  # five batches, three images sit out
WORKERS = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])


def _save(file: Path, size: tuple[int, int] = (9, 7), red: int = 10) -> Path:
    """A picture whose red and green are everywhere the same, and whose blue rises downwards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    constant, rising = Image.new("L", size, red), Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (constant, constant, rising)).save(file)
    return file


def _file(index: int) -> str:
    return f"{CLASSES[index * 3 // SIZE]}/{index:03d}.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ImageNet's classes: pictures of many sizes, whose red says the index."""
    root = tmp_path_factory.mktemp("imagenet")
    for i in range(SIZE):
        _save(root / _file(i), (40 + 7 * i % 50, 30 + 11 * i % 60), 5 * i)
    return root


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return data.load("imagenet", "train", folder)


def _stream(dataset: Dataset, workers: int = 0, **other: Any) -> Stream:
    settings: dict[str, Any] = {"seed": 3, "batch": BATCH, "say": pytest.fail}
    return Stream(dataset, workers=workers, **(settings | other))


def _some(stream: Stream, first: int, count: int) -> list[StreamedBatch]:
    with contextlib.closing(stream(first)) as batches:
        return list(itertools.islice(batches, count))


def _indices(batches: list[StreamedBatch]) -> list[int]:
    reds = [image[100, 100, 0] for batch in batches for image in batch.images]
    return np.rint(np.array(reds) / 5).astype(int).tolist()


def _shares(dataset: Dataset, first: int, processes: int, **other: Any) -> StreamedBatch:
    """A batch of all processes' shares."""
    streams = [_stream(dataset, process=i, processes=processes, **other) for i in range(processes)]
    shares = [_some(stream, first, 1)[0] for stream in streams]
    return StreamedBatch(*(np.concatenate(arrays) for arrays in zip(*shares, strict=True)))


def _assert_equal(found: list[StreamedBatch], wanted: list[StreamedBatch]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.fixture(scope="module")
def twelve(dataset: Dataset) -> list[StreamedBatch]:
    """The first batches, of three epochs."""
    return _some(_stream(dataset), 0, 12)


@WORKERS
def test_a_batch_is_the_same_in_parts_and_with_any_number_of_workers(
    workers, dataset, twelve, monkeypatch
) -> None:
    monkeypatch.setattr(stream, "_PART_BYTES", 3 * 224 * 224 * 3)  # three images, then two
    _assert_equal(_some(_stream(dataset, workers), 4, 8), twelve[4:])


@given(first=st.integers(0, 11), processes=st.sampled_from([1, 2, 4, 8]))
def test_a_batch_is_the_same_wherever_reading_begins_and_in_any_number_of_shares(
    dataset, twelve, first, processes
) -> None:
    _assert_equal([_shares(dataset, first, processes)], twelve[first : first + 1])


def test_an_epoch_is_a_permutation_and_the_next_one_is_another(dataset, twelve) -> None:
    assert _stream(dataset).batches == SIZE // BATCH == 5
    assert twelve[0].images.shape == (BATCH, 224, 224, 3)
    epochs = [_indices(twelve[begin : begin + 5]) for begin in (0, 5)]
    for epoch in epochs:
        assert len(set(epoch)) == 40 and set(epoch) <= set(range(SIZE))
    assert epochs[0] != epochs[1]
    labels = np.concatenate([batch.labels for batch in twelve])
    assert labels.tolist() == [LABELS[index * 3 // SIZE] for index in _indices(twelve)]
    # All images have their turn, also those that sat out an epoch.
    assert set(_indices(twelve)) == set(range(SIZE))
    assert _indices(_some(_stream(dataset, seed=4), 0, 1)) != epochs[0][:8]
    # An epoch of fewer batches, as a trainer may want that cuts them.
    short = _stream(dataset, batches=2)
    assert short.batches == 2
    assert _indices(_some(short, 0, 4)) == epochs[0][:16] + epochs[1][:16]


def test_every_view_of_a_picture_is_drawn_anew(tmp_path: Path) -> None:
    for number in range(BATCH):
        _save(tmp_path / CLASSES[number % 2] / f"{number}.png", (200, 150))
    found = _some(_stream(data.load("imagenet", "train", tmp_path)), 0, 3)
    assert len({image.tobytes() for batch in found for image in batch.images}) == 3 * BATCH


@pytest.fixture
def damaged(folder: Path, twelve: list[StreamedBatch], tmp_path: Path) -> tuple[Dataset, list[int]]:
    """The set with three files that are cut short, two of them neighbours in the first epoch."""
    shutil.copytree(folder, tmp_path / "set")
    indices = [_indices(twelve)[place] for place in (3, 4, 30)]
    for index in indices:
        file = tmp_path / "set" / _file(index)
        file.write_bytes(file.read_bytes()[:80])
    return data.load("imagenet", "train", tmp_path / "set"), indices


@WORKERS
def test_a_damaged_image_is_named_and_ends_the_training(workers, damaged) -> None:
    dataset, (index, *_) = damaged
    with pytest.raises(UserError, match=f"^image {index}, .*{_file(index)}: .* --skip-unreadable$"):
        _some(_stream(dataset, workers), 0, 5)
    assert len(_some(_stream(dataset), 1, 2)) == 2  # no other batch has it


def test_in_the_place_of_a_damaged_image_is_the_next_one(damaged, twelve) -> None:
    dataset, indices = damaged
    lines: list[str] = []
    skipping: dict[str, Any] = {"skip_unreadable": True, "say": lines.append}
    found = _some(_stream(dataset, **skipping), 0, 12)
    whole, now = _indices(twelve), _indices(found)
    for place in range(30):  # the first ones of an epoch have a next one in the same list
        assert now[place] == next(index for index in whole[place:] if index not in indices)
    for batch, other in zip(found, twelve, strict=True):
        same = np.array([index not in indices for index in _indices([other])])
        np.testing.assert_array_equal(batch.images[same], other.images[same])
    # Each file once, in one line.
    assert len(lines) == len(indices) and not any("\n" in line for line in lines)
    for index in indices:
        assert any(f"skipped image {index}, " in line for line in lines)
    # The same after a resume, and in the hosts' shares.
    _assert_equal(_some(_stream(dataset, **skipping), 3, 2), found[3:5])
    _assert_equal([_shares(dataset, 0, 2, **skipping)], found[:1])


def test_where_nothing_can_be_read_skipping_ends(tmp_path: Path) -> None:
    for number in range(6):
        _save(tmp_path / CLASSES[number // 3] / f"{number}.JPEG").write_bytes(b"nothing")
    nothing = data.load("imagenet", "train", tmp_path)
    with pytest.raises(UserError, match="6 images in a row cannot be read, the last: image"):
        _some(_stream(nothing, batch=2, skip_unreadable=True, say=str), 0, 1)


def test_what_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        for number in range(4):
            _save(tmp_path / name / f"{number}.png")
    found = data.load("folder", "train", tmp_path)
    assert _some(_stream(found), 0, 1)[0].images.shape == (8, 7, 9, 3)
    for refused, settings, message in (
        (found, {"batch": 9}, "has 8 images, which fill no batch of 9"),
        (found, {"processes": 3}, "no multiple of the 3 processes"),
        (found, {"workers": -1}, "--workers must not be negative"),
        (data.load("digits", "train"), {}, "digits train is not of 8 bits"),
    ):
        with pytest.raises(UserError, match=message):
            _stream(refused, **settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"class folder .*empty has no images"):
        data.load("folder", "train", tmp_path)
    for name in ("dogs", "empty"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(UserError, match="images of one class alone: a classifier needs two"):
        _stream(data.load("folder", "train", tmp_path), batch=2)


@pytest.mark.process
def test_a_worker_that_is_killed_is_an_error_in_one_line(dataset: Dataset) -> None:
    with contextlib.closing(_stream(dataset, 2)(0)) as batches:
        next(batches)
        worker, _ = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(UserError, match=r"^a worker process .* exit code -9; .*$"):
            for _ in batches:
                pass
    assert not multiprocessing.active_children()


ENDLESS = """
import contextlib, multiprocessing, sys
from dsrs_jax import data
found = data.load("folder", "train", sys.argv[1])
stream = data.Stream(found, seed=0, batch=10, workers=2, say=print)
with contextlib.closing(stream(0)) as batches:
    for number, _ in enumerate(batches, start=1):
        if number == stream.batches:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def _peak(process: int | str) -> int:
    """In kB. `getrusage` would count what a process's parent held when it was started, too."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1])


@pytest.mark.process
def test_memory_is_bounded_and_no_worker_outlives_a_killed_program(tmp_path: Path) -> None:
    limit, many = 900, 600  # MB; images of 3 MB, whose names are links to two files
    for name in ("a", "b"):
        first = _save(tmp_path / "set" / name / "00000.ppm", (1000, 1000))
        for copy in range(1, many // 2):
            os.link(first, first.with_name(f"{copy:05d}.ppm"))
    process = start([str(tmp_path / "set")], program=["-c", ENDLESS])
    workers = process.stdout.readline().split()  # after an epoch
    assert len(workers) == 2 and 3 * many >= 2 * limit
    assert sum(_peak(one) for one in (process.pid, *workers)) < 1000 * limit
    end(process, signal.SIGKILL)  # and none of its session is left
    # Nor do names take more than their letters.
    assert len(pickle.dumps(data.load("folder", "train", tmp_path / "set"))) < 40 * many
