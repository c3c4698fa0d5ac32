"""Votes: what they are, and what they do not depend on."""

import inspect
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array
from scipy import stats

from dsrs_jax import data, models, noise
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Sampler, State, Votes, VoteTable, count_votes, kernel

LAW = noise.generalized_gaussian(64, 0.5, 28)
INSIDE = [LAW.truncated(b) for b in (0.3, 0.8)]
CUTOFFS = [law.cutoff for law in INSIDE if law.cutoff is not None]
GRIDS = [None, 240]  # float32 draws, and sound ones
NAMES = ("p", "inside_0.3", "inside_0.8")


def half_space(images: Array) -> Array:
    """Class 1 where the first pixel is above 1/2: its probability is known exactly."""
    first = images[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], axis=1)


@pytest.fixture(scope="module")
def classifier() -> models.Classifier:
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
    return models.Classifier.from_model(models.build("digits_cnn", seed=0), metadata)


@pytest.mark.parametrize("grid", GRIDS)
def test_votes_have_the_probability_of_the_law_inside_every_cutoff(grid: int | None) -> None:
    n = 40_000
    images = np.full((2, 8, 8, 1), 0.6, dtype=np.float32)
    counted = count_votes(
        half_space, images, np.array([1, 0]), LAW, n, inside=INSIDE, seed=3, grid=grid
    )
    assert counted.names == NAMES and counted.laws == (LAW, *INSIDE)
    assert counted.draws[:, 0].tolist() == [n, n]
    for j, law in enumerate(INSIDE, start=1):
        assert law.quantile is not None
        # Two images are tried: 4.5 standard errors fail once in 10^5 runs of a right program.
        expected = n * law.quantile
        spread = 4.5 * np.sqrt(expected * (1 - law.quantile))
        assert np.all(np.abs(counted.draws[:, j] - expected) < spread)
    # An independent sample of the first coordinate, from SciPy: radius times cosine.
    random = np.random.default_rng(0)
    level = stats.gamma(LAW.shape).rvs(1_000_000, random_state=random)
    cosine = 2 * stats.beta(31.5, 31.5).rvs(1_000_000, random_state=random) - 1
    first = LAW.scale * np.sqrt(level) * cosine
    above = (first if grid is None else np.rint(first * grid) / grid) + 0.6 > 0.5
    for j, cutoff in enumerate([np.inf, *CUTOFFS]):
        share = above[level <= cutoff].mean()
        drawn = counted.draws[:, j]
        spread = 5 * np.sqrt(share * (1 - share) / drawn.min())
        assert abs(counted.votes[0, j] / drawn[0] - share) < spread
        assert abs(counted.votes[1, j] / drawn[1] - (1 - share)) < spread


@pytest.mark.parametrize("grid", GRIDS)
def test_votes_do_not_depend_on_batch_block_or_order(
    classifier: models.Classifier, grid: int | None
) -> None:
    digits = data.load("digits")
    chosen = np.array([0, 5, 10, 15])

    def count(rows: np.ndarray, batch: int | None) -> VoteTable:
        return count_votes(
            classifier,
            digits.images[rows],
            digits.labels[rows],
            LAW,
            3000,
            indices=rows,
            inside=INSIDE,
            batch=batch,
            grid=grid,
        )

    straight = count(chosen, None)
    assert straight.index.tolist() == chosen.tolist()
    assert straight.label.tolist() == digits.labels[chosen].tolist()
    for batch in (1, 2000, 3000):
        other = count(chosen, batch)
        np.testing.assert_array_equal(other.votes, straight.votes)
        np.testing.assert_array_equal(other.draws, straight.draws)
    backward = count(chosen[::-1].copy(), None)
    np.testing.assert_array_equal(backward.votes[::-1], straight.votes)
    alone = count(chosen[2:3], None)
    np.testing.assert_array_equal(alone.votes[0], straight.votes[2])
    # And each image has noise of its own.
    assert len({tuple(row) for row in straight.draws.tolist()}) == len(chosen)


def test_votes_do_not_depend_on_the_number_of_devices(classifier: models.Classifier) -> None:
    program = """
import json, jax
from dsrs_jax import data, models, noise
from dsrs_jax.system.compilation import keep_compiled
from dsrs_jax.votes import count_votes
keep_compiled()
law = noise.generalized_gaussian(64, 0.5, 28)
metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
classifier = models.Classifier.from_model(models.build("digits_cnn", seed=0), metadata)
digits = data.load("digits")
# Five images, for 8 devices or more one call in which some are cut between two of them.
counted = [
    count_votes(
        classifier, digits.images[:5], digits.labels[:5], law, 9000, first=500,
        inside=[law.truncated(0.3), law.truncated(0.8)], grid=grid,
    )
    for grid in (None, 240)
]
print(json.dumps([[jax.device_count(), one.draws.tolist(), one.votes.tolist()] for one in counted]))
"""
    devices = jax.device_count() + 7
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    digits = data.load("digits")
    for grid, there in zip(GRIDS, json.loads(done.stdout), strict=True):
        here = count_votes(
            classifier, digits.images[:5], digits.labels[:5], LAW, 9000, first=500, inside=INSIDE,
            grid=grid,
        )  # fmt: skip
        assert there == [devices, here.draws.tolist(), here.votes.tolist()]


@pytest.mark.parametrize("grid", GRIDS)
def test_more_draws_go_on_where_the_first_ended(grid: int | None) -> None:
    images = np.full((1, 8, 8, 1), 0.6, dtype=np.float32)

    def count(n: int, first: int) -> int:
        counted = count_votes(half_space, images, [1], LAW, n, first=first, grid=grid)
        return int(counted.votes[0, 0])

    assert count(2000, 0) + count(1000, 2000) == count(3000, 0)


def test_the_last_numbers_of_the_domain_are_drawn_as_any_other() -> None:
    images = np.full((1, 8, 8, 1), 0.6, dtype=np.float32)

    def count(n: int, first: int) -> list[int]:
        counted = count_votes(
            half_space, images, [1], LAW, n, seed=2**32 - 1, indices=[2**32 - 1], first=first
        )
        assert counted.draws.tolist() == [[n]]
        return counted.votes[0].tolist()

    last = 2**31 - 1
    assert count(2000, last - 3000)[0] + count(1000, last - 1000)[0] == count(3000, last - 3000)[0]


@pytest.mark.parametrize("grid", GRIDS)
def test_votes_do_not_depend_on_what_the_process_has_set(grid: int | None) -> None:
    images = np.full((1, 8, 8, 1), 0.6, dtype=np.float32)
    plain = count_votes(half_space, images, [1], LAW, 2000, grid=grid)
    with jax.default_prng_impl("rbg"):
        other = count_votes(half_space, images, [1], LAW, 2000, grid=grid)
    with jax.threefry_partitionable(False):
        older = count_votes(half_space, images, [1], LAW, 2000, grid=grid)
    assert plain.votes.tolist() == other.votes.tolist() == older.votes.tolist()


def test_every_law_has_its_own_draws() -> None:
    images = np.full((1, 8, 8, 1), 0.5, dtype=np.float32)
    # Sigma does not change the sign of a coordinate: equal streams would give equal votes.
    seen = {
        int(count_votes(half_space, images, [1], LAW.with_sigma(sigma), 4000).votes[0, 0])
        for sigma in (0.25, 0.3, 0.35, 0.4, 0.45)
    }
    assert len(seen) > 1


@pytest.mark.parametrize("grid", GRIDS)
def test_a_law_for_each_image_draws_as_that_law_alone(grid: int | None) -> None:
    images, sampler = np.full((2, 8, 8, 1), 0.6, dtype=np.float32), Sampler(half_space, grid=grid)
    both = sampler.start(images, [1, 1], INSIDE, 1000).result()
    for i, law in enumerate(INSIDE):
        one = sampler.start(images[i : i + 1], [1], law, 1000, indices=[i]).result()
        assert both.correct[i].tolist() == one.correct[0].tolist()
    assert both.draws.tolist() == [[1000], [1000]]


def test_a_sampler_counts_inside_the_cutoffs_first_and_all_draws_last() -> None:
    images = np.full((2, 8, 8, 1), 0.6, dtype=np.float32)
    table = count_votes(half_space, images, [1, 0], LAW, 1000, inside=INSIDE)
    counted = Sampler(half_space, cutoffs=CUTOFFS).start(images, [1, 0], LAW, 1000).result()
    assert isinstance(counted, Votes)
    np.testing.assert_array_equal(counted.draws, table.draws[:, [1, 2, 0]])
    np.testing.assert_array_equal(counted.correct, table.votes[:, [1, 2, 0]])


def test_a_draw_with_a_logit_that_is_not_finite_votes_for_no_class() -> None:
    def sometimes_nan(images: Array) -> Array:
        first = images[:, 0, 0, 0]
        return jnp.stack([jnp.where(first > 0.5, jnp.nan, 0.0), jnp.ones_like(first)], axis=1)

    images = np.full((2, 8, 8, 1), 0.5, dtype=np.float32)
    n = 4000
    votes = count_votes(sometimes_nan, images, [0, 1], LAW, n).votes[:, 0]
    assert votes[0] == 0  # argmax would give class 0 to every NaN
    assert abs(votes[1] - n / 2) < 5 * np.sqrt(n / 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_draws_with_logits_that_are_not_finite_are_counted(value: float) -> None:
    def sometimes(images: Array) -> Array:
        logits = half_space(images)
        return logits.at[:, 0].set(jnp.where(logits[:, 1] > logits[:, 0], value, logits[:, 0]))

    # Images of every kind: some draws, none, all of them.
    images = np.stack([np.full((8, 8, 1), shade, np.float32) for shade in (0.5, 0.55, -99, 99)])
    labels = [0, 0, 0, 0]
    plain = Sampler(half_space, cutoffs=CUTOFFS).start(images, [1, 1, 1, 1], LAW, 3000).result()
    counted = Sampler(sometimes, cutoffs=CUTOFFS).start(images, labels, LAW, 3000).result()
    # These are just the draws that are of class 1 where every logit is finite.
    np.testing.assert_array_equal(counted.not_finite, plain.correct)
    assert 0 < counted.not_finite[0, -1] < counted.not_finite[1, -1] < 3000
    np.testing.assert_array_equal(counted.draws, plain.draws)
    np.testing.assert_array_equal(counted.correct + counted.not_finite, counted.draws)
    assert not plain.not_finite.any()
    state = count_votes(sometimes, images, labels, LAW, 3000, inside=INSIDE).state
    assert [set(row) for row in state.tolist()] == [
        {State.COMPLETE}, {State.COMPLETE}, {State.COMPLETE}, {State.NOT_FINITE},
    ]  # fmt: skip


def test_one_compilation_serves_every_law_and_a_ragged_last_block() -> None:
    images = np.full((3, 8, 8, 1), 0.6, dtype=np.float32)
    sampler = Sampler(half_space)
    sampler.start(images, [1, 1, 1], LAW, 900).result()
    before = kernel.count_block._cache_size()
    for law in (LAW.with_sigma(0.1), noise.gaussian(64, 0.3), LAW.truncated(0.4)):
        sampler.start(images[:2], [1, 1], law, 700).result()
    assert kernel.count_block._cache_size() == before


@given(
    images=st.integers(1, 8), devices=st.integers(1, 8), begin=st.integers(0, 50),
    tiles=st.integers(1, 60),
)  # fmt: skip
def test_devices_share_all_tiles_evenly(images: int, devices: int, begin: int, tiles: int) -> None:
    images = min(images, devices)
    image, first, last = kernel.share_out(images, devices, begin, begin + tiles)
    # The same number of rows on each device: that is what a compiled program takes.
    assert len(image) == devices * min(2, devices)
    done = [(i, t) for i, f, e in zip(image, first, last, strict=True) for t in range(f, e)]
    everything = {(i, t) for i in range(images) for t in range(begin, begin + tiles)}
    assert len(done) == len(set(done)) and set(done) == everything
    loads = (last - first).reshape(devices, -1).sum(axis=1)
    assert loads.max() == -(-images * tiles // devices)


def test_the_fastest_batch_is_whole_tiles_and_changes_no_vote(
    classifier: models.Classifier,
) -> None:
    digits = data.load("digits")
    sampler = Sampler(classifier, cutoffs=CUTOFFS)
    plain = sampler.start(digits.images[:1], digits.labels[:1], LAW, 3000).result()
    batch = sampler.tune(digits.images[0], LAW, 10**12)
    assert sampler.batch == batch and batch % kernel.tile_size(64, "cpu") == 0
    again = sampler.start(digits.images[:1], digits.labels[:1], LAW, 3000).result()
    np.testing.assert_array_equal(plain.correct, again.correct)


def large(wide: Array, images: Array) -> Array:
    """A model that needs 210 MB for a tile of 1,024 draws, where `wide` is (64, 51200)."""
    rows = images.reshape(len(images), 64) @ wide
    return jnp.stack([rows.max(axis=1), -rows.min(axis=1)], axis=1)


def test_a_full_memory_halves_the_batch_and_changes_no_vote() -> None:
    """In a process that may take only so much more memory: its allocations fail as a device's."""
    program = f"""
import json, resource
import jax, jax.numpy as jnp, numpy as np
from jax import Array
from dsrs_jax import noise
from dsrs_jax.system.compilation import keep_compiled
from dsrs_jax.votes import Sampler

{inspect.getsource(large)}
keep_compiled()
wide = np.cos(np.arange(64 * 51_200, dtype=np.float32)).reshape(64, 51_200)
smaller = []
sampler = Sampler(jax.tree_util.Partial(large, wide), batch=4 * 1024, on_smaller=smaller.append)
lines = open("/proc/self/status").read().splitlines()
size = 1024 * int(next(line for line in lines if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (size + 680_000_000,) * 2)
image = np.full((1, 8, 8, 1), 0.5, np.float32)
law = noise.generalized_gaussian(64, 0.5, 28)
print(json.dumps([smaller, sampler.start(image, [1], law, 4096).result().correct.tolist()]))
"""
    wide = np.cos(np.arange(64 * 51_200, dtype=np.float32)).reshape(64, 51_200)
    image = np.full((1, 8, 8, 1), 0.5, dtype=np.float32)
    free = []
    # What is compiled here with all the memory that there is, the other process only reads.
    for batch in (1024, 2048, 4096):
        sampler = Sampler(
            jax.tree_util.Partial(large, wide), batch=batch, on_smaller=lambda batch: pytest.fail()
        )
        free.append(sampler.start(image, [1], LAW, 4096).result().correct.tolist())
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    smaller, limited = json.loads(done.stdout)
    assert smaller[0] == 2048
    assert free == [limited] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "must be positive"),
        ({"batch": 0}, "must be positive"),
        ({"images": np.zeros((8, 8, 1), np.float32)}, r"\(N, H, W, C\)"),
        ({"labels": [1, 1]}, "must agree"),
        ({"law": noise.gaussian(63, 0.5)}, "dimension 64"),
        # What the compiled program cannot tell from another number.
        ({"seed": 2**32}, r"seed must be a whole number in \[0, 4294967296\), got 4294967296"),
        ({"seed": -1}, r"seed must be .* in \[0, 4294967296\), got -1"),
        ({"indices": [2**32]}, r"index must be .* in \[0, 4294967296\), got 4294967296"),
        ({"indices": [-1]}, r"index must be .* in \[0, 4294967296\), got -1"),
        ({"indices": [0.5]}, "index must be a whole number .* got 0.5"),
        ({"labels": [0.5]}, "label must be a whole number .* got 0.5"),
        ({"labels": np.array([2**32])}, "label must be a whole number .* got 4294967296"),
        ({"first": -1}, r"first draw must be .* in \[0, 2147483648\), got -1"),
        ({"first": 2**31 - 10}, r"first \+ n, must be .* in \[1, 2147483648\), got 2147483648"),
        ({"n": 2**31}, r"first \+ n, must be .*, got 2147483648"),
        ({"inside": [LAW.with_sigma(0.4)]}, "the law itself, truncated"),
        ({"inside": [LAW.with_sigma(0.4).truncated(0.5)]}, "the law itself, truncated"),
    ],
)
def test_bad_arguments_are_told(change: dict, message: str) -> None:
    arguments = {
        "images": np.zeros((1, 8, 8, 1), np.float32),
        "labels": [1],
        "law": LAW,
        "n": 10,
        "batch": 10,
    }
    arguments.update(change)
    with pytest.raises(UserError, match=message):
        count_votes(half_space, **arguments)
