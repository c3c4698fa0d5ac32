"""Our networks beside PyTorch's, written from the published descriptions, and those beside timm's.

Weights, biases and batch-norm statistics are random, so that no layer can hide.
"""

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import random_network, state_of, written
from torchvision_without_kernels import make_importable

from dsrs_jax import models
from dsrs_jax.convert import convert, logit_difference, pytorch_models
from dsrs_jax.convert.layouts import parameters_from, parts
from dsrs_jax.models import checkpoint, resnet, vision_transformer
from dsrs_jax.models.wide_resnet_cifar import WideResNetCifar

pytestmark = pytest.mark.torch

# As published: what a checkpoint of each data set does to its input.
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (1.0, 1.0, 1.0))
# Another depth or width of these is another number in the registry, which the next test reads.
STATISTICS: dict[str, Any] = {
    "mnist_43": ((0.5,), (0.5,)),
    "fashion_22full": ((0.5,), (0.5,)),
    "cifar_resnet20": CIFAR10,
    "cifar_resnet20_a": CIFAR10,
    "cifar_wrn_28_10": CIFAR10,
    "wide_resnet_imagenet64": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "resnet18": IMAGENET,
    "resnet50": IMAGENET,
    "vit_base_patch16_224": IMAGENET,
}


def _two_blocks() -> Any:
    network = pytorch_models._VisionTransformer()
    network.blocks = network.blocks[:2]
    return network


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The large networks with fewer blocks and channels, here and in PyTorch."""
    wide = models.architecture("cifar_wrn_28_10")
    narrow = dataclasses.replace(wide, module=partial(WideResNetCifar, 16, 2))
    monkeypatch.setitem(models.REGISTRY, "cifar_wrn_28_10", narrow)
    monkeypatch.setattr(vision_transformer, "_BLOCKS", 2)
    for depth, blocks, expansion in ((18, (1, 2, 1, 1), 1), (50, (2, 1, 1, 1), 4)):
        monkeypatch.setitem(resnet._BLOCKS, depth, blocks)
        make = partial(pytorch_models._imagenet_resnet, list(blocks), expansion)
        monkeypatch.setitem(pytorch_models._NETWORKS, f"resnet{depth}", make)
    others = {
        "cifar_wrn_28_10": partial(pytorch_models._CifarWideResNet, 16, 2),
        "vit_base_patch16_224": _two_blocks,
    }
    for name, make in others.items():
        monkeypatch.setitem(pytorch_models._NETWORKS, name, make)
    checkpoint._abstract.cache_clear()
    yield
    checkpoint._abstract.cache_clear()


def assert_pytorchs_logits(arch: str, state: dict[str, Any], folder: Path) -> None:
    file = written(folder, state, "state_dict")
    classifier = convert(file, arch=arch)
    shape = classifier.metadata.image_shape
    images = np.random.default_rng(1).normal(0.5, 1.0, (2, *shape)).astype(np.float32)
    mean, deviation = (np.float32(numbers) for numbers in STATISTICS[arch])
    scaled = ((images - mean) / deviation).transpose(0, 3, 1, 2)
    with torch.no_grad():
        theirs = random_network(arch)(torch.from_numpy(scaled.copy())).numpy()
    logits = models.forward(classifier, images)
    assert logits.dtype == np.float32 and np.ptp(theirs) > 0.1
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
    assert logit_difference(file, classifier, 2).relative < 2e-5


@pytest.mark.usefixtures("smaller")
@pytest.mark.parametrize("arch", STATISTICS)
def test_logits_are_pytorchs(arch: str, tmp_path: Path) -> None:
    state = state_of(arch, "1.module.")
    if arch.startswith("cifar_wrn"):  # with the block that TRADES' networks have and never call
        first = {n: t for n, t in state.items() if n.startswith("1.module.block1.layer.0.")}
        state |= {name.replace("block1", "sub_block1"): tensor for name, tensor in first.items()}
    if arch == "cifar_resnet20":  # whose last layer has two names
        state = {name.replace(".fc.", ".linear."): tensor for name, tensor in state.items()}
        # And with an input layer as RobustBench has it, which is the scaling.
        state |= {"mu": torch.tensor(CIFAR10[0]), "sigma": torch.tensor(CIFAR10[1])}
    assert_pytorchs_logits(arch, state, tmp_path)


@pytest.mark.slow
def test_logits_of_a_whole_large_network_are_pytorchs(tmp_path: Path) -> None:
    assert_pytorchs_logits("resnet50", state_of("resnet50", "1.module."), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", pytorch_models._NETWORKS)
def test_parameters_are_pytorchs_by_name_and_shape(arch: str) -> None:
    """Of all architectures as they are; no weights are drawn."""
    with torch.device("meta"):
        network = pytorch_models.pytorch_model(arch)
    one = np.float32(1)
    tensors = {n: np.broadcast_to(one, tuple(t.shape)) for n, t in network.state_dict().items()}
    found = models.architecture(arch)
    metadata = models.ModelMetadata(arch, found.dataset, found.image_shape, found.classes)
    expected = models.parameters_of(metadata)
    assert expected.keys() == parameters_from(tensors, "", arch, expected).keys()
    assert parts(tensors, arch).prefix == ""
    averages = (".mean", ".var")
    size = sum(leaf.size for name, leaf in expected.items() if not name.endswith(averages))
    assert size == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.others
@pytest.mark.parametrize("arch", ["resnet18", "resnet101", "vit_base_patch16_224"])
def test_the_network_of_the_check_is_timms(arch: str) -> None:
    if "torchvision" not in sys.modules:  # another test may have done it
        make_importable()
    import timm

    network, theirs = random_network(arch), timm.create_model(arch, pretrained=False).eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, expected = network(images), theirs(images)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
