"""Votes of sound draws: what breaks certificates of float32 draws gains nothing against them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from dsrs_jax.bounds import Protocol, lower_bound
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import gaussian, generalized_gaussian, sound
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Sampler, SoundDraws, State, VoteTable, count_votes, kernel, sampler

ALPHA = 0.001
LAW = generalized_gaussian(64, 0.5, 28)


def equal_pixels(most: Array, images: Array) -> Array:
    """Class 0 where more than `most` pixels have exactly the value of another one, up to signs.

    Normal deviates of float32 take some 2^23 values: of 49,923 of them, however they are scaled,
    150 coincide. Where an image is added that is not black, fewer sums do.
    """
    values = jnp.sort(jnp.abs(images).reshape(len(images), -1), axis=1)
    found = jnp.sum(values[:, 1:] == values[:, :-1], axis=1).astype(jnp.float32)
    return jnp.stack([found - most, most - found], axis=1)


def test_an_attack_on_floating_point_gains_nothing_against_sound_draws() -> None:
    """As Jin, Ohrimenko, Rubinstein (2022) and Voracek and Hein (2022) broke certificates."""
    law, n = gaussian(129 * 129 * 3, 0.5), 64
    black = np.zeros((129, 129, 3), np.float32)
    lit = np.random.default_rng(0).random(black.shape) < 0.5
    other = lit.astype(np.float32) / np.float32(255)  # on the grid, as images are
    images, distance = np.stack([black, other]), float(np.linalg.norm(other))

    def attacked(most: float, grid: int | None) -> tuple[float, np.ndarray]:
        """The radius that black is given, and both images' votes for black's class."""
        model = jax.tree_util.Partial(equal_pixels, jnp.float32(most))
        table = count_votes(model, images, [0, 0], law, n, grid=grid)
        radius = certify_table(table, Protocol(ALPHA)).neyman_pearson.radius[0]
        return float(radius), table.votes[:, 0]

    # A radius beyond an image that is hardly ever of this class: a false certificate.
    radius, votes = attacked(115.0, None)
    assert radius > distance and votes[0] == n and votes[1] < n / 10
    # On the grid nearly all pixels coincide, wherever the image lies: some 49,472.
    for most in (115.0, 49_472.0):
        radius, votes = attacked(most, 255)
        assert radius <= distance or votes[1] > n / 2
        assert abs(votes[0] - votes[1]) < 5 * np.sqrt(n / 2)


def on_the_grid(grid: Array, quotients: Array, images: Array) -> Array:
    """Class 0 where every pixel is one of NumPy's quotients m/grid, |m| < 5000."""
    nearest = jnp.round(images * grid).astype(jnp.int32) + 5000
    exact = jnp.all(images == quotients[nearest], axis=(1, 2, 3)).astype(jnp.float32)
    return jnp.stack([exact, 1.0 - exact], axis=1)


@pytest.mark.parametrize("grid", [240, 255, 510])
def test_a_network_sees_nothing_but_cells(grid: int) -> None:
    """To the last bit what it sees of an image without noise: the float32 next to m/grid."""
    cells = np.random.default_rng(0).integers(0, grid + 1, (2, 8, 8, 1)).astype(np.float32)
    images = cells / np.float32(grid)
    quotients = np.arange(-5000, 5001).astype(np.float32) / np.float32(grid)
    model = jax.tree_util.Partial(on_the_grid, jnp.float32(grid), jnp.asarray(quotients))
    assert count_votes(model, images, [0, 0], LAW, 4000, grid=grid).votes.tolist() == [[4000]] * 2
    assert count_votes(model, images, [0, 0], LAW, 4000).votes.max() < 10


def test_the_same_sum_of_image_and_noise_is_the_same_vote() -> None:
    """A classifier of the input's lowest bits: a shift by whole cells shifts what it sees."""

    def seen(images: Array) -> Array:
        first = jnp.round(images[:, 0, 0, 0] * 240)
        return jnp.stack([first % 2, 1 - first % 2], axis=1)

    images = np.zeros((3, 8, 8, 1), np.float32)
    images[1, 0, 0, 0], images[2, 0, 0, 0] = np.float32(2 / 240), np.float32(1 / 240)
    votes = count_votes(seen, images, [0, 0, 1], LAW, 3000, indices=[7, 7, 7], grid=240).votes
    assert votes[0] == votes[1] == votes[2]


def always(images: Array) -> Array:
    return jnp.stack([jnp.ones(len(images)), jnp.zeros(len(images))], axis=1)


def test_ambiguous_draws_have_no_vote_and_count_inside() -> None:
    """Of noise that is partly too long for cells, the long draws are ambiguous."""
    law = generalized_gaussian(64, 5e5, 28.0)
    inside = [law.truncated(0.3), law.truncated(0.8)]
    image, n = np.zeros((1, 8, 8, 1), np.float32), 4000
    table = count_votes(always, image, [0], law, n, inside=inside, grid=255)
    assert table.sound is not None and table.sound.grid == 255
    [lost] = table.sound.ambiguous.tolist()
    assert 0.05 * n < lost < 0.95 * n
    # All that are not ambiguous are right; the ambiguous ones are draws none the less.
    assert table.draws[0, 0] == n and table.votes[0, 0] == n - lost
    counted = Sampler(always, cutoffs=[law.cutoff or 0.0 for law in inside], grid=255).start(
        image, [0], law, n
    )
    counts = counted.result()
    np.testing.assert_array_equal(counts.draws - counts.correct, counts.ambiguous)
    # Of the short draws only those beside an edge, a thousandth of cells of this size.
    assert counts.ambiguous[0, 0] < 20 < counts.ambiguous[0, 1] < lost
    assert table.draws[0, 1:].tolist() == counts.draws[0, :2].tolist()


@pytest.mark.parametrize("step", [0.0, 0.7, -0.7])
def test_a_level_beside_a_cutoff_counts_as_it_lowers_the_bound(step: float) -> None:
    with jax.enable_x64(True):
        key = jax.random.key(0, impl="threefry2x32")
        # What draws for: sampling, image, law, draw.
        for word in (sampler._SAMPLING, 0, kernel.stream(LAW), 0):
            key = jax.random.fold_in(key, np.uint32(word))
        numbers = jax.tree.map(np.float64, LAW.as_truncated())
        level = float(jax.jit(lambda key: sound.draw(numbers, key, 240).level)(key))
    image = np.zeros((1, 8, 8, 1), np.float32)

    def inside(cutoff: float, label: int) -> list[int]:
        counts = Sampler(always, cutoffs=[cutoff], grid=240).start(image, [label], LAW, 1).result()
        return [int(counts.draws[0, 0]), int(counts.correct[0, 0])]

    beside = level * (1 + step * sound.ROUNDING)
    assert inside(beside, 0) == [0, 0]  # right: no draw of the inside law
    assert inside(beside, 1) == [1, 0]  # wrong: one of its draws
    above, below = level * (1 + 3 * sound.ROUNDING), level * (1 - 3 * sound.ROUNDING)
    assert inside(above, 0) == [1, 1] and inside(above, 1) == [1, 0]
    assert inside(below, 0) == inside(below, 1) == [0, 0]


@settings(max_examples=10)
@given(
    votes=st.integers(0, 2000), dimension=st.integers(30, 100_000), share=st.floats(0.0, 0.49),
    grid=st.sampled_from([1, 240, 65_280]),
)  # fmt: skip
def test_bounds_are_lower_by_what_is_charged(
    votes: int, dimension: int, share: float, grid: int
) -> None:
    law = generalized_gaussian(dimension, 0.5, share * dimension)
    laws = (law, law.truncated(0.5))
    plain = VoteTable.from_counts(laws, [[votes, votes // 2]], [2000, 1000])
    made = dataclasses.replace(plain, sound=SoundDraws(grid, np.array([0])))
    bounds, less = (certify_table(one, Protocol(ALPHA)).lower[0] for one in (plain, made))
    charges = [sound.charge(one, grid) for one in laws]
    for bound, lower, charge in zip(bounds, less, charges, strict=True):
        assert lower <= max(bound - charge, 0.0) <= lower + 1e-15
    assert bounds[0] == lower_bound(votes, 2000, ALPHA / 2)


def test_what_cannot_be_sound_is_told() -> None:
    images = np.full((1, 8, 8, 1), 0.501, np.float32)
    with pytest.raises(UserError, match="no multiples of 1/240, as sound draws need"):
        count_votes(always, images, [0], LAW, 100, grid=240)


def test_all_draws_without_finite_logits_are_told_of_sound_draws_too() -> None:
    def broken(images: Array) -> Array:
        return jnp.full((len(images), 2), jnp.nan)

    table = count_votes(broken, np.zeros((1, 8, 8, 1)), [0], LAW, 100, grid=240)
    assert table.state[0, 0] == State.NOT_FINITE
