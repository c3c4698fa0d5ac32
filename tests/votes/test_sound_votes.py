"""Votes of sound draws: what breaks certificates of float32 draws gains nothing against them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dsrs_jax.bounds import Protocol, lower_bound
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import gaussian, generalized_gaussian, sound
from dsrs_jax.votes import Sampler, SoundDraws, VoteTable, count_votes, kernel, sampler

ALPHA = 0.001
LAW = generalized_gaussian(64, 0.5, 28)
BLACK = np.zeros((1, 8, 8, 1), np.float32)


def equal_pixels(most: Array, images: Array) -> Array:
    """Class 0 where more than `most` pixels have exactly the value of another one, up to signs.

    Normal deviates of float32 take some 2^23 values: of 49,923 of them, however they are scaled,
    150 coincide. Where an image is added that is not black, fewer sums do.
    """
    values = jnp.sort(jnp.abs(images).reshape(len(images), -1), axis=1)
    found = jnp.sum(values[:, 1:] == values[:, :-1], axis=1).astype(jnp.float32)
    return jnp.stack([found - most, most - found], axis=1)


@pytest.mark.slow
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
        table = count_votes(model, images, [0, 0], law, n, grid=grid, seed=0)
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


@pytest.mark.parametrize("grid", [255, pytest.param(510, marks=pytest.mark.slow)])
def test_a_network_sees_nothing_but_cells(grid: int) -> None:
    """To the last bit what it sees of an image without noise: the float32 next to m/grid."""
    cells = np.random.default_rng(0).integers(0, grid + 1, (2, 8, 8, 1)).astype(np.float32)
    images = cells / np.float32(grid)
    quotients = np.arange(-5000, 5001).astype(np.float32) / np.float32(grid)
    model = jax.tree_util.Partial(on_the_grid, jnp.float32(grid), jnp.asarray(quotients))
    assert count_votes(model, images, [0, 0], LAW, 2000, grid=grid).votes.tolist() == [[2000]] * 2


def always(images: Array) -> Array:
    return jnp.stack([jnp.ones(len(images)), jnp.zeros(len(images))], axis=1)


def test_ambiguous_draws_have_no_vote_and_count_inside() -> None:
    """Of noise that is partly too long for cells, the long draws are ambiguous."""
    law, n = generalized_gaussian(64, 5e5, 28.0), 4000
    inside = [law.truncated(0.3), law.truncated(0.8)]
    table = count_votes(always, BLACK, [0], law, n, inside=inside, grid=255, seed=0)
    assert table.sound is not None and table.sound.grid == 255
    [lost] = table.sound.ambiguous.tolist()
    assert 0.05 * n < lost < 0.95 * n
    # All that are not ambiguous are right; the ambiguous ones are draws none the less.
    assert table.draws[0, 0] == n and table.votes[0, 0] == n - lost
    cutoffs = [one.cutoff or 0.0 for one in inside]
    counts = Sampler(always, cutoffs=cutoffs, grid=255).start(BLACK, [0], law, n).result()
    np.testing.assert_array_equal(counts.draws - counts.correct, counts.ambiguous)
    # Of the short draws only those beside an edge, a thousandth of cells of this size.
    assert counts.ambiguous[0, 0] < 20 < counts.ambiguous[0, 1] < lost
    assert table.draws[0, 1:].tolist() == counts.draws[0, :2].tolist()


def test_a_level_beside_a_cutoff_counts_as_it_lowers_the_bound() -> None:
    with jax.enable_x64(True):
        key = jax.random.key(0, impl="threefry2x32")
        # What draws for: sampling, image, law, draw.
        for word in (sampler._SAMPLING, 0, kernel.stream(LAW), 0):
            key = jax.random.fold_in(key, np.uint32(word))
        numbers = jax.tree.map(np.float64, LAW.as_truncated())
        level = float(jax.jit(lambda key: sound.draw(numbers, key, 240).level)(key))

    def inside(steps: float, label: int) -> list[int]:
        cutoff = level * (1 + steps * sound.ROUNDING)
        counts = Sampler(always, cutoffs=[cutoff], grid=240).start(BLACK, [label], LAW, 1).result()
        return [int(counts.draws[0, 0]), int(counts.correct[0, 0])]

    for steps in (0.0, 0.7, -0.7):
        assert inside(steps, 0) == [0, 0]  # right: no draw of the inside law
        assert inside(steps, 1) == [1, 0]  # wrong: one of its draws
    assert inside(3.0, 0) == [1, 1] and inside(3.0, 1) == [1, 0]
    assert inside(-3.0, 0) == inside(-3.0, 1) == [0, 0]


def test_bounds_are_lower_by_what_is_charged() -> None:
    laws, votes = (LAW, LAW.truncated(0.5)), np.array([0, 100, 700, 950])  # all of radius 0
    plain = VoteTable.from_counts(laws, np.transpose([votes, votes // 2]), [2000, 1000])
    bounds = certify_table(plain, Protocol(ALPHA)).lower
    np.testing.assert_array_equal(bounds[:, 0], [lower_bound(n, 2000, ALPHA / 2) for n in votes])
    for grid in (1, 240, 2**24):
        made = dataclasses.replace(plain, sound=SoundDraws(grid, np.zeros(4, int)))
        lower = certify_table(made, Protocol(ALPHA)).lower
        charged = np.maximum(bounds - [sound.charge(law, grid) for law in laws], 0.0)
        assert np.all((lower <= charged) & (charged <= lower + 1e-15))
        assert np.all(lower[1:] < bounds[1:])
