"""From names and tensors as other projects write them to our parameters, without PyTorch.

Real `.safetensors` and `.pth.tar` files and PyTorch's own logits: the other files of this folder.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax import models
from dsrs_jax.convert import cached, checkpoint, convert, logit_difference
from dsrs_jax.convert.layouts import parameters_from, parts
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

Tensors = dict[str, np.ndarray]
LENET = {
    "conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500),
}  # fmt: skip


def normal(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Weights of these shapes, as PyTorch has them, and biases."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        size = (shape[0], int(np.prod(shape[1:])))
        weight = draw.normal(0, size[1] ** -0.5, size).reshape(shape)
        tensors[f"{name}.weight"] = weight.astype(np.float32)
        tensors[f"{name}.bias"] = draw.normal(0, 0.1, shape[0]).astype(np.float32)
    return tensors


def resnet20() -> Tensors:
    """Random tensors of the smallest network that takes three channels."""
    description = models.ModelMetadata("cifar_resnet20", "cifar10", (32, 32, 3), 10)
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    draw = np.random.default_rng(0)
    tensors = {}
    for name, expected in models.parameters_of(description).items():
        module, _, leaf = name.rpartition(".")
        shape = expected.shape[-1:] + expected.shape[-2:-1] + expected.shape[:-2]
        values = draw.uniform(0.1, 1, shape).astype(np.float32)
        tensors[f"{module}.{leaves.get(leaf, leaf)}"] = values
    return tensors


def renamed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a file that is read as these tensors: without the packages that can read one."""

    def write(tensors: Tensors) -> Path:
        monkeypatch.setattr(checkpoint, "read_tensors", lambda file, weights: (None, tensors))
        (tmp_path / "model.safetensors").write_bytes(b"".join(map(bytes, tensors.values())))
        return tmp_path / "model.safetensors"

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "cache"))
    return write


def lenet_logits(tensors: Tensors, images: np.ndarray) -> np.ndarray:
    """In float64, of images (N, 28, 28, 1): features are (N, C, H, W), as PyTorch has them."""
    x = (images.astype(np.float64).transpose(0, 3, 1, 2) - 0.5) / 0.5
    for name in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, tensors[f"{name}.weight"], optimize=True)
        x = np.maximum(x + tensors[f"{name}.bias"][:, None, None], 0)
        images, channels, height, width = x.shape
        x = x.reshape(images, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    x = x.reshape(len(x), -1) @ tensors["fc1.weight"].T + tensors["fc1.bias"]
    return np.maximum(x, 0) @ tensors["fc2.weight"].T + tensors["fc2.bias"]


def test_a_converted_file_has_the_logits_that_pytorch_defines(written: Any) -> None:
    tensors = normal(LENET)
    file = written(tensors)
    with pytest.raises(UserError, match="does not say its architecture; give --arch"):
        convert(file)
    classifier = convert(file, arch="lenet")
    images = np.random.default_rng(1).normal(0.5, 1.0, (2, 28, 28, 1)).astype(np.float32)
    expected = lenet_logits(tensors, images)
    found = models.forward(classifier, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert classifier.metadata == models.ModelMetadata(
        "lenet", "mnist", (28, 28, 1), 10, scaling="standardize", source=file.name,
        source_sha256=digest, parameters=sum(tensor.size for tensor in tensors.values()),
    )  # fmt: skip
    other = convert(file, arch="lenet", scaling="mean:0.5;std:0.25")
    stretched = (images - np.float32(0.5)) * 2 + np.float32(0.5)
    expected = lenet_logits(tensors, stretched)
    found = models.forward(other, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_command_writes_a_checkpoint_and_the_cache_has_one_for_each_way(
    written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = written(normal(LENET)), tmp_path / "out"
    words = ["convert", str(file), str(out), "--arch", "lenet", "--sigma", "0.5", "--k", "380"]
    assert main([*words, "--check"]) == 2
    assert "--check needs PyTorch: pip install 'dsrs_jax[torch]'" in capsys.readouterr().err
    assert not out.exists()
    assert main(words) == 0
    classifier = models.load_model(out)
    assert classifier.fingerprint() == convert(file, arch="lenet").fingerprint()
    metadata = classifier.metadata
    assert (metadata.sigma, metadata.k, metadata.source) == (0.5, 380.0, file.name)
    with pytest.raises(UserError, match="--check needs PyTorch"):
        logit_difference(file, classifier)
    first = cached(file, arch="lenet")
    stamp = (first / "metadata.json").stat().st_mtime_ns
    assert cached(file, arch="lenet") == first
    assert (first / "metadata.json").stat().st_mtime_ns == stamp
    assert models.load_model(first).fingerprint() == classifier.fingerprint()
    scalings = ("center", "mean:0.5;std:0.5", "mean:0.5;std:0.6")
    folders = {cached(file, arch="lenet", scaling=scaling) for scaling in scalings}
    assert len(folders | {first}) == 4
    written(normal(LENET, seed=1))
    assert cached(file, arch="lenet") not in folders | {first}


@pytest.mark.parametrize(("end", "package"), [("pth.tar", "torch"), ("safetensors", "safetensors")])
def test_without_the_package_a_file_needs_the_advice_is_to_install_it(
    end: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"model.{end}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"be read: pip install 'dsrs_jax\[torch\]'"):
        convert(tmp_path / f"model.{end}", arch="lenet")


# A part of each network is enough here: names and orders, whatever the number of channels.
FEW = {"conv1": (2, 1, 5, 5), "conv2": (50, 2, 5, 5), "fc1": (3, 800), "fc2": (4, 3)}
SEQUENTIAL = {"0": (2, 1, 3, 3), "2": (2, 2, 4, 4), "4": (3, 2, 3, 3), "6": (64, 3, 4, 4),
              "9": (5, 3136), "11": (6, 5), "13": (4, 6)}  # fmt: skip
OURS = {
    "lenet": ["conv1", "conv2", "fc1", "fc2"],
    "mnist_43": ["conv1", "conv2", "conv3", "conv4", "dense1", "dense2", "dense3"],
}


def parameters(tensors: Tensors, arch: str) -> Tensors:
    """Our parameters of a file with these tensors, for the few channels."""
    expected = {}
    shapes = FEW if arch == "lenet" else SEQUENTIAL
    for ours, shape in zip(OURS[arch], shapes.values(), strict=True):
        turned = shape[2:] + shape[1::-1]
        expected[f"{ours}.kernel"] = jax.ShapeDtypeStruct(turned, jnp.float32)
        expected[f"{ours}.bias"] = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
    prefix, network, _ = parts(tensors, arch)
    return parameters_from(network, prefix, arch, expected)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "1.", "0.", "1.module.", "module.1.", "_orig_mod.", "model.", "net."),
        *("backbone.", "_orig_mod.module.0.", "module.model.1.module.", "module.backbone.1.net."),
    ],
)
@pytest.mark.parametrize("arch", ["lenet", "mnist_43"])
def test_every_wrapper_gives_the_same_parameters(prefix: str, arch: str) -> None:
    tensors = normal(FEW if arch == "lenet" else SEQUENTIAL)
    expected = parameters(tensors, arch)
    # Layers without weights may be others: a drop-out before the last ones renumbers them.
    moved = {re.sub("^1([13])[.]", r"2\1.", name): tensor for name, tensor in tensors.items()}
    layer = {"mu": np.zeros(3, np.float32), "0.std": np.ones(3, np.float32)}
    for network, more in ((tensors, {}), (moved, layer)):
        wrapped = renamed(network, prefix) | more
        assert parts(wrapped, arch).prefix == prefix
        assert parts(wrapped, arch).input_layer.keys() == more.keys()
        found = parameters(wrapped, arch)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


NAN, INFINITE = np.float32(np.nan), np.float32(np.inf)


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("lenet", {"1.fc1.bias": None}, "the tensor 1.fc1.bias of lenet is missing; the first of "
         "the file is 1.conv1.weight"),
        ("lenet", {"1.fc3.bias": np.ones(3)}, "the tensor 1.fc3.bias is not part of lenet"),
        ("lenet", {"fc1.bias": np.ones(3)}, "the tensor fc1.bias is not part of lenet"),
        ("lenet", {"1.": np.ones(3)}, "the tensor 1. is not part of lenet"),
        ("lenet", {"1.conv1.num_batches_tracked": np.ones(())}, "num_batches_tracked is not part"),
        ("lenet", {"1.fc2.weight": np.ones((4, 5))},
         "the tensor 1.fc2.weight has shape (4, 5), lenet needs (4, 3)"),
        ("lenet", {"1.conv1.weight": np.ones((2, 1, 5, 4))},
         "has shape (2, 1, 5, 4), lenet needs (2, 1, 5, 5)"),
        ("lenet", {"1.fc2.bias": np.ones(4, np.int32)}, "the tensor 1.fc2.bias holds int32"),
        ("lenet", {"1.fc2.bias": np.array([1, NAN, NAN, 1])},
         "the tensor 1.fc2.bias has 2 of 4 values that are not finite"),
        ("lenet", {"1.fc2.bias": np.array([1, -INFINITE, 2, 1])}, "1 of 4 values that are not"),
        ("mnist_43", {"1.9.bias": None, "1.9.weight": None},
         "the tensor 1.9.weight of mnist_43 is missing"),
        ("mnist_43", {"1.13b.weight": np.ones(3), "1.": np.ones(3), "": np.ones(3)},
         "the tensor 1.13b.weight is not part of mnist_43"),
    ],
)  # fmt: skip
def test_the_first_tensor_that_does_not_fit_is_named(
    arch: str, change: dict[str, Any], message: str
) -> None:
    tensors = renamed(normal(FEW if arch == "lenet" else SEQUENTIAL), "1.") | change
    with pytest.raises(UserError) as caught:
        parameters({name: one for name, one in tensors.items() if one is not None}, arch)
    assert message in str(caught.value) and "\n" not in str(caught.value)


BLOCK = {"bn1.scale": (2,), "bn1.bias": (2,), "bn1.mean": (2,), "bn1.var": (2,),
         "fc.kernel": (3, 4), "fc.bias": (4,)}  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "last"), [("cifar_resnet20", "fc"), ("cifar_resnet110_a", "linear")]
)
def test_batch_norm_and_the_two_names_of_the_last_layer(arch: str, last: str) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {f"bn1.{name}": np.float32([i, i + 0.5]) for i, name in enumerate(names)}
    tensors |= normal({last: (4, 3)})
    expected = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in BLOCK.items()}
    found = parameters_from(tensors, "", arch, expected)
    for i, name in enumerate(("scale", "bias", "mean", "var")):
        np.testing.assert_array_equal(found[f"bn1.{name}"], [i, i + 0.5])
    np.testing.assert_array_equal(found["fc.kernel"], tensors[f"{last}.weight"].T)
    other = "linear" if last == "fc" else "fc"
    again = {name.replace(f"{last}.", f"{other}."): one for name, one in tensors.items()}
    again["bn1.num_batches_tracked"] = np.ones((), np.int64)  # newer files have it
    for name, values in parameters_from(again, "", arch, expected).items():
        np.testing.assert_array_equal(values, found[name])
    with pytest.raises(UserError, match=f"the tensor {last}.bias is not part of {arch}"):
        parameters_from(again | {f"{last}.bias": np.ones(4)}, "", arch, expected)
    with pytest.raises(UserError, match="running_var is a variance and has 1 negative values"):
        negative = {"bn1.running_var": np.float32([1, -1])}
        parameters_from(tensors | negative, "", arch, expected)


def test_the_block_that_trades_never_calls_is_left_out_of_its_networks_alone() -> None:
    unused = {"1.sub_block1.layer.0.conv1.weight": np.ones((160, 16, 3, 3))}
    tensors = renamed(normal(FEW), "1.") | unused
    assert parts(tensors, "cifar_wrn_34_10").network.keys() == tensors.keys() - unused.keys()
    with pytest.raises(UserError, match=r"sub_block1\.layer\.0\.conv1\.weight is not part of"):
        parameters(tensors, "lenet")


CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
OTHER = (CIFAR10[0], (0.2471, 0.2435, 0.2616))  # as many train with them


@pytest.mark.parametrize(
    ("names", "values", "scaling", "advice"),
    [
        (("0.mean", "0.std"), CIFAR10, "standardize", None),
        (("0.mean", "0.std"), CIFAR10, "center", "--dataset cifar10 --input-scaling standardize"),
        (("0.means",), CIFAR10, "center", None),
        (("0.means",), CIFAR10, "standardize", "with --dataset cifar10 --input-scaling center"),
        (("0.mean", "0.std"), ((0.5,), (0.5,)), "standardize",
         "convert it with --input-scaling 'mean:0.5;std:0.5'"),
        (("0.sds",), CIFAR10[1:], "standardize", "--input-scaling std:0.2023,0.1994,0.201"),
        (("mu", "sigma"), OTHER, "standardize", "convert it with --input-scaling "
         "'mean:0.4914,0.4822,0.4465;std:0.2471,0.2435,0.2616'"),
        (("module.mu", "module.sigma"), OTHER,
         "mean:0.4914,0.4822,0.4465;std:0.2471,0.2435,0.2616", None),
        (("1.mean", "1.std"), ((0.5,), (0.0,)), "standardize", "no --input-scaling is that"),
        (("normalize.mean", "normalize.std"), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
         "standardize", "convert it with --dataset imagenet --input-scaling standardize"),
        (("mu", "sigma"), ((0.0,), (1.0,)), "center", "--dataset cifar10 --input-scaling none"),
        (("mu", "sigma"), ((0.0,), (1.0,)), "none", None),
    ],
)  # fmt: skip
def test_an_input_layer_must_be_the_scaling(
    names: tuple[str, ...],
    values: tuple[tuple[float, ...], ...],
    scaling: str,
    advice: str | None,
    written: Any,
) -> None:
    layer = {
        name: np.float32(numbers).reshape(1, -1, 1, 1)
        for name, numbers in zip(names, values, strict=False)
    }
    prefix = "1." if names[0].startswith("0.") else ""
    file = written(layer | renamed(resnet20(), prefix))
    with pytest.raises(UserError, match="takes images of 3 channels, mnist has 1"):
        convert(file, arch="cifar_resnet20", dataset="mnist")
    if advice is None:
        assert convert(file, arch="cifar_resnet20", scaling=scaling).metadata.scaling == scaling
        return
    with pytest.raises(UserError) as caught:
        convert(file, arch="cifar_resnet20", scaling=scaling)
    shown = f"{names[0]} = {', '.join(f'{x:g}' for x in values[0])}"
    assert advice in str(caught.value) and shown in str(caught.value)
    assert "\n" not in str(caught.value)
