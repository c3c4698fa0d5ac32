"""The compiled training step, shared by all runs of a process.

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
from jaxtyping import Array, Float32, Int32, Key, UInt8

from dsrs_jax.noise import RadialLaw
from dsrs_jax.train.augmentation import Augmentation
from dsrs_jax.train.methods import METHODS, Batch, Objective, Views

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
OPTIMIZER = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM))


class Progress(NamedTuple):
    """All that a step changes; lives on the devices."""

    parameters: Any
    averages: Any  # batch norm's
    optimizer: Any  # its momentum
    smoothed: Any  # the moving average of (parameters, averages); None without one
    sums: Any  # two: of losses and of right answers, over the draws of this epoch


class Noise(NamedTuple):
    """The noise of a step."""

    law: RadialLaw
    inner: RadialLaw  # the same, of its inner half alone


class Strength(NamedTuple):
    """What changes from step to step: arguments of the compiled step."""

    learning_rate: Any  # float32 scalars
    warmup: Any
    decay: Any  # of the moving average: the share of it that a step keeps


# Progress, images, labels, noise, key and strength to (progress, loss).
Step = Callable[..., tuple[Progress, Array]]


@functools.lru_cache(maxsize=32)
def make_step(
    graph: nnx.GraphDef,
    fixed_graph: nnx.GraphDef,
    objective: Objective,
    augment: Augmentation,
    mesh: Mesh,
) -> Step:
    """The step of a model: one compilation serves all runs of a process that agree in these.

    Args:
        graph: of the model in training mode.
        fixed_graph: of the model on stored averages.
        objective: see `Objective`.
        augment: random views of the images.
        mesh: of the devices, with the axis "images".
    """
    method = METHODS[objective.method]
    draws_of_each, parts = objective.noise_draws, objective.accumulation
    by_image = NamedSharding(mesh, PartitionSpec("images"))
    # XLA runs a convolution inside a loop twenty times as slowly on a CPU.
    unroll = parts if mesh.devices.flat[0].platform == "cpu" else 1

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

        def logits_of(noisy: Array) -> Array:
            return model(flat(noisy)).reshape(*noisy.shape[:2], -1)

        loss, logits = method.loss(logits_of, views, batch, objective)
        answers = jnp.argmax(logits, axis=-1)
        correct = jnp.sum(answers == batch.labels[:, None], dtype=jnp.float32)
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), correct)

    def gradient_of(parameters: Any, averages: Any, batch: Batch) -> tuple[Array, Any, Any, Array]:
        """(loss, gradient, batch norm's averages after it, right answers) of a part."""
        # Views are constants of the loss: no derivative of an inner attack is ever formed.
        views = method.views(partial(attack_logits, parameters, averages), batch, objective)
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (averages, correct)), gradient = value_and_grad(parameters, averages, views, batch)
        return loss, gradient, averages, correct

    def accumulated(parameters: Any, averages: Any, batch: Batch) -> tuple[Array, Any, Any, Array]:
        """`gradient_of` the batch, from parts of it one after the other."""
        if parts == 1:
            return gradient_of(parameters, averages, batch)
        size = len(batch.images) // parts
        # Images that are `parts` apart: each device has its share of each part.
        cut = {
            name: jnp.moveaxis(array.reshape(size, parts, *array.shape[1:]), 1, 0)
            for name, array in batch._asdict().items()
            if array.ndim
        }

        def add(carry: Any, part: dict[str, Array]) -> tuple[Any, None]:
            averages, *sums = carry
            loss, gradient, averages, correct = gradient_of(
                parameters, averages, batch._replace(**part)
            )
            return (averages, *jax.tree.map(jnp.add, sums, [loss, gradient, correct])), None

        nothing = jnp.zeros((), jnp.float32)
        begun = (averages, nothing, jax.tree.map(jnp.zeros_like, parameters), nothing)
        (averages, loss, gradient, correct), _ = jax.lax.scan(add, begun, cut, unroll=unroll)
        return loss / parts, jax.tree.map(lambda sum: sum / parts, gradient), averages, correct

    def draw(noise: Noise, key: Key[Array, ""], count: int) -> Array:
        draws = noise.law.sample(key, count)
        if not objective.inside:
            return draws
        inner_key, choice_key = jax.random.split(jax.random.fold_in(key, 1))
        inside = jax.random.bernoulli(choice_key, objective.inside, (count, 1))
        return jnp.where(inside, noise.inner.sample(inner_key, count), draws)

    # The same sharding in and out: one compilation serves the first step and all others.
    @partial(jax.jit, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def step(
        progress: Progress,
        images: Float32[Array, "images height width channels"]
        | UInt8[Array, "images height width channels"],
        labels: Int32[Array, " images"],
        noise: Noise,
        key: Key[Array, ""],
        strength: Strength,
    ) -> tuple[Progress, Array]:
        noise_key, view_key, chance_key = jax.random.split(key, 3)
        pixels = as_pixels(images)
        clean = shared(augment(view_key, pixels))
        draws = draw(noise, noise_key, len(clean) * draws_of_each)
        batch = Batch(
            clean,
            shared(labels),
            shared(draws.reshape(len(clean), draws_of_each, *clean.shape[1:])),
            jax.random.uniform(chance_key, (len(clean),), jnp.float32),
            strength.warmup,
            jnp.float32(noise.law.sigma),
        )
        loss, gradient, averages, correct = accumulated(
            progress.parameters, progress.averages, batch
        )
        direction, optimizer = OPTIMIZER.update(gradient, progress.optimizer, progress.parameters)
        parameters = jax.tree.map(
            lambda old, change: old - strength.learning_rate * change,
            progress.parameters,
            direction,
        )
        smoothed = progress.smoothed
        if smoothed is not None:
            smoothed = optax.incremental_update(
                (parameters, averages), smoothed, 1.0 - strength.decay
            )
        sums = progress.sums + jnp.stack([loss * (draws_of_each * len(clean)), correct])
        return Progress(parameters, averages, optimizer, smoothed, sums), loss

    return step


def as_pixels(images: Array) -> Float32[Array, "images height width channels"]:
    """Images of 8 bits as float32 in [0, 1]; floats as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / jnp.float32(255)
    return images
