"""The published networks in PyTorch, for comparing logits: `scripts/convert.py --check`.

Written from their descriptions (module docstrings in dsrs_jax/models), with the parameter names of
the published checkpoints. Inputs are (N, C, H, W) and already scaled.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsrs_jax.system.errors import UserError


class _Pad(nn.Module):
    """Every second pixel, and zeros as further channels, half of them before the others."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        zeros = x.new_zeros(batch, self.more // 2, (height + 1) // 2, (width + 1) // 2)
        return torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)


class _Block(nn.Module):
    """A residual block of ResNets: basic (`expansion` 1) or bottleneck (4)."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, expansion: int, padded: bool
    ) -> None:
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
        self.downsample: nn.Module = nn.Sequential()
        if padded and channels_in != wide:
            self.downsample = _Pad(wide - channels_in)
        elif stride != 1 or channels_in != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
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
                 expansion: int, classes: int, padded: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.conv1, self.pool = stem, pool
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.stages = len(widths)
        before = stem.out_channels
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            stage = []
            for i in range(count):
                stride = 2 if i == 0 and number > 1 else 1
                stage.append(_Block(before, width, stride, expansion, padded))
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


class _PreActivatedBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.same = channels_in == channels
        if not self.same:
            self.convShortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.relu(self.bn1(x))
        out = self.conv2(torch.relu(self.bn2(self.conv1(before))))
        return out + (x if self.same else self.convShortcut(before))


class _CifarWideResNet(nn.Module):
    """In TRADES' names; without its `sub_block1`, which has weights and is never called."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        count, before = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(3, before, 3, padding=1, bias=False)
        for number, channels in enumerate((16 * width, 32 * width, 64 * width), start=1):
            blocks = []
            for i in range(count):
                blocks.append(
                    _PreActivatedBlock(before, channels, 2 if i == 0 and number > 1 else 1)
                )
                before = channels
            group = nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks)))
            setattr(self, f"block{number}", group)
        self.bn1 = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        for number in (1, 2, 3):
            out = getattr(self, f"block{number}")(out)
        return self.fc(torch.relu(self.bn1(out)).mean(dim=(2, 3)))


class _Attention(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        # (images, tokens, features) -> (images, heads, tokens, features of a head)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        out = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))


class _TransformerBlock(nn.Module):
    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attn = _Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(features, 4 * features),
                act=nn.GELU(),
                fc2=nn.Linear(4 * features, features),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.attn(self.norm1(x))
        return out + self.mlp(self.norm2(out))


class _VisionTransformer(nn.Module):
    """ViT-B/16 at 224 pixels, in timm's names."""

    def __init__(self) -> None:
        super().__init__()
        features = 768
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, features))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + 14 * 14, features))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, features, 16, 16)))
        self.blocks = nn.Sequential(*(_TransformerBlock(features, 12) for _ in range(12)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, 1000)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(x), -1, -1)
        out = self.blocks(torch.cat([first, patches], dim=1) + self.pos_embed)
        return self.head(self.norm(out)[:, 0])


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


def _cifar_resnet(depth: int, padded: bool = False) -> nn.Module:
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    blocks = [(depth - 2) // 6] * 3
    return _ResNet(stem, nn.Identity(), [16, 32, 64], blocks, 1, 10, padded)


def _imagenet_resnet(blocks: list[int], expansion: int) -> nn.Module:
    stem = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
    pool = nn.MaxPool2d(3, 2, padding=1)
    return _ResNet(stem, pool, [64, 128, 256, 512], blocks, expansion, 1000)


_NETWORKS = {
    "mnist_43": _mnist_43,
    "lenet": _LeNet,
    "fashion_22full": _fashion_22full,
    "cifar_resnet20": lambda: _cifar_resnet(20),
    "cifar_resnet56": lambda: _cifar_resnet(56),
    "cifar_resnet110": lambda: _cifar_resnet(110),
    "cifar_resnet20_a": lambda: _cifar_resnet(20, padded=True),
    "cifar_resnet56_a": lambda: _cifar_resnet(56, padded=True),
    "cifar_resnet110_a": lambda: _cifar_resnet(110, padded=True),
    "cifar_wrn_28_10": lambda: _CifarWideResNet(28, 10),
    "cifar_wrn_34_10": lambda: _CifarWideResNet(34, 10),
    "wide_resnet_imagenet64": _WideResNet,
    "resnet18": lambda: _imagenet_resnet([2, 2, 2, 2], 1),
    "resnet34": lambda: _imagenet_resnet([3, 4, 6, 3], 1),
    "resnet50": lambda: _imagenet_resnet([3, 4, 6, 3], 4),
    "resnet101": lambda: _imagenet_resnet([3, 4, 23, 3], 4),
    "vit_base_patch16_224": _VisionTransformer,
}


def pytorch_model(arch: str) -> nn.Module:
    """The PyTorch network of an architecture, with random weights, in training mode.

    Raises UserError for one that was never published in PyTorch.
    """
    if arch not in _NETWORKS:
        raise UserError(f"{arch} has no PyTorch network; known: {', '.join(_NETWORKS)}")
    return _NETWORKS[arch]()
