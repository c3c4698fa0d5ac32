"""Files that PyTorch and safetensors wrote, as they exist in the wild, and the commands with them.

What names and tensors become is in test_layouts.py, other networks' logits in
test_architectures.py.
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
import numpy as np
import pytest
import torch
from certify_runs import rows_of
from checkpoints import SAFETENSORS, random_network, saved, state_of, written
from commands import ROOT, refused

from dsrs_jax import models
from dsrs_jax.convert import cached, convert, logit_difference
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fingerprint of the random LeNet, whose logits are PyTorch's."""
    classifier = convert(saved(tmp_path_factory.mktemp("lenet"), "lenet"))
    images = np.random.default_rng(1).normal(0.5, 1, (2, 28, 28, 1)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy((images - 0.5).transpose(0, 3, 1, 2) / np.float32(0.5))
        theirs = random_network("lenet")(pixels).numpy()
    logits = models.forward(classifier, images)
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    return classifier.fingerprint()


@pytest.mark.parametrize(
    ("container", "prefix", "zipped"),
    [
        ("bare", "1.", True),
        ("bare", "module.", False),
        ("state_dict", "module.backbone.1.net.", False),
        ("model_state_dict", "1.", True),
        ("model", "_orig_mod.module.", False),
        ("net", "", True),
        ("state_dict_ema", "net.model.", False),
        ("model_ema", "0.", True),
        ("ema", "module.", False),
        (SAFETENSORS, "", True),
        (SAFETENSORS, "_orig_mod.module.0.", True),
    ],
)
def test_every_layout_and_format_gives_the_same_model(
    container: str, prefix: str, zipped: bool, lenet: str, tmp_path: Path
) -> None:
    """Checkpoints of 2019 are pickles, not zip files; plain data may lie beside the tensors."""
    state = state_of("lenet", prefix)
    file = written(tmp_path, state, container)
    if container != SAFETENSORS:
        plain = {
            "epoch": 90,
            "best": np.float64(0.9),
            "history": np.ones(3),
            "args": argparse.Namespace(lr=np.float32(0.1), out=Path("runs")),
            "arch": {"name": "lenet"},  # says nothing that can be read
            "net" if container == "model" else "model": {"depth": 5},
        }
        content = state if container == "bare" else plain | {container: state}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        assert file.read_bytes().startswith(b"PK") == zipped
        if not zipped and container != "bare":  # as NumPy 1 named itself
            content = file.read_bytes()
            assert b"cnumpy._core.multiarray\n" in content
            file.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    with pytest.raises(UserError, match="does not say its architecture; give --arch"):
        convert(file)
    classifier = convert(file, arch="lenet")
    assert classifier.fingerprint() == lenet
    assert logit_difference(file, classifier, 2).relative < 1e-5


@pytest.mark.parametrize("container", ["net", SAFETENSORS])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_of_numbers_are_read(dtype: str, container: str, tmp_path: Path) -> None:
    state = {name: t.to(getattr(torch, dtype)) for name, t in state_of("lenet").items()}
    rounded = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    expected = convert(written(tmp_path, rounded), arch="lenet").fingerprint()
    file = written(tmp_path, state, container)
    classifier = convert(file, arch="lenet")
    assert classifier.fingerprint() == expected
    assert logit_difference(file, classifier, 2).relative < 1e-5


def test_the_check_reads_old_files_without_batch_counters_and_other_numbers_of_layers(
    tmp_path: Path,
) -> None:
    arch = "fashion_22full"
    file = saved(tmp_path, arch)
    expected = convert(file).fingerprint()
    state = state_of(arch, "1.")
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    # Layers without weights may be other ones: a drop-out before the last would renumber it.
    moved = {name.replace("1.11.", "1.12."): tensor for name, tensor in old.items()}
    torch.save({"arch": arch, "state_dict": moved}, file)
    assert main(["convert", str(file), str(tmp_path / "out"), "--check"]) == 0
    assert models.load_model(tmp_path / "out").fingerprint() == expected


def test_a_name_of_the_authors_gives_way_to_the_option(
    lenet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path, "lenet", arch="LeNet5-caffe")
    words = ["convert", str(file), str(tmp_path / "out")]
    refused(capsys, words, "unknown architecture 'LeNet5-caffe'; known: digits_cnn", "--arch")
    assert convert(file, arch="lenet").fingerprint() == lenet
    saved(tmp_path, "lenet", arch="mnist_43")
    with pytest.raises(UserError, match="says its architecture is mnist_43, not lenet"):
        convert(file, arch="lenet")


def test_of_several_state_dicts_one_is_chosen(
    lenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    state = state_of("lenet")
    other = {name: tensor + 0.5 for name, tensor in state.items()}
    content = {"state_dict": other, "state_dict_ema": state, "a teacher's": other, "ema": {"x": 1}}
    file, out = written(tmp_path, content), tmp_path / "out"
    command = ["convert", str(file), str(out), "--arch", "lenet"]
    several = "several state dicts: state_dict, state_dict_ema; choose one with --weights"
    refused(capsys, command, several, "--weights state_dict")
    known = """no state dict 'ema'; it has 'state_dict', 'state_dict_ema', "a teacher's\""""
    refused(capsys, [*command, "--weights", "ema"], known)
    assert main([*command, "--check", "--weights", "state_dict_ema"]) == 0
    assert models.load_model(out).fingerprint() == lenet
    keys = ("state_dict_ema", "state_dict", "a teacher's")
    folders = [cached(file, arch="lenet", weights=key) for key in keys]
    prints = [models.load_model(folder).fingerprint() for folder in folders]
    assert prints[0] == lenet != prints[1] == prints[2] and len(set(folders)) == 3
    # A key that nobody knows is named, so that it can be chosen.
    written(tmp_path, {"teacher": state})
    with pytest.raises(UserError, match=r"'teacher'; choose one with --weights teacher$"):
        convert(file, arch="lenet")
    assert convert(file, arch="lenet", weights="teacher").fingerprint() == lenet
    written(tmp_path, {"epoch": 3})
    for key, message in ((None, "it has 'epoch'$"), ("net", "no state dict 'net'; it has none$")):
        with pytest.raises(UserError, match=message):
            convert(file, arch="lenet", weights=key)
    for container in ("bare", SAFETENSORS):
        with pytest.raises(UserError, match=r"one .*state dict; leave out --weights$"):
            convert(written(tmp_path, state, container), arch="lenet", weights="state_dict")


@pytest.mark.process
@pytest.mark.parametrize("kind", ["beside the tensors", "a whole model"])
def test_the_command_that_a_refusal_gives_helps(
    kind: str, lenet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's a dossier \N{GRINNING FACE}"
    folder.mkdir()
    file, out = saved(folder, "lenet", share=Fraction(1, 3)), tmp_path / "out"
    if kind == "a whole model":
        torch.save(random_network("lenet"), file)
    error = refused(capsys, ["convert", str(file), str(out), "--arch", "lenet"])
    command = error[error.index("python -c ") :]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, shell=True, check=True, env=environment)
    plain = folder / "plain-checkpoint.pth.tar"
    assert main(["convert", str(plain), str(out), "--arch", "lenet", "--check"]) == 0
    assert "largest difference from PyTorch's logits" in capsys.readouterr().out
    assert models.load_model(out).fingerprint() == lenet


def test_the_check_sees_one_other_weight_and_fails_where_it_cannot_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, state = saved(tmp_path, "lenet"), state_of("lenet")
    classifier = convert(file)
    state["fc2.bias"][3] += 0.5
    saved(tmp_path, "lenet", state_dict=state)
    difference = logit_difference(file, classifier)
    assert difference.largest == pytest.approx(0.5, rel=1e-4)
    assert difference.relative == difference.largest / difference.scale > 1e-3
    state["fc2.weight"].fill_(3e38)  # finite, what it is multiplied with is not
    saved(tmp_path, "lenet", state_dict=state)
    words = ["convert", str(file), str(tmp_path / "out"), "--check"]
    refused(capsys, words, "logits of random images are not finite")
    assert not (tmp_path / "out").exists()


PIXELS = np.random.default_rng(2).integers(0, 256, (2, 28, 28, 1), np.uint8)


def _few_digits(folder: Path, labels: Any = (0, 1)) -> list[str]:
    """Options that name two random images as MNIST."""
    folder.mkdir()
    for split in ("train", "t10k"):
        header = struct.pack(">4i", 0x803, 2, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + PIXELS.tobytes())
        header = struct.pack(">2i", 0x801, 2)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(labels))
    return ["--dataset", "mnist", "--data-dir", str(folder)]


def test_certify_takes_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    file, folder = saved(tmp_path, "lenet"), tmp_path / "converted"
    assert main(["convert", str(file), str(folder)]) == 0
    scaled = PIXELS.astype(np.float32) / np.float32(255)
    labels = np.argmax(models.forward(convert(file), scaled), axis=-1).tolist()  # its answers
    common = [
        "certify",
        *_few_digits(tmp_path / "mnist", labels),
        "--n",
        "200",
        "--q-inside",
        "0.5",
    ]
    common += ["--no-compilation-cache", "--seed", "0"]
    noise = ["--sigma", "0.1", "--noise", "gaussian"]
    for name, model in (("a", file), ("b", folder)):
        out = ["--out", str(tmp_path / name)]
        assert main([*common, *noise, "--model", str(model), *out]) == 0
    tables = [(tmp_path / name / "certificates.csv").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    assert all(float(row["radius_dsrs"]) > 0 for row in rows_of(tmp_path / "a"))
    out = ["--out", str(tmp_path / "c")]
    refused(capsys, [*common, "--model", str(file), *out], "give --sigma")
    words = [*common, "--model", str(folder), "--input-scaling", "center", *out]
    refused(capsys, words, "for a PyTorch file")


def test_training_starts_from_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    file, out = saved(tmp_path, "lenet"), tmp_path / "run"
    command = ["train", *_few_digits(tmp_path / "mnist"), "--no-compilation-cache"]
    command += ["--epochs", "1", "--pretrained", str(file), "--out", str(out)]
    message = "says its architecture is lenet, not mnist_43"
    refused(capsys, [*command, "--arch", "mnist_43"], message)
    assert main([*command, "--arch", "lenet", "--lr", "1e-9"]) == 0
    before, after = convert(file), models.load_model(out / "model")
    leaves: Any = (jax.tree.leaves(one.state) for one in (after, before))
    for ours, theirs in zip(*leaves, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
