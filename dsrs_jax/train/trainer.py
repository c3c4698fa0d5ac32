"""Training of base classifiers: four methods under noise whose k grows, resumable bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from dsrs_jax.data import ArrayDataset
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
from dsrs_jax.system import processes
from dsrs_jax.system.errors import UserError
from dsrs_jax.train.methods import Objective
from dsrs_jax.train.recipe import Recipe, check, law_at
from dsrs_jax.train.record import EpochInfo, TrainingRun
from dsrs_jax.train.schedules import learning_rate_at, warmup_at
from dsrs_jax.train.step import OPTIMIZER, Progress, Strength, make_accuracy, make_step

_EVALUATION_BATCH = 512


def train(
    training: ArrayDataset,
    recipe: Recipe,
    *,
    test: ArrayDataset | None = None,
    out: Path | None = None,
    resume: bool = False,
    pretrained: str | Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_epoch: Callable[[EpochInfo], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> nnx.Module:
    """A model trained as the recipe says; with `out`, recorded there after each epoch.

    The images of an epoch come in a new random order; those that do not fill the last batch sit
    out that epoch. The result depends on the recipe and the data alone; a run that was killed and
    resumed on the same devices ends bit for bit as one that was not.

    In a run of several processes (`processes.initialize`) each calls this with the same
    arguments; the first alone reads and writes `out`.

    Args:
        training: images and labels.
        recipe: see `Recipe`.
        test: noisy test accuracy is measured on it after each epoch.
        out: run directory.
        resume: continue what `out` holds.
        pretrained: checkpoint folder of the same architecture to start from; its input scaling is
            kept.
        devices: that share each step; all of them unless given.
        on_epoch: called after each epoch.
        on_batch: called with the number of images of each batch as it is given to the devices.

    Raises:
        UserError: a setting is wrong, `out` holds another run, or a file cannot be written, told
            before the first epoch; or the training diverged. `out` keeps the epoch before.
    """
    law = processes.together(lambda: check(training, recipe))
    source = processes.together(
        lambda: None if pretrained is None else _pretrained(pretrained, training, recipe)
    )
    metadata = metadata_of(training, recipe, source)
    record = dataclasses.asdict(recipe) | {
        "dataset": training.name,
        "pretrained": None if source is None else source.fingerprint(),
    }
    processes.together(lambda: _check_agreement(training, record))
    # Of several processes the first alone has the run on disk.
    path = out if jax.process_index() == 0 else None
    directory = processes.together(lambda: TrainingRun(path, record, resume))
    start = int(processes.from_first(np.array(directory.epochs)))
    model = build(
        recipe.arch,
        recipe.seed,
        dataset=training.name,
        scaling=metadata.scaling,
        dtype=jnp.dtype(recipe.dtype),
    )
    graph, (parameters, averages) = _split(model)
    fixed = nnx.view(model, raise_if_not_found=False, use_running_average=True, deterministic=True)
    fixed_graph = _split(fixed)[0]
    if source is not None:
        parameters, averages = _split(nnx.merge(source.graphdef, source.state))[1]
    nothing = np.zeros(2, np.float32)
    progress = Progress(parameters, averages, OPTIMIZER.init(parameters), nothing)
    processes.together(lambda: directory.check_space(progress))
    if start > 0:
        before = progress
        progress = processes.together(lambda: directory.read_state(before))
        progress = processes.from_first(progress)
    chosen_devices = list(devices or jax.devices())
    mesh = jax.make_mesh(
        (len(chosen_devices),),
        ("images",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=chosen_devices,
    )
    progress = _on_devices(progress, mesh)
    images, labels = _on_devices((training.images, training.labels), mesh)
    objective = Objective(*(getattr(recipe, name) for name in Objective._fields))
    step = make_step(graph, fixed_graph, objective, training.name, mesh)
    accuracy = None if test is None else _accuracy_on(fixed_graph, test, mesh)

    batch = min(recipe.batch, len(training))
    size = batch // recipe.noise_draws
    batches = len(training) // batch
    # By name: another default generator, or way to use it, must not change a training.
    with directory, jax.threefry_partitionable(True):
        seed_key = jax.random.key(recipe.seed, impl="threefry2x32")
        order_key, step_key, test_key = jax.random.split(seed_key, 3)
        for epoch in range(start, recipe.epochs):
            clock = time.perf_counter()
            rate = learning_rate_at(recipe.learning_rate, recipe.learning_rate_step, epoch)
            strength = Strength(np.float32(rate), np.float32(warmup_at(recipe.warmup, epoch)))
            order = np.asarray(
                jax.random.permutation(jax.random.fold_in(order_key, epoch), len(training))
            )
            for number in range(batches):
                seen = epoch * batches + number
                law = law_at(training, recipe, epoch, seen)
                for part in range(recipe.noise_draws):
                    first = number * batch + part * size
                    key = jax.random.fold_in(step_key, seen * recipe.noise_draws + part)
                    chosen = order[first : first + size]
                    progress = step(progress, images, labels, chosen, law, key, strength)
                if on_batch is not None:
                    on_batch(batch)
            correct = jnp.float32(jnp.nan)
            if accuracy is not None:
                key = jax.random.fold_in(test_key, epoch)
                correct = accuracy(progress.parameters, progress.averages, law, key)
            # The only wait for the devices in an epoch.
            sums, correct = jax.device_get((progress.sums, correct))
            count = batches * recipe.noise_draws * size * recipe.noise_draws
            loss, share = (sums / count).tolist()
            if not np.isfinite(loss):
                raise UserError(
                    f"the training diverged: the mean loss of epoch {epoch + 1} is {loss}; begin "
                    f"again with a smaller learning rate than {recipe.learning_rate:g}"
                )
            speed = batches * batch / (time.perf_counter() - clock)
            info = EpochInfo(epoch, float(law.k), rate, loss, share, float(correct), speed)
            progress = progress._replace(sums=_on_devices(nothing, mesh))
            done = dataclasses.replace(metadata, epochs=epoch + 1)
            processes.together(partial(_record, path, directory, info, graph, progress, done))
            if on_epoch is not None:
                on_epoch(info)
    return nnx.merge(graph, progress.parameters, progress.averages)


def _record(
    path: Path | None,
    directory: TrainingRun,
    info: EpochInfo,
    graph: nnx.GraphDef,
    progress: Progress,
    metadata: ModelMetadata,
) -> None:
    """Writes an epoch that is over, where there is a place to write it."""
    if path is not None:
        trained = nnx.merge(graph, progress.parameters, progress.averages)
        save_model(path / "model", trained, metadata)
        directory.write(info, progress)


def _on_devices(tree: Any, mesh: Mesh, *axes: str | None) -> Any:
    """Arrays that every process holds whole, put on all devices: split along `axes`, or whole."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def put(leaf: Any) -> Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def _accuracy_on(fixed_graph: nnx.GraphDef, test: ArrayDataset, mesh: Mesh) -> Callable[..., Array]:
    """`make_accuracy` of the test images: a function of parameters, averages, law and key."""
    size = -(-min(_EVALUATION_BATCH, len(test)) // mesh.size) * mesh.size
    blocks = -(-len(test) // size)
    padding = blocks * size - len(test)
    nothing = np.zeros((padding, *test.image_shape), np.float32)
    images = np.concatenate([test.images, nothing]).reshape(blocks, size, *test.image_shape)
    labels = np.concatenate([test.labels, np.full(padding, -1, np.int32)]).reshape(blocks, size)
    images, labels = _on_devices((images, labels), mesh, None, "images")
    return partial(make_accuracy(fixed_graph, len(test)), images, labels)


def _check_agreement(training: ArrayDataset, record: dict[str, Any]) -> None:
    """UserError where this process was given another run than the first."""
    if jax.process_count() > 1:
        digest = hashlib.sha256(repr(record).encode())
        for array in (training.images, training.labels):
            digest.update(np.ascontiguousarray(array).data)
        mine = np.frombuffer(digest.digest(), np.uint8)
        if not np.array_equal(mine, processes.from_first(mine)):
            raise UserError("this process was given other settings or other data than process 0")


def metadata_of(
    training: ArrayDataset, recipe: Recipe, source: Classifier | None = None
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


def _pretrained(path: str | Path, training: ArrayDataset, recipe: Recipe) -> Classifier:
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
