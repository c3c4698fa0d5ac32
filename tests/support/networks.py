"""PyTorch networks as users have them: a denoiser, a small diffusion model, and classifiers."""

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


class DnCNN(nn.Module):
    """The noise that a stack of convolutions finds is taken away (Salman et al., 2020)."""

    def __init__(self, channels: int = 3, wide: int = 16, depth: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            convolution = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(wide, channels, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - self.layers(images)


class _Residual(nn.Module):
    """Group norm, SiLU and convolution twice, the time added between."""

    def __init__(self, channels_in: int, channels: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels_in), nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(time, 2 * channels)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        scale, shift = self.time(nn.functional.silu(time))[..., None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(nn.functional.silu(h))


class _Attention(nn.Module):
    """Self-attention over the pixels."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(4, channels), heads
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm(x).reshape(n, channels, -1)).chunk(3, dim=1)
        q, k, v = (
            one.reshape(n * self.heads, channels // self.heads, height * width) for one in (q, k, v)
        )
        scale = (channels // self.heads) ** -0.25
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        mixed = torch.einsum("bts,bcs->bct", weights, v).reshape(n, channels, -1)
        return x + self.out(mixed).reshape(x.shape)


class UNet(nn.Module):
    """The noise in x at time t, by a U-Net of two levels (Dhariwal and Nichol, 2021)."""

    def __init__(self, wide: int = 16) -> None:
        super().__init__()
        self.wide, time = wide, 4 * wide
        self.time = nn.Sequential(nn.Linear(wide, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(3, wide, 3, padding=1)
        self.down1, self.down2 = _Residual(wide, wide, time), _Residual(wide, 2 * wide, time)
        self.halve = nn.Conv2d(wide, wide, 3, stride=2, padding=1)
        self.attention = _Attention(2 * wide)
        self.up2, self.up1 = _Residual(2 * wide, wide, time), _Residual(2 * wide, wide, time)
        self.norm, self.last = nn.GroupNorm(4, wide), nn.Conv2d(wide, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.wide // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
        angles = t[:, None].float() * frequencies[None]
        time = self.time(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))
        high = self.down1(self.first(x), time)
        low = self.attention(self.down2(self.halve(high), time))
        low = self.up2(low, time)
        up = nn.functional.interpolate(low, scale_factor=2, mode="nearest")
        h = self.up1(torch.cat([up, high], dim=1), time)
        return self.last(nn.functional.silu(self.norm(h)))


class DenoiseThenClassify(nn.Module):
    """One denoising step at the time whose noise is sigma, then a classifier of larger images.

    Carlini et al., "(Certified!!) Adversarial Robustness for Free!", ICLR 2023.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, sigma: float, side: int) -> None:
        super().__init__()
        self.denoiser, self.classifier, self.side = denoiser, classifier, side
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
        # Images in [-1, 1]: sigma counts twice.
        self.t = int(torch.argmin(((1 - kept) / kept - (2 * sigma) ** 2).abs()))
        self.kept = float(kept[self.t])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = math.sqrt(self.kept) * (2 * images - 1)
        t = torch.full((len(x),), self.t, device=x.device)
        noise = self.denoiser(x, t)
        clean = (x - math.sqrt(1 - self.kept) * noise) / math.sqrt(self.kept)
        pixels = (clean.clamp(-1, 1) + 1) / 2
        larger = nn.functional.interpolate(
            pixels, (self.side, self.side), mode="bilinear", align_corners=False
        )
        return self.classifier(larger)


class SmallViT(nn.Module):
    """Patches of 8 pixels, a class token, two transformer layers of PyTorch's."""

    def __init__(self, side: int, classes: int = 10, wide: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, wide, 8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, wide))
        self.places = nn.Parameter(torch.zeros(1, 1 + (side // 8) ** 2, wide))
        layer = nn.TransformerEncoderLayer(
            wide, 4, 2 * wide, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        return self.head(self.layers(x)[:, 0])


def small_classifier(channels: int = 1, side: int = 8, classes: int = 10) -> nn.Module:
    """A convolution with batch norm, and a dense layer."""
    return randomised(
        nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Linear(8 * side * side, classes),
        )
    )  # fmt: skip
