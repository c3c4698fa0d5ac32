"""Certifies a data set: images, noise, votes, bounds, certificates, report.

  dsrs-jax certify
      trains a small model on scikit-learn's digits, certifies its 360 test images
  dsrs-jax certify --dataset mnist --data-dir DIR --model DIR --skip 100 --out DIR
      certifies every hundredth MNIST test image with a model of yours

The same command continues a run that was interrupted. It writes into --out:
config.json, votes/, certificates.csv, report.png.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console

from dsrs_jax import data, noise, report
from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import Budget, Stopping, certify_table, compile_ahead
from dsrs_jax.models import BaseClassifier
from dsrs_jax.run import draws, ending, pilot, remarks
from dsrs_jax.run import settings as options
from dsrs_jax.run.gathering import gather
from dsrs_jax.run.model import Use, classifier_of
from dsrs_jax.run.spending import SpendingOptions, left, rule, say_draws
from dsrs_jax.run.stages import Stages
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import folder_or_bucket, write_whole
from dsrs_jax.system.heartbeat import Heartbeat
from dsrs_jax.system.options import group, option, without
from dsrs_jax.system.processes import Group
from dsrs_jax.votes import (
    DependsOnOthersError,
    Kind,
    LookedAt,
    RecordFolder,
    Sampler,
    SamplingPlan,
    VoteTable,
    always_compared,
    collect,
    confirm,
    drawn,
    problem_of,
    table_of,
)
from dsrs_jax.votes.records import CONFIG_FILE, earlier_settings

COMMAND_FILE = "command.json"  # the last command, and what it was to certify
_WORTH_TUNING = 1_000_000  # draws: with fewer not even the first trial is won back


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run."""

    data: options.DatasetOptions = group(options.DatasetOptions)
    model: options.ModelOptions = group(options.ModelOptions)
    law: options.LawOptions = group(options.LawOptions)
    extra: options.SecondLawOptions = group(options.SecondLawOptions)
    protocol: options.ProtocolOptions = group(options.ProtocolOptions)
    spending: SpendingOptions = group(SpendingOptions)
    images: options.ImageOptions = group(options.ImageOptions)
    choice: options.ChoiceOptions = group(options.ChoiceOptions)
    out: str | None = option(None, "folder or bucket; runs/DATASET", metavar="DIR", often=True)
    prove: bool = option(False, "prove every radius in ball arithmetic", often=True)
    draws: str = option(draws.SOUND, "no proof covers float32", choices=draws.KINDS)
    seed: int | None = option(None, "of all draws; by itself a secret one", metavar="SEED")
    batch: int | None = option(None, "draws in flight; votes do not depend on it", metavar="N")
    patience: float = option(60.0, "seconds until a silent process is lost", metavar="S")
    processes: options.ProcessOptions = group(options.ProcessOptions)
    compilation: options.CompilationOptions = group(options.CompilationOptions)

    def __post_init__(self) -> None:
        options.check_numbers(self.seed, self.batch, self.patience)


def run(settings: Settings, words: Sequence[str]) -> None:
    """Certifies a data set as the settings say, continuing what an earlier run left.

    With several processes each works on its share of the images, and process 0 gathers all
    records at the end and writes certificates and report.

    Args:
        settings: see `Settings`.
        words: the command line, for messages that name the command which completes a run.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged; nothing is lost.
        IncompleteError: some images could not be read, a process was lost, or not all that
            `prove` asks for is proved; all else is done.
    """
    settings.compilation.apply()
    use_all_cores()
    console, stages = Console(), Stages()
    again = shlex.join(["dsrs-jax", "certify", *without(options.ProcessOptions, words)])
    out = folder_or_bucket(settings.out or Path("runs") / settings.data.dataset, "--out")
    dataset = settings.data.load(labels=not settings.choice.draws)
    source = f"{settings.data.dataset} {settings.data.split}"
    indices = list(settings.images.chosen(len(dataset), source))
    protocol = settings.protocol.protocol()
    with contextlib.ExitStack() as stack:
        # While all processes are here, none writes: they agree on what is missing.
        with settings.processes.rendezvous() as processes:
            first = processes.process == 0
            needed = first or settings.spending.goal is not None
            compiled = compile_ahead(settings.extra.most_laws) if needed else _nothing
            grid = draws.grid_of(settings.draws, dataset)
            with stages("model"):
                use = Use(
                    dataset, indices, len(indices) * settings.protocol.n,
                    earlier_settings(out).get("backend", "").split("+"), processes,
                    settings.seed or 0,
                )  # fmt: skip
                classifier = classifier_of(settings.model, settings.law, use, out, console)
            seed = options.seed_for_all(settings.seed, earlier_settings(out), first)
            labels = remarks.labels_to_tell(settings.data.classes, dataset, classifier)
            law = settings.law.law(classifier.metadata.image_shape, classifier.metadata)
            spending, n0 = settings.spending, settings.choice.draws
            spending.refuse_other_looks(earlier_settings(out))
            with stages("pilot") if settings.extra.q else contextlib.nullcontext():
                second, n, base_share, tried = pilot.chosen_for_all(
                    settings.extra, earlier_settings(out), dataset, indices, classifier, law,
                    protocol, settings.protocol.n, spending, n0,
                    seed=seed, first=first, console=console,
                )  # fmt: skip
            protocol = dataclasses.replace(protocol, base_share=base_share)
            plan = SamplingPlan(law, second, n, spending.looks(n), spending.times, n0)
            if first and not (out / CONFIG_FILE).exists():
                with stages("certification"):
                    compiled()
                    _announce_largest_radius(plan, protocol, grid, seed, console)
            with stages("certification"):
                compiled()
                goes_on = rule(spending, plan, protocol, grid, len(indices), processes.processes)
            identity = _identity(settings, plan, protocol, classifier, dataset, grid, seed)
            if labels:
                identity["class_labels"] = labels
            tell = functools.partial(console.print, soft_wrap=True, markup=False, highlight=False)
            folder = RecordFolder(
                out, identity, processes.process,
                problem_of=functools.partial(problem_of, plan),
                on_damaged=tell if first else lambda what: None,  # one process tells it
            )  # fmt: skip
            stack.enter_context(folder)
            missing = left(goes_on, plan, folder.records, indices)
            if first:
                _keep_command(out, again, dataset, indices)
                if tried:
                    write_whole(out / pilot.PILOT_FILE, tried)
            stack.enter_context(Heartbeat(out, processes.process, settings.patience))

        def to_draw() -> list[int]:
            found = left(goes_on, plan, folder.records, indices)
            return [one for one in found if one not in folder.records or folder.has(one)]

        if first and labels:
            remarks.tell_labels(labels, classifier, console)
        if first and 0 < len(missing) < len(indices):
            console.print(
                f"{len(indices) - len(missing)} of {len(indices)} images were done before."
            )
        with stages("data"):
            _confirm(dataset, [index for index in indices if folder.has(index)], folder, console)
        with stages("sampling"):
            share = missing[processes.process :: processes.processes]
            sampler = Sampler(
                classifier,
                seed=seed,
                cutoffs=plan.cutoffs,
                batch=settings.batch,
                grid=grid,
                surely=always_compared(indices),
                on_smaller=lambda batch: console.print(
                    f"The devices' memory is full: going on with --batch {batch}."
                ),
            )
            try:
                _sample(plan, protocol, sampler, classifier, dataset, share, folder, processes,
                        to_draw, goes_on, console)  # fmt: skip
            except DependsOnOthersError as error:
                folder.refuse(str(error))
                raise
            if not first:
                return
            gather(to_draw, folder, processes, settings.patience, again, tell)
        records = [folder.records[index] for index in indices]
        with stages("certification"):
            compiled()
            radius_of = None if goes_on is None else goes_on.radius
            votes = table_of(plan, protocol, records, grid, radius_of, seed)
            table = certify_table(votes, protocol)
        proved = True
        if settings.prove:
            with stages("proofs"):
                table, proved = ending.prove(table, out, console)
        with stages("report"):
            most = f"N {'=' if plan.looks is None else '≤'} {plan.schedule[-1]:,}"
            title = (
                f"{source}, {len(indices)} images; {most}, α = {protocol.alpha:g}\n"
                f"{noise.describe(law)}; {draws.describe(grid)} draws"
                + (f"; classes by {plan.n0:,} draws" if plan.n0 else "")
            )
            alone = "Neyman-Pearson, of DSRS's draws" if spending.radii else "Neyman-Pearson"
            methods = {alone: table.neyman_pearson.radius, "DSRS": table.radius}
            tables = {ending.CERTIFICATES_FILE: table}
            counted = ending.whose(table.votes)
            ending.write(out, tables, methods, title, console, spending.radii, *counted)
    ending.say_not_finite(plan, records, console)
    remarks.tell_copies(records, console)
    whole = len(missing) == len(indices) and processes.processes == 1
    say_draws(plan, records, stages.seconds["sampling"] if whole else 0.0, console)
    if votes.compared:
        console.print(
            f"The answers to {votes.compared:,} draws were the same among draws of other images."
        )
    console.print(f"seconds: {stages}")
    written = f"{out / ending.CERTIFICATES_FILE}, {out / ending.PICTURE_FILE}"
    console.print(written, soft_wrap=True, markup=False)
    ending.complain(table, records, proved, again, console)


def _nothing() -> None:
    """What a process that certifies nothing waits for."""


def _identity(
    settings: Settings,
    plan: SamplingPlan,
    protocol: Protocol,
    classifier: BaseClassifier,
    dataset: data.Dataset,
    grid: int | None,
    seed: int,
) -> dict[str, Any]:
    """What the votes depend on: config.json, which another run in this folder must agree with."""
    return {
        "dataset": settings.data.dataset,
        "split": settings.data.split,
        "index_order": dataset.order,
        "sigma": plan.law.sigma,
        "k": plan.law.k,
        "eta": plan.law.eta,
        **{f"q_{kind}": [extra.value for extra in plan.of_kind(kind)] for kind in Kind},
        "share_p": protocol.base_share,
        "pilot": pilot.described(settings.extra, settings.protocol.n),
        "n": plan.n,
        "looks": settings.spending.described,
        "label": settings.choice.label,
        "n0": settings.choice.draws or None,
        "alpha": settings.protocol.alpha,
        "bounds": settings.protocol.bounds,
        "draws": draws.describe(grid),
        "grid": grid,
        "seed": seed,
        "arch": classifier.metadata.arch,
        "input_scaling": classifier.metadata.scaling,
        "dtype": settings.model.dtype,
        "backend": classifier.backend,
        "model": classifier.fingerprint(),
    }


def _keep_command(
    out: epath.Path, command: str, dataset: data.Dataset, indices: Sequence[int]
) -> None:
    """For reports: what this run is, and how much of it there is to be."""
    made = {"command": command, "images": len(indices), "image_shape": dataset.image_shape}
    write_whole(out / COMMAND_FILE, json.dumps(made, indent=2) + "\n")


def _announce_largest_radius(
    plan: SamplingPlan, protocol: Protocol, grid: int | None, seed: int, console: Console
) -> None:
    """What an image that is always right can get: the run is worth its draws only above 0."""
    counted = [plan.n]
    for extra in plan.extra:
        share = float(plan.fixed_law(extra).quantile or 1.0) if extra.kind is Kind.INSIDE else 1.0
        counted.append(int(np.floor(plan.n * share)))
    every = np.array([plan.n])
    laws = [plan.law, *(plan.laws(extra, every, protocol) for extra in plan.extra)]
    counts = VoteTable.from_counts(laws, [counted], counted, names=plan.names)
    if plan.looks is not None:
        at_plan = LookedAt(plan.looks, np.array([plan.looks.planned_look]))
        counts = dataclasses.replace(counts, looked=at_plan)
    best = certify_table(counts, protocol)
    plain, most = float(best.neyman_pearson.radius[0]), float(best.radius[0])
    if max(plain, most) <= 0.0:
        raise UserError(
            f"--n {plan.n} draws can certify nothing at alpha = {protocol.alpha:g}, "
            "even if all votes are right; give a larger --n"
        )
    console.print(
        f"{noise.describe(plan.law)}; {plan.n:,} {draws.describe(grid)} draws under each law "
        f"(seed {seed}), α = {protocol.alpha:g}.\n"
        "Largest radius, were all votes right: "
        f"Neyman-Pearson {report.rounded_down(plain)}, DSRS {report.rounded_down(most)}."
    )


def _confirm(
    dataset: data.Dataset, done: list[int], folder: RecordFolder, console: Console
) -> None:
    """Reads again what was recorded before, wherever it lies now: it must be the same."""
    if without_digest := sum("image" not in folder.records[index] for index in done):
        console.print(
            f"{without_digest} images were recorded by an earlier version without a digest: only "
            "their labels can be compared with the data."
        )
    with report.progress(console, "comparing", len(done), "images") as advance:
        for example in data.read_ahead(dataset, done):
            confirm([example], folder.records)
            advance(1)


def _sample(
    plan: SamplingPlan,
    protocol: Protocol,
    sampler: Sampler,
    classifier: BaseClassifier,
    dataset: data.Dataset,
    missing: list[int],
    folder: RecordFolder,
    processes: Group,
    to_draw: Callable[[], list[int]],
    goes_on: Stopping | Budget | None,
    console: Console,
) -> None:
    """Draws and records this process's share of the images."""
    if not missing:
        return
    examples = data.read_ahead(dataset, missing)
    if processes.process == 0:
        examples = remarks.look_first(classifier, plan.law, examples, console)
    if sampler.batch is None:
        _find_batch(plan, sampler, dataset.image_shape, len(missing), folder)
    while missing:
        what = f"sampling {len(missing):,} images"
        if processes.processes > 1:
            what += f" ({processes.process})"
        left_to_draw = sum(
            plan.most_draws - drawn(plan, folder.records.get(index, {})) for index in missing
        )
        with report.progress(console, what, left_to_draw, "draws") as bar:
            collect(plan, protocol, sampler, examples, folder, bar, bar.spare,
                    goes_on, classifier.metadata.classes)  # fmt: skip
        # A budget is spent in rounds, each after the counts of the last.
        missing = to_draw() if isinstance(goes_on, Budget) else []
        examples = data.read_ahead(dataset, missing)


def _find_batch(
    plan: SamplingPlan,
    sampler: Sampler,
    image_shape: tuple[int, int, int],
    images: int,
    folder: RecordFolder,
) -> None:
    """The fastest batch on this kind of device: remembered, or measured where that pays."""
    device = f"{jax.local_devices()[0].device_kind} x {sampler.devices}"
    sampler.batch = folder.batch(device)
    if sampler.batch is None and images * plan.n >= _WORTH_TUNING:
        black = np.zeros(image_shape, dtype=np.float32)  # which lies on every grid
        folder.remember_batch(device, sampler.tune(black, plan.law, images * plan.n))
