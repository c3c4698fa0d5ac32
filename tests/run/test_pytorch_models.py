"""`--model` of what a user of PyTorch has: modules in code, exported programs, timm's files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certify_runs import rows_of
from commands import refused
from networks import small_classifier
from torchvision_without_kernels import make_importable

from dsrs_jax import certify_images, count_votes, data, gaussian, models
from dsrs_jax.convert.pytorch import TorchClassifier, exported, in_jax, prepared
from dsrs_jax.models import ModelMetadata, forward
from dsrs_jax.run.main import main

pytestmark = pytest.mark.torch

CODE = """
import torch
from torch import nn
from networks import small_classifier

network = small_classifier()

def training(): return small_classifier().train()
def probabilities(): return nn.Sequential(small_classifier(), nn.Softmax(-1)).eval()
def two_classes(): return small_classifier(classes=2)
def for_colour(): return small_classifier(channels=3)
def needs_cuda(): return torch.zeros(1).cuda()

class Of(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = small_classifier()
        self.eval()

class Pair(Of):
    def forward(self, images): return self.network(images), 2 * self.network(images)

class Named(Of):
    def forward(self, images): return {"hidden": images, "logits": self.network(images)}

class Drops(Of):
    def forward(self, images): return self.network(nn.functional.dropout(images, 0.5, True))

class Mixes(Of):
    def forward(self, images): return self.network(images - images.mean(dim=0))

class Branches(Of):
    def forward(self, images):
        every = self.network(images)
        return torch.stack([logits if logits.sum() > 0 else 2 * logits for logits in every])
"""
SHAPE = (8, 8, 1)
DIGITS = data.in_memory(data.load("digits"))
IMAGES = DIGITS.images[:12]
# The network's own answers, so that there are radii.
LABELS = small_classifier()(torch.from_numpy(IMAGES).movedim(-1, 1)).argmax(dim=1).numpy()
CALL: dict[str, Any] = {"sigma": 0.1, "n": 300, "inside": [0.5], "seed": 0, "quiet": True}
NONE = models.input_scaling("digits", "none")
METADATA = ModelMetadata("it", "digits", SHAPE, 10, scaling="none")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with their code and their images."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(CODE)
    np.savez(folder / "a.npz", images=IMAGES, labels=LABELS)
    return folder


def words_of(user: Path, name: str, out: Path, *words: str) -> list[str]:
    """A file of the folder, or what its code calls so."""
    model = user / name if "." in name else f"{user / 'net.py'}:{name}"
    return ["certify", "--model", str(model), "--sigma", "0.1", "--k", "0", "--n", "300",
            "--dataset", "npz", "--data-dir", str(user / "a.npz"), "--q-inside", "0.5",
            "--seed", "0", "--out", str(out), *words]  # fmt: skip


def votes_of(out: Path) -> list[int]:
    return [int(row["votes"]) for row in rows_of(out)]


def backend_of(out: Path) -> str:
    return json.loads((out / "config.json").read_text())["backend"]


@pytest.fixture(scope="module")
def run_of_torch(user: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torch")
    assert main(words_of(user, "network", out, "--backend", "torch")) == 0
    assert backend_of(out) == "torch" and len(set(votes_of(out))) > 3
    return out


def test_every_way_to_one_network_gives_the_same_votes(
    user: Path, run_of_torch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, file = small_classifier(), user / "m.pt2"
    file.write_bytes(exported(network, "it", SHAPE).getvalue())
    for number, (name, words) in enumerate(
        [
            ("m.pt2", ["--model", f"{user / 'net.py'}:network"]),  # an ensemble of equals
            ("Pair", ["--output", "1", "--backend", "torch"]),
            ("Named", ["--output", "logits", "--backend", "jax"]),
            ("probabilities", ["--output", "probabilities"]),
            ("probabilities", []),
        ]
    ):
        capsys.readouterr()
        assert main(words_of(user, name, tmp_path / str(number), *words)) == 0
        assert votes_of(tmp_path / str(number)) == votes_of(run_of_torch), name
        assert ("returns probabilities" in capsys.readouterr().out) == (words == [])
    pixels = np.moveaxis(IMAGES, -1, 1)
    for thing, images, words in (
        (network, pixels, {"layout": "NCHW"}),
        (network, IMAGES, {"backend": "jax"}),
        (str(file), IMAGES, {"output": "0"}),
    ):
        found = certify_images(thing, images, LABELS, **CALL, **words)
        assert found.votes.votes[:, 0].tolist() == votes_of(run_of_torch)
        radii = [float(row["radius_dsrs"]) for row in rows_of(run_of_torch)]
        np.testing.assert_allclose(found.radius, radii, rtol=0, atol=2e-6)


def test_a_run_goes_on_with_the_backends_that_it_began_with(
    user: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(user, "network", tmp_path / "run")
    assert main([*words, "--backend", "jax"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "Backend" not in capsys.readouterr().out  # it was not measured
    assert backend_of(tmp_path / "run") == "jax"
    refused(capsys, [*words, "--backend", "torch"], "backend")
    # Each member of an ensemble goes on with its own; control flow is left to PyTorch.
    (tmp_path / "linear.py").write_text("def model(images): return images.reshape(-1, 64)[:, :10]")
    both = words_of(user, "Branches", tmp_path / "both", "--model", f"{tmp_path}/linear.py:model")
    for _ in range(2):
        assert main(both) == 0
        assert backend_of(tmp_path / "both") == "torch+jax"


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("training", "", "call .eval()"),
        ("two_classes", "", "of 2 classes"),
        ("for_colour", "", "(N, C, H, W)"),
        ("needs_cuda", "", "map_location='cpu'"),
        ("Pair", "", "--output 0"),
        ("Pair", "--output 2", "no output '2'"),
        ("Named", "", "--output logits"),
        ("Drops", "", "dropout"),
        ("Mixes", "", "other images of the batch"),
        ("Branches", "--backend jax", "torch.export cannot follow"),
        ("network", "--input-scaling timm", "no pretrained_cfg"),
        ("large.pt2", "", "takes images (16, 16, 1)"),
        ("large.pt2", "--backend torch", "FILE.py:NAME"),
        ("pair.pt2", "", "--output 0 ... 1"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_line(
    name: str,
    words: str,
    said: str,
    user: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "large.pt2":
        (user / name).write_bytes(exported(small_classifier(side=16), "it", (16, 16, 1)).getvalue())
    if name == "pair.pt2":
        pair = torch.export.export(_Pair().eval(), (torch.zeros(2, 1, 8, 8),))
        torch.export.save(pair, user / name)
    out = tmp_path / "run"
    refused(capsys, words_of(user, name, out, *words.split()), said)
    assert not out.exists()


class _Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = small_classifier()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean(), self.network(images)


@pytest.mark.others
def test_a_file_that_is_not_timms_network_is_refused_by_its_tensor(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_importable()
    import timm

    state = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    name, file = "layer1.0.conv1.weight", user / "file.pth"
    missing = {key: tensor for key, tensor in state.items() if key != name}
    for content, arch, said in (
        (missing, "test_resnet", f"the tensor {name} of timm's test_resnet is missing"),
        (state | {"x": torch.zeros(1)}, "test_resnet", "the tensor x is not part"),
        (state | {name: torch.zeros(3, 2)}, "test_resnet", f"the tensor {name} has shape"),
        (state, "test_resnett", "timm has no network 'test_resnett'; it has test_"),
        (state, "test_vit", "of timm's test_vit is missing"),
    ):
        torch.save(content, file)
        words = words_of(user, file.name, user / "run", "--arch", f"timm:{arch}")
        refused(capsys, [*words, "--input-scaling", "none"], said)
    refused(capsys, ["convert", str(file), str(user / "out"), "--arch", "timm:test_resnet"], "timm")
    assert not (user / "run").exists() and not (user / "out").exists()


def test_draws_of_both_backends_are_the_same_and_so_are_votes_that_are_not_near_ties() -> None:
    module, classes = prepared(small_classifier(), "it", SHAPE, NONE)
    assert classes == 10
    outside = TorchClassifier(module, METADATA, NONE)
    inside = in_jax(module, "it", METADATA, NONE)
    images = IMAGES[:3]
    # Draw by draw: of one image and one draw each count is a vote.
    noisy = images + np.random.default_rng(0).normal(0, 0.5, (700, *images.shape))
    noisy = noisy.reshape(-1, *SHAPE).astype(np.float32)
    ours, theirs = (np.asarray(forward(one, noisy)) for one in (inside, outside))
    top = np.sort(theirs, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-3
    assert clear.mean() > 0.9
    assert (ours.argmax(1) == theirs.argmax(1))[clear].all()
    labels = np.asarray(forward(inside, images)).argmax(axis=1)
    law = gaussian(64, 0.5)
    for grid in (None, DIGITS.grid):
        one, other = (
            count_votes(
                each,
                images,
                labels,
                law,
                2000,
                inside=[law.truncated(0.5)],
                grid=grid,
                first=100,
                seed=0,
            )
            for each in (outside, inside)
        )
        assert np.array_equal(one.draws, other.draws)
        assert np.abs(one.votes - other.votes).max() <= (~clear).sum()
        assert 0 < one.votes.sum() < one.draws.sum()


def test_the_fingerprint_of_a_module_is_of_its_weights_and_scaling() -> None:
    module: Any = small_classifier()

    def fingerprint(scaling: models.InputScaling = NONE) -> str:
        return TorchClassifier(module, METADATA, scaling).fingerprint()

    before = fingerprint()
    assert before == fingerprint() != fingerprint(models.input_scaling("digits", "center"))
    with torch.no_grad():
        module[4].bias[0] += 1e-6
    assert fingerprint() != before
