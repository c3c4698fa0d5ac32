"""Training of base classifiers under noise that changes with time, resumable bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from dsrs_jax.data import ArrayDataset, Dataset, Stream
from dsrs_jax.models import (
    Classifier,
    ModelMetadata,
    build,
    default_scaling,
    input_scaling,
    load_model,
    save_model,
    scaled_as,
)
from dsrs_jax.system import processes, signals
from dsrs_jax.system.errors import UserError, first_line
from dsrs_jax.train.augmentation import augmentation
from dsrs_jax.train.evaluation import Accuracy, accuracy_on
from dsrs_jax.train.feed import Feed, ResidentFeed, StreamFeed
from dsrs_jax.train.methods import Objective
from dsrs_jax.train.placing import on_devices
from dsrs_jax.train.recipe import Cut, Recipe, check, cut_of, law_at
from dsrs_jax.train.record import EpochInfo, TrainingRun
from dsrs_jax.train.schedules import decay_at, learning_rate_at, warmup_at
from dsrs_jax.train.step import OPTIMIZER, Noise, Progress, Step, Strength, make_step

_INNER = 0.5  # the share of the noise that is its inner half
_IN_FLIGHT = 2  # steps that the devices have before them


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images that are not in memory are read; it changes no parameter.

    Attributes:
        workers: processes that read them; 0: threads of this one.
        skip_unreadable: the next image of the epoch takes the place of one that cannot be read.
        say: is told each such image once.
    """

    workers: int = 0
    skip_unreadable: bool = False
    say: Callable[[str], object] = print


def train(
    training: Dataset,
    recipe: Recipe,
    *,
    test: Dataset | None = None,
    out: Path | None = None,
    resume: bool = False,
    save_every: float = 600.0,
    pretrained: str | Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    reading: Reading | None = None,
    on_epoch: Callable[[EpochInfo], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> nnx.Module:
    """A model trained as the recipe says; with `out`, recorded there.

    The images of an epoch come in a new random order; those that do not fill the last batch sit
    out that epoch. A set in memory lies on the devices, another one is read by `data.Stream`. The
    result depends on the recipe and the data alone; a run that was killed and resumed on the same
    devices ends bit for bit as one that was not.

    In a run of several processes (`processes.initialize`) each calls this with the same
    arguments; the first alone reads and writes `out`.

    Args:
        training: images and labels.
        recipe: see `Recipe`.
        test: noisy test accuracy is measured on it after each epoch.
        out: run directory.
        resume: continue what `out` holds.
        save_every: seconds after which a state is written within an epoch.
        pretrained: checkpoint folder of the same architecture to start from; its input scaling is
            kept.
        devices: that share each step; all of them unless given.
        reading: see `Reading`.
        on_epoch: called after each epoch.
        on_batch: called with the number of images of each mini-batch as it is given to the devices.

    Raises:
        UserError: a setting is wrong, `out` holds another run, or a file cannot be written, told
            before the first epoch; an image cannot be read; or the training diverged. `out` keeps
            what it had.
    """
    reading = reading or Reading()
    processes.together(lambda: check(training, recipe))
    source = processes.together(
        lambda: None if pretrained is None else _pretrained(pretrained, training, recipe)
    )
    metadata = metadata_of(training, recipe, source)
    record = dataclasses.asdict(recipe) | {
        "dataset": training.name,
        "images": len(training),
        "pretrained": None if source is None else source.fingerprint(),
    }
    processes.together(lambda: _check_agreement(training, record))
    cut = cut_of(training, recipe)
    chosen_devices = list(devices or jax.devices())
    stream = processes.together(
        lambda: _stream(training, recipe, cut, reading, len(chosen_devices))
    )
    # Of several processes the first alone has the run on disk.
    path = out if jax.process_index() == 0 else None
    with processes.together(lambda: TrainingRun(path, record, resume, cut.steps)) as directory:
        start = int(processes.from_first(np.array(directory.steps)))
        graph, fixed_graph, progress = _begin(recipe, training.name, metadata.scaling, source)
        processes.together(lambda: directory.check_space(progress))
        if start > 0:
            before = progress
            progress = processes.together(lambda: directory.read_state(before))
            progress = processes.from_first(progress)
        mesh = jax.make_mesh(
            (len(chosen_devices),),
            ("images",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=chosen_devices,
        )
        progress = on_devices(progress, mesh)
        objective = Objective(*(getattr(recipe, name) for name in Objective._fields))
        step = make_step(graph, fixed_graph, objective, augmentation(training.name), mesh)
        # By name: another default generator, or way to use it, must not change a training.
        with jax.threefry_partitionable(True):
            seed_key = jax.random.key(recipe.seed, impl="threefry2x32")
            order_key, step_key, test_key = jax.random.split(seed_key, 3)
            run = _Run(
                training,
                recipe,
                cut,
                step=step,
                feed=_feed(training, stream, cut, order_key, mesh),
                accuracy=None
                if test is None
                else accuracy_on(
                    fixed_graph, test, mesh, reading.say if reading.skip_unreadable else None
                ),
                keys=(step_key, test_key),
                directory=directory,
                save_every=save_every,
                on_batch=on_batch or (lambda images: None),
            )
            with (
                _others_are_there(),
                contextlib.closing(run.feed) as feed,
                contextlib.closing(feed(start)) as batches,
            ):
                for epoch in range(start // cut.steps, recipe.epochs):
                    first = max(start, epoch * cut.steps)
                    progress, info = run.epoch(epoch, first, progress, batches)
                    progress = progress._replace(sums=on_devices(np.zeros(2, np.float32), mesh))
                    done = dataclasses.replace(metadata, epochs=epoch + 1)
                    steps = (epoch + 1) * cut.steps
                    with signals.postponed():
                        processes.together(
                            partial(_record, path, directory, info, graph, progress, done, steps)
                        )
                    if on_epoch is not None:
                        on_epoch(info)
    return nnx.merge(graph, *_trained(progress))


@contextlib.contextmanager
def _others_are_there() -> Iterator[None]:
    """Inside, a lost process ends the others in one line: no step can be done without it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UserError(
            f"another process of this run failed or was lost ({first_line(error)[:200]}); start "
            "all of them again, with --resume"
        ) from error


@dataclasses.dataclass
class _Run:
    """What all epochs of a run have in common."""

    training: Dataset
    recipe: Recipe
    cut: Cut
    _: dataclasses.KW_ONLY
    step: Step
    feed: Feed
    accuracy: Accuracy | None
    keys: tuple[Array, Array]
    directory: TrainingRun
    save_every: float
    on_batch: Callable[[int], None]

    def epoch(
        self, epoch: int, first: int, progress: Progress, batches: Iterator[tuple[Array, Array]]
    ) -> tuple[Progress, EpochInfo]:
        """The steps of an epoch from number `first` on."""
        recipe, cut = self.recipe, self.cut
        clock = saved = time.perf_counter()
        waited = 0.0
        last = (epoch + 1) * cut.steps
        rate = learning_rate_at(recipe.learning_rate, recipe.learning_rate_step, epoch)
        warmup = np.float32(warmup_at(recipe.warmup, epoch))
        in_flight: deque[Any] = deque()
        number = first
        try:
            while number < last:
                if len(in_flight) == _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                asked = time.perf_counter()
                images, labels = next(batches)
                # The first images, and the step's compilation, come before anything can wait.
                if number > first and in_flight[-1].is_ready():
                    waited += time.perf_counter() - asked
                law = law_at(self.training, recipe, epoch, number // cut.parts)
                noise = Noise(law, law.truncated(_INNER))
                strength = Strength(
                    np.float32(rate), warmup, np.float32(decay_at(recipe.decay, number))
                )
                key = jax.random.fold_in(self.keys[0], number)
                # The step takes the old state away: a signal must not come before there is a new.
                with signals.postponed():
                    progress, loss = self.step(progress, images, labels, noise, key, strength)
                    number += 1
                in_flight.append(loss)
                self.on_batch(cut.size)
                if time.perf_counter() - saved > self.save_every and number < last:
                    with signals.postponed():
                        self._save(number, progress)
                    saved = time.perf_counter()
            in_flight[-1].block_until_ready()
        except KeyboardInterrupt:
            if first < number < last:
                self._save(number, progress)
            raise
        seconds = time.perf_counter() - clock
        correct = float("nan")
        if self.accuracy is not None:
            key = jax.random.fold_in(self.keys[1], epoch)
            correct = self.accuracy(*_trained(progress), law, key)
        sums = jax.device_get(progress.sums)
        loss, share = (sums / (cut.steps * cut.size * recipe.noise_draws)).tolist()
        processes.together(partial(_check_loss, loss, epoch, recipe))
        speed = (last - first) * cut.size / seconds
        info = EpochInfo(epoch, float(law.k), rate, loss, share, correct, speed, waited / seconds)
        return progress, info

    def _save(self, steps: int, progress: Progress) -> None:
        """Writes the state within an epoch, where there is a place to write it.

        Where no command obeys signals, one may have come while a step had taken the state away.
        """
        whole = not any(leaf.is_deleted() for leaf in jax.tree.leaves(progress))
        if self.directory.path is not None and whole:
            self.directory.write_state(steps, progress)


def _check_loss(loss: float, epoch: int, recipe: Recipe) -> None:
    if not np.isfinite(loss):
        raise UserError(
            f"the training diverged: the mean loss of epoch {epoch + 1} is {loss}; begin "
            f"again with a smaller learning rate than {recipe.learning_rate:g}"
        )


def _begin(
    recipe: Recipe, dataset: str, scaling: Any, source: Classifier | None
) -> tuple[nnx.GraphDef, nnx.GraphDef, Progress]:
    """The graphs of the model in training mode and on stored averages, and the first state."""
    dtype = jnp.dtype(recipe.dtype)
    model = build(recipe.arch, recipe.seed, dataset=dataset, scaling=scaling, dtype=dtype)
    graph, (parameters, averages) = _split(model)
    fixed = nnx.view(model, raise_if_not_found=False, use_running_average=True, deterministic=True)
    if source is not None:
        parameters, averages = _split(nnx.merge(source.graphdef, source.state))[1]
    smoothed = (parameters, averages) if recipe.decay else None
    nothing = np.zeros(2, np.float32)
    progress = Progress(parameters, averages, OPTIMIZER.init(parameters), smoothed, nothing)
    return graph, _split(fixed)[0], progress


def _feed(training: Dataset, stream: Stream | None, cut: Cut, order_key: Array, mesh: Mesh) -> Feed:
    if isinstance(training, ArrayDataset):
        return ResidentFeed(training, cut, order_key, mesh)
    assert stream is not None
    return StreamFeed(stream, cut.size, mesh)


def _stream(
    training: Dataset, recipe: Recipe, cut: Cut, reading: Reading, devices: int
) -> Stream | None:
    """What reads a set that is not in memory; UserError where it cannot be trained on."""
    if isinstance(training, ArrayDataset):
        return None
    if jax.process_count() > 1 and cut.size % devices:
        raise UserError(
            f"a mini-batch of {cut.size} images is no multiple of the {devices} devices of "
            f"{jax.process_count()} processes, which share it; change --batch"
        )
    return Stream(
        training,
        seed=recipe.seed,
        batch=cut.size,
        batches=cut.steps,
        workers=reading.workers,
        skip_unreadable=reading.skip_unreadable,
        process=jax.process_index(),
        processes=jax.process_count(),
        say=reading.say,
    )


def _trained(progress: Progress) -> tuple[Any, Any]:
    """(parameters, averages) of the model that a run makes: the moving average, if one is kept."""
    return progress.smoothed or (progress.parameters, progress.averages)


def _record(
    path: Path | None,
    directory: TrainingRun,
    info: EpochInfo,
    graph: nnx.GraphDef,
    progress: Progress,
    metadata: ModelMetadata,
    steps: int,
) -> None:
    """Writes an epoch that is over, where there is a place to write it."""
    if path is not None:
        save_model(path / "model", nnx.merge(graph, *_trained(progress)), metadata)
        directory.write_row(info)
        directory.write_state(steps, progress)


def _check_agreement(training: Dataset, record: dict[str, Any]) -> None:
    """UserError where this process was given another run than the first."""
    if jax.process_count() > 1:
        digest = hashlib.sha256(repr((record, len(training), training.classes)).encode())
        if isinstance(training, ArrayDataset):
            for array in (training.images, training.labels):
                digest.update(np.ascontiguousarray(array).data)
        mine = np.frombuffer(digest.digest(), np.uint8)
        if not np.array_equal(mine, processes.from_first(mine)):
            raise UserError("this process was given other settings or other data than process 0")


def metadata_of(
    training: Dataset, recipe: Recipe, source: Classifier | None = None
) -> ModelMetadata:
    """What a checkpoint of this training says; `source` is what it started from."""
    return ModelMetadata(
        arch=recipe.arch,
        dataset=training.name,
        image_shape=training.image_shape,
        classes=training.classes,
        sigma=recipe.sigma,
        k=recipe.k,
        eta=recipe.eta,
        scaling=None if source is None else source.metadata.scaling,
        method=recipe.method,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )


def _pretrained(path: str | Path, training: Dataset, recipe: Recipe) -> Classifier:
    classifier = load_model(path)
    metadata = classifier.metadata
    if metadata.arch != recipe.arch:
        raise UserError(f"{path} holds a {metadata.arch}, not a {recipe.arch}")
    theirs, ours = (scaled_as(recipe.arch, name) for name in (metadata.dataset, training.name))
    kind = metadata.scaling or default_scaling(theirs)
    if input_scaling(theirs, kind) != input_scaling(ours, kind):
        raise UserError(f"{path} scales its input as {metadata.dataset}, not as {training.name}")
    return classifier


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, tuple[Any, Any]]:
    """(graph, (parameters, batch norm's averages))."""
    graph, *states = nnx.split(model, nnx.Param, ...)
    return graph, (states[0], states[1])
