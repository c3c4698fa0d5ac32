"""The gradient of the smoothed classifier's loss at the label, from draws taken tile by tile.

With p_i the softmax of draw i at the label, the loss is the log loss of the mean softmax,
-log(mean p_i) (Salman et al., NeurIPS 2019, equation 6), or the mean of the draws' log losses,
mean(-log p_i), as the attacks of Li et al. (ICML 2022) have it.

Both are taken by the margins m_i = log(sum of exp of the other logits) - (the label's logit), for
which p_i = 1/(1 + exp(m_i)): their gradients are sums of a_i (gradient of m_i), with
a_i = p_i (1 - p_i) / sum(p) and a_i = (1 - p_i) / n. The a_i are handled by their logarithms and
scaled by their sum, so a network that is certain of every draw (1 - p_i far below what float32
resolves next to 1) still has a gradient, and its direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

MEAN_SOFTMAX, MEAN_LOSS = LOSSES = ("mean-softmax", "mean-loss")
# From a tile's number: noise (images, tile, H, W, C), and which of the tile's draws count.
Tile = tuple[Float[Array, "images tile height width channels"], Bool[Array, " tile"]]


class Ascent(NamedTuple):
    """A loss's gradient is exp(log_scale) times `direction`, which has the size of a margin's."""

    direction: Float[Array, "images height width channels"]
    log_scale: Float[Array, " images"]


def ascent(
    model: Callable[[Array], Array],
    images: Float[Array, "images height width channels"],
    labels: Int32[Array, " images"],
    tile_of: Callable[[Int32[Array, ""]], Tile],
    tiles: int,
    loss: str,
    *,
    unroll: bool = False,
) -> Ascent:
    """The gradient, image by image, of the loss over all draws.

    Args:
        model: from images (N, H, W, C) to logits (N, classes), two classes at least.
        images: where.
        labels: of each.
        tile_of: the noise, tile by tile; each tile has a draw that counts.
        tiles: how many.
        loss: one of LOSSES.
        unroll: no loop over the tiles. In the body of a loop XLA's CPU programs take five to six
            times as long for the gradient of a strided convolution (JAX 0.10.2, mnist_43: 196
            against 35 milliseconds for 50 draws).
    """

    def one(number: Array, before: tuple[Array, ...]) -> tuple[Array, ...]:
        noise, counts = tile_of(number)
        margins, back = jax.vjp(lambda at: _margins(model, at, labels, noise), images)
        log_right, log_wrong = jax.nn.log_sigmoid(-margins), jax.nn.log_sigmoid(margins)
        if loss == MEAN_SOFTMAX:
            log_parts, log_whole = log_right + log_wrong, log_right
        else:
            log_parts, log_whole = log_wrong, jnp.zeros_like(log_wrong)
        nothing = jnp.full_like(margins, -jnp.inf)
        log_parts = jnp.where(counts[None, :], log_parts, nothing)
        own = jax.nn.logsumexp(log_parts, axis=1)
        (direction,) = back(jnp.exp(log_parts - own[:, None]))
        whole = jax.nn.logsumexp(jnp.where(counts[None, :], log_whole, nothing), axis=1)
        sum_before, direction_before, whole_before = before
        total = jnp.logaddexp(sum_before, own)
        direction = direction_before * _share(sum_before, total) + direction * _share(own, total)
        return total, direction, jnp.logaddexp(whole_before, whole)

    none = jnp.full(len(images), -jnp.inf, images.dtype)
    nothing_yet = (none, jnp.zeros_like(images), none)
    total, direction, whole = lax.fori_loop(0, tiles, one, nothing_yet, unroll=unroll or None)
    return Ascent(direction, total - whole)


def _share(part: Array, total: Array) -> Array:
    return jnp.exp(part - total)[:, None, None, None]


def _margins(
    model: Callable[[Array], Array], images: Array, labels: Array, noise: Array
) -> Float[Array, "images tile"]:
    noisy = images[:, None] + noise
    logits = model(noisy.reshape(-1, *noisy.shape[2:])).reshape(*noisy.shape[:2], -1)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    at_label = classes[None, None] == labels[:, None, None]
    others = jnp.where(at_label, jnp.full_like(logits, -jnp.inf), logits)
    own = jnp.sum(jnp.where(at_label, logits, jnp.zeros_like(logits)), axis=-1)
    return jax.nn.logsumexp(others, axis=-1) - own
