"""Training images a second for each method, beside PyTorch doing the same steps.

    python benchmarks/train.py [--arch mnist_43] [--batch 256] [--batches 4] [--dtype bfloat16]
    python benchmarks/train.py --stream [--arch resnet18] [--batch 16]

Both do the whole step on the same random images: noise of the generalized Gaussian, inner attack,
loss, update; with bfloat16 PyTorch's side is compiled and under autocast. The last columns are the
cost of a method in passes (forward and backward) of Gaussian augmentation, as measured and as its
number of passes predicts.

`--stream` trains on JPEG files and prints the share of the time in which the devices waited for
images, and how many images a second are decoded, beside torchvision's loader.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import loading
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dsrs_jax import data, models
from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.train import EpochInfo, Reading, Recipe, train

# Those of the paper, with the passes that each takes beside its attack steps.
PASSES = {"gaussian": 1, "smoothadv": 1, "consistency": 1, "smoothmix": 2}


def ours(dataset: data.ArrayDataset, recipe: Recipe) -> float:
    """Images a second in the fastest epoch but the first, which is compiled."""
    speeds: list[float] = []
    train(dataset, recipe, on_epoch=lambda info: speeds.append(info.images_per_second))
    return max(speeds[1:])


class PyTorchSteps:
    """The four methods' steps in PyTorch."""

    def __init__(self, dataset: data.ArrayDataset, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = pytorch_model(recipe.arch).to(self.device)
        self.mixed = recipe.dtype == "bfloat16"
        self.forward = torch.compile(self.network) if self.mixed else self.network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=1e-4
        )
        pixels = torch.from_numpy(dataset.images.transpose(0, 3, 1, 2).copy())
        self.images = pixels.to(self.device)
        self.labels = torch.from_numpy(dataset.labels.astype(np.int64)).to(self.device)
        dimension = math.prod(dataset.image_shape)
        shape = dimension / 2 - recipe.k
        self.level = torch.distributions.Gamma(torch.tensor(shape), torch.tensor(1.0))
        self.scale = recipe.sigma * math.sqrt(dimension / shape)

    def noise(self, like: Tensor) -> Tensor:
        direction = torch.randn(self.recipe.noise_draws, *like.shape, device=self.device)
        length = self.scale * self.level.sample(direction.shape[:2]).sqrt().to(self.device)
        norms = direction.flatten(2).norm(dim=2)
        return direction * (length / norms)[:, :, None, None, None]

    def logits(self, images: Tensor, noise: Tensor) -> Tensor:
        # The networks take scaled input: [0, 1] to [-1, 1].
        noisy = (images[None] + noise).flatten(0, 1)
        automatic = torch.autocast(self.device, torch.bfloat16, enabled=self.mixed)
        with automatic:
            logits = self.forward((noisy - 0.5) / 0.5)
        return logits.float().view(len(noise), len(images), -1)

    def ascent(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        current = images.detach().requires_grad_()
        mean = self.logits(current, noise).softmax(-1).mean(0)
        loss = -mean.gather(1, labels[:, None]).log().sum()
        gradient = torch.autograd.grad(loss, current)[0]
        return gradient / (gradient.flatten(1).norm(dim=1)[:, None, None, None] + 1e-8)

    def step(self, images: Tensor, labels: Tensor) -> None:
        recipe, noise = self.recipe, self.noise(images)
        clean, far = images, images
        if recipe.method in ("smoothadv", "smoothmix"):
            self.network.eval().requires_grad_(False)
            for number in range(recipe.steps):
                if number == recipe.mix_step and recipe.method == "smoothmix":
                    clean = far
                direction = self.ascent(far, labels, noise)
                if recipe.method == "smoothadv":
                    radius = recipe.epsilon / 256
                    offset = far + 2 * radius / recipe.steps * direction - images
                    length = offset.flatten(1).norm(dim=1)[:, None, None, None]
                    offset = offset * (radius / (length + 1e-8)).clamp(max=1)
                    far = (images + offset).clamp(0, 1)
                else:
                    far = (far + recipe.step_size * direction).clamp(0, 1)
            self.network.train().requires_grad_(True)
            clean = far if recipe.method == "smoothadv" else clean
        logits = self.logits(clean, noise)
        flat = labels.repeat(recipe.noise_draws)
        loss = functional.cross_entropy(logits.flatten(0, 1), flat)
        mean = logits.softmax(-1).mean(0)
        if recipe.method == "consistency":
            divergence = mean[None] * (mean.log()[None] - logits.log_softmax(-1))
            loss = loss + recipe.weight * divergence.sum(-1).mean()
            loss = loss - 0.5 * (mean * mean.log()).sum(-1).mean()
        elif recipe.method == "smoothmix":
            share = torch.rand(len(images), device=self.device) / 2
            part = share[:, None, None, None]
            mixed = self.logits((1 - part) * clean + part * far, noise)
            soft = (1 - share[:, None]) * mean + share[:, None] / mean.shape[1]
            divergence = (soft[None] * (soft.log()[None] - mixed.log_softmax(-1))).sum(-1)
            right = (mean.argmax(1) == labels).float()
            loss = loss + recipe.weight * (right[None] * divergence).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def epoch(self) -> float:
        """Images a second over all batches."""
        size = self.recipe.batch // self.recipe.noise_draws
        clock, count = time.perf_counter(), 0
        for first in range(0, len(self.images) - size + 1, size):
            self.step(self.images[first : first + size], self.labels[first : first + size])
            count += size
        if self.device == "cuda":
            torch.cuda.synchronize()
        return count / (time.perf_counter() - clock)


def streamed(arch: str, batch: int, batches: int) -> None:
    """Prints what training on JPEG files waits for."""
    found = loading.measure()  # first, for PyTorch's loader forks: not beside JAX's threads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loading.write_images(folder, batch * batches)
        training = data.load("imagenet", "train", folder)
        recipe = Recipe(arch, k=75260.0, epochs=3, batch=batch, learning_rate=0.001)
        seen: list[EpochInfo] = []
        train(training, recipe, reading=Reading(workers=2), on_epoch=seen.append)
    best = max(seen[1:], key=lambda info: info.images_per_second)
    theirs = found.torchvision / found.workers
    print("| trained, images/s | waiting | decoded, images/s a core | torchvision's | ratio |")
    print("|--:|--:|--:|--:|--:|")
    print(
        f"| {best.images_per_second:,.1f} | {100 * best.input_wait:.1f}% "
        f"| {found.ours_a_core:,.0f} | {theirs:,.0f} | {found.ratio:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=models.ARCHITECTURES[1:])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--batches", type=int, default=4, help="of an epoch")
    parser.add_argument("--noise-draws", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="of the inner attacks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--methods", nargs="+", choices=tuple(PASSES), default=list(PASSES))
    parser.add_argument("--stream", action="store_true", help="train on JPEG files")
    settings = parser.parse_args()
    if settings.stream:
        streamed(settings.arch or "resnet18", settings.batch or 16, settings.batches)
        return
    found = models.architecture(settings.arch or "mnist_43")
    batch = settings.batch or 256
    rng = np.random.default_rng(0)
    count = batch * settings.batches
    images = rng.random((count, *found.image_shape), np.float32)
    labels = rng.integers(0, found.classes, count).astype(np.int32)
    # Without random views, which PyTorch's side leaves out too.
    dataset = data.ArrayDataset("npz", "train", images, labels, found.classes)
    k = 0.48 * math.prod(found.image_shape)
    print("| method | ours, images/s | PyTorch | ratio | cost in passes | predicted |")
    print("|---|--:|--:|--:|--:|--:|")
    base = 0.0
    for method in settings.methods:
        recipe = Recipe(
            settings.arch or "mnist_43", method, k=k, noise_draws=settings.noise_draws, epochs=4,
            batch=batch, steps=settings.steps, mix_step=1, dtype=settings.dtype,
        )  # fmt: skip
        speed = ours(dataset, recipe)
        base = base or speed
        torch_steps = PyTorchSteps(dataset, recipe)
        torch_steps.epoch()
        theirs = max(torch_steps.epoch() for _ in range(3))
        attack = settings.steps if method in ("smoothadv", "smoothmix") else 0
        print(
            f"| {method} | {speed:,.0f} | {theirs:,.0f} | {speed / theirs:.2f} "
            f"| {base / speed:.2f} | {PASSES[method] + attack} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
