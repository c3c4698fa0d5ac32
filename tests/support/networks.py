"""Small PyTorch networks with random weights."""

import math
from typing import Any

import torch
from torch import nn


def randomised(module: Any, seed: int = 0) -> Any:
    """The module in evaluation mode, nothing in it 0 or 1 as it was made: errors would hide."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, one in module.named_parameters():
            if one.ndim > 1:
                one.copy_(normal(one) / math.sqrt(one[0].numel()))
            else:
                one.copy_(0.1 * normal(one) + (0.0 if name.endswith("bias") else 1.0))
        for name, one in module.named_buffers():
            if name.endswith("running_mean"):
                one.copy_(0.1 * normal(one))
            elif name.endswith("running_var"):
                one.copy_(torch.rand(one.shape, generator=generator) + 0.5)
    return module.eval()


def small_classifier(channels: int = 1, side: int = 8, classes: int = 10) -> nn.Module:
    """A convolution with batch norm, and a dense layer."""
    return randomised(
        nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(8 * side * side, classes),
        )
    )  # fmt: skip


def pooled_classifier() -> nn.Module:
    """The network in tests/convert/small.pt2, of images (N, 2, 4, 6)."""
    return randomised(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(18, 5),
        )
    )  # fmt: skip
