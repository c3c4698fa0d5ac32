"""Votes of every class: the label's votes of all labels at once, from draws of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from dsrs_jax import models, noise
from dsrs_jax.bounds import predict
from dsrs_jax.convert.pytorch import TorchClassifier
from dsrs_jax.data import Example
from dsrs_jax.models import input_scaling
from dsrs_jax.noise import sound
from dsrs_jax.votes import Sampler, SamplingPlan, count_classes, count_votes, kernel, problem_of
from dsrs_jax.votes import sampler as samplers

LAW = noise.generalized_gaussian(64, 0.5, 28)
W = np.random.default_rng(0).normal(size=(64, 7)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 241, (3, 8, 8, 1)).astype(np.float32) / np.float32(
    240
)
TILE = 16


def linear(images: Array) -> Array:
    return images.reshape(len(images), -1) @ W


LOGIT = st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf])


@settings(max_examples=50)
@given(
    logits=st.lists(st.lists(LOGIT, min_size=3, max_size=3), min_size=TILE, max_size=TILE),
    ambiguous=st.lists(st.booleans(), min_size=TILE, max_size=TILE),
    span=st.lists(st.integers(0, TILE), min_size=2, max_size=2).map(sorted),
    label=st.integers(0, 2),
)
def test_a_class_has_the_votes_that_it_had_as_the_label(
    logits: list[list[float]], ambiguous: list[bool], span: list[int], label: int
) -> None:
    level = jnp.zeros(TILE, jnp.float32)
    seen = kernel.Seen(
        jnp.arange(TILE, dtype=jnp.int32), jnp.zeros((TILE, 8, 8, 1)), level, level,
        jnp.array(ambiguous),
    )  # fmt: skip
    one = kernel.Block(
        jnp.zeros((8, 8, 1)), jnp.int32(label), jnp.uint32(0), jnp.uint32(0), jnp.int32(0),
        jnp.int32(1), LAW,
    )  # fmt: skip
    rest = jnp.int32(0), jnp.array(logits, jnp.float32)
    classes, cutoffs = jnp.arange(3, dtype=jnp.int32), jnp.array([jnp.inf], jnp.float32)
    of_all = kernel.count_tile(one, seen, *rest, classes, jnp.array(span, jnp.int32))
    of_one = kernel.count_tile(one, seen, *rest, cutoffs, jnp.array(span, jnp.int32))
    np.testing.assert_array_equal(of_all[:, label], of_one[:, 0])
    draws, votes, _, _ = np.asarray(of_all)
    lost = ~np.isfinite(np.array(logits)).all(axis=1) | np.array(ambiguous)
    assert set(draws) == {span[1] - span[0]}
    assert votes.sum() == np.sum(~lost[span[0] : span[1]])


def drawn_alone(index: int, n: int, grid: int | None, word: int, seed: int) -> np.ndarray:
    """The votes of every class, draw by draw from its key."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), word)
    for number in (index, kernel.stream(LAW)):
        key = jax.random.fold_in(key, np.uint32(number))
    with jax.threefry_partitionable(True), kernel.precision(grid):
        keys = [jax.random.fold_in(key, np.int32(number)) for number in range(n)]
        if grid is None:
            whole = jax.jit(LAW.as_truncated().draw)
            seen = [IMAGES[0].ravel() + np.asarray(whole(one)[1]) for one in keys]
        else:
            draw = jax.jit(lambda one: sound.draw(LAW, one, grid).cells)
            cells = np.rint(IMAGES[0].ravel() * grid).astype(np.int64)
            seen = [((cells + np.asarray(draw(one))) / grid).astype(np.float32) for one in keys]
    return np.bincount(np.argmax(np.stack(seen) @ W, axis=1), minlength=7)


@pytest.mark.parametrize("grid", [None, 240])
def test_counts_are_those_of_the_draws_one_by_one_and_not_the_certificates(
    grid: int | None,
) -> None:
    n, index, seed = 60, 9, 5
    made = Sampler(linear, seed=seed, grid=grid)
    found = made.start(IMAGES[:1], None, LAW, n, indices=[index], classes=7).result()
    alone = drawn_alone(index, n, grid, samplers._CHOOSING, seed)
    assert np.abs(found.correct[0] - alone).sum() <= 2  # a logit's last digit
    # A certificate's draws, of the same seed, image and law, are others.
    of_labels = [
        made.start(IMAGES[:1], [label], LAW, n, indices=[index]).result().correct[0, -1]
        for label in range(7)
    ]
    certificates = drawn_alone(index, n, grid, samplers._SAMPLING, seed)
    assert np.abs(np.array(of_labels) - certificates).sum() <= 2
    assert sum(of_labels) == n and np.abs(found.correct[0] - of_labels).sum() > 4


def test_votes_of_classes_do_not_depend_on_batch_block_or_order() -> None:
    def count(
        rows: list[int], batch: int | None = None, first: int = 0, n: int = 3000
    ) -> np.ndarray:
        made = Sampler(linear, seed=3, batch=batch, grid=240)
        pending = made.start(IMAGES[rows], None, LAW, n, indices=rows, first=first, classes=7)
        return pending.result().correct

    straight = count([0, 1, 2])
    assert straight.sum(axis=1).tolist() == [3000] * 3
    np.testing.assert_array_equal(count([2, 0], batch=4000), straight[[2, 0]])
    parts = count([0, 1, 2], n=1100) + count([0, 1, 2], first=1100, n=1900)
    np.testing.assert_array_equal(parts, straight)


def test_images_come_in_their_order_and_a_damaged_one_has_no_votes() -> None:
    examples = [Example(4, IMAGES[0], 1), Example(5, None, -1, "damaged"), Example(7, IMAGES[2], 0)]
    examples += [Example(9, None, -1, "gone")] * 4
    made = Sampler(linear, grid=240)
    found = list(count_classes(made, examples, LAW, 200, 7))
    assert [one.index for one, _ in found] == [4, 5, 7, 9, 9, 9, 9]
    assert all(one.image is None for one, _ in found)
    for (one, votes), image in zip(found, [IMAGES[0], None, IMAGES[2], *[None] * 4], strict=True):
        expected = np.zeros(7, int)
        if image is not None:
            alone = made.start(image[None], None, LAW, 200, indices=[one.index], classes=7)
            expected = alone.result().correct[0]
        np.testing.assert_array_equal(votes.votes, expected)


def test_a_pytorch_module_is_counted_by_the_same_draws() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(W.T))
    about = models.ModelMetadata("network", "digits", (8, 8, 1), 7)
    module = TorchClassifier(
        network, about, input_scaling("digits", "none"), source="", dtype="float32"
    )
    for grid in (None, 240):
        counts = [
            Sampler(one, grid=grid).start(IMAGES, None, LAW, 500, classes=7).result()
            for one in (module, linear)
        ]
        assert np.abs(counts[0].correct - counts[1].correct).sum() <= 6  # logits' last digits
        np.testing.assert_array_equal(counts[0].draws, counts[1].draws)


def broken(images: Array) -> Array:
    """No finite logits where the first pixel is above 1/2."""
    bad = images[:, 0, 0, 0] > 0.5
    return jnp.where(bad[:, None], jnp.nan, jnp.array([[0.0, 1.0, 2.0]], jnp.float32))


def test_a_draw_without_finite_logits_votes_for_no_class() -> None:
    images = np.full((1, 8, 8, 1), 0.5, np.float32)
    found = Sampler(broken).start(images, None, LAW, 1000, classes=3).result()
    assert found.correct[0, :2].tolist() == [0, 0] and 400 < found.correct[0, 2] < 600
    assert found.correct[0, 2] + found.not_finite[0, 0] == 1000


def half_space(images: Array) -> Array:
    first = images[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], axis=1)


def test_a_classifier_on_the_edge_is_seldom_decided() -> None:
    """Both classes have probability 1/2: whatever is predicted is wrong, in 5% at most."""
    images = np.full((200, 8, 8, 1), 0.5, np.float32)
    found = Sampler(half_space, seed=1).start(images, None, LAW, 100, classes=2).result()
    assert np.all(found.correct.sum(axis=1) == 100) and len(set(found.correct[:, 0])) > 10
    decided = predict(found.correct, 0.05).decided
    # 25 of 200 have a probability of 1e-5 at 5%.
    assert np.sum(decided) < 25
    lit = np.full((1, 8, 8, 1), 0.9, np.float32)
    sure = Sampler(half_space, seed=1).start(lit, None, LAW, 200, classes=2).result()
    assert predict(sure.correct, 0.05).decided[0]


def test_count_votes_without_labels_counts_those_of_the_class_that_wins() -> None:
    found = count_votes(linear, IMAGES, None, LAW, 400, grid=240, n0=50)
    assert found.chosen is not None and found.chosen.draws == 50
    first = Sampler(linear, grid=240).start(IMAGES, None, LAW, 50, classes=7).result().correct
    assert found.label.tolist() == np.argmax(first, axis=1).tolist()
    assert found.chosen.votes.tolist() == first.max(axis=1).tolist()
    assert found.true_label.tolist() == [-1] * 3
    given_ = count_votes(linear, IMAGES, found.label, LAW, 400, grid=240)
    np.testing.assert_array_equal(found.votes, given_.votes)


RECORD = {"index": 3, "label": -1, "image": "0" * 16, "draws": [100], "votes": [90]}


@pytest.mark.parametrize(
    ("predicted", "n0", "right"),
    [
        ({"class": 4, "votes": 9}, 10, True),
        ({"class": 4, "votes": 11}, 10, False),
        ({"class": -1, "votes": 9}, 10, False),
        ({"class": 4, "votes": 9.0}, 10, False),
        ({"class": True, "votes": 9}, 10, False),
        ({"class": 4}, 10, False),
        ({"class": 4, "votes": 9, "more": 1}, 10, False),
        ([4, 9], 10, False),
        (None, 10, False),
        ({"class": 4, "votes": 9}, 0, False),
        (None, 0, True),
    ],
)
def test_a_record_says_how_its_class_was_chosen(predicted: object, n0: int, right: bool) -> None:
    record = {**RECORD, **({} if predicted is None else {"predicted": predicted})}
    plan = SamplingPlan(LAW, (), 100, n0=n0)
    assert (problem_of(plan, record) is None) == right
