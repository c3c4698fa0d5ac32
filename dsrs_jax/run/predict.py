"""Predicts the class of images, or abstains: the smoothed classifier in use.

  dsrs-jax predict photo.png photos/ --model M --sigma 0.5 --k 0
      the class that has most votes under noise, where a test at --alpha is sure
  dsrs-jax predict --dataset mnist --data-dir DIR --model M --skip 10
      how often it is right (clean accuracy); an abstention is wrong

A folder stands for the image files in it. It writes into --out:
predictions.csv, and accuracy.csv where labels are known.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from dsrs_jax import data, noise, report
from dsrs_jax.bounds import fewest_draws, predict
from dsrs_jax.data.files import read_class_names
from dsrs_jax.models import BaseClassifier
from dsrs_jax.run import draws, remarks
from dsrs_jax.run import settings as options
from dsrs_jax.run.model import Use, classifier_of, image_shape_of
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.files import folder_or_bucket, make_folder, write_whole
from dsrs_jax.system.folder_lock import held
from dsrs_jax.system.options import group, option
from dsrs_jax.system.processes import Group
from dsrs_jax.system.signals import last_words
from dsrs_jax.votes import ClassVotes, Sampler, always_compared, count_classes, fresh_seed

_SHOWN = 40  # images in the terminal
_LOCK = "predictions"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Predict."""

    files: tuple[str, ...] = option(
        (), "image files, and folders of them", metavar="IMAGE", positional=True,
        several=True, local=True,
    )  # fmt: skip
    data: options.DatasetOptions = group(options.DatasetOptions)
    model: options.ModelOptions = group(options.ModelOptions)
    law: options.LawOptions = group(options.LawOptions)
    n: int = option(1000, "draws of an image", metavar="N", often=True)
    alpha: float = option(0.001, "probability of a wrong prediction", metavar="A", often=True)
    images: options.ImageOptions = group(options.ImageOptions)
    out: str | None = option(None, "folder for CSV files", metavar="DIR", often=True, local=True)
    draws: str = option(draws.SOUND, "no proof covers float32", choices=draws.KINDS)
    seed: int | None = option(None, "of all draws; by itself a secret one", metavar="SEED")
    batch: int | None = option(None, "draws in flight; votes do not depend on it", metavar="N")
    compilation: options.CompilationOptions = group(options.CompilationOptions)

    def __post_init__(self) -> None:
        if not self.model.model:
            raise UserError(
                "predict needs --model M; `dsrs-jax certify` leaves one in runs/digits/model"
            )
        options.check_numbers(self.seed, self.batch)
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"--alpha must lie in (0, 1), got {self.alpha:g}")
        if self.n < (fewest := fewest_draws(self.alpha)):
            raise UserError(
                f"--n {self.n} draws decide nothing at alpha = {self.alpha:g}, even if all agree; "
                f"give at least {fewest}"
            )
        if self.files and dataclasses.replace(self.data, classes=None) != options.DatasetOptions():
            raise UserError("image files and a data set are two sources; give one of them")


def run(settings: Settings, words: Sequence[str]) -> None:
    """Predicts the classes of images as the settings say.

    Raises:
        UserError: a setting is wrong, or a file is not there; nothing is written.
        IncompleteError: some images could not be read; all else is done.
    """
    del words
    settings.compilation.apply()
    use_all_cores()
    console = Console()
    files = _image_files([Path(one) for one in settings.files])
    dataset = _dataset(settings, files)
    source = "the list" if files else f"{settings.data.dataset} {settings.data.split}"
    indices = list(settings.images.chosen(len(dataset), source))
    use = Use(dataset, indices, len(indices) * settings.n, (), Group(0, 1), 0)
    nowhere = folder_or_bucket(Path("runs"), "--out")  # of the digits' own model, which is not made
    classifier = classifier_of(settings.model, settings.law, use, nowhere, console)
    names = _class_names(settings, dataset, classifier, bool(files))
    law = settings.law.law(classifier.metadata.image_shape, classifier.metadata)
    grid = draws.grid_of(settings.draws, dataset)
    seed = fresh_seed() if settings.seed is None else settings.seed
    sampler = Sampler(
        classifier,
        seed=seed,
        batch=settings.batch,
        grid=grid,
        surely=always_compared(indices),
        on_smaller=lambda batch: console.print(
            f"The devices' memory is full: going on with --batch {batch}."
        ),
    )
    classes = classifier.metadata.classes
    counted: list[tuple[data.Example, ClassVotes]] = []
    distance = 0.0 if grid is None else settings.n * noise.sound.charge(law, grid)
    if settings.out is not None:
        make_folder(Path(settings.out))

    def write() -> list[str]:
        """What is counted so far; the files' names."""
        if settings.out is None or not counted:
            return []
        now = _predictions(list(counted), files, names, settings, distance)
        tables = [now.rows(), *([now.accuracy()] if dataset.classes else [])]
        for table in tables:
            write_whole(Path(settings.out) / f"{table.name}.csv", table.csv())
        return [str(Path(settings.out) / f"{table.name}.csv") for table in tables]

    what = f"predicting {len(indices):,} images"
    unshared = contextlib.nullcontext() if settings.out is None else held(Path(settings.out), _LOCK)
    with unshared, report.progress(console, what, len(indices) * settings.n, "draws") as advance:
        examples = data.read_ahead(dataset, indices)
        with last_words(write):
            try:
                for image in count_classes(sampler, examples, law, settings.n, classes, advance):
                    counted.append(image)
            finally:  # whatever ends it
                written = write()
    found = _predictions(counted, files, names, settings, distance)
    console.print(
        f"{noise.describe(law)}; {settings.n:,} draws of an image (seed {seed}), "
        f"α = {settings.alpha:g}.",
        found.table(_SHOWN),
        sep="\n",
    )
    if len(indices) > _SHOWN:
        console.print(f"{len(indices) - _SHOWN:,} images more; --out DIR has all of them.")
    for sentence in found.sentences():
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    if written:
        console.print(", ".join(written), soft_wrap=True, markup=False, highlight=False)
    unread = [problem for problem in found.problems if problem]
    for problem in unread:
        console.print(f"unreadable: {problem}", soft_wrap=True, markup=False)
    if unread:
        raise IncompleteError(
            f"{len(unread)} of {len(indices)} images could not be read; all others are done"
        )


def _predictions(
    counted: Sequence[tuple[data.Example, ClassVotes]],
    files: Sequence[Path],
    names: Mapping[int, str],
    settings: Settings,
    distance: float,
) -> report.Predictions:
    examples, votes = [one for one, _ in counted], [found for _, found in counted]
    ambiguous = np.array([found.ambiguous for found in votes])
    every = np.stack([found.votes for found in votes])
    return report.Predictions(
        images=[_shown(str(files[one.index])) if files else str(one.index) for one in examples],
        index=np.array([one.index for one in examples]),
        label=np.array([one.label for one in examples]),
        problems=[_shown(one.problem) for one in examples],
        prediction=predict(every, settings.alpha, ambiguous, distance),
        not_finite=np.array([found.not_finite for found in votes]),
        ambiguous=ambiguous,
        draws=settings.n,
        names=names,
    )


def _shown(text: str) -> str:
    """A file's name may hold what no terminal shows."""
    return text.encode(errors="backslashreplace").decode()


def _image_files(places: Sequence[Path]) -> list[Path]:
    """Files as they are named, and of folders all image files in them, by name.

    Raises:
        UserError: there is no such place, or a folder without images.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"no such file: {place}")
        inside = data.images_in(place, deep=True) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"no images in {place}")
        found += inside
    return found


def _dataset(settings: Settings, files: Sequence[Path]) -> data.Dataset:
    """The image files, of the shape that the model says, if it says one; or a data set."""
    if files:
        return data.files_of(files, image_shape=image_shape_of(settings.model))
    return settings.data.load(labels=False)


def _class_names(
    settings: Settings, dataset: data.Dataset, classifier: BaseClassifier, of_files: bool
) -> dict[int, str]:
    """Names of the classes, where the data set's folders or --classes say them.

    Raises:
        UserError: --classes has not a name for each of the model's classes.
    """
    remarks.labels_to_tell(settings.data.classes, dataset, classifier)
    if settings.data.classes is None:
        return {label: name for name, label in dataset.class_labels.items()}
    given = read_class_names(Path(settings.data.classes))
    if len(given) != classifier.metadata.classes:
        raise UserError(
            f"--classes {settings.data.classes} names {len(given)} classes, the model has "
            f"{classifier.metadata.classes}; give one name for each, in the model's order"
        )
    return dict(enumerate(given))
