"""The compiled training step and the accuracy under noise, shared by all runs of a process.

Data-parallel over all devices of all processes: each holds every parameter and a share of each
mini-batch. So wherever images have several noise draws, the images are the leading axis: flattened
into one batch, an image's draws stay on its device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, Key

from dsrs_jax.noise import RadialLaw
from dsrs_jax.train.augmentation import augmentation
from dsrs_jax.train.methods import METHODS, Batch, Objective, Views

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
OPTIMIZER = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM))


class Progress(NamedTuple):
    """All that a step changes; lives on the devices."""

    parameters: Any
    averages: Any  # batch norm's
    optimizer: Any  # its momentum
    sums: Any  # two: of losses and of right answers, over the draws of this epoch


class Strength(NamedTuple):
    """What changes from epoch to epoch: arguments of the compiled step."""

    learning_rate: Any  # float32 scalars
    warmup: Any


@functools.lru_cache(maxsize=32)
def make_step(
    graph: nnx.GraphDef,
    fixed_graph: nnx.GraphDef,
    objective: Objective,
    dataset: str,
    mesh: Mesh,
) -> Callable[..., Progress]:
    """The step of a model: one compilation serves all runs of a process that agree in these.

    Args:
        graph: of the model in training mode.
        fixed_graph: of the model on stored averages.
        objective: see `Objective`.
        dataset: whose augmentation is used.
        mesh: of the devices, with the axis "images".
    """
    augment, method = augmentation(dataset), METHODS[objective.method]
    draws_of_each = objective.noise_draws
    by_image = NamedSharding(mesh, PartitionSpec("images"))

    def shared(of_images: Array) -> Array:
        return jax.lax.with_sharding_constraint(of_images, by_image)

    def flat(noisy: Array) -> Array:
        return noisy.reshape(-1, *noisy.shape[2:])

    def attack_logits(parameters: Any, averages: Any, noisy: Array) -> Array:
        """On stored averages; (images, draws, classes)."""
        logits = nnx.merge(fixed_graph, parameters, averages)(flat(noisy))
        return logits.reshape(*noisy.shape[:2], -1)

    def loss_of(
        parameters: Any, averages: Any, views: Views, batch: Batch
    ) -> tuple[Array, tuple[Any, Array]]:
        # Flax lets only variables of this very trace be updated: make the averages anew here.
        model = nnx.merge(graph, parameters, jax.tree.map(lambda leaf: leaf, averages))

        def logits_of(images: Array) -> Array:
            logits = model(flat(images[:, None] + batch.noise))
            return logits.reshape(len(images), draws_of_each, -1)

        loss, logits = method.loss(logits_of, views, batch, objective)
        answers = jnp.argmax(logits, axis=-1)
        correct = jnp.sum(answers == batch.labels[:, None], dtype=jnp.float32)
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), correct)

    # The same sharding in and out: one compilation serves the first step and all others.
    @partial(jax.jit, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def step(
        progress: Progress,
        images: Float32[Array, "images height width channels"],
        labels: Int32[Array, " images"],
        chosen: Int32[Array, " batch"],
        law: RadialLaw,
        key: Key[Array, ""],
        strength: Strength,
    ) -> Progress:
        noise_key, view_key, share_key = jax.random.split(key, 3)
        clean = shared(augment(view_key, images[chosen]))
        targets = labels[chosen]
        draws = law.sample(noise_key, len(chosen) * draws_of_each)
        noise = shared(draws.reshape(len(chosen), draws_of_each, *clean.shape[1:]))
        share = jax.random.uniform(share_key, (len(chosen),), jnp.float32, 0.0, 0.5)
        batch = Batch(clean, targets, noise, share, strength.warmup)
        logits_of = partial(attack_logits, progress.parameters, progress.averages)
        views = method.views(logits_of, batch, objective)
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (averages, correct)), gradient = value_and_grad(
            progress.parameters, progress.averages, views, batch
        )
        direction, optimizer = OPTIMIZER.update(gradient, progress.optimizer, progress.parameters)
        parameters = jax.tree.map(
            lambda old, change: old - strength.learning_rate * change,
            progress.parameters,
            direction,
        )
        sums = progress.sums + jnp.stack([loss * (draws_of_each * len(chosen)), correct])
        return Progress(parameters, averages, optimizer, sums)

    return step


@functools.lru_cache(maxsize=32)
def make_accuracy(fixed_graph: nnx.GraphDef, total: int) -> Callable[..., Float32[Array, ""]]:
    """Share of correct answers among `total` images, each under one fresh draw of the noise."""

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

        def correct(block: tuple[Array, Array, Array]) -> Array:
            pixels, classes, block_key = block
            noisy = pixels + law.sample(block_key, len(pixels)).reshape(pixels.shape)
            return jnp.sum(jnp.argmax(model(noisy), axis=-1) == classes, dtype=jnp.float32)

        keys = jax.random.split(key, len(images))
        return jnp.sum(jax.lax.map(correct, (images, labels, keys))) / total

    return accuracy
