"""Exported PyTorch programs, read into JAX, give PyTorch's logits: networks of many families."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from networks import DenoiseThenClassify, DnCNN, SmallViT, UNet, randomised, small_classifier
from torch import nn
from torchvision_without_kernels import make_importable

from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import MissingOperatorError, Program, program
from dsrs_jax.convert.pytorch import exported

# timm's smallest of each family, and the images that they are given.
FAMILIES = {
    "resnet18": 64, "vgg11_bn": 64, "vit_tiny_patch16_224": 64, "convnext_atto": 64,
    "resnet26d": 64, "beit_base_patch16_224": 64, "swin_tiny_patch4_window7_224": 64,
    "efficientnet_b0": 64, "mixer_s16_224": 224, "deit3_small_patch16_224": 64,
    "resnetv2_50": 64, "densenet121": 64, "mobilenetv3_small_100": 64, "regnety_002": 64,
}  # fmt: skip
SIZED = ("vit", "beit", "swin", "deit3")  # families that are told the size of their images


def of_timm(name: str) -> nn.Module:
    make_importable()
    import timm

    size: dict[str, Any] = {"img_size": FAMILIES[name]} if name.startswith(SIZED) else {}
    smaller: dict[str, Any] = {"depth": 2} if name.startswith(("vit", "beit", "deit3")) else {}
    if name.startswith("swin"):
        smaller = {"depths": (1, 2), "num_heads": (3, 6), "window_size": 4}
    return randomised(timm.create_model(name, num_classes=10, **size, **smaller))


def denoised_vit() -> nn.Module:
    return randomised(DenoiseThenClassify(UNet(), SmallViT(48), sigma=0.5, side=48))


def dncnn() -> nn.Module:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    return randomised(nn.Sequential(DnCNN(), nn.AvgPool2d(2), classifier))


OURS = {"denoise-then-classify": (denoised_vit, 32), "DnCNN": (dncnn, 32)}


def read(module: nn.Module, side: int, channels: int = 3) -> Program:
    return program(*read_program(exported(module, "the network", (side, side, channels))))


def difference(module: nn.Module, translated: Program, side: int, images: int = 3) -> float:
    """The largest, of the largest logit."""
    noisy = np.random.default_rng(1).normal(0.5, 0.5, (images, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(noisy)).numpy()
    (ours,) = jax.jit(Program.__call__)(translated, jnp.asarray(noisy))
    assert np.ptp(theirs, axis=1).min() > 1e-3 * np.abs(theirs).max()  # they say something
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", [*FAMILIES, *OURS])
def test_logits_are_those_of_pytorch(name: str) -> None:
    make, side = OURS[name] if name in OURS else (lambda: of_timm(name), FAMILIES[name])
    module = make()
    assert difference(module, read(module, side), side) < 1e-5


def test_a_program_that_was_not_decomposed_gives_the_same_logits() -> None:
    module = denoised_vit()
    saved = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(3, 3, 32, 32),)), saved)
    assert difference(module, program(*read_program(saved)), 32) < 1e-5


def test_a_program_of_a_fixed_batch_takes_any_number_of_images() -> None:
    module = dncnn()
    saved = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 32, 32),)), saved)
    translated = program(*read_program(saved))
    assert translated.graph.shape[0] == 2
    for images in (1, 5):
        assert difference(module, translated, 32, images) < 1e-5


def test_bfloat16_is_near() -> None:
    module = dncnn()
    graph, weights = read_program(exported(module, "it", (32, 32, 3)))
    assert 1e-6 < difference(module, program(graph, weights, "bfloat16"), 32) < 0.05


class Fourier(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(images).real


def test_an_operator_that_is_missing_is_named_with_its_shape_and_module() -> None:
    module = nn.Sequential(nn.Identity(), Fourier(), *small_classifier())
    with pytest.raises(MissingOperatorError) as raised:
        read(module.eval(), 8, 1)
    message = str(raised.value)
    assert "fft" in message and "8, 8)" in message and "Fourier" in message
    assert "\n" not in message
