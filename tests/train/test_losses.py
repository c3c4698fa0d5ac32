"""Each method's loss against its formula in NumPy and SciPy, its gradient against differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dsrs_jax.train.methods import METHODS, Batch, Objective, Views
from dsrs_jax.train.methods.catrs import catrs, kept
from dsrs_jax.train.methods.macer import shortfall

COPIES, IMAGES, CLASSES = 3, 5, 4
WEIGHT, ENTROPY_WEIGHT, MARGIN, SHARPNESS = 3.0, 0.7, 3.0, 2.0
SIGMA, WARMUP = 0.5, 0.75
PIXELS = np.random.default_rng(9).random((IMAGES, 1, 1, CLASSES))
softmax = partial(special.softmax, axis=-1)


def naive(method: str, clean: np.ndarray, others: np.ndarray, label: int, chance: float) -> float:
    """Of one image; its clean logits and those of its other views are (copies, classes)."""
    mean = softmax(clean).mean(axis=0)
    each = [-np.log(softmax(copy)[label]) for copy in clean]
    if method in ("gaussian", "smoothadv"):
        return float(np.mean(each))
    if method == "consistency":
        divergence = np.mean([stats.entropy(mean, softmax(copy)) for copy in clean])
        return float(np.mean(each)) + WEIGHT * divergence + ENTROPY_WEIGHT * stats.entropy(mean)
    if method == "smoothmix":
        soft = (1 - chance / 2) * mean + chance / 2 / CLASSES
        divergence = np.mean([stats.entropy(soft, softmax(copy)) for copy in others])
        right = np.argmax(mean) == label
        return float(np.mean(each)) + (WARMUP * WEIGHT * divergence if right else 0.0)
    if method == "macer":
        sharp = softmax(SHARPNESS * clean).mean(axis=0)
        second, first = np.sort(sharp)[-2:]
        radius = stats.norm.ppf(first) - stats.norm.ppf(second)
        counted = np.argmax(sharp) == label and radius <= MARGIN
        lacking = MARGIN - radius if counted else 0.0
        return WARMUP * WEIGHT * SIGMA / 2 * lacking - float(np.log(mean[label]))
    assert method == "catrs"
    share = np.mean(clean.argmax(axis=1) == label)
    count = max(1, int(stats.binom.ppf(chance, COPIES, share)))
    worst = max(stats.entropy(mean, softmax(copy)) for copy in others)
    return sum(sorted(each)[:count]) / COPIES + (WEIGHT * worst if count == COPIES else 0.0)


def loss_of(
    method: str, noise: jax.Array, others: jax.Array, labels: jax.Array, chance: jax.Array
) -> jax.Array:
    """The method's loss where the logits are the pixels of a noisy image.

    The others are noisy images for catrs; else the first of each row is an image, as mixtures are.
    """
    objective = Objective(
        method, noise.shape[1], WEIGHT, ENTROPY_WEIGHT, steps=0, step_size=0.0, mix_step=0,
        epsilon=0.0, margin=MARGIN, sharpness=SHARPNESS, inside=0.0, accumulation=1,
    )  # fmt: skip
    pixels = jnp.asarray(PIXELS[: len(noise)], noise.dtype)
    views = Views(pixels, others if method == "catrs" else others[:, 0])
    # What trains on the batch's images in place of the views gives nan.
    unseen, numbers = jnp.full_like(pixels, jnp.nan), jnp.asarray([WARMUP, SIGMA], noise.dtype)
    batch = Batch(unseen, labels, noise, chance, numbers[0], numbers[1])
    loss, logits = METHODS[method].loss(logits_of, views, batch, objective)
    return jnp.where(jnp.all(logits == logits_of(pixels[:, None] + noise)), loss, jnp.nan)


def logits_of(noisy: jax.Array) -> jax.Array:
    return noisy.reshape(*noisy.shape[:2], -1)


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient(method: str) -> None:
    loss = jax.jit(partial(loss_of, method))
    slope = jax.jit(jax.grad(loss, (0, 1)))
    # Of catrs with a target that stays: no gradient flows through it.
    fixed = jax.jit(
        lambda noise, others, labels, chance, target: catrs(
            logits_of(PIXELS[:, None] + noise), logits_of(others), target, labels, chance, WEIGHT
        )
    )
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
        chance = rng.random(IMAGES)
        noise, others = rng.normal(0, 2, (2, IMAGES, COPIES, 1, 1, CLASSES))
        # Some images must be right, or masks hide whole terms.
        noise[np.arange(2), ..., labels[:2]] += 4.0
        clean = (PIXELS[:, None] + noise)[:, :, 0, 0]
        moved = (others if method == "catrs" else others[:, :1] + noise)[:, :, 0, 0]
        images = zip(clean, moved, labels, chance, strict=True)
        expected = np.mean([naive(method, *image) for image in images])
        with jax.enable_x64(True):
            ends = jnp.asarray(noise), jnp.asarray(others)
            constants = jnp.asarray(labels), jnp.asarray(chance)
            assert float(loss(*ends, *constants)) == pytest.approx(expected, abs=1e-9)
            smooth = loss
            if method == "catrs":
                smooth, constants = fixed, (*constants, jnp.asarray(softmax(clean).mean(axis=1)))
            rate = slope(*ends, *constants[:2])
            direction = rng.normal(size=(2, *noise.shape))
            there, back = (
                float(smooth(noise + h * direction[0], others + h * direction[1], *constants))
                for h in (1e-6, -1e-6)
            )
            along = sum(float(np.sum(a * b)) for a, b in zip(rate, direction, strict=True))
            assert (there - back) / 2e-6 == pytest.approx(along, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_confident_logits_stay_finite(method: str) -> None:
    """A softmax that underflows must cost no nan, in the loss or in its gradient."""
    loss = jax.jit(jax.value_and_grad(partial(loss_of, method), (0, 1)))
    row = np.array([[500.0, -500.0, 0.0, 0.0], [400.0, 0.0, 0.0, 0.0]], np.float32)
    logits = np.stack([row[:, None, None]] * 2, axis=1)
    for noise, others in ((logits, logits), (logits, -logits), (-logits, -logits)):
        value, gradient = loss(noise, others, np.zeros(2, np.int32), np.zeros(2, np.float32))
        assert np.isfinite(value) and all(np.all(np.isfinite(leaf)) for leaf in gradient)


def test_macer_at_every_confidence() -> None:
    """From a coin's toss to probabilities of 0 and 1: the slope ends at the margin, never nan."""
    gaps = np.linspace(0.01, 130.0, 400)
    logits = (gaps[:, None, None] * np.array([[[0.0, 1.0, -1.0]] * 2])).astype(np.float32)
    labels = jnp.ones(400, jnp.int32)

    gradient = jax.jit(jax.grad(lambda x: jnp.sum(shortfall(x, labels, 8.0, 1.0))))
    slope = np.asarray(gradient(logits))[:, :, 1].sum(axis=1)
    # The third class has next to nothing, so pA is 1 - pB.
    radii = 2.0 * stats.norm.isf(np.exp(-gaps) / (1.0 + np.exp(-gaps)))
    assert np.all(slope[(radii > 1.0) & (radii < 7.5)] < 0.0)
    assert np.all(slope[radii > 8.5] == 0.0)
    assert np.all(np.isfinite(slope))


# Not near a step of the distribution function, which float32 and float64 may place apart.
GRID = (np.arange(2000, dtype=np.float32) + 0.37) / 2000
KEPT = jax.jit(kept)


@given(st.sampled_from([1, 4, 16]), st.floats(0.0, 1.0))
def test_catrs_learns_a_binomial_number_of_draws(draws: int, share: float) -> None:
    right = round(share * draws)
    answers = np.where(np.arange(draws) < right, 2, 0)
    logits = np.broadcast_to(np.eye(3, dtype=np.float32)[answers], (len(GRID), draws, 3))
    ours = np.asarray(KEPT(logits, np.full(len(GRID), 2, np.int32), GRID))
    assert np.all(np.diff(ours) >= 0), "more chance never learns fewer"
    expected = stats.binom(draws, right / draws)
    for count in range(1, draws + 1):
        # At least 1: what the distribution says of 0 goes to 1.
        probability = expected.pmf(count) + (expected.pmf(0) if count == 1 else 0.0)
        assert abs(np.mean(ours == count) - probability) <= 1.5 / len(GRID)
