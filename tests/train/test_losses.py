"""Each loss against its formula in plain NumPy and SciPy, each gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.train.methods import METHODS, Batch, Objective, Views
from dsrs_jax.train.methods.catrs import catrs, kept
from dsrs_jax.train.methods.consistency import consistency
from dsrs_jax.train.methods.macer import macer
from dsrs_jax.train.methods.smoothmix import smoothmix
from dsrs_jax.train.methods.softmax import cross_entropy

COPIES, IMAGES, CLASSES = 3, 5, 4
SIGMA, MARGIN, SHARPNESS = 0.5, 3.0, 2.0


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


def naive_macer(logits: np.ndarray, labels: np.ndarray, weight: float) -> float:
    total = 0.0
    for j in range(IMAGES):
        total -= np.log(np.mean(softmax(logits[j]), axis=0)[labels[j]])
        sharp = np.mean(softmax(SHARPNESS * logits[j]), axis=0)
        second, first = np.sort(sharp)[-2:]
        radius = stats.norm.ppf(first) - stats.norm.ppf(second)
        if np.argmax(sharp) == labels[j] and radius <= MARGIN:
            total += weight * SIGMA / 2 * (MARGIN - radius)
    return float(total / IMAGES)


def naive_catrs(
    clean: np.ndarray,
    moved: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    chance: np.ndarray,
    weight: float,
) -> float:
    total = 0.0
    for j in range(IMAGES):
        each = sorted(-np.log(softmax(clean[j, i])[labels[j]]) for i in range(COPIES))
        share = np.mean([np.argmax(clean[j, i]) == labels[j] for i in range(COPIES)])
        count = max(1, int(stats.binom.ppf(chance[j], COPIES, share)))
        total += sum(each[:count]) / COPIES
        if count == COPIES:
            total += weight * max(
                float(np.sum(target[j] * np.log(target[j] / softmax(moved[j, i]))))
                for i in range(COPIES)
            )
    return total / IMAGES


def pairs(seed: int) -> dict[str, tuple[object, float, object]]:
    """(our loss as a function of all logits, the naive value, the logits)."""
    logits, mixed, labels, share = example(seed)
    targets, part = jnp.asarray(labels), jnp.asarray(share)
    both = np.stack([logits, mixed])
    # Any target serves: no gradient flows through it.
    soft, chance = softmax(mixed[:, 0]), 2.0 * share
    return {
        "gaussian": (
            lambda x: cross_entropy(x[0], targets),
            naive_cross_entropy(logits, labels),
            both,
        ),
        "consistency": (
            lambda x: consistency(x[0], targets, 5.0, 0.5),
            naive_consistency(logits, labels, 5.0, 0.5),
            both,
        ),
        "smoothmix": (
            lambda x: smoothmix(x[0], x[1], targets, part, 3.0),
            naive_smoothmix(logits, mixed, labels, share, 3.0),
            both,
        ),
        "macer": (
            lambda x: macer(x[0], targets, SIGMA, 6.0, MARGIN, SHARPNESS),
            naive_macer(logits, labels, 6.0),
            both,
        ),
        "catrs": (
            lambda x: catrs(x[0], x[1], jnp.asarray(soft), targets, jnp.asarray(chance), 2.0),
            naive_catrs(logits, mixed, soft, labels, chance, 2.0),
            both,
        ),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", ["gaussian", "consistency", "smoothmix", "macer", "catrs"])
def test_loss_and_gradient(seed: int, which: str) -> None:
    with jax.enable_x64(True):
        loss, naive, logits = pairs(seed)[which]
        compiled = jax.jit(loss)
        assert float(compiled(jnp.asarray(logits))) == pytest.approx(naive, abs=1e-6)
        gradient = np.asarray(jax.grad(compiled)(jnp.asarray(logits)))
        rng = np.random.default_rng(seed)
        for _ in range(4):
            direction = rng.normal(size=logits.shape)
            ends = [float(compiled(jnp.asarray(logits + h * direction))) for h in (1e-6, -1e-6)]
            difference = (ends[0] - ends[1]) / 2e-6
            assert difference == pytest.approx(float(np.sum(gradient * direction)), abs=1e-6)


def test_confident_logits_stay_finite() -> None:
    """A softmax that underflows must cost no nan, in the loss or in its gradient."""
    labels = jnp.zeros(2, jnp.int32)
    logits = jnp.stack([jnp.array([[500.0, -500.0], [400.0, 0.0]], jnp.float32)] * 2, axis=1)
    share, certain = jnp.zeros(2, jnp.float32), jnp.array([[0.0, 1.0]] * 2, jnp.float32)
    for loss in (
        lambda x: cross_entropy(x, labels),
        lambda x: consistency(x, labels, 5.0, 0.5),
        lambda x: smoothmix(x, x, labels, share, 5.0),
        lambda x: macer(x, labels, 0.5, 12.0, 8.0, 16.0),
        lambda x: macer(-x, labels, 0.5, 12.0, 8.0, 16.0),
        lambda x: catrs(x, x, certain, labels, share, 5.0),
        lambda x: catrs(x, -x, certain, labels, share, 5.0),
    ):
        value, gradient = jax.value_and_grad(loss)(logits)
        assert jnp.isfinite(value) and bool(jnp.all(jnp.isfinite(gradient)))


def test_macer_at_every_confidence() -> None:
    """From a coin's toss to probabilities of 0 and 1: the slope ends at the margin, never nan."""
    gaps = np.linspace(0.01, 130.0, 400)
    logits = jnp.asarray(gaps[:, None, None] * np.array([[[0.0, 1.0, -1.0]] * 2]), jnp.float32)
    labels = jnp.ones(400, jnp.int32)

    def term(x: jax.Array) -> jax.Array:
        return macer(x, labels, 0.5, 1.0, 8.0, 1.0) - macer(x, labels, 0.5, 0.0, 8.0, 1.0)

    slope = np.asarray(jax.grad(term)(logits))[:, :, 1].sum(axis=1)
    # The third class has next to nothing, so pA is 1 - pB.
    radii = 2.0 * stats.norm.isf(np.exp(-gaps) / (1.0 + np.exp(-gaps)))
    assert np.all(slope[(radii > 1.0) & (radii < 7.5)] < 0.0)
    assert np.all(slope[radii > 8.5] == 0.0)
    assert np.all(np.isfinite(slope))


def test_macer_counts_only_right_images_within_the_margin() -> None:
    """lambda * sigma/2 * (gamma - radius), of one image in four."""
    one = [[1.5, 0.0, -1.0]] * 2
    far = [[9.0, 0.0, 0.0]] * 2
    certain = [[300.0, 0.0, 0.0]] * 2
    logits = jnp.array([one, one, far, certain], jnp.float32)
    labels = jnp.array([0, 1, 0, 0], jnp.int32)

    def term(x: jax.Array) -> jax.Array:
        return macer(x, labels, 0.5, 6.0, 3.0, 1.0) - macer(x, labels, 0.5, 0.0, 3.0, 1.0)

    value, gradient = jax.value_and_grad(term)(logits)
    first, second, _ = softmax(np.array(one[0]))
    lacking = 3.0 - (stats.norm.ppf(first) - stats.norm.ppf(second))
    assert 0.0 < lacking < 3.0
    assert float(value) == pytest.approx(6.0 * 0.25 * lacking / 4, rel=1e-4)
    assert float(jnp.max(jnp.abs(gradient[0]))) > 0.01
    np.testing.assert_allclose(gradient[1:], 0.0, atol=1e-6)


def draws_of(right: int, draws: int, images: int) -> tuple[jax.Array, jax.Array]:
    """(logits, labels) of images each with `right` right draws."""
    answers = np.where(np.arange(draws) < right, 2, 0)
    logits = np.broadcast_to(np.eye(3, dtype=np.float32)[answers], (images, draws, 3))
    return jnp.asarray(logits), jnp.full(images, 2, jnp.int32)


# Not near a step of the distribution function, which float32 and float64 may place apart.
GRID = (np.arange(2000, dtype=np.float32) + 0.37) / 2000


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 4, 16]), st.floats(0.0, 1.0))
def test_catrs_learns_a_binomial_number_of_draws(draws: int, share: float) -> None:
    right = round(share * draws)
    logits, labels = draws_of(right, draws, len(GRID))
    ours = np.asarray(kept(logits, labels, jnp.asarray(GRID)))
    assert np.all(np.diff(ours) >= 0), "more chance never learns fewer"
    expected = stats.binom(draws, right / draws)
    for count in range(1, draws + 1):
        # At least 1: what the distribution says of 0 goes to 1.
        probability = expected.pmf(count) + (expected.pmf(0) if count == 1 else 0.0)
        assert abs(np.mean(ours == count) - probability) <= 1.5 / len(GRID)
    if right in (0, draws):
        assert np.all(ours == max(right, 1))


def test_catrs_trains_no_target() -> None:
    """The gradient is that of a target that stands still, and the moved images are `others`."""
    rng = np.random.default_rng(3)
    images, noise, others = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((4, 2, 2, 1), (4, 2, 2, 2, 1), (4, 2, 2, 2, 1))
    )
    labels, chance = jnp.array([0, 1, 2, 0], jnp.int32), jnp.full(4, 0.999, jnp.float32)
    one = jnp.float32(1.0)
    batch = Batch(images, labels, noise, chance, one, jnp.float32(0.5))
    unused = dict.fromkeys(Objective._fields, 0)
    objective = Objective(**unused | {"method": "catrs", "noise_draws": 2, "weight": 1.5})
    weights = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def model(w: jax.Array, noisy: jax.Array) -> jax.Array:
        return noisy.reshape(4, 2, 4) @ w

    def ours(w: jax.Array) -> jax.Array:
        views = Views(images, others)
        return METHODS["catrs"].loss(lambda noisy: model(w, noisy), views, batch, objective)[0]

    logits = model(weights, images[:, None] + noise)
    target = jnp.mean(jax.nn.softmax(logits), axis=1)

    def standing(w: jax.Array) -> jax.Array:
        clean, moved = model(w, images[:, None] + noise), model(w, others)
        return catrs(clean, moved, target, labels, chance, 1.5)

    np.testing.assert_allclose(jax.grad(ours)(weights), jax.grad(standing)(weights), atol=1e-6)
    assert int(jnp.max(kept(logits, labels, chance))) == 2, "some image must have the second term"
