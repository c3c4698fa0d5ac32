"""Images a second that training can read from JPEG files, beside torchvision's loader.

    python benchmarks/loading.py [--images 300] [--seconds 8] [--workers N]

Both read the same files of 500 x 375 pixels, as ImageNet's usually are, and make the same random
view of 224 x 224 with as many worker processes; each runs alone, warm, for some seconds, in turn.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from dsrs_jax.data import Stream, load

_CLASSES = ("n01440764", "n02102040")


class Loading(NamedTuple):
    """Images a second, all workers together: the median of the rounds."""

    ours: float
    torchvision: float
    workers: int

    @property
    def ours_a_core(self) -> float:
        return self.ours / self.workers

    @property
    def ratio(self) -> float:
        return self.ours / self.torchvision


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Photograph-like JPEGs (noise of every scale, some 100 kB) in ImageNet's layout: train/."""
    rng = np.random.default_rng(seed)
    scales = {0.6: 45.0, 1.5: 30.0, 5.0: 25.0, 20.0: 30.0, 80.0: 40.0}
    layers = [
        (weight / layer.std(), layer)
        for scale, weight in scales.items()
        for layer in [
            ndimage.gaussian_filter(rng.standard_normal((3, 640, 800)), (0, scale, scale))
        ]
    ]
    for number in range(count):
        picture = np.full((3, 375, 500), 125.0)
        for weight, layer in layers:
            top, left = rng.integers(0, 265), rng.integers(0, 300)
            picture += weight * layer[:, top : top + 375, left : left + 500]
        place = folder / "train" / _CLASSES[number % 2] / f"{number:05d}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(picture.transpose(1, 2, 0), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place, quality=90)


def _speed(batches: Iterator[Any], images: int, seconds: float) -> float:
    """Images a second of batches of so many, after all workers have begun."""
    for _ in range(4):
        next(batches)
    clock, seen = time.perf_counter(), 0
    while time.perf_counter() - clock < seconds:
        next(batches)
        seen += images
    return seen / (time.perf_counter() - clock)


def ours(folder: Path, workers: int, seconds: float, batch: int = 64) -> float:
    """Images a second of `dsrs_jax.data.Stream`."""
    dataset = load("imagenet", "train", folder)
    stream = Stream(dataset, seed=0, batch=batch, workers=workers, say=print)
    with contextlib.closing(stream(0)) as batches:
        return _speed(batches, batch, seconds)


def torchvisions(folder: Path, workers: int, seconds: float, batch: int = 64) -> float:
    """Images a second of `ImageFolder`, the usual transforms and PyTorch's `DataLoader`."""
    from torch.utils.data import DataLoader, RandomSampler

    _import_torchvision()
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    found = datasets.ImageFolder(str(folder / "train"), transform)
    # One long epoch: PyTorch starts its workers again for each.
    sampler = RandomSampler(found, replacement=True, num_samples=10**7)
    loader = DataLoader(
        found, batch, sampler=sampler, num_workers=workers, worker_init_fn=_import_torchvision
    )
    return _speed(iter(loader), batch, seconds)


def _import_torchvision(worker: int = 0) -> None:
    """Also where torchvision's compiled operators, which nothing here uses, do not load."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
    import torchvision_without_kernels

    torchvision_without_kernels.make_importable()


def measure(images: int = 300, seconds: float = 8.0, workers: int = 0, rounds: int = 3) -> Loading:
    """Both speeds with so many workers (0: as many as there are cores), in alternating rounds."""
    workers = workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, images)
        pairs = [
            (ours(folder, workers, seconds), torchvisions(folder, workers, seconds))
            for _ in range(rounds)
        ]
    mine, theirs = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    return Loading(mine, theirs, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300, help="files that are written")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round")
    parser.add_argument("--workers", type=int, default=0, help="0: as many as there are cores")
    settings = parser.parse_args()
    found = measure(settings.images, settings.seconds, settings.workers)
    print("| loader | images/s | images/s a core | ratio |")
    print("|---|--:|--:|--:|")
    print(f"| ours | {found.ours:,.0f} | {found.ours_a_core:,.0f} | {found.ratio:.2f} |")
    theirs = found.torchvision
    print(f"| torchvision | {theirs:,.0f} | {theirs / found.workers:,.0f} | 1 |")


if __name__ == "__main__":
    main()
