"""Noise augmentation: cross-entropy on images with fresh noise (Cohen et al., ICML 2019).

The recipe: SGD with momentum 0.9 and weight decay 1e-4; the learning rate rises
over the first twentieth of the steps and falls to 0 along a cosine.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float32, Int32, Key

from dsrs_jax.data import Dataset
from dsrs_jax.errors import UserError
from dsrs_jax.models import architecture, build
from dsrs_jax.noise import RadialLaw

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WARM_UP = 0.05  # share of all steps


class EpochInfo(NamedTuple):
    """Means over the noisy training images of one epoch, each under the weights of its step."""

    loss: float
    accuracy: float


class _Progress(NamedTuple):
    """All that a step changes; lives on the device."""

    parameters: Any
    other_state: Any
    optimizer_state: Any
    sums: Float32[Array, "2"]  # of losses and of right answers, over the images of this epoch


def train(
    dataset: Dataset,
    arch: str,
    law: RadialLaw,
    *,
    epochs: int = 300,
    batch: int = 128,
    learning_rate: float = 0.1,
    seed: int = 0,
    on_epoch: Callable[[int, EpochInfo], None] | None = None,
) -> nnx.Module:
    """A model of `arch` trained on `dataset` under fresh noise from `law` in every step.

    The images of an epoch come in a new random order, in batches of `batch` (at most the size of
    the set; those that do not fill the last batch sit out that epoch). Weights, order and noise
    depend on `seed` alone. `on_epoch(epoch, info)` is called after each epoch, counted from 0;
    without it the host never waits for the device.

    Raises UserError for an unknown `arch`, for one that does not take the images of `dataset`,
    for a law of another dimension, and for settings that are not positive.
    """
    _check(dataset, arch, law, epochs=epochs, batch=batch, learning_rate=learning_rate)
    batch = min(batch, len(dataset))
    steps = len(dataset) // batch
    optimizer = _optimizer(learning_rate, steps * epochs)
    graphdef, *states = nnx.split(build(arch, seed), nnx.Param, ...)
    parameters, other_state = states
    progress = _Progress(
        parameters, other_state, optimizer.init(parameters), jnp.zeros(2, jnp.float32)
    )
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    step = _make_step(graphdef, optimizer)
    order_key, noise_key = jax.random.split(jax.random.key(seed))
    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(dataset))
        for number in range(steps):
            chosen = order[number * batch : (number + 1) * batch]
            key = jax.random.fold_in(noise_key, epoch * steps + number)
            progress = step(progress, images, labels, chosen, law, key)
        if on_epoch is not None:
            loss, accuracy = (progress.sums / (steps * batch)).tolist()
            on_epoch(epoch, EpochInfo(loss, accuracy))
        progress = progress._replace(sums=jnp.zeros(2, jnp.float32))
    return nnx.merge(graphdef, progress.parameters, progress.other_state)


def _check(
    dataset: Dataset, arch: str, law: RadialLaw, *, epochs: int, batch: int, learning_rate: float
) -> None:
    expected = architecture(arch)
    if (dataset.image_shape, dataset.classes) != (expected.image_shape, expected.classes):
        raise UserError(
            f"{arch} takes images {expected.image_shape} of {expected.classes} classes, "
            f"{dataset.name} has {dataset.image_shape} of {dataset.classes}"
        )
    dimension = dataset.images[0].size
    if law.dimension != dimension:
        raise UserError(
            f"the noise has dimension {law.dimension}, the images of {dataset.name} {dimension}"
        )
    settings = {"epochs": epochs, "batch": batch, "learning rate": learning_rate}
    for name, value in settings.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, got {value}")


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    rise = max(1, round(WARM_UP * steps))
    fall = max(1, steps - rise)

    # Optax's own warm-up schedule mixes integers and floats, which strict promotion forbids.
    def schedule(step: Int32[Array, ""]) -> Float32[Array, ""]:
        done = jnp.asarray(step, jnp.float32)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((done - rise) / fall, 0, 1)))
        return learning_rate * jnp.where(done < rise, (done + 1) / (rise + 1), falling)

    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(schedule, momentum=MOMENTUM),
    )


def _make_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation
) -> Callable[..., _Progress]:
    def loss_of(
        parameters: Any,
        other_state: Any,
        images: Float32[Array, "batch height width channels"],
        labels: Int32[Array, "batch"],
    ) -> tuple[Float32[Array, ""], tuple[Any, Float32[Array, ""]]]:
        model = nnx.merge(graphdef, parameters, other_state)
        logits = model(images)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        right = jnp.sum(jnp.argmax(logits, axis=1) == labels, dtype=jnp.float32)
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), right)

    @partial(jax.jit, donate_argnums=0)
    def step(
        progress: _Progress,
        images: Float32[Array, "images height width channels"],
        labels: Int32[Array, "images"],
        chosen: Int32[Array, "batch"],
        law: RadialLaw,
        key: Key[Array, ""],
    ) -> _Progress:
        clean = images[chosen]
        noisy = clean + law.sample(key, len(chosen)).reshape(clean.shape)
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (other_state, right)), gradient = value_and_grad(
            progress.parameters, progress.other_state, noisy, labels[chosen]
        )
        update, optimizer_state = optimizer.update(
            gradient, progress.optimizer_state, progress.parameters
        )
        return _Progress(
            optax.apply_updates(progress.parameters, update),
            other_state,
            optimizer_state,
            progress.sums + jnp.stack([loss * len(chosen), right]),
        )

    return step
