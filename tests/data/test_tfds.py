"""A set that TFDS's own tools wrote, read without TensorFlow, in its original order, certified."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import rows_of
from PIL import Image

from dsrs_jax import data, models
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
DIGITS = data.load("digits")
SIZE = 40


def _png(values: np.ndarray) -> io.BytesIO:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    content.seek(0)
    return content


class _Digits(tensorflow_datasets.core.GeneratorBasedBuilder):
    VERSION = tensorflow_datasets.core.Version("1.0.0")
    numbered = True

    def _info(self) -> Any:
        features = tensorflow_datasets.features
        described = {
            "image": features.Image(shape=(8, 8, 1), dtype=np.uint8),
            "label": features.ClassLabel(num_classes=10),
        }
        if self.numbered:
            described["id"] = features.Text()
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features.FeaturesDict(described)
        )

    def _split_generators(self, download_manager: Any) -> dict[str, Any]:
        return {"test": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(SIZE):
            image, label = DIGITS[index]
            example = {
                "image": _png(np.round(image[..., 0] * 255).astype(np.uint8)), "label": label
            }  # fmt: skip
            yield index, example | ({"id": f"test_{index:05d}"} if self.numbered else {})


class NumberedDigits(_Digits):
    """With the original numbers, as TFDS's cifar10 has them."""


class BareDigits(_Digits):
    """Without, as TFDS's mnist."""

    numbered = False


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("tfds")
    for builder in (NumberedDigits, BareDigits):
        builder(data_dir=str(path), file_format="array_record").download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(path))
        patch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(path))
        yield path


def test_the_original_order_is_restored_where_it_is_known() -> None:
    numbered = data.load("digits", "test", "tfds:numbered_digits")
    assert (len(numbered), numbered.image_shape, numbered.classes) == (SIZE, (8, 8, 1), 10)
    assert numbered.order == "original"
    for index in range(SIZE):
        image, label = numbered[index]
        assert label == DIGITS[index][1]
        wanted = np.round(DIGITS[index][0] * 255).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(image, wanted)
    bare = data.load("digits", "test", "tfds:bare_digits")
    assert bare.order == "shuffled"
    assert [bare[i][1] for i in range(SIZE)] != [numbered[i][1] for i in range(SIZE)]
    assert sorted(bare[i][1] for i in range(SIZE)) == sorted(numbered[i][1] for i in range(SIZE))
    assert "tensorflow" not in sys.modules


def test_what_is_not_there_says_how_to_build_it() -> None:
    with pytest.raises(UserError, match="tfds build NAME --file_format=array_record"):
        data.load("digits", "test", "tfds:no_such_set")
    with pytest.raises(UserError, match="has no split train, but test"):
        data.load("digits", "train", "tfds:numbered_digits")


def test_such_a_set_is_certified(tmp_path: Path) -> None:
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.4, 28.0, 2.0)
    models.save_model(tmp_path / "model", models.build("digits_cnn", seed=0), metadata)
    labels, orders = {}, {}
    for name in ("numbered_digits", "bare_digits"):
        out = tmp_path / name
        command = ["--dataset", "digits", "--data-dir", f"tfds:{name}", "--n", "300"]
        command += ["--model", str(tmp_path / "model"), "--q-inside", "0.5", "--out", str(out)]
        assert main(["certify", *command]) == 0
        labels[name] = [int(row["label"]) for row in rows_of(out)]
        orders[name] = '"index_order": "original"' in (out / "config.json").read_text()
    assert labels["numbered_digits"] == DIGITS.labels[:SIZE].tolist()
    assert orders == {"numbered_digits": True, "bare_digits": False}
