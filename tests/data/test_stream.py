"""Batches from disk: which images they have, whoever reads them; damage, memory, and ends."""

import contextlib
import io
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dsrs_jax import data
from dsrs_jax.data import Dataset, Stream, StreamedBatch
from dsrs_jax.system.errors import UserError

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux's /proc")
CLASSES = ("n01440764", "n02102040", "n02979186")
LABELS = (0, 217, 482)
SIZE, BATCH = 43, 8  # five batches, three images sit out


def _save(file: Path, image: Image.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: pictures of many sizes, each of one colour, which says its index."""
    root = tmp_path_factory.mktemp("imagenet")
    for index in range(SIZE):
        colour = (5 * index, 200 - 3 * index, 90)
        image = Image.new("RGB", (40 + 7 * index % 50, 30 + 11 * index % 60), colour)
        _save(root / "train" / CLASSES[index * 3 // SIZE] / f"{index:03d}.JPEG", image)
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


def _assert_equal(found: list[StreamedBatch], wanted: list[StreamedBatch]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.fixture(scope="module")
def twelve(dataset: Dataset) -> list[StreamedBatch]:
    """The first batches, of three epochs."""
    return _some(_stream(dataset), 0, 12)


@pytest.mark.parametrize(("workers", "first"), [(1, 4), (2, 0)])
def test_a_batch_is_the_same_with_any_number_of_workers(
    workers: int, first: int, dataset: Dataset, twelve: list[StreamedBatch]
) -> None:
    _assert_equal(_some(_stream(dataset, workers), first, 12 - first), twelve[first:])


@given(first=st.integers(0, 11), processes=st.sampled_from([1, 2, 4, 8]))
def test_a_batch_is_the_same_wherever_the_reading_began_and_in_any_number_of_shares(
    first: int, processes: int, dataset: Dataset, twelve: list[StreamedBatch]
) -> None:
    shares = [
        _some(_stream(dataset, process=process, processes=processes), first, 1)[0]
        for process in range(processes)
    ]
    joined = StreamedBatch(*(np.concatenate(arrays) for arrays in zip(*shares, strict=True)))
    _assert_equal([joined], twelve[first : first + 1])


def test_an_epoch_is_a_permutation_and_the_next_one_is_another(
    dataset: Dataset, twelve: list[StreamedBatch]
) -> None:
    stream = _stream(dataset)
    assert stream.batches == SIZE // BATCH == 5
    assert twelve[0].images.shape == (BATCH, 224, 224, 3)
    epochs = [_indices(twelve[begin : begin + 5]) for begin in (0, 5)]
    for epoch in epochs:
        assert len(set(epoch)) == 40 and set(epoch) <= set(range(SIZE))
    assert epochs[0] != epochs[1]
    labels = np.concatenate([batch.labels for batch in twelve])
    assert labels.tolist() == [LABELS[index * 3 // SIZE] for index in _indices(twelve)]
    # All images have their turn, also those that sat out an epoch.
    assert set(_indices(_some(stream, 0, 50))) == set(range(SIZE))
    assert _indices(_some(_stream(dataset, seed=4), 0, 5)) != epochs[0]
    # An epoch of fewer batches, as a trainer may want that cuts them.
    short = _stream(dataset, batches=2)
    assert short.batches == 2
    found = _indices(_some(short, 0, 4))
    assert found[:16] == epochs[0][:16] and found[16:] == epochs[1][:16]


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> tuple[Dataset, list[int]]:
    """The set with three files that are cut short, two of them neighbours in the first epoch."""
    shutil.copytree(folder, tmp_path / "set")
    dataset = data.load("imagenet", "train", tmp_path / "set")
    order = _indices(_some(_stream(dataset), 0, 5))
    indices = [order[3], order[4], order[30]]
    for index in indices:
        file = tmp_path / "set" / "train" / CLASSES[index * 3 // SIZE] / f"{index:03d}.JPEG"
        file.write_bytes(file.read_bytes()[:300])
    return dataset, indices


def test_a_damaged_image_is_named_and_ends_the_training(
    damaged: tuple[Dataset, list[int]],
) -> None:
    dataset, (index, *_) = damaged
    for workers in (0, 1):
        with pytest.raises(UserError) as caught:
            _some(_stream(dataset, workers), 0, 5)
        message = str(caught.value)
        assert f"image {index}, " in message and f"{index:03d}.JPEG: " in message
        assert "--skip-unreadable" in message and "\n" not in message
    assert len(_some(_stream(dataset), 1, 2)) == 2  # no other batch knows of it


def test_in_the_place_of_a_damaged_image_stands_the_next_one(
    damaged: tuple[Dataset, list[int]], twelve: list[StreamedBatch]
) -> None:
    dataset, indices = damaged
    said: list[str] = []
    skipping = {"skip_unreadable": True, "say": said.append}
    found = _some(_stream(dataset, 2, **skipping), 0, 12)
    whole = _indices(twelve)
    replaced = [place for place, index in enumerate(whole) if index in indices]
    now = _indices(found)
    for place in range(30):  # the first ones of an epoch have a next one in the same list
        later = next(index for index in whole[place:] if index not in indices)
        assert now[place] == (later if place in replaced else whole[place])
    for batch, other in zip(found, twelve, strict=True):
        same = np.array([index not in indices for index in _indices([other])])
        np.testing.assert_array_equal(batch.images[same], other.images[same])
    # Each file once, in one line.
    assert len(said) == len(indices)
    for index in indices:
        (line,) = (line for line in said if f"image {index}, " in line)
        assert "skipped" in line and "\n" not in line
    # The same after a resume, and in another host's share.
    _assert_equal(_some(_stream(dataset, **skipping), 3, 2), found[3:5])
    shares = [
        _some(_stream(dataset, process=one, processes=2, **skipping), 0, 1)[0].images
        for one in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(shares), found[0].images)


def test_where_nothing_can_be_read_skipping_ends(folder: Path, tmp_path: Path) -> None:
    for name in CLASSES[:2]:
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.JPEG").write_bytes(b"nothing")
    stream = _stream(
        data.load("imagenet", "train", tmp_path), batch=2, skip_unreadable=True, say=str
    )
    with pytest.raises(UserError, match="6 images in a row cannot be read, the last: image"):
        _some(stream, 0, 1)


def test_what_cannot_be_trained_on_is_told_in_one_line(tmp_path: Path, dataset: Dataset) -> None:
    for name, label in (("cats", 1), ("dogs", 2)):
        for number in range(4):
            _save(tmp_path / name / f"{number}.png", Image.new("RGB", (9, 7), (label,) * 3))
    found = data.load("folder", "train", tmp_path)
    assert _some(_stream(found, batch=8), 0, 1)[0].images.shape == (8, 7, 9, 3)
    for settings, message in (
        ({"batch": 9}, "has 8 images, which fill no batch of 9"),
        ({"batch": 8, "processes": 3}, "no multiple of the 3 processes"),
        ({"batch": 8, "workers": -1}, "--workers must not be negative"),
    ):
        with pytest.raises(UserError, match=message):
            _stream(found, **settings)
    with pytest.raises(UserError, match="digits train is not of 8 bits"):
        _stream(data.load("digits", "train"))
    Image.new("RGB", (5, 5)).save(tmp_path / "dogs" / "5.png")
    with pytest.raises(UserError, match=r"5\.png: it has 5 x 5 pixels; resize or crop it to 9 x"):
        _some(_stream(data.load("folder", "train", tmp_path), batch=9), 0, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"class folder .*empty has no images"):
        data.load("folder", "train", tmp_path)
    shutil.rmtree(tmp_path / "empty")
    shutil.rmtree(tmp_path / "dogs")
    with pytest.raises(UserError, match="images of one class alone: a classifier needs two"):
        _stream(data.load("folder", "train", tmp_path), batch=2)
    with pytest.raises(UserError, match="no class folders"):
        data.load("folder", "train", tmp_path / "cats")


_LARGE = """
import contextlib, multiprocessing, os, re, sys
from pathlib import Path
from dsrs_jax import data

# The peak of this very program: getrusage counts what its parent held when it was started, too.
def peak(process):
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", text)[1]) / 1024

def main():
    found = data.load("folder", "train", sys.argv[1])
    stream = data.Stream(
        found, seed=0, batch=10, workers=2, say=print
    )
    seen = 0
    with contextlib.closing(stream(0)) as batches:
        for batch, number in zip(batches, range(stream.batches)):
            seen += len(batch.images)
        workers = [peak(child.pid) for child in multiprocessing.active_children()]
    print(seen, peak(os.getpid()), *workers)

if __name__ == "__main__":
    main()
"""


@needs_proc
def test_memory_is_bounded_whatever_the_sets_size(tmp_path: Path) -> None:
    limit, many = 900, 600  # MB; images of 3 MB, whose names are links to two files
    for name, colour in (("a", (10, 20, 30)), ("b", (90, 80, 70))):
        first = tmp_path / "set" / name / "00000.ppm"
        _save(first, Image.new("RGB", (1000, 1000), colour))
        for number in range(1, many // 2):
            os.link(first, first.with_name(f"{number:05d}.ppm"))
    (tmp_path / "large.py").write_text(_LARGE)
    command = [sys.executable, str(tmp_path / "large.py"), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen, *peaks = map(float, done.stdout.split())
    assert seen == many and many * 3 >= 2 * limit
    assert len(peaks) == 3 and sum(peaks) < limit
    # Nor do names take more than their letters.
    found = data.load("folder", "train", tmp_path / "set")
    assert len(pickle.dumps(found)) < 40 * many


_ENDLESS = """
import contextlib, multiprocessing, queue, signal, sys, threading
from dsrs_jax import data

def read(stream, ready, over):
    with contextlib.closing(stream(0)) as batches:
        for batch in batches:
            ready.put(batch)
            if over.is_set():
                return

def main():
    # What a shell starts in the background is born deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = data.load("imagenet", "train", sys.argv[1])
    stream = data.Stream(found, seed=0, batch=8, workers=2, say=print)
    ready, over = queue.Queue(1000), threading.Event()
    reader = threading.Thread(target=read, args=(stream, ready, over), daemon=True)
    reader.start()
    try:
        ready.get()
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            ready.get()
    finally:
        over.set()
        reader.join()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def reading(folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program that streams as a training does, in a session of its own, and its workers."""
    (tmp_path / "endless.py").write_text(_ENDLESS)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    try:
        yield program, [int(word) for word in program.stdout.readline().split()]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def _running(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_is_left(
    number: signal.Signals, reading: tuple[subprocess.Popen[str], list[int]]
) -> None:
    program, workers = reading
    assert len(workers) == 2 and all(map(_running, workers))
    if number == signal.SIGINT:  # a terminal sends it to all
        os.killpg(program.pid, number)
    else:
        program.kill()
    _, said = program.communicate(timeout=300)
    if number == signal.SIGINT:  # one traceback: the program's own
        assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")
    for _ in range(600):
        if not any(map(_running, workers)):
            return
        time.sleep(0.1)
    pytest.fail("workers are left")


@needs_proc
def test_a_worker_that_is_killed_is_told_in_one_line(
    reading: tuple[subprocess.Popen[str], list[int]],
) -> None:
    program, workers = reading
    os.kill(workers[0], signal.SIGKILL)
    for _ in range(600):
        if not _running(workers[1]):
            break
        time.sleep(0.1)
    os.killpg(program.pid, signal.SIGINT)
    _, said = program.communicate(timeout=300)
    assert "UserError: a worker process that reads images ended with exit code -9" in said


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[np.ndarray]:
    """Pictures of 64 x 64 that TFDS's own tools wrote, as the set `many_pictures`."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    pictures = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)

    class ManyPictures(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self) -> Any:
            features = tensorflow_datasets.features
            described = features.FeaturesDict(
                {
                    "image": features.Image(shape=(64, 64, 3), encoding_format="png"),
                    "label": features.ClassLabel(num_classes=24),
                }
            )
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=described)

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for label, picture in enumerate(pictures):
                content = io.BytesIO()
                Image.fromarray(picture).save(content, "PNG")
                yield label, {"image": io.BytesIO(content.getvalue()), "label": label}

    path = tmp_path_factory.mktemp("tfds")
    ManyPictures(data_dir=str(path), file_format="array_record").download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(path))
        yield pictures


def test_records_of_tfds_are_streamed(records: np.ndarray) -> None:
    tiny = data.load("tinyimagenet", "train", "tfds:many_pictures")
    found = _some(_stream(tiny, 1), 0, 6)
    _assert_equal(_some(_stream(tiny), 3, 3), found[3:])
    for first in (0, 3):  # each epoch has all of them, each in a view of its own
        epoch = found[first : first + 3]
        assert sorted(np.concatenate([batch.labels for batch in epoch])) == list(range(24))
    for batch in found:
        for view, label in zip(batch.images, batch.labels, strict=True):
            places = np.lib.stride_tricks.sliding_window_view(records[label], (56, 56), (0, 1))
            views = np.moveaxis(places, 2, -1)
            same = (views == view).all((2, 3, 4)) | (views == view[:, ::-1]).all((2, 3, 4))
            assert same.sum() == 1
    # Of a set whose views the devices make, images are as they are.
    plain = data.load("cifar10", "train", "tfds:many_pictures")
    for batch in _some(_stream(plain), 0, 3):
        np.testing.assert_array_equal(batch.images, records[batch.labels])
