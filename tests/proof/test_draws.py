"""The charge of sound draws: two programs agree on it, and what it counts is counted again."""

import math

import numpy as np
import pytest
from flint import arb
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate

from dsrs_jax.noise import generalized_gaussian, sound
from dsrs_jax.proof import draws
from dsrs_jax.proof.enclosure import LawNumbers


@given(
    dimension=st.integers(2, 200_000),
    share=st.floats(0.0, 0.4999),
    eta=st.floats(0.3, 6.0),
    sigma=st.floats(1e-3, 10.0),
    quantile=st.none() | st.floats(1e-3, 0.999),
    grid=st.sampled_from([1, 240, 255, 65_280]),
)
def test_the_sampler_and_the_proof_charge_the_same(
    dimension: int, share: float, eta: float, sigma: float, quantile: float | None, grid: int
) -> None:
    assume(dimension * (1 - 2 * share) / eta > 0.2384)
    law = generalized_gaussian(dimension, sigma, share * dimension, eta)
    law = law if quantile is None else law.truncated(quantile)
    mine = sound.charge(law, grid)
    theirs = draws.charge(dimension, law.k, eta, LawNumbers(sigma, law.cutoff), grid)
    # Never below, or a proof would fail.
    assert arb(mine) >= theirs and mine <= float(theirs) * (1 + 4e-6)
    assert draws.ROUNDING == sound.ROUNDING


def test_a_law_of_almost_no_draws_is_charged_all_that_there_is() -> None:
    law = generalized_gaussian(64, 0.5, 0.0)
    inside = law.truncated(1e-13)
    assert sound.charge(law, 240) < 1e-12 and sound.charge(inside, 240) == 1.0
    assert draws.charge(64, 0.0, 2.0, LawNumbers(0.5, inside.cutoff), 240) == 1


def cells(dimension: int, length: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(draws, dimension) cells of draws of one length, from their pairs' uniforms."""
    radius = np.sqrt(-2 * np.log(u))
    z = np.concatenate([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)], axis=1)
    z = z[:, :dimension]
    return np.rint(length * z / np.linalg.norm(z, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("dimension", "length"), [(2, 0.4), (2, 40.0), (3, 3.0), (5, 0.4), (6, 3.0), (11, 40.0)]
)
def test_one_uniform_changes_no_more_cells_than_are_charged(dimension: int, length: float) -> None:
    """docs/proof.md: 3 R sqrt(d') thresholds for a U, 24 R sqrt(d') for all V's together."""
    random = np.random.default_rng([dimension, int(length)])
    even = dimension + dimension % 2
    grid = (np.arange(20_000) + 0.5) / 20_000

    def changes(moved: np.ndarray) -> int:
        return int(np.sum(moved[1:] != moved[:-1]))

    for _ in range(3):
        u, v = random.random((2, even // 2))
        turned = 0
        for pair in range(even // 2):
            us, vs = np.tile(u, (len(grid), 1)), np.tile(v, (len(grid), 1))
            us[:, pair] = grid
            assert changes(cells(dimension, length, us, vs)) <= 3 * length * math.sqrt(even)
            us[:, pair], vs[:, pair] = u[pair], grid
            turned += changes(cells(dimension, length, us, vs))
        assert turned <= 24 * length * math.sqrt(even)


@pytest.mark.parametrize("shape", [1.0, 4.0, 392.0])
def test_a_levels_uniforms_change_no_more_than_is_charged(shape: float) -> None:
    """docs/proof.md: 8 R sqrt(d') + 12 thresholds for an attempt; a direction's cells with it."""
    random = np.random.default_rng(int(shape))
    grid = (np.arange(50_000) + 0.5) / 50_000
    direction = random.standard_normal(6)
    direction /= np.linalg.norm(direction)
    start = shape - 1 / 3

    def outcome(u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Cells and whether the level is inside; a number of its own where it is rejected."""
        deviate = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
        root = 1 + deviate / math.sqrt(9 * start)
        cube = np.maximum(root, 1e-9) ** 3
        fits = np.log(w) < deviate**2 / 2 + start * (1 - cube + np.log(cube))
        level = start * cube
        length = 5.0 * np.sqrt(level / shape)
        found = np.concatenate(
            [np.rint(length[:, None] * direction), (level <= shape)[:, None]], axis=1
        )
        return np.where((fits & (root > 0))[:, None], found, 99.0)

    for _ in range(5):
        total = 0
        fixed = [np.full(len(grid), one) for one in random.random(3)]
        for moved in range(3):
            found = outcome(*fixed[:moved], grid, *fixed[moved + 1 :])
            total += int(np.any(found[1:] != found[:-1], axis=1).sum())
        reach = 5.0 * math.sqrt(start / shape) * (1 + 9.5 / math.sqrt(9 * start)) ** 1.5
        assert total <= 8 * reach * math.sqrt(6) + 12


@pytest.mark.parametrize("shape", [1.0, 1.5, 3.0, 30.0, 1e4])
def test_attempts_are_accepted_as_often_as_is_charged(shape: float) -> None:
    """0.95 at least, at every shape from 1."""
    start = shape - 1 / 3
    spread = 1 / math.sqrt(9 * start)

    def accepted(z: float) -> float:
        v = (1 + spread * z) ** 3
        return math.exp(start * (1 - v + math.log(v))) / math.sqrt(2 * math.pi)

    share = integrate.quad(accepted, -1 / spread + 1e-12, 12, points=[0.0], limit=200)[0]
    assert 0.95 <= share <= 1
