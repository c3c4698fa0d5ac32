"""Trains a classifier under smoothing noise, for `dsrs-jax certify --model OUT`.

  dsrs-jax train --dataset mnist --data-dir DIR --method consistency --num-noise-vec 2 \\
      --sigma 0.5 --k 380 --k-warmup 100 --out runs/mnist_43

Methods: gaussian (Cohen et al., 2019), smoothadv (Salman et al., 2019), consistency
(Jeong and Shin, 2020), smoothmix (Jeong et al., 2021), each under noise whose k grows
during training (Li et al., 2022). All devices share each step.
"""

from __future__ import annotations

import dataclasses
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
from dsrs_jax.system.processes import together
from dsrs_jax.train import EpochInfo, Recipe, train

_ARCH = {"digits": "digits_cnn", "mnist": "mnist_43"}


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
    images = recipe.epochs * (len(training) // recipe.batch * recipe.batch or len(training))

    def show(info: EpochInfo) -> None:
        tested = "" if test is None else f", on test images {100 * info.test_accuracy:.1f}%"
        console.print(
            f"epoch {info.epoch + 1}/{recipe.epochs}: k {info.k:g}, loss {info.loss:.4f}, correct "
            f"under noise {100 * info.accuracy:.1f}%{tested}; "
            f"{info.images_per_second:,.0f} images/s"
        )

    with progress(console, "training", images, "images") as advance:
        train(
            training,
            recipe,
            test=test,
            out=Path(settings.out),
            resume=settings.resume,
            pretrained=pretrained,
            on_epoch=show,
            on_batch=advance,
        )
    console.print(f"saved {Path(settings.out) / 'model'}", soft_wrap=True)


def _read(
    settings: Settings,
) -> tuple[Recipe, data.ArrayDataset, data.ArrayDataset | None, Path | None]:
    arch = settings.recipe.arch or _ARCH.get(settings.dataset)
    if arch is None:
        raise UserError(f"--dataset {settings.dataset} needs --arch")
    training, others = (
        data.in_memory(data.load(settings.dataset, split, settings.data_dir))
        for split in ("train", "test")
    )
    # A file, or a folder without test/, has the same images for both: they test nothing.
    test = None if np.array_equal(training.images, others.images) else others
    recipe = dataclasses.replace(settings.recipe, arch=arch)
    if settings.pretrained is None:
        return recipe, training, test, None
    from_file = Path(settings.pretrained).is_file()
    return recipe, training, test, model_folder(settings.pretrained, arch if from_file else None)
