"""The authors' trainings, as docs/reproduce.md has them: each command, made short, trains."""

import json
import math
import pickle
import shutil
import struct
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documented_commands import commands
from PIL import Image
from training_runs import rows

from dsrs_jax import data, models
from dsrs_jax.run.main import main
from dsrs_jax.run.model import model_folder
from dsrs_jax.train.schedules import k_at

COMMANDS = [words for words in commands("docs/reproduce.md") if words[0] == "train"]
METHODS = ("gaussian", "consistency", "smoothmix")
# Smaller networks of the same kind, and images of a batch: XLA compiles each step anew.
SHORTER = {
    "mnist": ("mnist_43", "mnist_43", 8),
    "cifar10": ("cifar_resnet110", "cifar_resnet20", 8),
    "imagenet": ("resnet50", "resnet18", 4),
}
BATCHES = 2


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def kind(words: list[str]) -> tuple[str, str]:
    return value(words, "--dataset"), value(words, "--method")


def test_the_document_has_one_command_for_each_set_and_method() -> None:
    wanted = [(dataset, method) for dataset in SHORTER for method in METHODS]
    assert sorted(map(kind, COMMANDS)) == sorted(wanted)
    for words in COMMANDS:
        assert value(words, "--arch") == SHORTER[value(words, "--dataset")][0]
        assert ("--pretrained" in words) == (value(words, "--dataset") == "imagenet")


@pytest.fixture(scope="module", params=list(SHORTER))
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that nobody drew, as the set's own files have them: two batches, and to test."""
    dataset: str = request.param
    return WRITE[dataset](tmp_path_factory.mktemp(dataset), np.random.default_rng(0))


def _write_mnist(folder: Path, random: np.random.Generator) -> Path:
    for name, many in (("train", BATCHES * 8), ("t10k", 8)):
        pixels = random.integers(0, 256, (many, 28, 28), dtype=np.uint8)
        labels = np.arange(many, dtype=np.uint8) % 10
        for what, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + array.ndim}i", 0x800 | array.ndim, *array.shape)
            (folder / f"{name}-{what}-ubyte").write_bytes(header + array.tobytes())
    return folder


def _write_cifar(folder: Path, random: np.random.Generator) -> Path:
    for name, many in [*((f"data_batch_{i}", 4) for i in range(1, 6)), ("test_batch", 8)]:
        pixels = random.integers(0, 256, (many, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"labels": [index % 10 for index in range(many)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def _write_imagenet(folder: Path, random: np.random.Generator) -> Path:
    names = (Path(data.__file__).parent / "imagenet_wnids.txt").read_text().split()
    for split, many in (("train", BATCHES * 4 + 1), ("val", 4)):
        for index in range(many):
            file = folder / split / names[(0, 217, 999)[index % 3]] / f"{index}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = (40 + 9 * index, 90 - 5 * index, 3)
            Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(file)
    return folder


WRITE = {"mnist": _write_mnist, "cifar10": _write_cifar, "imagenet": _write_imagenet}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ImageNet's trainings start from: a PyTorch file, and a model of ours."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "noise_0.50").mkdir()
    checkpoints.saved(folder / "noise_0.50", "resnet18", "module.1.")
    metadata = models.ModelMetadata("resnet18", "imagenet", (224, 224, 3), 1000)
    models.save_model(folder / "ours", models.build("resnet18", seed=3), metadata)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_each_command_trains(
    method: str,
    images: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dataset = request.node.callspec.params["images"]
    [words] = [words for words in COMMANDS if kind(words) == (dataset, method)]
    _, arch, batch = SHORTER[dataset]
    out = tmp_path / value(words, "--out")
    # What is given again counts.
    shorter = ["--arch", arch, "--epochs", "1", "--batch", str(batch), "--num-steps", "1"]
    shorter += ["--data-dir", str(images), "--out", str(out)]
    if dataset == "imagenet":
        monkeypatch.chdir(request.getfixturevalue("sources"))
        # One takes the PyTorch file under the name that the document gives it.
        shorter += [] if method == "gaussian" else ["--pretrained", "ours"]
    assert main([*words, *shorter]) == 0

    model = models.load_model(out / "model")
    found = model.metadata
    assert (found.arch, found.dataset, found.method) == (arch, dataset, method)
    assert (found.sigma, found.k, found.epochs) == (0.5, float(value(words, "--k")), 1)
    image_shape = data.IMAGE_SHAPES[dataset]
    assert np.isfinite(np.asarray(model(jnp.zeros((1, *image_shape))))).all()
    [row] = rows(out)
    assert math.isfinite(float(row["loss"]))
    assert 0.0 <= float(row["accuracy"]) <= 1.0 and 0.0 <= float(row["test_accuracy"]) <= 1.0
    assert float(row["learning_rate"]) == float(value(words, "--lr"))
    # At its last batch: an epoch of ImageNet's k is a batch.
    time = BATCHES - 1 if dataset == "imagenet" else 0
    wanted = k_at(float(value(words, "--k")), float(value(words, "--k-warmup")), time)
    assert float(row["k"]) == wanted and (wanted > 0.0) == (dataset == "imagenet")
    before = json.loads((out / "recipe.json").read_text())["pretrained"]
    if dataset != "imagenet":
        assert before is None
        return
    source = models.load_model(
        model_folder("noise_0.50/checkpoint.pth.tar", arch) if method == "gaussian" else "ours"
    )
    assert before == source.fingerprint() != model.fingerprint()
    assert found.scaling == source.metadata.scaling
    for kernel, begun in zip(_kernels(model), _kernels(source), strict=True):
        assert 0.0 < np.linalg.norm(kernel - begun) < 0.3 * np.linalg.norm(begun)


def _kernels(model: models.Classifier) -> list[np.ndarray]:
    """Of its convolutions: few steps change them little."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model.state) if leaf.ndim == 4]


def test_imagenet_trains_without_images_to_test_on(sources: Path, tmp_path: Path) -> None:
    """As gaussian, which was compiled above, but for val/."""
    images = _write_imagenet(tmp_path / "images", np.random.default_rng(0))
    shutil.rmtree(images / "val")
    [words] = [words for words in COMMANDS if kind(words) == ("imagenet", "gaussian")]
    shorter = ["--arch", "resnet18", "--epochs", "1", "--batch", "4", "--num-steps", "1"]
    shorter += ["--pretrained", str(sources / "ours"), "--data-dir", str(images)]
    assert main([*words, *shorter, "--out", str(tmp_path / "run")]) == 0
    [row] = rows(tmp_path / "run")
    assert math.isfinite(float(row["loss"])) and row["test_accuracy"] == "nan"
