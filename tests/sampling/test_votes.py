"""Votes: what they are, and what they do not depend on."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array
from scipy import stats

from dsrs_jax import data, models, noise
from dsrs_jax.errors import UserError
from dsrs_jax.sampling import count_votes, votes

LAW = noise.generalized_gaussian(64, 0.5, 28)
INSIDE = [LAW.truncated(b) for b in (0.3, 0.8)]
CUTOFFS = [law.cutoff for law in INSIDE if law.cutoff is not None]


def half_space(images: Array) -> Array:
    """Class 1 where the first pixel is above 1/2: its probability is known exactly."""
    first = images[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], axis=1)


@pytest.fixture(scope="module")
def classifier() -> models.Classifier:
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
    return models.Classifier.from_model(models.build("digits_cnn", seed=0), metadata)


def test_votes_have_the_probability_of_the_law_inside_every_cutoff() -> None:
    n = 40_000
    images = np.full((2, 8, 8, 1), 0.6, dtype=np.float32)
    counted = count_votes(half_space, images, np.array([1, 0]), LAW, n, cutoffs=CUTOFFS, seed=3)
    assert counted.draws[:, -1].tolist() == [n, n]
    for j, law in enumerate(INSIDE):
        assert law.quantile is not None
        # Two images are tried: 4.5 standard errors fail once in 10^5 runs of a right program.
        expected = n * law.quantile
        spread = 4.5 * np.sqrt(expected * (1 - law.quantile))
        assert np.all(np.abs(counted.draws[:, j] - expected) < spread)
    # An independent sample of the first coordinate, from SciPy: radius times cosine.
    random = np.random.default_rng(0)
    level = stats.gamma(LAW.shape).rvs(1_000_000, random_state=random)
    cosine = 2 * stats.beta(31.5, 31.5).rvs(1_000_000, random_state=random) - 1
    above = LAW.scale * np.sqrt(level) * cosine + 0.6 > 0.5
    for j, cutoff in enumerate([*CUTOFFS, np.inf]):
        share = above[level <= cutoff].mean()
        drawn = counted.draws[:, j]
        spread = 5 * np.sqrt(share * (1 - share) / drawn.min())
        assert abs(counted.right[0, j] / drawn[0] - share) < spread
        assert abs(counted.right[1, j] / drawn[1] - (1 - share)) < spread


def test_votes_do_not_depend_on_batch_block_or_order(classifier: models.Classifier) -> None:
    digits = data.load("digits")
    chosen = np.array([0, 5, 10, 15])

    def count(rows: np.ndarray, batch: int | None) -> votes.Votes:
        return count_votes(
            classifier,
            digits.images[rows],
            digits.labels[rows],
            LAW,
            3000,
            indices=rows,
            cutoffs=CUTOFFS,
            batch=batch,
        )

    straight = count(chosen, None)
    for batch in (1, 2000, 3000):
        other = count(chosen, batch)
        np.testing.assert_array_equal(other.right, straight.right)
        np.testing.assert_array_equal(other.draws, straight.draws)
    backward = count(chosen[::-1].copy(), None)
    np.testing.assert_array_equal(backward.right[::-1], straight.right)
    alone = count(chosen[2:3], None)
    np.testing.assert_array_equal(alone.right[0], straight.right[2])
    # And each image has noise of its own.
    assert len({tuple(row) for row in straight.draws.tolist()}) == len(chosen)


def test_votes_do_not_depend_on_the_number_of_devices(classifier: models.Classifier) -> None:
    program = """
import json, numpy as np, jax
from dsrs_jax import data, models, noise
from dsrs_jax.sampling import count_votes
law = noise.generalized_gaussian(64, 0.5, 28)
metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
classifier = models.Classifier.from_model(models.build("digits_cnn", seed=0), metadata)
digits = data.load("digits")
# Five images, for 8 devices one call in which some images are cut between two of them.
counted = count_votes(
    classifier, digits.images[:5], digits.labels[:5], law, 9000, first=500, cutoffs=[9.0]
)
print(json.dumps([jax.device_count(), counted.draws.tolist(), counted.right.tolist()]))
"""
    results = {}
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        count, *results[devices] = json.loads(done.stdout)
        assert count == devices
    assert results[1] == results[8]


def test_more_draws_go_on_where_the_first_ended() -> None:
    images = np.full((1, 8, 8, 1), 0.6, dtype=np.float32)

    def count(n: int, first: int) -> int:
        return int(count_votes(half_space, images, [1], LAW, n, first=first).right[0, -1])

    assert count(2000, 0) + count(1000, 2000) == count(3000, 0)


def test_every_law_has_its_own_draws() -> None:
    images = np.full((1, 8, 8, 1), 0.5, dtype=np.float32)
    # Sigma does not change the sign of a coordinate: equal streams would give equal votes.
    seen = {
        int(count_votes(half_space, images, [1], LAW.with_sigma(sigma), 4000).right[0, -1])
        for sigma in (0.25, 0.3, 0.35, 0.4, 0.45)
    }
    assert len(seen) > 1


def test_a_law_for_each_image_draws_as_that_law_alone() -> None:
    images = np.full((2, 8, 8, 1), 0.6, dtype=np.float32)
    both = count_votes(half_space, images, [1, 1], INSIDE, 1000)
    for i, law in enumerate(INSIDE):
        one = count_votes(half_space, images[i : i + 1], [1], law, 1000, indices=[i])
        assert both.right[i, -1] == one.right[0, -1]
    assert both.draws[:, -1].tolist() == [1000, 1000]


def test_a_draw_with_a_logit_that_is_not_finite_votes_for_no_class() -> None:
    def sometimes_nan(images: Array) -> Array:
        first = images[:, 0, 0, 0]
        return jnp.stack([jnp.where(first > 0.5, jnp.nan, 0.0), jnp.ones_like(first)], axis=1)

    images = np.full((2, 8, 8, 1), 0.5, dtype=np.float32)
    n = 4000
    right = count_votes(sometimes_nan, images, [0, 1], LAW, n).right[:, -1]
    assert right[0] == 0  # argmax would give class 0 to every NaN
    assert abs(right[1] - n / 2) < 5 * np.sqrt(n / 4)


def test_one_compilation_serves_every_law_and_a_ragged_last_block() -> None:
    images = np.full((3, 8, 8, 1), 0.6, dtype=np.float32)
    count_votes(half_space, images, [1, 1, 1], LAW, 900)
    before = votes._count_block._cache_size()
    for law in (LAW.with_sigma(0.1), noise.gaussian(64, 0.3), LAW.truncated(0.4)):
        count_votes(half_space, images[:2], [1, 1], law, 700)
    assert votes._count_block._cache_size() == before


@given(
    images=st.integers(1, 8), devices=st.integers(1, 8), begin=st.integers(0, 50),
    tiles=st.integers(1, 60),
)  # fmt: skip
def test_devices_share_all_tiles_evenly(images: int, devices: int, begin: int, tiles: int) -> None:
    images = min(images, devices)
    image, first, last = votes._shares(images, devices, begin, begin + tiles)
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
    sampler = votes.Sampler(classifier, cutoffs=CUTOFFS)
    plain = sampler.start(digits.images[:1], digits.labels[:1], LAW, 3000).result()
    batch = sampler.tune(digits.images[0], LAW)
    assert sampler.batch == batch and batch % votes.tile_size(64, "cpu") == 0
    again = sampler.start(digits.images[:1], digits.labels[:1], LAW, 3000).result()
    np.testing.assert_array_equal(plain.right, again.right)


def test_a_full_memory_halves_the_batch_and_changes_no_vote() -> None:
    """In a process that may take only so much more memory: its allocations fail as a device's."""
    program = """
import json, resource, sys
import jax.numpy as jnp, numpy as np
from dsrs_jax import noise
from dsrs_jax.sampling import votes

def large(images):  # about 100 MB for a tile of 1,024 draws
    rows = jnp.sort(jnp.tile(images.reshape(len(images), 64), (1, 400)), axis=1)
    return jnp.stack([rows[:, 0] + rows[:, -1], 1.0 - rows[:, 0] - rows[:, -1]], axis=1)

smaller = []
sampler = votes.Sampler(large, batch=8 * 1024, on_smaller=smaller.append)
if len(sys.argv) > 1:
    lines = open("/proc/self/status").read().splitlines()
    size = int(next(line for line in lines if line.startswith("VmSize")).split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (1024 * size + int(sys.argv[1]),) * 2)
image = np.full((1, 8, 8, 1), 0.5, np.float32)
law = noise.generalized_gaussian(64, 0.5, 28)
print(json.dumps([smaller, sampler.start(image, [1], law, 8192).result().right.tolist()]))
"""
    results = []
    for more in ([], [str(800 * 2**20)]):
        done = subprocess.run(
            [sys.executable, "-c", program, *more],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    (no_need, free), (smaller, limited) = results
    assert no_need == [] and smaller[0] == 4096
    assert limited == free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "must be positive"),
        ({"batch": 0}, "must be positive"),
        ({"images": np.zeros((8, 8, 1), np.float32)}, r"\(N, H, W, C\)"),
        ({"labels": [1, 1]}, "must agree"),
        ({"law": noise.gaussian(63, 0.5)}, "dimension 64"),
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
