"""Files as other projects write them become the PyTorch network that they hold, or are refused.

Each layout holds the same network, so that one comparison of logits is enough for all of them.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from torchvision_without_kernels import make_importable

from dsrs_jax import models
from dsrs_jax.convert import cached, convert, logit_difference
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from checkpoints import random_network  # noqa: E402  (needs torch)

KEYS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema")
State = dict[str, Any]


def state_of(arch: str) -> State:
    return random_network(arch).state_dict()


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def written(folder: Path, state: State, container: str) -> Path:
    """A file that holds the state dict: bare, under a key, or as .safetensors."""
    if container == "safetensors":
        file = folder / "model.safetensors"
        safetensors.save_file(state, file)
        return file
    file = folder / "checkpoint.pth.tar"
    torch.save(state if container == "bare" else {container: state, "epoch": 90}, file)
    return file


def agrees(classifier: models.Classifier, network: Any, scaling: models.InputScaling) -> bool:
    """Whether the logits are the PyTorch network's; says nothing of how files are read."""
    images = np.random.default_rng(1).normal(0.5, 1, (2, *classifier.metadata.image_shape))
    images = images.astype(np.float32)
    scaled = np.asarray(scaling(jnp.asarray(images))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        theirs = network(torch.from_numpy(scaled.copy())).numpy()
    ours = np.asarray(classifier(jnp.asarray(images)))
    return bool(np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fingerprint of the random LeNet, whose logits are PyTorch's."""
    file = written(tmp_path_factory.mktemp("lenet"), state_of("lenet"), "bare")
    classifier = convert(file, arch="lenet")
    scaling = models.input_scaling("mnist", "standardize")
    assert agrees(classifier, random_network("lenet"), scaling)
    return classifier.fingerprint()


PREFIXES = ("_orig_mod.", "model.", "net.", "backbone.", "0.", "1.")


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        *((container, "") for container in ("bare", *KEYS, "safetensors")),
        *((container, "module.") for container in ("bare", *KEYS, "safetensors")),
        *(
            (container, prefix)
            for container in ("bare", "net", "safetensors")
            for prefix in PREFIXES
        ),
    ],
)
def test_every_layout_gives_the_same_model(
    container: str, prefix: str, lenet: str, tmp_path: Path
) -> None:
    file = written(tmp_path, renamed(state_of("lenet"), prefix), container)
    assert convert(file, arch="lenet").fingerprint() == lenet


@pytest.mark.parametrize("container", ["model_ema", "safetensors"])
@pytest.mark.parametrize("prefix", ["_orig_mod.module.0.", "net.model.", "module.backbone.1.net."])
def test_the_check_reads_every_layout(
    container: str, prefix: str, lenet: str, tmp_path: Path
) -> None:
    file = written(tmp_path, renamed(state_of("lenet"), prefix), container)
    classifier = convert(file, arch="lenet")
    assert classifier.fingerprint() == lenet
    assert logit_difference(file, classifier).relative < 1e-5


@pytest.mark.parametrize("container", ["bare", *KEYS, "safetensors"])
def test_one_tensor_too_many_or_too_few_is_told_by_name(container: str, tmp_path: Path) -> None:
    state = renamed(state_of("lenet"), "module.")
    file = written(tmp_path, state | {"module.fc3.bias": torch.ones(3)}, container)
    with pytest.raises(UserError, match=r"the tensor module\.fc3\.bias is not part of lenet$"):
        convert(file, arch="lenet")
    file = written(tmp_path, state | {"fc1.bias": torch.ones(500)}, container)
    with pytest.raises(UserError, match=r"the tensor fc1\.bias is not part of lenet$"):
        convert(file, arch="lenet")
    del state["module.fc1.bias"]
    file = written(tmp_path, state, container)
    with pytest.raises(UserError, match=r"the tensor module\.fc1\.bias of lenet is missing"):
        convert(file, arch="lenet")


def test_of_several_state_dicts_one_is_chosen(
    lenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    state = state_of("lenet")
    other = {name: tensor + 0.5 for name, tensor in state.items()}
    file, out = tmp_path / "checkpoint.pth.tar", tmp_path / "out"
    content = {"state_dict": other, "state_dict_ema": state, "a teacher's": other, "ema": {"x": 1}}
    torch.save(content, file)
    command = ["convert", str(file), str(out), "--arch", "lenet", "--check"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--weights state_dict" in error
    assert "several state dicts: state_dict, state_dict_ema; choose one with --weights" in error
    assert main([*command, "--weights", "state_dict_ema"]) == 0
    assert models.load_model(out).fingerprint() == lenet
    others = {convert(file, arch="lenet", weights=key).fingerprint() for key in list(content)[:3]}
    assert len(others) == 2 and lenet in others
    assert main([*command, "--weights", "ema"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert """no state dict 'ema'; it has 'state_dict', 'state_dict_ema', "a teacher's\"""" in error
    folders = {
        cached(file, arch="lenet", weights=key, scaling=scaling)
        for key in ("state_dict_ema", "state_dict", "a teacher's")
        for scaling in (None, "mean:0.5;std:0.5", "mean:0.5;std:0.6")
    }
    assert len(folders) == 9
    again = cached(file, arch="lenet", weights="state_dict_ema", scaling="mean:0.5;std:0.5")
    assert again in folders and models.load_model(again).fingerprint() == lenet
    # A key that nobody knows is named, so that it can be chosen.
    torch.save({"teacher": state}, file)
    with pytest.raises(UserError, match=r"'teacher'; choose one with --weights teacher$"):
        convert(file, arch="lenet")
    torch.save({"epoch": 3}, file)
    for key, message in ((None, "it has 'epoch'$"), ("net", "no state dict 'net'; it has none$")):
        with pytest.raises(UserError, match=message):
            convert(file, arch="lenet", weights=key)
    torch.save({"teacher": state}, file)
    assert convert(file, arch="lenet", weights="teacher").fingerprint() == lenet


@pytest.mark.parametrize("container", ["bare", "safetensors"])
def test_where_there_is_one_state_dict_none_is_chosen(container: str, tmp_path: Path) -> None:
    file = written(tmp_path, state_of("lenet"), container)
    with pytest.raises(UserError, match=r"one .*state dict; leave out --weights$"):
        convert(file, arch="lenet", weights="state_dict")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_safetensors_of_other_types_of_numbers_are_read(dtype: str, tmp_path: Path) -> None:
    state = {name: t.to(getattr(torch, dtype)) for name, t in state_of("lenet").items()}
    rounded = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    expected = convert(written(tmp_path, rounded, "bare"), arch="lenet").fingerprint()
    file = written(tmp_path, state, "safetensors")
    assert convert(file, arch="lenet").fingerprint() == expected


def test_safetensors_are_read_without_pytorch(
    lenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, state_of("lenet"), "safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    classifier = convert(file, arch="lenet")
    assert classifier.fingerprint() == lenet
    with pytest.raises(UserError, match=r"--check needs PyTorch: pip install 'dsrs_jax\[torch\]'"):
        logit_difference(file, classifier)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"a package to be read: pip install 'dsrs_jax\[torch\]'"):
        convert(file, arch="lenet")


def _hostile(kind: str, good: bytes) -> bytes:
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    body = good[8 + size :]
    if kind == "truncated":
        return good[: len(good) // 2]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"not a checkpoint\n" * 100
    if kind == "pickle":
        return b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR."
    if kind == "a header without end":
        return struct.pack("<Q", 2**62) + good[8:]
    if kind == "no tensors":
        header, body = {}, b""
    elif kind == "overlapping":
        header["fc2.bias"]["data_offsets"] = header["fc1.bias"]["data_offsets"]
    elif kind == "outside":
        header["fc2.bias"]["data_offsets"] = [len(body), len(body) + 40]
    elif kind == "a negative size":
        header["fc2.bias"]["shape"] = [-10]
    elif kind == "a huge size":
        header["fc2.bias"]["shape"] = [2**40, 2**40]
    elif kind == "another shape":
        header["fc2.bias"]["shape"] = [5]
    elif kind == "another type":
        header["fc2.bias"]["dtype"] = "PICKLE"
    elif kind == "eight bits":
        header["fc3.bias"] = {"dtype": "F8_E5M2", "shape": [2]}
        header["fc3.bias"]["data_offsets"] = [len(body), len(body) + 2]
        body += b"\0\0"
    elif kind == "a name of two lines":
        header["a\nb"] = header.pop("fc2.bias")
    elif kind == "integers":
        header["fc2.bias"]["dtype"] = "I32"
    elif kind == "infinite":
        start = header["fc2.bias"]["data_offsets"][0]
        body = body[:start] + struct.pack("<f", float("inf")) + body[start + 4 :]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, "is damaged, cut short or no .safetensors file") for kind in (
            "truncated", "empty", "text", "pickle", "a header without end", "overlapping",
            "outside", "a negative size", "a huge size", "another shape", "another type",
        )),
        ("no tensors", "holds no tensors"),
        ("eight bits", "the tensor fc3.bias holds F8_E5M2, not floating-point numbers"),
        ("a name of two lines", "'a\\nb' names no tensor"),
        ("integers", "the tensor fc2.bias holds int32"),
        ("infinite", "the tensor fc2.bias has 1 of 10 values that are not finite"),
        ("no file", "no such file"),
    ],
)  # fmt: skip
def test_bad_safetensors_are_refused_in_one_line(
    kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.safetensors"
    if kind != "no file":
        good = written(tmp_path, state_of("lenet"), "safetensors").read_bytes()
        file.write_bytes(_hostile(kind, good))
    assert main(["convert", str(file), str(tmp_path / "out"), "--arch", "lenet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dsrs-jax convert: ") and message in error
    assert not (tmp_path / "out").exists()


OTHER = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))  # not the deviations of the paper


@pytest.mark.parametrize("container", ["bare", "safetensors"])
@pytest.mark.parametrize(
    ("layer", "prefix"),
    [
        (("mu", "sigma"), ""),  # RobustBench
        (("mean", "std"), ""),
        (("module.mu", "module.sigma"), "module."),
        (("0.mean", "0.std"), "1."),
        (("1.mean", "1.std"), "0."),
    ],
)
def test_an_input_layer_beside_the_network_is_its_scaling(
    layer: tuple[str, str],
    prefix: str,
    container: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    buffers = {n: torch.tensor(v).reshape(1, 3, 1, 1) for n, v in zip(layer, OTHER, strict=True)}
    state = buffers | renamed(state_of("cifar_resnet20"), prefix)
    file, out = written(tmp_path, state, container), tmp_path / "out"
    command = ["convert", str(file), str(out), "--arch", "cifar_resnet20"]
    assert main(command) == 2
    error = capsys.readouterr().err
    text = "mean:0.4914,0.4822,0.4465;std:0.2471,0.2435,0.2616"
    assert error.count("\n") == 1 and f"convert it with --input-scaling '{text}'" in error
    assert main([*command, "--input-scaling", text]) == 0
    classifier = models.load_model(out)
    assert classifier.metadata.scaling == text
    if (container, prefix) == ("bare", ""):
        scaling = models.InputScaling(*OTHER)
        assert agrees(classifier, random_network("cifar_resnet20"), scaling)
        assert logit_difference(file, classifier, 2).relative < 1e-5


def test_an_input_layer_that_does_nothing_is_the_scaling_none(tmp_path: Path) -> None:
    layer = {"mu": torch.zeros(1, 3, 1, 1), "sigma": torch.ones(1, 3, 1, 1)}
    file = written(tmp_path, layer | state_of("cifar_resnet20"), "bare")
    with pytest.raises(UserError, match="with --dataset cifar10 --input-scaling none"):
        convert(file, arch="cifar_resnet20")
    assert convert(file, arch="cifar_resnet20", scaling="none").metadata.scaling == "none"


@pytest.mark.parametrize("text", ["standardise", "mean:0.5;std:0", "mean:0.1,0.2"])
def test_a_bad_input_scaling_is_told_in_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, state_of("cifar_resnet20"), "bare")
    command = ["convert", str(file), str(tmp_path / "out"), "--arch", "cifar_resnet20"]
    assert main([*command, "--input-scaling", text]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and text in error
    assert "mean:0.485" in error or "takes images of 3 channels" in error


@pytest.mark.parametrize("arch", ["cifar_resnet20", "cifar_resnet20_a"])
def test_the_last_layer_of_cifar_networks_has_two_names(arch: str, tmp_path: Path) -> None:
    state = state_of(arch)
    expected = convert(written(tmp_path, state, "net"), arch=arch).fingerprint()
    linear = {name.replace("fc.", "linear."): tensor for name, tensor in state.items()}
    file = written(tmp_path, linear, "net")
    classifier = convert(file, arch=arch)
    assert classifier.fingerprint() == expected
    assert logit_difference(file, classifier, 2).relative < 1e-5
    with pytest.raises(UserError, match="is not part of"):
        convert(written(tmp_path, linear | {"fc.bias": torch.ones(10)}, "net"), arch=arch)


def test_the_block_that_trades_never_calls_is_left_out_of_its_networks_alone(
    tmp_path: Path,
) -> None:
    unused = {"sub_block1.layer.0.conv1.weight": torch.ones(160, 16, 3, 3)}
    file = written(tmp_path, unused | state_of("cifar_resnet20"), "bare")
    with pytest.raises(UserError, match=r"tensor sub_block1\.layer\.0\.conv1\.weight is not part"):
        convert(file, arch="cifar_resnet20")


# How many images: the large networks take long.
ARCHITECTURES = {
    "cifar_resnet56": 2,
    "cifar_resnet20_a": 2,
    "cifar_resnet56_a": 2,
    "cifar_resnet110_a": 2,
    "cifar_wrn_28_10": 2,
    "cifar_wrn_34_10": 1,
    "resnet18": 2,
    "resnet34": 2,
    "resnet101": 1,
    "vit_base_patch16_224": 1,
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_logits_of_an_architecture_are_pytorchs(arch: str, tmp_path: Path) -> None:
    network = random_network(arch)
    state = network.state_dict()
    if arch.startswith("cifar_wrn"):
        first = {n: t for n, t in state.items() if n.startswith("block1.layer.0.")}
        state = {"mu": torch.zeros(1, 3, 1, 1), "sigma": torch.ones(1, 3, 1, 1)} | state
        state |= renamed(first, "sub_") | {"sub_block1.other": torch.ones(1)}
    file = written(tmp_path, renamed(state, "module."), "state_dict")
    classifier = convert(file, arch=arch, scaling="none")
    size = {"cifar_resnet110_a": 1_727_962, "resnet101": 44_549_160}  # as published
    own = sum(parameter.numel() for parameter in network.parameters())
    assert classifier.metadata.parameters == own == size.get(arch, own)
    difference = logit_difference(file, classifier, ARCHITECTURES[arch])
    print(f"{arch}: {difference.relative:.1e} of {difference.scale:.2f}")
    assert difference.scale > 0.1 and difference.relative < 1e-5


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet101", "vit_base_patch16_224"])
def test_the_network_of_the_check_is_timms(arch: str) -> None:
    if "torchvision" not in sys.modules:  # another test may have done it
        make_importable()
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network, theirs = random_network(arch), timm.create_model(arch, pretrained=False).eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, expected = network(images), theirs(images)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
