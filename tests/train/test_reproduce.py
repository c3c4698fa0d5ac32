"""The authors' trainings, as docs/reproduce.md has them: each command, made short, trains."""

import json
import math
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import documented
from PIL import Image
from training_runs import rows

from dsrs_jax import data, models
from dsrs_jax.convert import pytorch_models
from dsrs_jax.models import checkpoint, registry, resnet
from dsrs_jax.run.main import main
from dsrs_jax.run.model import model_folder
from dsrs_jax.train.schedules import k_at

pytestmark = pytest.mark.torch

COMMANDS = [words for words in documented("docs/reproduce.md") if words[0] == "train"]
ARCHITECTURES = {"mnist": "mnist_43", "cifar10": "cifar_resnet110", "imagenet": "resnet50"}
BATCH, BATCHES = 4, 2


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def kind(words: list[str]) -> str:
    return f"{value(words, '--dataset')} {value(words, '--method')}"


def test_the_document_has_one_command_for_each_set_and_method() -> None:
    methods = ("gaussian", "consistency", "smoothmix")
    wanted = [f"{dataset} {method}" for dataset in ARCHITECTURES for method in methods]
    assert sorted(map(kind, COMMANDS)) == sorted(wanted)


def in_memory(dataset: str, split: str, folder: Path | None) -> data.ArrayDataset:
    """Random images in place of those of the files."""
    shape = (BATCHES * BATCH, *data.IMAGE_SHAPES[dataset])
    pixels = np.random.default_rng(len(split)).integers(0, 256, shape) / 255
    labels = np.arange(BATCHES * BATCH, dtype=np.int32)
    return data.ArrayDataset(dataset, split, pixels.astype(np.float32), labels, 10)


def write_imagenet(folder: Path, splits: list[str]) -> None:
    """Random images, two batches and one more."""
    random = np.random.default_rng(0)
    names = (Path(data.__file__).parent / "imagenet_wnids.txt").read_text().split()
    for split in splits:
        for index in range(BATCHES * BATCH + 1):
            file = folder / split / names[(0, 217, 999)[index % 3]] / f"{index}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = (40 + 9 * index, 120 - 5 * index, 3)
            Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(file)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what ImageNet's trainings start from: a PyTorch file, and a model of ours.

    Residual networks have one block in each stage: XLA compiles each step anew.
    """
    folder = tmp_path_factory.mktemp("sources")
    (folder / "noise_0.50").mkdir()
    metadata = models.ModelMetadata("resnet50", "imagenet", (224, 224, 3), 1000)
    with pytest.MonkeyPatch.context() as patch:
        for dataset in ("mnist", "cifar10"):
            patch.setitem(data.LOADERS, dataset, partial(in_memory, dataset))
        # What other tests' networks of these names have is remembered there.
        anew = cache(checkpoint._abstract.__wrapped__)
        patch.setattr(checkpoint, "_abstract", anew)
        patch.setitem(resnet._BLOCKS, 50, (1, 1, 1, 1))
        patch.setitem(registry.REGISTRY, "cifar_resnet110", registry._cifar_resnet(8))
        small = partial(pytorch_models._imagenet_resnet, [1, 1, 1, 1], 4)
        patch.setitem(pytorch_models._NETWORKS, "resnet50", small)
        checkpoints.saved(folder / "noise_0.50", "resnet50", "module.1.")
        models.save_model(folder / "ours", models.build("resnet50", seed=3), metadata)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=kind)
def test_each_command_trains(
    words: list[str], sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset, method = kind(words).split()
    images, out = tmp_path / "images", tmp_path / value(words, "--out")
    tested = kind(words) != "imagenet smoothmix"  # it has no images to test on
    write_imagenet(images, ["train", "val"] if tested else ["train"])
    # What is given again counts.
    shorter = ["--epochs", "1", "--batch", str(BATCH), "--num-steps", "1"]
    shorter += ["--data-dir", str(images), "--out", str(out)]
    monkeypatch.chdir(sources)
    # One takes the PyTorch file under the name that the document gives it.
    start = "noise_0.50/checkpoint.pth.tar" if method == "gaussian" else "ours"
    if "--pretrained" in words and method != "gaussian":
        shorter += ["--pretrained", start]
    assert main([*words, *shorter]) == 0

    model = models.load_model(out / "model")
    metadata = model.metadata
    assert (metadata.arch, metadata.dataset) == (ARCHITECTURES[dataset], dataset)
    assert (metadata.method, metadata.epochs) == (method, 1)
    assert (metadata.sigma, metadata.k) == (0.5, float(value(words, "--k")))
    image_shape = data.IMAGE_SHAPES[dataset]
    assert np.isfinite(np.asarray(model(jnp.zeros((1, *image_shape))))).all()
    [row] = rows(out)
    assert math.isfinite(float(row["loss"])) and 0.0 <= float(row["accuracy"]) <= 1.0
    assert 0.0 <= float(row["test_accuracy"]) <= 1.0 if tested else row["test_accuracy"] == "nan"
    assert float(row["learning_rate"]) == float(value(words, "--lr"))
    # At its last batch: an epoch of ImageNet's k is a batch.
    time = BATCHES - 1 if dataset == "imagenet" else 0
    wanted = k_at(float(value(words, "--k")), float(value(words, "--k-warmup")), time)
    assert float(row["k"]) == wanted and (wanted > 0.0) == (dataset == "imagenet")
    before = json.loads((out / "recipe.json").read_text())["pretrained"]
    if dataset != "imagenet":
        assert before is None
        return
    source = models.load_model(model_folder(start))
    assert before == source.fingerprint() != model.fingerprint()
    assert metadata.scaling == source.metadata.scaling
    for leaf, begun in zip(*map(jax.tree.leaves, (model.state, source.state)), strict=True):
        if leaf.ndim == 4:  # a convolution's: few steps change it little
            assert 0.0 < np.linalg.norm(leaf - begun) < 0.3 * np.linalg.norm(begun)
