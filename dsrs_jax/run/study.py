"""The paper's studies: each a table (CSV) and a picture (PNG).

  dsrs-jax study dimension
  dsrs-jax study all
  dsrs-jax study landscape --dataset mnist --data-dir DIR --model RUN

Studies of a model take the digits' own where none is given, and train it once, in
--out; with --published they take the authors' votes where these serve. The studies:

"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from rich.console import Console

from dsrs_jax import data
from dsrs_jax.run import published_layout as layout
from dsrs_jax.run.model import Use, classifier_of
from dsrs_jax.run.published_study import StudyOptions, load, options_of
from dsrs_jax.run.settings import (
    DEFAULT_INSIDE,
    CompilationOptions,
    DatasetOptions,
    LawOptions,
    ModelOptions,
    check_numbers,
)
from dsrs_jax.study import STUDIES, Given, Subject
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import make_folder, write_whole
from dsrs_jax.system.options import group, option
from dsrs_jax.system.processes import Group
from dsrs_jax.votes import VoteTable, can_be_sound

__doc__ += "".join(f"  {name:<15} {study.what}\n" for name, study in STUDIES.items())

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run."""

    names: tuple[str, ...] = option((), "studies, or all", metavar="NAME", positional=True,
                                    several=True)  # fmt: skip
    out: str = option("studies", "folder", metavar="DIR", often=True, local=True)
    data: DatasetOptions = group(DatasetOptions)
    model: ModelOptions = group(ModelOptions)
    law: LawOptions = group(LawOptions)
    published: str | None = option(
        None, "folder in the authors' layout", metavar="DIR", often=True, local=True
    )
    images: int = option(60, "images of the model's studies, evenly spread", metavar="M",
                         often=True)  # fmt: skip
    n: int = option(20_000, "draws of each of these", metavar="N", often=True)
    alpha: float = option(0.001, "failure probability of a certificate", metavar="A", often=True)
    seed: int = option(0, "of all draws", metavar="SEED")
    compilation: CompilationOptions = group(CompilationOptions)

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in (*STUDIES, ALL):
                raise UserError(f"no study {name!r}; known: {', '.join(STUDIES)}, {ALL}")
        if not self.names:
            raise UserError(f"which study? known: {', '.join(STUDIES)}, {ALL}")
        if self.images < 1:
            raise UserError(f"--images must be positive, got {self.images}")
        if self.n < 1:
            raise UserError(f"--n must be positive, got {self.n}")
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"--alpha must lie in (0, 1), got {self.alpha:g}")
        check_numbers(self.seed)


def run(settings: Settings, words: Sequence[str]) -> None:
    """Makes the studies that are named, one after the other; each is written when it is done.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged.
    """
    del words
    settings.compilation.apply()
    use_all_cores()
    console = Console()
    out = Path(settings.out)
    make_folder(out)
    chosen = STUDIES if ALL in settings.names else dict.fromkeys(settings.names)
    given = Given(
        load=lambda: _subject(settings, out, console),
        read=lambda: _published(settings.published),
        inside=DEFAULT_INSIDE,
        n=settings.n,
        alpha=settings.alpha,
        seed=settings.seed,
    )
    for name in chosen:
        begun = time.perf_counter()
        found = STUDIES[name].run(given)
        write_whole(out / f"{name}.csv", found.csv())
        write_whole(out / f"{name}.png", found.picture)
        seconds = time.perf_counter() - begun
        said = f"{name}: {found.finding} ({seconds:.0f} s; {out / name}.csv, .png)"
        console.print(said, soft_wrap=True, markup=False, highlight=False)


def _subject(settings: Settings, out: Path, console: Console) -> Subject:
    """The model that the options name, on images evenly spread over its data set."""
    dataset = settings.data.load()
    size = len(dataset)
    indices = sorted({i * size // settings.images for i in range(settings.images)})
    use = Use(dataset, indices, len(indices) * settings.n, (), Group(0, 1), settings.seed)
    classifier = classifier_of(settings.model, settings.law, use, epath.Path(out), console)
    law = settings.law.law(classifier.metadata.image_shape, classifier.metadata)
    grid = dataset.grid if can_be_sound() else None
    examples = [one for one in data.read_ahead(dataset, indices) if one.image is not None]
    if not examples:
        raise UserError(f"none of the {len(indices)} images of {dataset.name} can be read")
    return Subject(
        name=f"{settings.data.dataset} {settings.data.split}, {len(examples)} images",
        classifier=classifier,
        images=np.stack([np.asarray(one.image) for one in examples]),
        labels=np.array([one.label for one in examples], dtype=np.int64),
        index=np.array([one.index for one in examples], dtype=np.int64),
        law=law,
        grid=grid,
    )


def _published(folder: str | None) -> Mapping[str, VoteTable]:
    """Each model's votes under P and under every Q whose samples are there."""
    if folder is None:
        return {}
    named: dict[str, StudyOptions] = {}
    for one in layout.all_published(Path(folder)):
        options, model = options_of(one), one.study.model
        alone = dataclasses.replace(options, q_sigma=(), q_threshold=())
        before = named.get(model, alone)
        samples = one.study.intervals(sigma=one.sigma, threshold=one.threshold)
        if samples.exists():
            named[model] = dataclasses.replace(
                before,
                q_sigma=before.q_sigma + options.q_sigma,
                q_threshold=before.q_threshold + options.q_threshold,
            )
    if not named:
        raise UserError(f"no published radii in {folder}; give the folder with new-radius/ in it")
    return {model.removesuffix(".pth"): load(options).table for model, options in named.items()}
