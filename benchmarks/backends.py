"""Draws a second of PyTorch modules: PyTorch's own loop, eager and compiled, beside our backends.

    python benchmarks/backends.py [--seconds 3] [--only resnet50] [--dtypes float32]

PyTorch's loop draws Gaussian noise, adds it, classifies and counts a batch, as Cohen et al.'s code
does. Ours draw the same number at a time through `votes.Sampler`. Both on the GPU, if there is one.
A ratio is of the best PyTorch loop.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from dsrs_jax import models, noise
from dsrs_jax.convert.pytorch import TorchClassifier, in_jax, prepared
from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.votes import Sampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from networks import DenoiseThenClassify, UNet, randomised

SIGMA = 0.5


def pipeline() -> torch.nn.Module:
    """A U-Net on 32 x 32 pixels, then ViT-B/16 on 224 x 224."""
    vit = pytorch_model("vit_base_patch16_224")
    return randomised(DenoiseThenClassify(UNet(64), vit, SIGMA, 224))


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "resnet110": (lambda: randomised(pytorch_model("cifar_resnet110")), 32),
    "resnet50": (lambda: randomised(pytorch_model("resnet50")), 224),
    "ViT-B/16": (lambda: randomised(pytorch_model("vit_base_patch16_224")), 224),
    "denoise, ViT-B/16": (pipeline, 32),
}


def rate(call: Callable[[], object], draws: int, seconds: float) -> float:
    """Draws a second of the fastest call, after two first ones."""
    call(), call()
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < seconds or math.isinf(best):
        clock = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - clock)
    return draws / best


def of_pytorch(module: Any, side: int, batch: int, dtype: str, compiled: bool, s: float) -> float:
    """PyTorch's own loop."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    network = module.to(place)
    forward = torch.compile(network) if compiled else network
    image = torch.rand(3, side, side, device=place)
    counts = torch.zeros(1000, dtype=torch.int64, device=place)

    def call() -> None:
        with (
            torch.no_grad(),
            torch.autocast(place, dtype=torch.bfloat16, enabled=dtype == "bfloat16"),
        ):
            noisy = image + SIGMA * torch.randn(batch, 3, side, side, device=place)
            answers = forward(noisy).argmax(dim=1)
            counts.add_(torch.bincount(answers, minlength=1000))
        counts.sum().item()

    found = rate(call, batch, s)
    module.cpu()
    torch._dynamo.reset()
    return found


def of_ours(classifier: models.BaseClassifier, tiles: int, seconds: float) -> float:
    """`votes.Sampler`, with sound draws, which are ours by default."""
    shape = classifier.metadata.image_shape
    sampler = Sampler(classifier, grid=255)
    law = noise.generalized_gaussian(math.prod(shape), SIGMA, 0.0, 2.0)
    images = np.zeros((sampler.devices, *shape), np.float32)
    labels = np.zeros(len(images), np.int32)
    n = tiles * sampler.tile(math.prod(shape))
    return rate(lambda: sampler.start(images, labels, law, n).result(), n * len(images), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=list(models.DTYPES), choices=models.DTYPES)
    options = parser.parse_args()
    use_all_cores()
    device = jax.devices()[0].device_kind
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"JAX: {device}; PyTorch {torch.__version__}: {gpu}; draws a second (of the best loop)")
    print("| network | dtype | draws at once | eager | compiled | torch | torch-compiled | jax |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in NETWORKS if options.only is None else [options.only]:
        make, side = NETWORKS[name]
        shape = (side, side, 3)
        none = models.input_scaling("cifar10", "none")
        module, classes = prepared(make(), name, shape, none)
        metadata = models.ModelMetadata(name, "cifar10", shape, classes)
        for dtype in options.dtypes:
            ours: list[Callable[[], models.BaseClassifier]] = [
                partial(TorchClassifier, module, metadata, none, dtype=dtype),
                partial(TorchClassifier, module, metadata, none, dtype=dtype, compiled=True),
                partial(in_jax, module, name, metadata, none, dtype),
            ]
            tile = Sampler(ours[0]()).tile(math.prod(shape))
            loops = [
                of_pytorch(module, side, tile, dtype, compiled, options.seconds)
                for compiled in (False, True)
            ]
            best = max(loops)
            cells = [f"{one:,.1f}" for one in loops]
            for make_one in ours:
                speed = of_ours(make_one(), 1 if tile < 100 else 4, options.seconds)
                cells.append(f"{speed:,.1f} ({speed / best:.2f})")
                torch._dynamo.reset()
            print(f"| {name} | {dtype} | {tile} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
