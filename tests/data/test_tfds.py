"""Sets that TFDS's own tools wrote, read without TensorFlow: their order, certified, streamed."""

import contextlib
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import rows_of
from PIL import Image
from tensorflow_datasets import core, features

from dsrs_jax import data
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

pytestmark = pytest.mark.others
SIZE = 40
DIGITS = data.load("digits")
GREY = np.round(DIGITS.images[:SIZE] * 255).astype(np.uint8)
PICTURES = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)


class NumberedDigits(core.GeneratorBasedBuilder):
    VERSION = core.Version("1.0.0")
    images, labels, classes = GREY, DIGITS.labels[:SIZE], 10
    split, numbered = "test", True  # with the original numbers, as TFDS's cifar10

    def _info(self) -> Any:
        image = features.Image(shape=self.images.shape[1:], encoding_format="png")
        described = {"image": image, "label": features.ClassLabel(num_classes=self.classes)}
        described |= {"id": features.Text()} if self.numbered else {}
        return core.DatasetInfo(builder=self, features=features.FeaturesDict(described))

    def _split_generators(self, download_manager: Any) -> dict[str, Any]:
        return {self.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            content = io.BytesIO()
            Image.fromarray(image.squeeze()).save(content, "PNG")
            example = {"image": io.BytesIO(content.getvalue()), "label": label}
            yield index, example | ({"id": f"test_{index:05d}"} if self.numbered else {})


class BareDigits(NumberedDigits):
    numbered = False  # as TFDS's mnist


class ManyPictures(NumberedDigits):
    images, labels, classes = PICTURES, np.arange(24), 24
    split, numbered = "train", False


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = str(tmp_path_factory.mktemp("tfds"))
    for builder in (NumberedDigits, BareDigits, ManyPictures):
        builder(data_dir=path, file_format="array_record").download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", path)
        patch.setattr(core.constants, "DATA_DIR", path)
        yield


def test_the_original_order_is_restored_where_it_is_known() -> None:
    numbered, bare = (data.load("digits", "test", f"tfds:{n}_digits") for n in ("numbered", "bare"))
    assert (len(numbered), numbered.image_shape, numbered.classes) == (SIZE, (8, 8, 1), 10)
    assert (numbered.order, bare.order) == ("original", "shuffled")
    labels = DIGITS.labels[:SIZE].tolist()
    for index in range(SIZE):
        np.testing.assert_array_equal(numbered[index][0], GREY[index] / np.float32(255))
    assert [numbered[index][1] for index in range(SIZE)] == labels
    shuffled = [bare[index][1] for index in range(SIZE)]
    assert shuffled != labels and sorted(shuffled) == sorted(labels)
    assert "tensorflow" not in sys.modules


def test_what_is_not_there_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match="tfds build NAME --file_format=array_record"):
        data.load("digits", "test", "tfds:no_such_set")
    with pytest.raises(UserError, match="has no split train, but test"):
        data.load("digits", "train", "tfds:numbered_digits")


@pytest.mark.parametrize(("name", "order"), [("numbered", "original"), ("bare", "shuffled")])
def test_such_a_set_is_certified(name: str, order: str, model: str, tmp_path: Path) -> None:
    command = ["certify", "--dataset", "digits", "--data-dir", f"tfds:{name}_digits"]
    command += [
        "--n",
        "300",
        "--model",
        model,
        "--q-inside",
        "0.5",
        "--seed",
        "0",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0
    labels = [int(row["label"]) for row in rows_of(tmp_path)]
    assert (labels == DIGITS.labels[:SIZE].tolist()) == (order == "original")
    assert f'"index_order": "{order}"' in (tmp_path / "config.json").read_text()


def test_records_of_tfds_are_streamed() -> None:
    def some(name: str, workers: int, first: int, count: int) -> list[data.StreamedBatch]:
        found = data.load(name, "train", "tfds:many_pictures")
        stream = data.Stream(found, seed=3, batch=8, workers=workers, say=pytest.fail)
        with contextlib.closing(stream(first)) as batches:
            return list(itertools.islice(batches, count))

    found = some("tinyimagenet", 1, 0, 6)
    for one, other in zip(some("tinyimagenet", 0, 3, 3), found[3:], strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    for first in (0, 3):  # each epoch has all of them, each in a view of its own
        epoch = found[first : first + 3]
        assert sorted(np.concatenate([batch.labels for batch in epoch])) == list(range(24))
    for view, label in (pair for batch in found for pair in zip(*batch, strict=True)):
        places = np.lib.stride_tricks.sliding_window_view(PICTURES[label], (56, 56), (0, 1))
        views = np.moveaxis(places, 2, -1)
        same = (views == view).all((2, 3, 4)) | (views == view[:, ::-1]).all((2, 3, 4))
        assert same.sum() == 1
    # Of a set whose views the devices make, images are as they are.
    for batch in some("cifar10", 0, 0, 3):
        np.testing.assert_array_equal(batch.images, PICTURES[batch.labels])
