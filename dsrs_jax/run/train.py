"""Trains a classifier under smoothing noise, for `dsrs-jax certify --model OUT`.

  dsrs-jax train --dataset mnist --data-dir DIR --method consistency --num-noise-vec 2 \\
      --sigma 0.5 --k 380 --k-warmup 100 --out runs/mnist_43

Methods: gaussian (Cohen et al., 2019), smoothadv (Salman et al., 2019), macer (Zhai et al., 2020),
consistency (Jeong and Shin, 2020), smoothmix (Jeong et al., 2021), catrs (Jeong et al., 2023), each
under noise whose k grows during training (Li et al., 2022). All devices share each step.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from dsrs_jax import data
from dsrs_jax.report import progress
from dsrs_jax.run.model import model_folder
from dsrs_jax.run.settings import CompilationOptions, ProcessOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import group, option
from dsrs_jax.system.output import complain
from dsrs_jax.system.processes import together
from dsrs_jax.train import EpochInfo, Reading, Recipe, recorded_steps, train
from dsrs_jax.train.recipe import check, cut_of

_ARCH = {"digits": "digits_cnn", "mnist": "mnist_43"}
# Images below which starting processes costs more than it saves.
_SMALL = 10_000
_MOST_WORKERS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Run."""

    dataset: str = option("digits", "data set", choices=data.DATASETS, often=True)
    data_dir: str | None = option(
        None, "folder of its files, or tfds:NAME", metavar="DIR", often=True, local=True
    )
    out: str = option(help="run directory", metavar="DIR", often=True, local=True)
    resume: bool = option(False, "continue the run in --out", often=True)
    pretrained: str | None = option(
        None, "start from this model, run or .pth.tar", metavar="PATH", local=True
    )
    workers: int | None = option(
        None,
        "processes that read image files (0: threads); default: one a core, small sets 0",
        metavar="N",
    )
    skip_unreadable: bool = option(False, "put the next image in the place of a damaged one")
    save_every: float = option(10.0, "minutes between states within an epoch", metavar="M")
    recipe: Recipe = group(Recipe)
    processes: ProcessOptions = group(ProcessOptions)
    compilation: CompilationOptions = group(CompilationOptions)


def run(settings: Settings, words: Sequence[str]) -> None:
    """Trains, and records each epoch in `out`.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged.
    """
    del words
    settings.compilation.apply()
    settings.processes.initialize()
    console = Console(quiet=jax.process_index() > 0)
    recipe, training, test, pretrained = together(lambda: _read(settings))
    cut = cut_of(training, recipe)
    images = recipe.epochs * cut.steps * cut.size
    done_before = recorded_steps(Path(settings.out))
    if settings.resume and not done_before:
        console.print(
            f"{settings.out} has no state to continue from: the training begins.",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    streamed = not isinstance(training, data.ArrayDataset)

    def show(info: EpochInfo) -> None:
        tested = "" if test is None else f", on test images {100 * info.test_accuracy:.1f}%"
        waited = f", {100 * info.input_wait:.0f}% waiting for images" if streamed else ""
        console.print(
            f"epoch {info.epoch + 1}/{recipe.epochs}: k {info.k:g}, loss {info.loss:.4f}, correct "
            f"under noise {100 * info.accuracy:.1f}%{tested}; "
            f"{info.images_per_second:,.0f} images/s{waited}",
            soft_wrap=True,
        )

    with progress(console, "training", images, "images") as advance:
        train(
            training,
            recipe,
            test=test,
            out=Path(settings.out),
            resume=settings.resume,
            save_every=60.0 * settings.save_every,
            pretrained=pretrained,
            reading=Reading(_workers(settings, training), settings.skip_unreadable, complain),
            on_epoch=show,
            on_batch=advance,
        )
    model = Path(settings.out) / "model"
    if done_before == recipe.epochs * cut.steps:
        end = f"{model} has all {recipe.epochs} epochs: nothing to train"
    else:
        end = f"saved {model}"
    console.print(end, soft_wrap=True, markup=False, highlight=False)


def _read(settings: Settings) -> tuple[Recipe, data.Dataset, data.Dataset | None, Path | None]:
    arch = settings.recipe.arch or _ARCH.get(settings.dataset)
    if arch is None:
        raise UserError(f"--dataset {settings.dataset} needs --arch")
    if not settings.save_every > 0.0:
        raise UserError(f"--save-every must be positive, got {settings.save_every}")
    if settings.workers is not None and settings.workers < 0:
        raise UserError(f"--workers must not be negative, got {settings.workers}")
    training = data.load(settings.dataset, "train", settings.data_dir)
    recipe = dataclasses.replace(settings.recipe, arch=arch)
    check(training, recipe)  # before test images are looked for
    test = (
        None
        if _has_only_train(settings)
        else data.load(settings.dataset, "test", settings.data_dir)
    )
    if test is not None and test.image_shape != training.image_shape:
        raise UserError(
            f"the test images have the shape {test.image_shape}, those of training "
            f"{training.image_shape}"
        )
    others = None if test is None or _same(training, test) else test
    if settings.pretrained is None:
        return recipe, training, others, None
    from_file = Path(settings.pretrained).is_file()
    folder = model_folder(settings.pretrained, arch if from_file else None)
    return recipe, training, others, folder


def _has_only_train(settings: Settings) -> bool:
    """Whether a folder with train/ has no val/: there is nothing to test on, and training does."""
    folder = Path(settings.data_dir or "")
    of_files = settings.dataset in ("imagenet", "tinyimagenet")
    return of_files and (folder / "train").is_dir() and not (folder / "val").is_dir()


def _same(training: data.Dataset, test: data.Dataset) -> bool:
    """Whether they are one: a file, or a folder without test/, gives its images as both."""
    if len(training) != len(test):
        return False
    if isinstance(training, data.ArrayDataset) and isinstance(test, data.ArrayDataset):
        return np.array_equal(training.images, test.images)
    try:
        ends = [(training.view(i)[0], test.view(i)[0]) for i in (0, len(test) - 1)]
    except data.UnreadableImage:
        return False
    return all(np.array_equal(first, second) for first, second in ends)


def _workers(settings: Settings, training: data.Dataset) -> int:
    if settings.workers is not None:
        return settings.workers
    return 0 if len(training) < _SMALL else min(_MOST_WORKERS, os.cpu_count() or 1)
