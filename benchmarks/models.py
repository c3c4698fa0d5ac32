"""Images a second of every published architecture, beside PyTorch on the same machine and batch.

    python benchmarks/models.py [--batch 64] [--seconds 2]

Forward passes only, on the default device of each (PyTorch: CPU, or CUDA if it has one). Also
the seconds and the memory that converting a ResNet-50 checkpoint takes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dsrs_jax import models
from dsrs_jax.convert.pytorch_models import pytorch_model

# A batch of large images is cut, so that a laptop ends within minutes.
MOST_PIXELS = 64 * 56 * 56 * 3


def throughput(call: Callable[[], object], batch: int, seconds: float) -> float:
    """Images a second of repeated calls, after a first one."""
    call()
    clock, calls = time.perf_counter(), 0
    while time.perf_counter() - clock < seconds:
        call()
        calls += 1
    return batch * calls / (time.perf_counter() - clock)


def of_jax(arch: str, dtype: str, images: np.ndarray, seconds: float) -> float:
    """Of our model."""
    model = models.build(arch, 0, dtype=jnp.dtype(dtype))
    found = models.architecture(arch)
    description = models.ModelMetadata(arch, found.dataset, found.image_shape, found.classes)
    classifier = models.Classifier.from_model(model, description)
    forward = jax.jit(models.Classifier.__call__)
    on_device = jnp.asarray(images)
    return throughput(
        lambda: jax.block_until_ready(forward(classifier, on_device)), len(images), seconds
    )


def of_pytorch(arch: str, dtype: str, images: np.ndarray, seconds: float) -> float:
    """Of the PyTorch network."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = pytorch_model(arch).eval().to(device, getattr(torch, dtype))
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    pixels = pixels.to(device, getattr(torch, dtype))

    def call() -> None:
        with torch.no_grad():
            network(pixels)
        if device == "cuda":
            torch.cuda.synchronize()

    return throughput(call, len(images), seconds)


def conversion() -> None:
    """Converts a ResNet-50 checkpoint with its optimizer's state, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "checkpoint.pth.tar", Path(folder) / "out"
        network = pytorch_model("resnet50")
        state = {f"1.module.{name}": tensor for name, tensor in network.state_dict().items()}
        momentum = {i: {"momentum_buffer": p} for i, p in enumerate(network.parameters())}
        torch.save(
            {"arch": "resnet50", "epoch": 90, "state_dict": state, "optimizer": momentum}, file
        )
        script = Path(__file__).resolve().parents[1] / "scripts" / "convert.py"
        clock = time.perf_counter()
        subprocess.run([sys.executable, str(script), str(file), str(out)], check=True)
        seconds = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"converting resnet50: {seconds:.1f} s, peak memory {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    settings = parser.parse_args()
    conversion()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores; images a second")
    print("| architecture | batch | dtype | ours | PyTorch | ratio |\n|---|--:|---|--:|--:|--:|")
    for arch in models.ARCHITECTURES:
        if arch == "digits_cnn":
            continue
        shape = models.architecture(arch).image_shape
        batch = max(1, min(settings.batch, MOST_PIXELS // int(np.prod(shape))))
        images = np.random.default_rng(0).random((batch, *shape), np.float32)
        for dtype in models.DTYPES:
            ours = of_jax(arch, dtype, images, settings.seconds)
            theirs = of_pytorch(arch, dtype, images, settings.seconds)
            print(
                f"| {arch} | {batch} | {dtype} | {ours:,.1f} | {theirs:,.1f} "
                f"| {ours / theirs:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
