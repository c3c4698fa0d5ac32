"""The published networks in PyTorch, for comparing logits: `scripts/convert.py --check`.

Written from their descriptions (module docstrings in dsrs_jax/models), with the parameter names of
the published checkpoints. Inputs are (N, C, H, W) and already scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsrs_jax.system.errors import UserError


class _Block(nn.Module):
    """A residual block of ResNets: basic (`expansion` 1) or bottleneck (4)."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion == 1:
            shapes = [(channels_in, channels, 3, stride), (channels, channels, 3, 1)]
        else:
            shapes = [
                (channels_in, channels, 1, 1),
                (channels, channels, 3, stride),
                (channels, wide, 1, 1),
            ]
        self.depth = len(shapes)
        for number, (a, b, kernel, step) in enumerate(shapes, start=1):
            layer = nn.Conv2d(a, b, kernel, step, padding=kernel // 2, bias=False)
            setattr(self, f"conv{number}", layer)
            setattr(self, f"bn{number}", nn.BatchNorm2d(b))
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            if stride != 1 or channels_in != wide
            else nn.Sequential()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.depth + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            if number < self.depth:
                out = torch.relu(out)
        return torch.relu(out + self.downsample(x))


class _ResNet(nn.Module):
    def __init__(self, stem: nn.Conv2d, pool: nn.Module, widths: list[int], blocks: list[int],
                 expansion: int, classes: int) -> None:  # fmt: skip
        super().__init__()
        self.conv1, self.pool = stem, pool
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.stages = len(widths)
        before = stem.out_channels
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            stage = []
            for i in range(count):
                stride = 2 if i == 0 and number > 1 else 1
                stage.append(_Block(before, width, stride, expansion))
                before = width * expansion
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            out = getattr(self, f"layer{number}")(out)
        return self.fc(out.mean(dim=(2, 3)))


class _WideBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(torch.relu(self.bn1(x)))
        return self.conv2(torch.relu(self.bn2(out))) + self.shortcut(x)


class _WideResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.layer1 = nn.Sequential(_WideBlock(16, 160, 1))
        self.layer2 = nn.Sequential(_WideBlock(160, 320, 2))
        self.layer3 = nn.Sequential(_WideBlock(320, 640, 2))
        self.bn1 = nn.BatchNorm2d(640)
        self.linear = nn.Linear(2560, 200)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        out = functional.avg_pool2d(torch.relu(self.bn1(out)), 7)
        return self.linear(out.flatten(1))


class _LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = functional.max_pool2d(torch.relu(self.conv2(out)), 2)
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


def _mnist_43() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 4, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip


def _fashion_22full() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.BatchNorm2d(32), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=2), nn.ReLU(), nn.BatchNorm2d(64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10),
    )  # fmt: skip


def _cifar_resnet(depth: int) -> nn.Module:
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return _ResNet(stem, nn.Identity(), [16, 32, 64], [(depth - 2) // 6] * 3, 1, 10)


def _resnet50() -> nn.Module:
    stem = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
    pool = nn.MaxPool2d(3, 2, padding=1)
    return _ResNet(stem, pool, [64, 128, 256, 512], [3, 4, 6, 3], 4, 1000)


_NETWORKS = {
    "mnist_43": _mnist_43,
    "lenet": _LeNet,
    "fashion_22full": _fashion_22full,
    "cifar_resnet20": lambda: _cifar_resnet(20),
    "cifar_resnet110": lambda: _cifar_resnet(110),
    "wide_resnet_imagenet64": _WideResNet,
    "resnet50": _resnet50,
}


def pytorch_model(arch: str) -> nn.Module:
    """The PyTorch network of an architecture, with random weights, in training mode.

    Raises UserError for one that was never published in PyTorch.
    """
    if arch not in _NETWORKS:
        raise UserError(f"{arch} has no PyTorch network; known: {', '.join(_NETWORKS)}")
    return _NETWORKS[arch]()
