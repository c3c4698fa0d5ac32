"""Training by how sure the smoothed classifier is of each image (CAT-RS: Jeong et al., AAAI 2023).

Where few draws are right, only the easiest draws are learnt; where all are, the worst noise near
each draw is. Their target of the worst noise is the smoothed prediction of a network that was
trained under noise before; ours is the mean softmax of the network itself, so there is no second
training.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int32
from scipy.special import bdtr

from dsrs_jax.train.methods.ascent import PIXELS, Images, Noise, lengths, unit, within
from dsrs_jax.train.methods.method import Batch, LogitsOf, Method, Objective, Views
from dsrs_jax.train.methods.softmax import Logits, cross_entropies, mean_softmax


def attack(
    logits_of: LogitsOf,
    images: Images,
    noise: Noise,
    target: Float[Array, "images classes"],
    *,
    steps: int,
    radius: Float[Array, ""] | float,
) -> Noise:
    """Noise near `noise` under which the classifier is farthest from `target`.

    Every draw moves by itself: ascent on KL(target || softmax) with steps of 2 radius/steps, each
    projected to the l2 ball of `radius` around the first noise, then shifted and scaled to the
    mean and the root-mean-square over pixels that the first noise has. That last move can at most
    double the distance. (The published code divides by the root-mean-square, not by the standard
    deviation, and so keeps the second of the two nearly.)
    """
    centre, spread = _mean(noise), lengths(noise - _mean(noise))

    def farness(current: Noise) -> Float[Array, ""]:
        return jnp.sum(divergences(target, logits_of(images[:, None] + current)))

    def step(_: Array, current: Noise) -> Noise:
        shifted = current + (2.0 * radius / steps) * unit(jax.grad(farness)(current))
        inside = noise + within(shifted - noise, radius)
        return centre + spread * unit(inside - _mean(inside))

    return jax.lax.fori_loop(0, steps, step, noise, unroll=True)


def divergences(
    target: Float[Array, "images classes"], logits: Logits
) -> Float[Array, "images draws"]:
    """KL(target || softmax), draw by draw."""
    across = -jnp.sum(target[:, None] * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    return across - jnp.sum(entr(target), axis=-1, keepdims=True)


def kept(
    logits: Logits, labels: Int32[Array, " images"], chance: Float[Array, " images"]
) -> Int32[Array, " images"]:
    """How many draws of each image are learnt: binomial, at least 1.

    Of m draws, m trials, each a success with the share of the draws that are right; `chance`, in
    [0, 1), is put through the inverse of the distribution function.
    """
    draws = logits.shape[1]
    answers = jnp.argmax(logits, axis=-1).astype(labels.dtype)
    correct = jnp.sum(answers == labels[:, None], axis=1)
    # The number of right draws is all that an image's distribution depends on.
    table = bdtr(np.arange(draws), draws, np.arange(draws + 1)[:, None] / draws)
    passed = chance[:, None] >= jnp.asarray(table, chance.dtype)[correct]
    return jnp.maximum(jnp.sum(passed, axis=1, dtype=jnp.int32), 1)


def catrs(
    clean: Logits,
    moved: Logits,
    target: Float[Array, "images classes"],
    labels: Int32[Array, " images"],
    chance: Float[Array, " images"],
    weight: float,
) -> Float[Array, ""]:
    """The easiest draws' cross-entropies, and the worst noise where all draws are learnt.

    With K of an image's m draws `kept`: the sum of its K smallest cross-entropies, divided by m;
    where K = m plus weight * the largest KL(target || softmax) of its moved draws. The mean over
    images.

    Args:
        clean: logits under the noise as it was drawn.
        moved: logits under what `attack` made of it.
        target: what the moved draws should say.
        labels: right classes.
        chance: one uniform number an image, for `kept`.
        weight: of the second term.
    """
    draws = clean.shape[1]
    count = kept(clean, labels, chance)[:, None]
    easiest_first = jnp.sort(cross_entropies(clean, labels), axis=1)
    learnt = jnp.arange(draws, dtype=count.dtype)[None] < count
    low = jnp.sum(jnp.where(learnt, easiest_first, 0.0), axis=1) / draws
    high = jnp.max(divergences(target, moved), axis=1)
    return jnp.mean(low + jnp.where(count[:, 0] == draws, weight * high, 0.0))


def views(logits_of: LogitsOf, batch: Batch, objective: Objective) -> Views:
    """The images, and noisy images under the worst noise; the radius rises with the warm-up."""
    images, noise = batch.images, batch.noise
    target = mean_softmax(logits_of(images[:, None] + noise))
    radius = batch.warmup * (objective.epsilon / PIXELS)
    worst = attack(logits_of, images, noise, target, steps=objective.steps, radius=radius)
    return Views(images, images[:, None] + worst)


def loss(
    logits_of: LogitsOf, views: Views, batch: Batch, objective: Objective
) -> tuple[Array, Array]:
    """`catrs` of both; no gradient flows through the target."""
    assert views.others is not None
    logits = logits_of(views.images[:, None] + batch.noise)
    moved = logits_of(views.others)
    target = jax.lax.stop_gradient(mean_softmax(logits))
    return catrs(logits, moved, target, batch.labels, batch.chance, objective.weight), logits


def _mean(noise: Noise) -> Float[Array, "images draws 1 1 1"]:
    """Of each noise vector, over its pixels."""
    return jnp.mean(noise, axis=(-3, -2, -1), keepdims=True)


METHOD = Method(views, loss)
