"""Checkpoints as they exist in the wild become classifiers with PyTorch's logits, or are refused.

The PyTorch networks are written from the published descriptions, with random weights, biases and
batch-norm statistics, so that no layer can hide.
"""

import argparse
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_runs import rows_of

from dsrs_jax import models
from dsrs_jax.convert import cached, convert, logit_difference
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from checkpoints import random_network, saved  # noqa: E402  (needs torch)

from dsrs_jax.convert.pytorch_models import pytorch_model  # noqa: E402

# The paper's; test_layouts.py has the others.
PUBLISHED = ["mnist_43", "lenet", "fashion_22full", "cifar_resnet20", "cifar_resnet110"]
PUBLISHED += ["wide_resnet_imagenet64", "resnet50"]


def pytorch_logits(arch: str, images: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    scaled = (images - np.float32(mean)) / np.float32(deviation)
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))
        return random_network(arch)(pixels).numpy()


# As published: what a checkpoint of each data set does to its input (issue of the papers).
STATISTICS = {
    1: ((0.5,), (0.5,)),
    "cifar_resnet20": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar_resnet110": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "wide_resnet_imagenet64": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "resnet50": ((0.485, 0.456, 0.406), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_logits_are_pytorchs(arch: str, tmp_path: Path) -> None:
    prefix = "1.module." if arch == "resnet50" else "1."
    classifier = convert(saved(tmp_path, arch, prefix))
    shape = classifier.metadata.image_shape
    images = np.random.default_rng(1).normal(0.5, 1.0, (2, *shape)).astype(np.float32)
    mean, deviation = STATISTICS.get(arch, STATISTICS[1])
    theirs = pytorch_logits(arch, images, mean, deviation)
    call = models.Classifier.__call__
    if arch != "cifar_resnet110":  # whose many layers are of few kinds: compiled one by one
        call = jax.jit(call)
    logits = np.asarray(call(classifier, jnp.asarray(images)))
    assert logits.dtype == np.float32 and np.ptp(theirs) > 0.1
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "1.", "1.module.", "module.1.", "_orig_mod.", "model.", "net."),
        *("_orig_mod.module.", "module.model.1.module."),
    ],
)
@pytest.mark.parametrize("arch", ["mnist_43", "lenet"])
def test_every_layout_gives_the_same_model(prefix: str, arch: str, tmp_path: Path) -> None:
    file = saved(tmp_path, arch, prefix)
    expected = convert(saved(tmp_path, arch)).fingerprint()
    saved(tmp_path, arch, prefix)
    assert convert(file).fingerprint() == expected
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.save(state, file)  # a bare state dict
    with pytest.raises(UserError, match="give --arch"):
        convert(file)
    classifier = convert(file, arch=arch)
    assert classifier.fingerprint() == expected
    assert logit_difference(file, classifier).relative < 1e-5


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_plain_data_may_lie_beside_the_tensors(key: str, tmp_path: Path) -> None:
    file = saved(tmp_path, "lenet")
    expected = convert(file).fingerprint()
    state = torch.load(file, weights_only=True)["state_dict"]
    more = {
        "epoch": 90,
        "best": np.float64(0.9),
        "history": np.ones(3),
        "args": argparse.Namespace(lr=np.float32(0.1), out=Path("runs")),
        "arch": {"name": "lenet"},  # says nothing that can be read
    }
    for new_format in (True, False):
        settings = {"net" if key == "model" else "model": {"depth": 5}}
        torch.save(more | settings | {key: state}, file, _use_new_zipfile_serialization=new_format)
        content = file.read_bytes()
        if not new_format:  # as NumPy 1 named itself
            assert b"cnumpy._core.multiarray\n" in content
            file.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
        with pytest.raises(UserError, match="does not say its architecture; give --arch"):
            convert(file)
        assert convert(file, arch="lenet").fingerprint() == expected


def test_a_name_of_the_authors_gives_way_to_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path, "lenet")
    expected = convert(file).fingerprint()
    saved(tmp_path, "lenet", arch="LeNet5-caffe")
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "unknown architecture 'LeNet5-caffe'; known: digits_cnn" in error and "--arch" in error
    assert convert(file, arch="lenet").fingerprint() == expected
    saved(tmp_path, "lenet", arch="mnist_43")
    with pytest.raises(UserError, match="says its architecture is mnist_43, not lenet"):
        convert(file, arch="lenet")


CIFAR10 = STATISTICS["cifar_resnet20"]


@pytest.mark.parametrize(
    ("names", "values", "scaling", "advice"),
    [
        (("0.mean", "0.std"), CIFAR10, "standardize", None),
        (
            ("0.mean", "0.std"),
            CIFAR10,
            "center",
            "with --dataset cifar10 --input-scaling standardize",
        ),
        (("0.means",), CIFAR10, "center", None),
        (("0.means",), CIFAR10, "standardize", "with --dataset cifar10 --input-scaling center"),
        (
            ("0.mean", "0.std"),
            ((0.5,), (0.5,)),
            "standardize",
            "convert it with --input-scaling 'mean:0.5;std:0.5'",
        ),
        (("0.sds",), CIFAR10[1:], "standardize", "--input-scaling std:0.2023,0.1994,0.201"),
        (
            ("mean", "std"),
            ((0.4914, 0.4822, 0.4466), CIFAR10[1]),
            "standardize",
            "--input-scaling 'mean:0.4914,0.4822,0.4466;std:0.2023,0.1994,0.201'",
        ),
        (("0.mean", "0.std"), ((0.5,), (0.0,)), "standardize", "no --input-scaling is that"),
        (
            ("normalize.mean", "normalize.std"),
            ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            "standardize",
            "convert it with --dataset imagenet --input-scaling standardize",
        ),
    ],
)
def test_an_input_layer_must_be_the_scaling(
    names: tuple[str, ...],
    values: tuple[tuple[float, ...], ...],
    scaling: str,
    advice: str | None,
    tmp_path: Path,
) -> None:
    file = saved(tmp_path, "cifar_resnet20")
    expected = convert(file).fingerprint()
    content = torch.load(file, weights_only=True)
    layer = {n: torch.tensor(v).reshape(1, -1, 1, 1) for n, v in zip(names, values, strict=False)}
    content["state_dict"] = layer | content["state_dict"]
    torch.save(content, file)
    if advice is None:
        classifier = convert(file, scaling=scaling)
        assert classifier.fingerprint() == expected
        assert logit_difference(file, classifier).relative < 1e-4
    else:
        with pytest.raises(UserError) as caught:
            convert(file, scaling=scaling)
        said = f"{names[0]} = {', '.join(map(str, values[0]))}"
        assert advice in str(caught.value) and said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["beside the tensors", "a whole model"])
def test_the_command_that_a_refusal_gives_helps(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's a dossier \N{GRINNING FACE}"
    folder.mkdir()
    file, out = saved(folder, "lenet"), tmp_path / "out"
    expected = convert(file).fingerprint()
    content = torch.load(file, weights_only=True)
    if kind == "beside the tensors":
        torch.save(content | {"share": Fraction(1, 3)}, file)
    else:
        torch.save(random_network("lenet"), file)
    assert main(["convert", str(file), str(out), "--arch", "lenet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    command = error[error.index("python -c ") :]
    root = Path(__file__).resolve().parents[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command, shell=True, check=True, env=os.environ | {"PATH": path, "PYTHONPATH": str(root)}
    )
    plain = folder / "plain-checkpoint.pth.tar"
    assert main(["convert", str(plain), str(out), "--arch", "lenet", "--check"]) == 0
    assert models.load_model(out).fingerprint() == expected


def test_old_files_without_batch_counters_and_other_numbers_of_layers(tmp_path: Path) -> None:
    arch = "fashion_22full"
    file = saved(tmp_path, arch)
    expected = convert(file).fingerprint()
    state = torch.load(file, weights_only=True)["state_dict"]
    assert any(name.endswith("num_batches_tracked") for name in state)
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    torch.save({"arch": arch, "state_dict": old}, file)
    assert convert(file).fingerprint() == expected
    # Layers without weights may be other ones: a drop-out before the last would renumber it.
    moved = {name.replace("1.11.", "1.12."): tensor for name, tensor in old.items()}
    torch.save({"arch": arch, "state_dict": moved}, file)
    assert convert(file).fingerprint() == expected
    assert main(["convert", str(file), str(tmp_path / "out"), "--check"]) == 0


def test_the_format_before_zip_files_is_read(tmp_path: Path) -> None:
    """Checkpoints of 2019 are pickles with their tensors' storage behind them."""
    file = saved(tmp_path, "lenet")
    expected = convert(file).fingerprint()
    content = torch.load(file, weights_only=True)
    torch.save(content, file, _use_new_zipfile_serialization=False)
    assert not file.read_bytes().startswith(b"PK")
    assert convert(file).fingerprint() == expected


def test_a_check_that_cannot_compare_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path, "lenet")
    content = torch.load(file, weights_only=True)
    content["state_dict"]["1.fc2.weight"].fill_(3e38)  # finite, what it is multiplied with is not
    torch.save(content, file)
    assert main(["convert", str(file), str(tmp_path / "out"), "--check"]) == 2
    assert "logits of random images are not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_comparison_sees_one_other_weight(tmp_path: Path) -> None:
    file = saved(tmp_path, "lenet")
    classifier = convert(file)
    assert logit_difference(file, classifier).relative < 1e-5
    content = torch.load(file, weights_only=True)
    content["state_dict"]["1.fc2.bias"][3] += 0.5
    torch.save(content, file)
    difference = logit_difference(file, classifier)
    assert difference.largest == pytest.approx(0.5, rel=1e-4)
    assert difference.relative == difference.largest / difference.scale > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_of_numbers_are_read(dtype: str, tmp_path: Path) -> None:
    file = saved(tmp_path, "lenet")
    content = torch.load(file, weights_only=True)
    state = {
        name: tensor.to(getattr(torch, dtype)) for name, tensor in content["state_dict"].items()
    }
    rounded = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    torch.save(content | {"state_dict": rounded}, file)
    expected = convert(file).fingerprint()
    torch.save(content | {"state_dict": state}, file)
    classifier = convert(file)
    assert classifier.fingerprint() == expected
    assert logit_difference(file, classifier).relative < 1e-5


def test_the_command_writes_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = saved(tmp_path, "lenet"), tmp_path / "out"
    assert main(["convert", str(file), str(out), "--check", "--sigma", "0.5", "--k", "380"]) == 0
    assert "largest difference from PyTorch's logits" in capsys.readouterr().out
    metadata = models.load_model(out).metadata
    assert (metadata.arch, metadata.dataset, metadata.scaling) == ("lenet", "mnist", "standardize")
    assert (metadata.sigma, metadata.k, metadata.source) == (0.5, 380.0, "checkpoint.pth.tar")
    assert metadata.parameters == sum(p.numel() for p in pytorch_model("lenet").parameters())
    # bfloat16 arithmetic: the same model, roughly.
    images = jnp.asarray(np.random.default_rng(0).random((2, 28, 28, 1), np.float32))
    exact, rough = (models.load_model(out, dtype)(images) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == jnp.float32
    difference = np.abs(np.asarray(exact - rough)).max() / np.abs(np.asarray(exact)).max()
    assert 1e-5 < difference < 0.1


def test_the_input_scaling_can_be_chosen(tmp_path: Path) -> None:
    file = saved(tmp_path, "lenet")
    centered = convert(file, scaling="center")
    images = np.random.default_rng(1).normal(0.5, 1.0, (2, 28, 28, 1)).astype(np.float32)
    theirs = pytorch_logits("lenet", images, 0.5, 1.0)
    np.testing.assert_allclose(centered(jnp.asarray(images)), theirs, atol=1e-5)


def test_the_cache_is_keyed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    file = saved(tmp_path, "lenet")
    first = cached(file)
    stamp = (first / "metadata.json").stat().st_mtime_ns
    assert cached(file) == first and (first / "metadata.json").stat().st_mtime_ns == stamp
    assert cached(file, scaling="center") != first
    torch.save({"arch": "lenet", "state_dict": pytorch_model("lenet").state_dict()}, file)
    assert cached(file) != first


def _few_digits(folder: Path, answering: Path | None = None) -> list[str]:
    """Options that name two random images as MNIST: a zero and a one, or what a file's model says
    they are."""
    folder.mkdir()
    pixels = np.random.default_rng(2).integers(0, 256, (2, 28, 28, 1), np.uint8)
    labels = np.arange(2)
    if answering is not None:
        scaled = jnp.asarray(pixels, jnp.float32) / 255.0
        labels = np.argmax(convert(answering)(scaled), axis=-1)
    for split in ("train", "t10k"):
        header = struct.pack(">4i", 0x803, 2, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">2i", 0x801, 2)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(labels.tolist()))
    return ["--dataset", "mnist", "--data-dir", str(folder)]


def test_certify_takes_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    file, folder = saved(tmp_path, "lenet"), tmp_path / "converted"
    assert main(["convert", str(file), str(folder)]) == 0
    common = [*_few_digits(tmp_path / "mnist", file), "--n", "200", "--q-inside", "0.5"]
    common += ["--no-compilation-cache"]
    noise = ["--sigma", "0.1", "--noise", "gaussian"]
    for name, model in (("a", file), ("b", folder)):
        out = ["--out", str(tmp_path / name)]
        assert main(["certify", *common, *noise, "--model", str(model), *out]) == 0
    tables = [(tmp_path / name / "certificates.csv").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    assert all(float(row["radius_dsrs"]) > 0 for row in rows_of(tmp_path / "a"))
    capsys.readouterr()
    assert main(["certify", *common, "--model", str(file), "--out", str(tmp_path / "c")]) == 2
    assert "give --sigma" in capsys.readouterr().err
    assert main(["certify", *common, "--model", str(folder), "--input-scaling", "center"]) == 2
    assert "for a PyTorch file" in capsys.readouterr().err


def test_training_starts_from_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    file, out = saved(tmp_path, "lenet"), tmp_path / "run"
    command = ["train", *_few_digits(tmp_path / "mnist"), "--no-compilation-cache"]
    command += ["--epochs", "1", "--pretrained", str(file), "--out", str(out)]
    assert main([*command, "--arch", "mnist_43"]) == 2
    assert "says its architecture is lenet, not mnist_43" in capsys.readouterr().err
    assert main([*command, "--arch", "lenet", "--lr", "1e-9"]) == 0
    before, after = convert(file), models.load_model(out / "model")
    for ours, theirs in zip(
        jax.tree.leaves(after.state), jax.tree.leaves(before.state), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
