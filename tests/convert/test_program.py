"""Exported PyTorch programs, read into JAX, give PyTorch's logits: networks of many families."""

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from networks import pooled_classifier, randomised
from torch import nn
from torchvision_without_kernels import make_importable

from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import MissingOperatorError, Program, program
from dsrs_jax.convert.pytorch import exported

pytestmark = pytest.mark.torch

SMALL = Path(__file__).with_name("small.pt2")
# timm's small networks of each family, with few blocks, and the images that they are given.
SIZED = {"depth": 2, "img_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet26d": {"layers": (1, 1, 1, 1)},
    "resnetv2_50": {"layers": (1, 1, 1, 1)},
    "densenet121": {"block_config": (2, 1, 1, 1)},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "test_byobnet": {},
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
    "mixer_s32_224": {},
    "vit_tiny_patch16_224": SIZED,
    "deit3_small_patch16_224": SIZED,
    "beit_base_patch16_224": SIZED,
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "depths": (1, 2), "num_heads": (3, 6), "window_size": 4,
    },
}  # fmt: skip


def of_timm(name: str, **smaller: Any) -> nn.Module:
    make_importable()
    import timm

    module = timm.create_model(name, num_classes=10, **smaller)
    if name.startswith("mixer"):
        module.blocks = module.blocks[:2]
    return randomised(module)


class DenoiseThenClassify(nn.Module):
    """One step of a diffusion model, then a classifier of larger images (Carlini et al., 2023)."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.denoiser = UNet2DModel(
            sample_size=32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        self.classifier = of_timm("vit_tiny_patch16_224", depth=1, img_size=48)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = 0.8 * (2 * images - 1)
        times = torch.full((len(x),), 250, device=x.device)
        pixels = (((x - 0.6 * self.denoiser(x, times).sample) / 0.8).clamp(-1, 1) + 1) / 2
        larger = nn.functional.interpolate(pixels, (48, 48), mode="bilinear", align_corners=False)
        return self.classifier(larger)


def read(module: nn.Module, side: int) -> Program:
    return program(*read_program(exported(module, "the network", (side, side, 3))))


def whole(module: nn.Module, *shape: int) -> io.BytesIO:
    """A program that was not decomposed, for batches of one size."""
    saved = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(*shape),)), saved)
    return saved


def difference(module: nn.Module, translated: Program, *shape: int) -> float:
    """The largest, of the largest logit."""
    noisy = np.random.default_rng(1).normal(0.5, 0.5, shape).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(noisy)).numpy()
    (ours,) = jax.jit(Program.__call__)(translated, jnp.asarray(noisy))
    assert np.ptp(theirs, axis=1).min() > 1e-3 * np.abs(theirs).max()  # they say something
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.others
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_timms_families_are_those_of_pytorch(name: str) -> None:
    module, side = of_timm(name, **FAMILIES[name]), 224 if name.startswith("mixer") else 64
    assert difference(module, read(module, side), 3, 3, side, side) < 1e-5


@pytest.mark.others
@pytest.mark.slow
def test_logits_of_a_whole_network_are_those_of_pytorch() -> None:
    module = of_timm("efficientnet_b0")
    assert difference(module, read(module, 64), 3, 3, 64, 64) < 1e-5


@pytest.mark.others
def test_logits_of_a_denoised_classifier_are_those_of_pytorch() -> None:
    module = randomised(DenoiseThenClassify())
    assert difference(module, read(module, 32), 3, 3, 32, 32) < 1e-5
    # For batches of one size and with all operators that the decomposed program does not have.
    translated = program(*read_program(whole(module, 2, 3, 32, 32)))
    assert translated.graph.shape[0] == 2
    assert difference(module, translated, 5, 3, 32, 32) < 1e-5


def test_pytorch_writes_the_file_that_the_other_tests_read() -> None:
    """After another PyTorch: write it anew, without stack traces."""
    module = pooled_classifier()
    graph, weights = read_program(SMALL)
    assert graph == read_program(exported(module, "the network", (4, 6, 2)))[0]
    assert difference(module, program(graph, weights), 3, 2, 4, 6) < 1e-6
    images = torch.ones(3, 2, 4, 6)
    theirs = torch.export.load(io.BytesIO(SMALL.read_bytes())).module()(images)
    torch.testing.assert_close(theirs, module(images))


class Strided(nn.Module):
    """The numbers of a transposed tensor as they lie in memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        turned = images.transpose(2, 3) * 2  # keeps the order of memory
        return torch.as_strided(turned, (len(images), 64), (64, 1))


class Fourier(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(images).real


def test_an_operator_without_meaning_here_is_named_with_its_shape_and_module() -> None:
    with pytest.raises(MissingOperatorError, match=r"as_strided.* not contiguous"):
        program(*read_program(whole(Strided(), 2, 1, 8, 8)))
    with pytest.raises(MissingOperatorError, match=r"fft.*8, 8\).*Fourier"):
        read(nn.Sequential(nn.Identity(), Fourier(), nn.Flatten()), 8)
