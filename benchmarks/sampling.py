"""Draws a second, beside PyTorch doing what the authors' sampler does on the same machine.

    python benchmarks/sampling.py [--models mnist_43 cifar_resnet110 resnet50] [--seconds 5]
    python benchmarks/sampling.py --scaling       1 to 8 virtual devices, 1 and 2 processes (CPU)
    python benchmarks/sampling.py --memory        peak memory at N = 1,000 and N = 100,000 (CPU)

A draw is noise, forward pass, argmax and count. PyTorch eager: the radius of the noise on the
host, its direction on the device, float32, at the batch of ours and at 64 and 256, the fastest of
them counts; `torch.compile`: the same in bfloat16 at that batch. "Noise" is the share of our time
that remains when the network is replaced by one that only adds up its input.
"""

import argparse
import itertools
import json
import math
import os
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

from dsrs_jax import models, noise
from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.votes import Sampler

K = {784: 380.0, 3072: 1530.0, 150528: 75260.0}
MODELS = ("mnist_43", "cifar_resnet110", "resnet50")
ROOT = Path(__file__).resolve().parents[1]


def per_second(count: Callable[[int], object], first: int, seconds: float) -> float:
    """Draws a second of `count(n)`: n grows until one call takes long enough; best of three."""
    n = first
    while True:
        clock = time.perf_counter()
        count(n)
        taken = time.perf_counter() - clock
        if taken > seconds / 4:
            break
        n = int(n * min(8.0, 1.2 * seconds / 3 / max(taken, 1e-4)))
    best = taken
    for _ in range(2):
        clock = time.perf_counter()
        count(n)
        best = min(best, time.perf_counter() - clock)
    return n / best


def network(arch: str, dtype: str) -> models.Classifier:
    found = models.architecture(arch)
    description = models.ModelMetadata(arch, found.dataset, found.image_shape, found.classes)
    model = models.build(arch, 0, dtype=jnp.dtype(dtype))
    return models.Classifier.from_model(model, description)


def ours(arch: str, dtype: str, seconds: float, grid: int | None) -> tuple[float, float, int]:
    """(draws a second, share of the time that is noise, batch); of sound draws with a grid."""
    shape = models.architecture(arch).image_shape
    dimension = math.prod(shape)
    law = noise.generalized_gaussian(dimension, 0.5, K[dimension])
    image = np.zeros((jax.local_device_count(), *shape), np.float32)
    labels = np.zeros(len(image), np.int32)

    def only_noise(images: jax.Array) -> jax.Array:
        total = jnp.sum(images, axis=(1, 2, 3))
        return jnp.stack([total, -total], axis=1)

    speeds, batch = [], None
    for classifier in (network(arch, dtype), only_noise):
        sampler = Sampler(classifier, batch=batch, grid=grid)
        if batch is None:
            batch = sampler.tune(image[0], law, 10**12)

        def count(n: int, sampler: Sampler = sampler) -> None:
            sampler.start(image, labels, law, n).result()

        count(batch)  # compiles
        speeds.append(len(image) * per_second(count, batch, seconds))
    assert batch is not None
    return speeds[0], speeds[0] / speeds[1], batch


class PyTorch:
    """The authors' way to draw: noise, forward, argmax, bincount."""

    def __init__(self, arch: str, dtype: torch.dtype, compiled: bool) -> None:
        height, width, channels = models.architecture(arch).image_shape
        self.shape, self.dimension = (channels, height, width), channels * height * width
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = dtype
        self.law = noise.generalized_gaussian(self.dimension, 0.5, K[self.dimension])
        self.image = torch.full(self.shape, 0.5, device=self.device)
        model = pytorch_model(arch).eval().to(self.device, dtype)
        self.model = torch.compile(model) if compiled else model
        self.random = np.random.default_rng(0)

    @torch.no_grad()
    def __call__(self, n: int, batch: int) -> int:
        votes = 0
        for _ in range(-(-n // batch)):
            level = self.random.gamma(self.law.shape, size=batch)
            radius = torch.from_numpy((self.law.scale * np.sqrt(level)).astype(np.float32))
            direction = torch.randn((batch, self.dimension), device=self.device)
            direction *= (radius.to(self.device) / direction.norm(dim=1))[:, None]
            noisy = self.image + direction.reshape(batch, *self.shape)
            votes += int((self.model(noisy.to(self.dtype)).argmax(dim=1) == 0).sum())
        return votes


def theirs(arch: str, batch: int, seconds: float, compiled: bool) -> tuple[float, int]:
    """(draws a second, batch) of PyTorch at its best batch."""
    dtype = torch.bfloat16 if compiled else torch.float32
    sampler = PyTorch(arch, dtype, compiled)
    large = sampler.dimension > 10_000
    known = (batch,) if compiled else sorted({batch, 16 if large else 64, 64 if large else 256})
    best = (0.0, 0)
    for size in known:
        sampler(size, size)

        def count(n: int, size: int = size) -> None:
            sampler(n, size)

        best = max(best, (per_second(count, size, seconds), size))
    return best


def speed(names: list[str], seconds: float) -> None:
    print(f"{jax.devices()[0].device_kind} x {jax.local_device_count()}, {os.cpu_count()} cores")
    print("| model | dtype | draws | batch | draws/s | noise | PyTorch eager float32 | ratio "
          "| torch.compile bfloat16 | ratio |")  # fmt: skip
    print("|---|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for arch in names:
        eager, batch = theirs(arch, 32, seconds, compiled=False)
        compiled, _ = theirs(arch, batch, seconds, compiled=True)
        for dtype, grid in itertools.product(models.DTYPES, (255, None)):
            mine, share, own = ours(arch, dtype, seconds, grid)
            draws = "float32" if grid is None else "sound"
            print(
                f"| {arch} | {dtype} | {draws} | {own} | {mine:,.0f} | {100 * share:.1f}% "
                f"| {eager:,.0f} | {mine / eager:.2f} | {compiled:,.0f} | {mine / compiled:.2f} |",
                flush=True,
            )


COUNT = """
import json, resource, sys, time
import numpy as np
from dsrs_jax import models, noise
from dsrs_jax.votes import Sampler
n, images = int(sys.argv[1]), int(sys.argv[2])
description = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10)
classifier = models.Classifier.from_model(models.build("mnist_43", 0), description)
law = noise.generalized_gaussian(784, 0.5, 380.0)
sampler = Sampler(classifier)
pixels, labels = np.full((images, 28, 28, 1), 0.5, np.float32), np.zeros(images, np.int32)
sampler.start(pixels, labels, law, 64).result()
clock = time.perf_counter()
votes = sampler.start(pixels, labels, law, n).result()
seconds = time.perf_counter() - clock
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, votes.correct.tolist()]))
"""


def _count(n: int, images: int, devices: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, str(n), str(images)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def scaling() -> None:
    """Virtual devices and processes share the same cores: 100% means that sharing costs nothing."""
    n, images = 8192, 8
    reference = 0.0
    print("| devices | processes | seconds | efficiency |\n|--:|--:|--:|--:|")
    for devices, processes in ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2)):
        started = [_count(n, images // processes, devices) for _ in range(processes)]
        results = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
        seconds = max(result[0] for result in results)
        reference = reference or seconds
        print(f"| {devices} | {processes} | {seconds:.2f} | {100 * reference / seconds:.0f}% |")


def memory() -> None:
    print("| draws | peak memory |\n|--:|--:|")
    for n in (1_000, 10_000, 100_000):
        peak = json.loads(_count(n, 1, 1).communicate()[0].splitlines()[-1])[1]
        print(f"| {n:,} | {peak:.0f} MiB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--memory", action="store_true")
    settings = parser.parse_args()
    if settings.scaling:
        scaling()
    if settings.memory:
        memory()
    if not (settings.scaling or settings.memory):
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
            use_all_cores()
            speed(settings.models, settings.seconds)


if __name__ == "__main__":
    main()
