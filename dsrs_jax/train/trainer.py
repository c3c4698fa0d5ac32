"""Training of base classifiers: four methods under noise whose k grows, resumable bit for bit.

Data-parallel over all devices of all processes: each holds every parameter and a share of each
mini-batch. So wherever images have several noisy copies, the images are the leading axis: flattened
into one batch, an image's copies stay on its device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, Key

from dsrs_jax import distributed
from dsrs_jax.data import ArrayDataset as Dataset
from dsrs_jax.errors import UserError
from dsrs_jax.models import (
    Classifier,
    ModelMetadata,
    architecture,
    build,
    default_scaling,
    fingerprint,
    input_scaling,
    load_model,
    save_model,
)
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.train import attacks, losses
from dsrs_jax.train.augmentation import augmentation
from dsrs_jax.train.run_directory import EpochInfo, RunDirectory
from dsrs_jax.train.schedules import k_at, learning_rate_at, warmup_at

METHODS = ("gaussian", "smoothadv", "consistency", "smoothmix")
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
_OPTIMIZER = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM))
_EVALUATION_BATCH = 512
_PIXELS = 256.0  # SmoothAdv's epsilon is in units of 1/256


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on, besides its data.

    Attributes:
        arch, method: names.
        sigma, k, eta: the noise at the end of the k schedule.
        k_warmup: epochs (optimizer steps for ImageNet) until k is reached; 0: from the start.
        copies: noise draws of an image; a batch is cut into as many mini-batches.
        epochs, batch, learning_rate, learning_rate_step: the optimizer's schedule.
        weight: lambda of consistency, eta of smoothmix.
        entropy_weight: of consistency (0.5 in Jeong and Shin, 2020).
        steps, step_size, mix_step: of the inner attacks; step_size is smoothmix's alone.
        epsilon: smoothadv's radius in units of 1/256.
        warmup: epochs over which smoothadv's radius and smoothmix's weight rise.
        dtype: of the arithmetic, float32 or bfloat16.
        seed: of weights, order, noise and augmentation.
    """

    arch: str
    method: str = "gaussian"
    sigma: float = 0.5
    k: float = 0.0
    eta: float = 2.0
    k_warmup: int = 0
    copies: int = 1
    epochs: int = 150
    batch: int = 256
    learning_rate: float = 0.01
    learning_rate_step: int = 50
    weight: float = 5.0
    entropy_weight: float = 0.5
    steps: int = 8
    step_size: float = 1.0
    mix_step: int = 1
    epsilon: float = 64.0
    warmup: int = 10
    dtype: str = "float32"
    seed: int = 0


class _Progress(NamedTuple):
    """All that a step changes; lives on the devices."""

    parameters: Any
    averages: Any  # batch norm's
    optimizer: Any  # its momentum
    sums: Any  # two: of losses and of right answers, over the copies of this epoch


class _Strength(NamedTuple):
    """What changes from epoch to epoch: arguments of the compiled step."""

    learning_rate: Any  # float32 scalars
    warmup: Any


def train(
    training: Dataset,
    recipe: Recipe,
    *,
    test: Dataset | None = None,
    out: Path | None = None,
    resume: bool = False,
    pretrained: str | Path | None = None,
    on_epoch: Callable[[EpochInfo], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> nnx.Module:
    """A model trained as the recipe says; with `out`, recorded there after each epoch.

    The images of an epoch come in a new random order; those that do not fill the last batch sit
    out that epoch. The result depends on the recipe and the data alone; a run that was killed and
    resumed on the same devices ends bit for bit as one that was not.

    In a run of several processes (`distributed.initialize`) each calls this with the same
    arguments; the first alone reads and writes `out`.

    Args:
        training: images and labels.
        recipe: see `Recipe`.
        test: noisy test accuracy is measured on it after each epoch.
        out: run directory.
        resume: continue what `out` holds.
        pretrained: checkpoint folder of the same architecture to start from; its input scaling is
            kept.
        on_epoch: called after each epoch.
        on_batch: called with the number of images of each batch as it is given to the devices.

    Raises:
        UserError: a setting is wrong, `out` holds another run, or a file cannot be written; told
            before the first epoch.
    """
    law = distributed.together(lambda: _check(training, recipe))
    source = distributed.together(
        lambda: None if pretrained is None else _pretrained(pretrained, training, recipe)
    )
    metadata = _metadata(training, recipe, source)
    record = dataclasses.asdict(recipe) | {
        "dataset": training.name,
        "pretrained": None if source is None else fingerprint(source),
    }
    distributed.together(lambda: _check_agreement(training, record))
    # Of several processes the first alone has the run on disk.
    path = out if jax.process_index() == 0 else None
    directory = distributed.together(lambda: RunDirectory(path, record, resume))
    start = int(distributed.from_first(np.array(directory.epochs)))
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
    progress = _Progress(parameters, averages, _OPTIMIZER.init(parameters), nothing)
    distributed.together(lambda: directory.check_space(progress))
    if start > 0:
        before = progress
        progress = distributed.together(lambda: directory.read_state(before))
        progress = distributed.from_first(progress)
    mesh = jax.make_mesh(
        (jax.device_count(),), ("images",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    progress = _on_devices(progress, mesh)
    images, labels = _on_devices((training.images, training.labels), mesh)
    step = _make_step(graph, fixed_graph, recipe, training, mesh)
    accuracy = None if test is None else _make_accuracy(fixed_graph, test, mesh)

    batch = min(recipe.batch, len(training))
    size = batch // recipe.copies
    batches = len(training) // batch
    order_key, step_key, test_key = jax.random.split(jax.random.key(recipe.seed), 3)
    with directory:
        for epoch in range(start, recipe.epochs):
            clock = time.perf_counter()
            rate = learning_rate_at(recipe.learning_rate, recipe.learning_rate_step, epoch)
            strength = _Strength(np.float32(rate), np.float32(warmup_at(recipe.warmup, epoch)))
            order = np.asarray(
                jax.random.permutation(jax.random.fold_in(order_key, epoch), len(training))
            )
            for number in range(batches):
                seen = epoch * batches + number
                law = _law(training, recipe, epoch, seen)
                for part in range(recipe.copies):
                    first = number * batch + part * size
                    key = jax.random.fold_in(step_key, seen * recipe.copies + part)
                    chosen = order[first : first + size]
                    progress = step(progress, images, labels, chosen, law, key, strength)
                if on_batch is not None:
                    on_batch(batch)
            right = jnp.float32(jnp.nan)
            if accuracy is not None:
                key = jax.random.fold_in(test_key, epoch)
                right = accuracy(progress.parameters, progress.averages, law, key)
            # The only wait for the devices in an epoch.
            sums, right = jax.device_get((progress.sums, right))
            count = batches * recipe.copies * size * recipe.copies
            loss, share = (sums / count).tolist()
            speed = batches * batch / (time.perf_counter() - clock)
            info = EpochInfo(epoch, float(law.k), rate, loss, share, float(right), speed)
            progress = progress._replace(sums=_on_devices(nothing, mesh))
            done = dataclasses.replace(metadata, epochs=epoch + 1)
            distributed.together(partial(_record, path, directory, info, graph, progress, done))
            if on_epoch is not None:
                on_epoch(info)
    return nnx.merge(graph, progress.parameters, progress.averages)


def _record(
    path: Path | None,
    directory: RunDirectory,
    info: EpochInfo,
    graph: nnx.GraphDef,
    progress: _Progress,
    metadata: ModelMetadata,
) -> None:
    """Writes an epoch that is over, where there is a place to write it."""
    if path is not None:
        trained = nnx.merge(graph, progress.parameters, progress.averages)
        save_model(path / "model", trained, metadata)
        directory.write(info, progress)


def _on_devices(tree: Any, mesh: Any, *axes: str | None) -> Any:
    """Arrays that every process holds whole, put on all devices: split along `axes`, or whole."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def put(leaf: Any) -> Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def _make_step(
    graph: nnx.GraphDef, fixed_graph: nnx.GraphDef, recipe: Recipe, training: Dataset, mesh: Any
) -> Callable[..., _Progress]:
    augment = augmentation(training.name)
    copies = recipe.copies
    by_image = NamedSharding(mesh, PartitionSpec("images"))

    def shared(of_images: Array) -> Array:
        return jax.lax.with_sharding_constraint(of_images, by_image)

    def flat(noisy: Array) -> Array:
        return noisy.reshape(-1, *noisy.shape[2:])

    def attack_logits(parameters: Any, averages: Any, noisy: Array) -> Array:
        """On stored averages; (images, copies, classes)."""
        logits = nnx.merge(fixed_graph, parameters, averages)(flat(noisy))
        return logits.reshape(*noisy.shape[:2], -1)

    def loss_of(
        parameters: Any,
        averages: Any,
        clean: Array,
        mixed: Array | None,
        labels: Array,
        noise: Array,
        share: Array,
        warmup: Array,
    ) -> tuple[Array, tuple[Any, Array]]:
        # Flax lets only variables of this very trace be updated: make the averages anew here.
        model = nnx.merge(graph, parameters, jax.tree.map(lambda leaf: leaf, averages))

        def logits_of(images: Array) -> Array:
            logits = model(flat(images[:, None] + noise))
            return logits.reshape(len(images), copies, -1)

        logits = logits_of(clean)
        if recipe.method == "consistency":
            loss = losses.consistency(logits, labels, recipe.weight, recipe.entropy_weight)
        elif mixed is not None:
            weight = recipe.weight * warmup
            loss = losses.smoothmix(logits, logits_of(mixed), labels, share, weight)
        else:
            loss = losses.cross_entropy(logits, labels)
        answers = jnp.argmax(logits, axis=-1)
        right = jnp.sum(answers == labels[:, None], dtype=jnp.float32)
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), right)

    # The same sharding in and out: one compilation serves the first step and all others.
    @partial(jax.jit, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def step(
        progress: _Progress,
        images: Float32[Array, "images height width channels"],
        labels: Int32[Array, " images"],
        chosen: Int32[Array, " batch"],
        law: RadialLaw,
        key: Key[Array, ""],
        strength: _Strength,
    ) -> _Progress:
        noise_key, view_key, share_key = jax.random.split(key, 3)
        clean = shared(augment(view_key, images[chosen]))
        targets = labels[chosen]
        draws = law.sample(noise_key, len(chosen) * copies)
        noise = shared(draws.reshape(len(chosen), copies, *clean.shape[1:]))
        share = jax.random.uniform(share_key, (len(chosen),), jnp.float32, 0.0, 0.5)
        logits_of = partial(attack_logits, progress.parameters, progress.averages)
        mixed = None
        if recipe.method == "smoothadv":
            radius = strength.warmup * (recipe.epsilon / _PIXELS)
            clean = attacks.smoothadv(
                logits_of, clean, targets, noise, steps=recipe.steps, radius=radius
            )
        elif recipe.method == "smoothmix":
            clean, far = attacks.smoothmix(
                logits_of,
                clean,
                targets,
                noise,
                steps=recipe.steps,
                step_size=recipe.step_size,
                mix_step=recipe.mix_step,
                clean_radius=strength.warmup * (recipe.step_size * recipe.mix_step),
            )
            part = share[:, None, None, None]
            mixed = (1.0 - part) * clean + part * far
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (averages, right)), gradient = value_and_grad(
            progress.parameters,
            progress.averages,
            clean,
            mixed,
            targets,
            noise,
            share,
            strength.warmup,
        )
        direction, optimizer = _OPTIMIZER.update(gradient, progress.optimizer, progress.parameters)
        parameters = jax.tree.map(
            lambda old, change: old - strength.learning_rate * change,
            progress.parameters,
            direction,
        )
        sums = progress.sums + jnp.stack([loss * (copies * len(chosen)), right])
        return _Progress(parameters, averages, optimizer, sums)

    return step


def _make_accuracy(
    fixed_graph: nnx.GraphDef, test: Dataset, mesh: Any
) -> Callable[..., Float32[Array, ""]]:
    """Share of right answers on the test images, each under one fresh draw of the noise."""
    size = -(-min(_EVALUATION_BATCH, len(test)) // mesh.size) * mesh.size
    blocks = -(-len(test) // size)
    padding = blocks * size - len(test)
    nothing = np.zeros((padding, *test.image_shape), np.float32)
    images = np.concatenate([test.images, nothing]).reshape(blocks, size, *test.image_shape)
    labels = np.concatenate([test.labels, np.full(padding, -1, np.int32)]).reshape(blocks, size)
    images, labels = _on_devices((images, labels), mesh, None, "images")

    @jax.jit
    def accuracy(
        images: Float32[Array, "blocks images height width channels"],
        labels: Int32[Array, "blocks images"],
        parameters: Any,
        averages: Any,
        law: RadialLaw,
        key: Key[Array, ""],
    ) -> Float32[Array, ""]:
        model = nnx.merge(fixed_graph, parameters, averages)

        def right(block: tuple[Array, Array, Array]) -> Array:
            pixels, classes, block_key = block
            noisy = pixels + law.sample(block_key, size).reshape(pixels.shape)
            return jnp.sum(jnp.argmax(model(noisy), axis=-1) == classes, dtype=jnp.float32)

        keys = jax.random.split(key, blocks)
        return jnp.sum(jax.lax.map(right, (images, labels, keys))) / len(test)

    return partial(accuracy, images, labels)


def _check(training: Dataset, recipe: Recipe) -> RadialLaw:
    found = architecture(recipe.arch)
    if recipe.method not in METHODS:
        raise UserError(f"unknown method {recipe.method!r}; known: {', '.join(METHODS)}")
    if (training.image_shape, training.classes) != (found.image_shape, found.classes):
        raise UserError(
            f"{recipe.arch} takes images {found.image_shape} of {found.classes} classes, "
            f"{training.name} has {training.image_shape} of {training.classes}"
        )
    positive = {
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "learning rate": recipe.learning_rate,
        "learning-rate step": recipe.learning_rate_step,
        "number of noise draws": recipe.copies,
        "number of attack steps": recipe.steps,
    }
    for name, value in positive.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, got {value}")
    if min(recipe.batch, len(training)) < recipe.copies:
        raise UserError(f"a batch of {recipe.batch} cannot be cut into {recipe.copies} parts")
    return generalized_gaussian(
        int(np.prod(training.image_shape)), recipe.sigma, recipe.k, recipe.eta
    )


def _law(training: Dataset, recipe: Recipe, epoch: int, seen: int) -> RadialLaw:
    """The noise of a batch: k grows with the epochs, for ImageNet with the optimizer's steps."""
    by_steps = training.name == "imagenet"
    k = k_at(recipe.k, recipe.k_warmup, seen * recipe.copies if by_steps else epoch)
    dimension = int(np.prod(training.image_shape))
    return generalized_gaussian(dimension, recipe.sigma, k, recipe.eta)


def _check_agreement(training: Dataset, record: dict[str, Any]) -> None:
    """UserError where this process was given another run than the first."""
    if jax.process_count() > 1:
        digest = hashlib.sha256(repr(record).encode())
        for array in (training.images, training.labels):
            digest.update(np.ascontiguousarray(array).data)
        mine = np.frombuffer(digest.digest(), np.uint8)
        if not np.array_equal(mine, distributed.from_first(mine)):
            raise UserError("this process was given other settings or other data than process 0")


def _metadata(training: Dataset, recipe: Recipe, source: Classifier | None) -> ModelMetadata:
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
    kind = metadata.scaling or default_scaling(metadata.dataset)
    if input_scaling(metadata.dataset, kind) != input_scaling(training.name, kind):
        raise UserError(f"{path} scales its input as {metadata.dataset}, not as {training.name}")
    return classifier


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, tuple[Any, Any]]:
    """(graph, (parameters, batch norm's averages))."""
    graph, *states = nnx.split(model, nnx.Param, ...)
    return graph, (states[0], states[1])
