"""Each loss against its formula in plain NumPy, each gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax.train import losses

COPIES, IMAGES, CLASSES = 3, 5, 4


def example(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits, mixed = rng.normal(0, 2, (2, IMAGES, COPIES, CLASSES))
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    # Some images must be right, or the mask of smoothmix hides its term.
    logits[np.arange(2), :, labels[:2]] += 4.0
    return logits, mixed, labels, rng.uniform(0, 0.5, IMAGES)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def naive_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    terms = [
        -np.log(softmax(logits[j, i])[labels[j]]) for i in range(COPIES) for j in range(IMAGES)
    ]
    return float(np.mean(terms))


def naive_consistency(
    logits: np.ndarray, labels: np.ndarray, weight: float, entropy_weight: float
) -> float:
    total = naive_cross_entropy(logits, labels)
    for j in range(IMAGES):
        copies = [softmax(logits[j, i]) for i in range(COPIES)]
        mean = sum(copies) / COPIES
        divergence = sum(float(np.sum(mean * np.log(mean / copy))) for copy in copies) / COPIES
        entropy = -float(np.sum(mean * np.log(mean)))
        total += (weight * divergence + entropy_weight * entropy) / IMAGES
    return total


def naive_smoothmix(
    clean: np.ndarray, mixed: np.ndarray, labels: np.ndarray, share: np.ndarray, weight: float
) -> float:
    total = naive_cross_entropy(clean, labels)
    for j in range(IMAGES):
        mean = sum(softmax(clean[j, i]) for i in range(COPIES)) / COPIES
        if np.argmax(mean) != labels[j]:
            continue
        soft = (1 - share[j]) * mean + share[j] / CLASSES
        for i in range(COPIES):
            divergence = float(np.sum(soft * np.log(soft / softmax(mixed[j, i]))))
            total += weight * divergence / (COPIES * IMAGES)
    return total


def pairs(seed: int) -> list[tuple[object, float, object]]:
    """(our loss as a function of all logits, the naive value, the logits)."""
    logits, mixed, labels, share = example(seed)
    targets, part = jnp.asarray(labels), jnp.asarray(share)
    return [
        (
            lambda x: losses.cross_entropy(x[0], targets),
            naive_cross_entropy(logits, labels),
            np.stack([logits, mixed]),
        ),
        (
            lambda x: losses.consistency(x[0], targets, 5.0, 0.5),
            naive_consistency(logits, labels, 5.0, 0.5),
            np.stack([logits, mixed]),
        ),
        (
            lambda x: losses.smoothmix(x[0], x[1], targets, part, 3.0),
            naive_smoothmix(logits, mixed, labels, share, 3.0),
            np.stack([logits, mixed]),
        ),
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", range(3))
def test_loss_and_gradient(seed: int, which: int) -> None:
    with jax.enable_x64(True):
        loss, naive, logits = pairs(seed)[which]
        assert float(loss(jnp.asarray(logits))) == pytest.approx(naive, abs=1e-6)
        gradient = np.asarray(jax.grad(loss)(jnp.asarray(logits)))
        rng = np.random.default_rng(seed)
        for _ in range(4):
            direction = rng.normal(size=logits.shape)
            ends = [float(loss(jnp.asarray(logits + h * direction))) for h in (1e-6, -1e-6)]
            difference = (ends[0] - ends[1]) / 2e-6
            assert difference == pytest.approx(float(np.sum(gradient * direction)), abs=1e-6)


def test_confident_logits_stay_finite() -> None:
    """A softmax that underflows must cost no nan, in the loss or in its gradient."""
    labels = jnp.zeros(2, jnp.int32)
    logits = jnp.stack([jnp.array([[500.0, -500.0], [400.0, 0.0]], jnp.float32)] * 2, axis=1)
    share = jnp.zeros(2, jnp.float32)
    for loss in (
        lambda x: losses.cross_entropy(x, labels),
        lambda x: losses.consistency(x, labels, 5.0, 0.5),
        lambda x: losses.smoothmix(x, x, labels, share, 5.0),
    ):
        value, gradient = jax.value_and_grad(loss)(logits)
        assert jnp.isfinite(value) and bool(jnp.all(jnp.isfinite(gradient)))
