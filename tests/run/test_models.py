"""`certify --model` of what a user has: code, exported programs, checkpoints, several of them."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from certify_runs import rows_of
from networks import small_classifier
from rich.console import Console
from torchvision_without_kernels import make_importable

from dsrs_jax import count_votes, data, gaussian, models
from dsrs_jax.convert.pytorch import TorchClassifier, exported, in_jax, prepared
from dsrs_jax.models import Ensemble, FunctionClassifier, ModelMetadata, as_pytree, forward
from dsrs_jax.run import backend
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

CODE = """
import jax.numpy as jnp, numpy as np, torch
from flax import nnx
from torch import nn
from networks import small_classifier
from rich.console import Console

network = small_classifier()
W = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)

def training(): return small_classifier().train()
def probabilities(): return nn.Sequential(small_classifier(), nn.Softmax(-1)).eval()
def five_classes(): return small_classifier(classes=5)
def for_colour(): return small_classifier(channels=3)
def needs_cuda(): return torch.zeros(1).cuda()
def nothing(): return None
def two(a, b): return a
def linear(images): return images.reshape(len(images), -1) @ W
def branches(images): return linear(images) if images.sum() > 0 else -linear(images)
def constant_shape(images): return jnp.zeros(3)

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
        logits = self.network(images)
        return logits if logits.sum() > 0 else 2 * logits

class Flax(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    def __call__(self, images):
        return self.dense(self.dropout(images.reshape(len(images), -1)))
"""
SHORT = ["--sigma", "0.3", "--k", "0", "--n", "300", "--skip", "20", "--draws", "sound"]
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("user") / "net.py"
    file.write_text(CODE)
    return file


def certify(out: Path, *words: str) -> int:
    return main(["certify", *SHORT, "--out", str(out), *words])


def votes_of(out: Path) -> list[str]:
    return [row["votes"] for row in rows_of(out)]


@pytest.fixture(scope="module")
def run_of_torch(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torch")
    assert certify(out, "--model", f"{code}:network", "--backend", "torch") == 0
    return out


def test_every_way_to_one_network_gives_the_same_votes(
    code: Path, run_of_torch: Path, tmp_path: Path
) -> None:
    expected = votes_of(run_of_torch)
    assert len(set(expected)) > 1
    file = tmp_path / "m.pt2"
    file.write_bytes(exported(small_classifier(), "it", SHAPE).getvalue())
    for name, words in {
        "exported by us": ["--model", f"{code}:network", "--backend", "jax"],
        "a file": ["--model", str(file)],
        "an ensemble of equals": ["--model", str(file), "--model", f"{code}:network"],
        "one of several outputs": ["--model", f"{code}:Pair", "--output", "1"],
        "a named output": ["--model", f"{code}:Named", "--output", "logits"],
        "probabilities": ["--model", f"{code}:probabilities", "--output", "probabilities"],
        "by itself": ["--model", f"{code}:network"],
    }.items():
        assert certify(tmp_path / name, *words) == 0
        assert votes_of(tmp_path / name) == expected, name


def test_a_run_goes_on_with_the_backend_that_it_began_with(
    code: Path, run_of_torch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((run_of_torch / "config.json").read_text())
    assert config["backend"] == "torch" and config["arch"] == "net.py:network"
    out = tmp_path / "run"
    network = ["--model", f"{code}:network"]
    assert certify(out, *network, "--backend", "jax") == 0
    capsys.readouterr()
    assert certify(out, *network) == 0
    assert "Backend" not in capsys.readouterr().out  # it was not measured
    assert json.loads((out / "config.json").read_text())["backend"] == "jax"
    assert certify(out, *network, "--backend", "torch") == 2
    assert "backend" in capsys.readouterr().err


def test_an_ensemble_goes_on_with_the_backend_of_each_member(code: Path, tmp_path: Path) -> None:
    both = ["--model", f"{code}:linear", "--model", f"{code}:network"]
    assert certify(tmp_path, *both) == 0
    assert json.loads((tmp_path / "config.json").read_text())["backend"] == "jax+torch"
    before = votes_of(tmp_path)
    assert certify(tmp_path, *both) == 0
    assert votes_of(tmp_path) == before


def test_a_long_run_takes_the_fastest_backend_and_says_what_it_measured() -> None:
    scaling = models.input_scaling("digits", "none")
    module, _ = prepared(small_classifier(), "it", SHAPE, scaling)
    made: list[str] = []

    def make(name: str) -> models.BaseClassifier:
        made.append(name)
        if name == "jax":
            return in_jax(module, "it", metadata(), scaling)
        if name == "torch-compiled":
            raise UserError("no compiler")
        return TorchClassifier(module, metadata(), scaling)

    told = io.StringIO()
    chosen = backend.choose(
        "auto",
        None,
        {name: partial(make, name) for name in ("torch", "torch-compiled", "jax")},
        jax_alone=False,
        draws=10**12,
        first=True,
        console=Console(file=told, width=200),
    )
    assert sorted(made) == ["jax", "torch", "torch-compiled"]  # each once
    assert f"Backend: {chosen.backend}," in told.getvalue()
    assert "draws a second" in told.getvalue() and "no compiler" in told.getvalue()


@pytest.mark.parametrize("name", ["linear", "Flax"])
def test_functions_of_jax_and_modules_of_flax_are_certified(
    name: str, code: Path, tmp_path: Path
) -> None:
    assert certify(tmp_path, "--model", f"{code}:{name}") == 0
    assert len(set(votes_of(tmp_path))) > 1
    assert json.loads((tmp_path / "config.json").read_text())["backend"] == "jax"


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("training", [], "call .eval()"),
        ("five_classes", [], "of 5 classes"),
        ("for_colour", [], "(N, C, H, W)"),
        ("needs_cuda", [], "map_location='cpu'"),
        ("nothing", [], "is None"),
        ("two", [], "needs 2 arguments"),
        ("absent", [], "has no absent; it has"),
        ("Pair", [], "--output 0"),
        ("Pair", ["--output", "2"], "no output '2'"),
        ("Named", [], "--output logits"),
        ("Drops", [], "dropout"),
        ("Mixes", [], "other images of the batch"),
        ("Branches", ["--backend", "jax"], "torch.export cannot follow"),
        ("branches", [], "jax.lax.cond"),
        ("constant_shape", [], "logits (3, classes)"),
        ("linear", ["--backend", "torch"], "for a PyTorch module"),
        ("linear", ["--output", "0"], "--output is for a PyTorch model"),
        ("linear", ["--dtype", "bfloat16"], "its own arithmetic"),
        ("network", ["--arch", "lenet"], "for a PyTorch file"),
        ("network", ["--input-scaling", "timm"], "no pretrained_cfg"),
        ("network", ["--input-scaling", "mean:1,2,3"], "3 channels"),
        ("network", ["--input-scaling", "often"], "unknown input scaling"),
    ],
)
def test_a_model_that_cannot_be_used_is_told_in_one_line(
    name: str,
    words: list[str],
    said: str,
    code: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert certify(out, "--model", f"{code}:{name}", *words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error, error
    assert not out.exists()


def test_a_file_that_is_not_timms_network_is_told_by_the_tensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_importable()
    import timm

    state = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    name, other = "layer1.0.conv1.weight", "head.of.another"
    missing = {key: tensor for key, tensor in state.items() if key != name}
    for number, (content, arch, said) in enumerate(
        [
            (missing, "test_resnet", f"the tensor {name} of timm's test_resnet is missing"),
            (state | {other: torch.zeros(1)}, "test_resnet", f"the tensor {other} is not part"),
            (state | {name: torch.zeros(3, 2)}, "test_resnet", f"the tensor {name} has shape"),
            (state, "test_resnett", "timm has no network 'test_resnett'; it has test_"),
            (state, "mixer_b16_224", "stem.proj.weight of timm's mixer_b16_224 is missing"),
        ]
    ):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file)
        words = ["--model", str(file), "--arch", f"timm:{arch}", "--input-scaling", "none"]
        assert certify(tmp_path / "run", *words) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error, error
    assert main(["convert", str(file), str(tmp_path / "out"), "--arch", "timm:test_resnet"]) == 2
    assert "timm" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_code_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (text, said) in enumerate(
        [("x = 1\ny = 1 / 0\n", "line 2"), ("def f(:\n", "line 1"), ("import nowhere\n", "nowhere")]
    ):
        file = tmp_path / f"broken{number}.py"
        file.write_text(text)
        assert certify(tmp_path / "run", "--model", f"{file}:f") == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error
    assert certify(tmp_path / "run", "--model", f"{tmp_path}/absent.py:f") == 2
    assert "no such file" in capsys.readouterr().err
    assert certify(tmp_path / "run", "--model", "no_such_package.at_all:f") == 2
    assert "no_such_package" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_dependent_control_flow_is_left_to_pytorch(code: Path, tmp_path: Path) -> None:
    assert certify(tmp_path, "--model", f"{code}:Branches") == 0
    assert json.loads((tmp_path / "config.json").read_text())["backend"] == "torch"


def test_probabilities_are_warned_of_unless_they_are_said(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", f"{code}:probabilities"]
    assert certify(tmp_path / "silent", *model) == 0
    assert "returns probabilities" in capsys.readouterr().out
    assert certify(tmp_path / "said", *model, "--output", "probabilities") == 0
    assert "returns probabilities" not in capsys.readouterr().out


def test_an_input_scaling_that_nobody_says_and_that_is_wrong_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = data.in_memory(data.load("digits"))
    flat = digits.images[:40].reshape(40, -1)
    # The nearest of these images, which are given to it in [-1, 1].
    np.save(tmp_path / "kept.npy", 2 * flat - 1)
    np.save(tmp_path / "labels.npy", np.eye(10, dtype=np.float32)[digits.labels[:40]])
    (tmp_path / "nearest.py").write_text(
        "import jax, jax.numpy as jnp, numpy as np\n"
        f"K = np.load({str(tmp_path / 'kept.npy')!r})\n"
        f"L = np.load({str(tmp_path / 'labels.npy')!r})\n"
        "def model(images):\n"
        "    x = images.reshape(len(images), -1)\n"
        "    d = jnp.sum(jnp.square(x[:, None] - K[None]), -1)\n"
        "    scaled = jnp.min(x, axis=-1, keepdims=True) < -0.5\n"
        "    return jnp.where(scaled, 9 * jax.nn.softmax(-5 * d, axis=-1) @ L, 0.0)\n"
    )
    model = ["--model", f"{tmp_path / 'nearest.py'}:model"]
    assert certify(tmp_path / "run", *model) == 2
    error = capsys.readouterr().err
    assert "--input-scaling" in error and "standardize" in error
    assert not (tmp_path / "run").exists()
    assert certify(tmp_path / "run", *model, "--input-scaling", "standardize") == 0


def metadata(name: str = "it") -> ModelMetadata:
    return ModelMetadata(name, "digits", SHAPE, 10, scaling="none")


def test_draws_of_both_backends_are_the_same_and_so_are_votes_that_are_not_near_ties() -> None:
    scaling = models.input_scaling("digits", "none")
    module, classes = prepared(small_classifier(), "it", SHAPE, scaling)
    assert classes == 10
    outside = TorchClassifier(module, metadata(), scaling)
    inside = in_jax(module, "it", metadata(), scaling)
    digits = data.in_memory(data.load("digits"))
    images = digits.images[:3]
    law = gaussian(64, 0.5)
    seen: dict[str, list[np.ndarray]] = {"torch": [], "jax": []}
    # Draw by draw: of one image and one draw each count is a vote.
    noisy = images + np.random.default_rng(0).normal(0, 0.5, (700, *images.shape))
    noisy = noisy.reshape(-1, *SHAPE).astype(np.float32)
    for name, one in {"torch": outside, "jax": inside}.items():
        seen[name] = [np.asarray(forward(one, noisy))]
    ours, theirs = seen["jax"][0], seen["torch"][0]
    top = np.sort(theirs, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-3
    assert clear.mean() > 0.9
    assert (ours.argmax(1) == theirs.argmax(1))[clear].all()
    labels = np.asarray(forward(inside, images)).argmax(axis=1)
    for grid in (None, digits.grid):
        tables = [
            count_votes(
                one, images, labels, law, 2000, inside=[law.truncated(0.5)], grid=grid, first=100
            )
            for one in (outside, inside)
        ]
        assert np.array_equal(tables[0].draws, tables[1].draws)
        assert np.abs(tables[0].votes - tables[1].votes).max() <= (~clear).sum()
        assert 0 < tables[0].votes.sum() < tables[0].draws.sum()


def test_an_ensemble_averages_probabilities_or_logits() -> None:
    weights = np.random.default_rng(0).normal(size=(2, 64, 10)).astype(np.float32)

    def of(w: np.ndarray) -> FunctionClassifier:
        function = as_pytree(lambda images: images.reshape(len(images), -1) @ w)
        return FunctionClassifier(function, metadata(), models.input_scaling("digits", "none"))

    first, second = (of(w) for w in weights)
    images = np.random.default_rng(1).random((5, *SHAPE), np.float32)
    logits = np.stack([images.reshape(5, -1) @ w for w in weights]).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    both = forward(Ensemble([first, second]), images)
    np.testing.assert_allclose(np.exp(both), chances.mean(axis=0), rtol=1e-4)
    both = forward(Ensemble([first, second], "logits"), images)
    np.testing.assert_allclose(both, logits.mean(axis=0), rtol=1e-4, atol=1e-4)
    assert Ensemble([first, second]).fingerprint() != Ensemble([second, first]).fingerprint()
    # What it closes over belongs to it.
    assert first.fingerprint() == of(weights[0].copy()).fingerprint() != second.fingerprint()
    other = FunctionClassifier(
        as_pytree(lambda images: jnp.zeros((len(images), 4))),
        ModelMetadata("other", "digits", SHAPE, 4),
        models.input_scaling("digits", "none"),
    )
    with pytest.raises(UserError, match="make no ensemble"):
        Ensemble([first, other])


def test_the_fingerprint_of_a_module_is_of_its_weights_and_scaling() -> None:
    none = models.input_scaling("digits", "none")
    module: Any = small_classifier()

    def print_of(scaling: models.InputScaling = none) -> str:
        return TorchClassifier(module, metadata(), scaling).fingerprint()

    before = print_of()
    assert before == print_of() != print_of(models.input_scaling("digits", "center"))
    with torch.no_grad():
        module[4].bias[0] += 1e-6
    assert print_of() != before


def test_a_program_for_other_images_or_of_several_results_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.pt2"
    file.write_bytes(exported(small_classifier(side=16), "it", (16, 16, 1)).getvalue())
    assert certify(tmp_path / "run", "--model", str(file)) == 2
    assert "takes images (16, 16, 1)" in capsys.readouterr().err
    assert certify(tmp_path / "run", "--model", str(file), "--backend", "torch") == 2
    assert "FILE.py:NAME" in capsys.readouterr().err

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_classifier()

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean(), self.network(images)

    saved = io.BytesIO()
    torch.export.save(torch.export.export(Pair().eval(), (torch.zeros(2, 1, 8, 8),)), saved)
    file.write_bytes(saved.getvalue())
    assert certify(tmp_path / "run", "--model", str(file)) == 2
    assert "--output 0 ... 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
