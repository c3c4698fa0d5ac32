"""Attacks a smoothed classifier: upper bounds of the radii that `certify` bounds from below.

  dsrs-jax attack
      attacks the digits' own model (runs/digits/model, trained if it is not there)
  dsrs-jax attack --dataset mnist --data-dir DIR --model DIR --skip 100 --eps 0.5 1 --method pgd
      PGD with ten random starts in the l2 balls of radius 0.5 and 1

The same command continues an attack that was interrupted. It writes into --out: config.json,
votes/ (a record an image), attack.csv.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from dsrs_jax import data, noise, report
from dsrs_jax.attack import LOSSES, NORMS, Attack, Attacker, Target, as_record, problem_of, rows_of
from dsrs_jax.attack.balls import L2, LINF
from dsrs_jax.attack.record import COLUMNS, UNREADABLE
from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw
from dsrs_jax.run import draws, ending, remarks
from dsrs_jax.run import settings as options
from dsrs_jax.run.certify import COMMAND_FILE
from dsrs_jax.run.gathering import gather
from dsrs_jax.run.model import Use, classifier_of
from dsrs_jax.run.report_attack import attacked_of, described
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.files import folder_or_bucket, write_whole
from dsrs_jax.system.heartbeat import Heartbeat
from dsrs_jax.system.options import group, option, without
from dsrs_jax.votes import RecordFolder, Sampler, confirm, recording
from dsrs_jax.votes.record import digest
from dsrs_jax.votes.records import earlier_settings

ATTACK_FILE = "attack.csv"
IFGSM, PGD = METHODS = ("ifgsm", "pgd")
# Where nobody says: pixels in [0, 1].
_RADII = {L2: (0.25, 0.5, 0.75, 1.0), LINF: (2 / 255, 4 / 255, 8 / 255)}


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """Attack."""

    method: str = option(
        IFGSM, "from the image, or from random starts", choices=METHODS, often=True
    )
    norm: str = option(L2, choices=NORMS, often=True)
    eps: tuple[float, ...] = option(
        (), "radii of balls; by themselves 0.25 ... 1, or 2/255 ... 8/255", metavar="E",
        several=True, often=True,
    )  # fmt: skip
    steps: int = option(200, "at most, from a start", metavar="T", often=True)
    samples: int = option(100, "draws of a gradient", metavar="N")
    votes: int = option(100, "draws of the check after a step", metavar="N")
    recheck: int = option(10_000, "fresh draws that confirm it; 0: none", metavar="N")
    step_size: float = option(0.01, "in parts of E", metavar="S")
    random_starts: int = option(10, "of pgd", metavar="R")
    loss: str = option(LOSSES[0], choices=LOSSES)
    fixed_draws: bool = option(False, "the same draws for every gradient of an image")
    clip: bool = option(False, "keep attacked images in [0, 1]")

    def __post_init__(self) -> None:
        if any(not (radius > 0.0 and math.isfinite(radius)) for radius in self.eps):
            raise UserError("--eps must be positive numbers")
        if self.method == PGD and self.random_starts < 1:
            raise UserError(f"--random-starts must be at least 1, got {self.random_starts}")
        self.attack()

    def attack(self) -> Attack:
        """How images are attacked."""
        return Attack(
            self.norm, self.steps, self.samples, self.votes, self.step_size,
            self.random_starts if self.method == PGD else 0,
            self.loss, self.fixed_draws, self.clip, self.recheck,
        )  # fmt: skip

    def radii(self) -> tuple[float, ...]:
        """Of the balls, increasing."""
        return tuple(sorted(set(self.eps))) or _RADII[self.norm]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run."""

    data: options.DatasetOptions = group(options.DatasetOptions)
    model: options.ModelOptions = group(options.ModelOptions)
    law: options.LawOptions = group(options.LawOptions)
    attack: AttackOptions = group(AttackOptions)
    images: options.ImageOptions = group(options.ImageOptions)
    out: str | None = option(
        None, "folder or bucket; runs/DATASET_attack", metavar="DIR", often=True
    )
    draws: str = option(draws.SOUND, "those of the certificates", choices=draws.KINDS)
    seed: int | None = option(None, "of all draws; by itself a secret one", metavar="SEED")
    batch: int | None = option(None, "images at once; results do not depend on it", metavar="N")
    patience: float = option(60.0, "seconds until a silent process is lost", metavar="S")
    processes: options.ProcessOptions = group(options.ProcessOptions)
    compilation: options.CompilationOptions = group(options.CompilationOptions)

    def __post_init__(self) -> None:
        options.check_numbers(self.seed, self.batch, self.patience)
        if self.model.backend not in ("auto", "jax"):
            raise UserError(
                f"--backend {self.model.backend} has no gradients in JAX; use --backend jax"
            )


def run(settings: Settings, words: Sequence[str]) -> None:
    """Attacks a data set's images as the settings say, continuing what an earlier run left.

    With several processes each works on its share of the images, and process 0 gathers all
    records at the end and writes the table.

    Raises:
        UserError: a setting is wrong, the model has no gradients in JAX, or a file is missing or
            damaged; nothing is lost.
        IncompleteError: some images could not be read, or a process was lost; all else is done.
    """
    settings.compilation.apply()
    use_all_cores()
    console = Console()
    tell = functools.partial(console.print, soft_wrap=True, markup=False, highlight=False)
    again = shlex.join(["dsrs-jax", "attack", *without(options.ProcessOptions, words)])
    name = settings.data.dataset
    out = folder_or_bucket(settings.out or Path("runs") / f"{name}_attack", "--out")
    dataset = settings.data.load()
    indices = list(settings.images.chosen(len(dataset), f"{name} {settings.data.split}"))
    attack, radii = settings.attack.attack(), settings.attack.radii()
    with contextlib.ExitStack() as stack:
        with settings.processes.rendezvous() as processes:
            first = processes.process == 0
            # Gradients are JAX's, whatever would be the fastest for votes.
            model = dataclasses.replace(settings.model, backend="jax")
            use = Use(dataset, indices, len(indices), [], processes, settings.seed or 0)
            own = epath.Path("runs") / name  # where `certify` keeps the digits' model
            classifier = classifier_of(model, settings.law, use, own, console)
            law = settings.law.law(classifier.metadata.image_shape, classifier.metadata)
            grid = draws.grid_of(settings.draws, dataset)
            seed = options.seed_for_all(settings.seed, earlier_settings(out), first)
            attacker = Attacker(
                classifier, law, attack, grid=grid, seed=seed, batch=settings.batch,
                on_smaller=lambda draws: tell(
                    f"The devices' memory is full: going on with {draws} draws at a time."
                ),
            )  # fmt: skip
            folder = RecordFolder(
                out, _identity(settings, law, classifier, dataset, grid, seed), processes.process,
                problem_of=functools.partial(problem_of, attack, radii),
                on_damaged=tell if first else lambda what: None,
            )  # fmt: skip
            stack.enter_context(folder)
            missing = [index for index in indices if not folder.has(index)]
            if first:
                made = {"command": again, "images": len(indices)}
                write_whole(out / COMMAND_FILE, json.dumps(made, indent=2) + "\n")
            stack.enter_context(Heartbeat(out, processes.process, settings.patience))
        if first:
            _announce(settings.attack, law, tell)
            if 0 < len(missing) < len(indices):
                tell(f"{len(indices) - len(missing)} of {len(indices)} images were done before.")
        done = [index for index in indices if folder.has(index)]
        confirm(data.read_ahead(dataset, done), folder.records)
        share = missing[processes.process :: processes.processes]
        examples: Iterable[data.Example] = data.read_ahead(dataset, share)
        if first and share:
            sampler = Sampler(classifier, seed=seed, grid=grid, surely=indices)
            examples = remarks.look_first(classifier, law, examples, console)
            examples = remarks.compare_first(sampler, law, examples)
        what = "attacking" if first else f"attacking ({processes.process})"
        with report.progress(console, what, len(share), "images") as advance:
            _attack(attacker, examples, radii, folder, advance)
        if not first:
            return
        gather(
            lambda: [index for index in indices if index not in folder.records],
            folder, processes, settings.patience, again, tell,
        )  # fmt: skip
        records = [folder.records[index] for index in indices]
        write_whole(out / ATTACK_FILE, _csv(radii, records))
    _show(settings.attack, records, console, tell)
    tell(f"{out / ATTACK_FILE}")
    unreadable = [record for record in records if UNREADABLE in record]
    for record in unreadable:
        tell(f"unreadable: {record[UNREADABLE].encode(errors='backslashreplace').decode()}")
    if unreadable:
        raise IncompleteError(
            f"{ending.some([record['index'] for record in unreadable])} could not be read; all "
            f"others are done. Fix the files, then: {again}"
        )


def _announce(attack: AttackOptions, law: RadialLaw, tell: Callable[[str], None]) -> None:
    radii = ", ".join(f"{radius:.4g}" for radius in attack.radii())
    how = attack.attack()
    fresh = ""
    if how.recheck:
        fresh = (
            f", {how.recheck:,} fresh draws confirm: an image that is not broken with probability "
            f"at most {how.alpha:g}"
        )
    tell(
        f"{noise.describe(law)}; {described(how)}, {attack.steps} steps, eps {radii}.\n"
        f"{attack.samples} draws a gradient, {attack.votes} a check{fresh}."
    )


def _identity(
    settings: Settings,
    law: RadialLaw,
    classifier: BaseClassifier,
    dataset: data.Dataset,
    grid: int | None,
    seed: int,
) -> dict[str, Any]:
    """What the records depend on: config.json, which another run in this folder must agree with."""
    return {
        "attack": settings.attack.method,
        "dataset": settings.data.dataset,
        "split": settings.data.split,
        "index_order": dataset.order,
        "sigma": law.sigma,
        "k": law.k,
        "eta": law.eta,
        "eps": settings.attack.radii(),
        **dataclasses.asdict(settings.attack.attack()),
        "draws": draws.describe(grid),
        "grid": grid,
        "seed": seed,
        "arch": classifier.metadata.arch,
        "input_scaling": classifier.metadata.scaling,
        "dtype": settings.model.dtype,
        "backend": classifier.backend,
        "model": classifier.fingerprint(),
        **({"class_labels": dict(dataset.class_labels)} if dataset.class_labels else {}),
    }


def _attack(
    attacker: Attacker,
    examples: Iterable[data.Example],
    radii: Sequence[float],
    folder: RecordFolder,
    advance: Callable[[int], None],
) -> None:
    """Attacks and records; what is finished is written also when the run is ended."""
    digests: dict[int, str] = {}
    with recording(folder) as add:

        def targets() -> Iterator[Target]:
            for example in examples:
                if example.image is None:
                    add([{"index": example.index, UNREADABLE: example.problem}])
                    advance(1)
                    continue
                digests[example.index] = digest(example.image, example.label)
                yield Target(example.index, example.image, example.label, radii)

        for outcome in attacker.attack_all(targets()):
            add([as_record(outcome) | {"image": digests.pop(outcome.index)}])
            advance(1)


def _csv(radii: Sequence[float], records: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(radii, records))
    return stream.getvalue()


def _show(
    attack: AttackOptions,
    records: Sequence[dict[str, Any]],
    console: Console,
    tell: Callable[[str], None],
) -> None:
    """The accuracies, and what a reader has to know of them."""
    found = attacked_of("", attack.attack(), attack.radii(), records)
    table = Table(title="attacked accuracy", show_edge=False)
    named = ["eps", "by the check", "confirmed" if attack.recheck else "not rechecked"]
    for column in named:
        table.add_column(column, justify="right")
    for radius, voted, broken in found.accuracies():
        table.add_row(f"{radius:.4g}", f"{100 * voted:.1f}%", f"{100 * broken:.1f}%")
    console.print(table)
    tries = [one for record in records for one in record.get("tries", ())]
    if idle := sum(one["idle"] for one in tries):
        steps = sum(one["steps"] for one in tries)
        tell(
            f"{idle:,} of {steps:,} steps found no gradient: it was zero, or not finite, and the "
            "image stayed where it was."
        )
