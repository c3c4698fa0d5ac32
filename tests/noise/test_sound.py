"""Sound draws: the law that they have, and the cells that they are, to the last one."""

import dataclasses
import functools
import math

import exact_draws
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian, sound


@functools.partial(jax.jit, static_argnames=("grid", "batch"))
def draw_all(law, keys, grid, batch=256):
    return jax.lax.map(
        lambda key: (sound.draw(law, key, grid), sound.coordinates(law, key, grid)),
        keys,
        batch_size=batch,
    )


def as_numbers(law: RadialLaw) -> RadialLaw:
    """As the sampler gives a law to a compiled program."""
    return jax.tree.map(np.float64, law.as_truncated())


EXACT = {  # (law, draws, grid): 3,800 draws of 540,000 coordinates; benchmarks/sound.py has more
    "digits": (generalized_gaussian(64, 0.5, 28.0), 2_000, 240),
    "cut off": (generalized_gaussian(64, 0.5, 20.0, 3.0).truncated(0.3), 100, 240),
    "gaussian, odd": (gaussian(63, 0.5), 300, 255),
    "mnist": (generalized_gaussian(784, 0.5, 380.0), 100, 255),
    "light tail, truncated": (generalized_gaussian(784, 0.5, 390.0, 3.0).truncated(0.3), 40, 255),
    "cifar": (generalized_gaussian(3072, 0.25, 1530.0), 10, 255),
    "imagenet": (gaussian(150_528, 0.5), 1, 255),
    "heavy tail": (generalized_gaussian(784, 0.5, 0.0, 0.12), 30, 255),
    "shape below 1": (generalized_gaussian(64, 0.5, 31.7), 1_000, 240),
    "shape 1": (generalized_gaussian(65, 0.5, 31.5), 300, 240),
}
FAST = ("digits", "shape below 1", "cut off", "gaussian, odd")  # 100 draws: one program for three


@pytest.mark.parametrize(
    ("name", "n"),
    [
        *((name, 100) for name in FAST),
        *(pytest.param(name, one[1], marks=pytest.mark.slow) for name, one in EXACT.items()),
    ],
)
def test_every_cell_is_that_of_the_same_bits_to_sixty_digits(name: str, n: int) -> None:
    law, _, grid = EXACT[name]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(5), n)
        made, found = jax.tree.map(np.asarray, draw_all(as_numbers(law), keys, grid))
        bits = exact_draws.bits_of(law, keys)
    scale, error = exact_draws.scale_of(law), sound.ROUNDING / min(1.0, law.eta)
    values = np.concatenate([found.first, found.second], axis=1)[:, : law.dimension]
    for i in range(n):
        level = exact_draws.level_of(law, bits.level[i])
        assert abs(found.level[i] - level) < level * (sound.ROUNDING / 16)
        assert made.level[i] == found.level[i] and not found.undecided[i]
        exact = exact_draws.coordinates_of(law, scale, level, bits.direction[i], grid)
        for e, value, cell in zip(exact, values[i].tolist(), made.cells[i].tolist(), strict=True):
            assert abs(value - e) < abs(e) * (error / 16)
            assert abs(e - cell) < 0.5 or made.ambiguous[i]
    assert made.ambiguous.mean() < 0.01


@pytest.mark.slow
def test_a_draw_near_an_edge_is_ambiguous() -> None:
    """On a grid so fine that last digits decide: flagged is what has to be, and nothing else."""
    law, n, grid = gaussian(8, 1.0), 200_000, 2**27
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), n)
        made, found = jax.tree.map(np.asarray, draw_all(as_numbers(law), keys, grid))
        values = np.concatenate([found.first, found.second], axis=1)
        from_edge = np.min((0.5 - np.abs(values - made.cells)) / np.abs(values), axis=1)
        # As many as the others, for one compiled program.
        near = np.argsort(from_edge)[:100]
        bits = exact_draws.bits_of(law, keys[near])
    assert from_edge[near[-1]] > 1.2 * sound.ROUNDING
    assert set(np.flatnonzero(made.ambiguous)) <= set(near.tolist())
    scale, beside = exact_draws.scale_of(law), 0
    for row, i in enumerate(near):
        level = exact_draws.level_of(law, bits.level[row])
        exact = exact_draws.coordinates_of(law, scale, level, bits.direction[row], grid)
        # Below 0 where the cell is another one.
        distance = min(
            float((0.5 - abs(e - m)) / abs(e)) for e, m in zip(exact, made.cells[i], strict=True)
        )
        assert made.ambiguous[i] or distance > 0.0
        if abs(distance / sound.ROUNDING - 1.0) > 0.05:
            assert made.ambiguous[i] == (distance < sound.ROUNDING)
            beside += distance < sound.ROUNDING
    assert beside > 10


def test_a_level_beside_the_cutoff_is_undecided() -> None:
    law, grid = generalized_gaussian(64, 0.5, 28.0), 240
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(2), 100)
        plain, _ = jax.tree.map(np.asarray, draw_all(as_numbers(law), keys, grid))
        for step, undecided in ((0.0, True), (0.5, True), (-0.5, True), (3.0, False)):
            cutoff = float(plain.level[0]) * (1 + step * sound.ROUNDING)
            cut = dataclasses.replace(law, cutoff=cutoff, quantile=0.5)
            made, found = jax.tree.map(np.asarray, draw_all(as_numbers(cut), keys, grid))
            assert bool(found.undecided[0]) == bool(made.ambiguous[0]) == undecided
            # Then it counts inside every level; else it is what it was.
            assert made.level[0] == (0.0 if undecided else plain.level[0])


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.0, 4.0])
def test_a_level_that_lost_its_digits_is_undecided(shape: float) -> None:
    """Bits whose deviate nearly cancels 1 + spread * deviate, beside the edge of acceptance."""
    law, n = generalized_gaussian(64, 0.5, 32.0 - shape), 600
    start = shape + (shape < 1.0) - 1.0 / 3.0
    random = np.random.default_rng(12)
    lowest = max(-14.0, -44.0 / (3.0 * start * math.log(10.0)))  # lower: no uniform accepts it
    root = 10.0 ** random.uniform(lowest, -0.3, n)
    deviate = (1.0 - root) * 3.0 * math.sqrt(start)
    accepts = 0.5 * deviate**2 + start * (1.0 - root**3 + 3.0 * np.log(root))
    bits = np.empty((n, 4), np.uint64)
    bits[:, 0] = np.exp(-0.5 * deviate**2) * 2.0**64
    bits[:, 1] = np.exp(np.minimum(accepts + random.uniform(-1.5, 3.0, n), -1e-9)) * 2.0**64
    bits[:, 2] = random.integers(2**63 - 2**30, 2**63 + 2**30, n, np.uint64)
    bits[:, 3] = random.integers(0, 2**64, n, np.uint64)
    with jax.enable_x64(True):
        made = jax.tree.map(np.asarray, _attempts(as_numbers(law), jnp.asarray(bits)))
    for level, accepted, undecided, four in zip(*made, bits.tolist(), strict=True):
        exact = exact_draws.attempted(law, four)
        assert undecided or accepted == (exact is not None)
        if accepted and not undecided:
            assert abs(level - exact) < exact * (sound.ROUNDING / 2)
    assert 0.03 < made.undecided.mean() < 0.6
    assert 0.1 < made.accepted.mean() < 0.9


@jax.jit
def _attempts(law, bits):
    return jax.lax.map(lambda four: sound.attempt(law, four), bits, batch_size=256)


def test_what_no_cell_holds_is_ambiguous() -> None:
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(3), 100)
        for sigma, flagged in ((1e4, False), (1e9, True), (1e300, True)):
            made, _ = draw_all(as_numbers(gaussian(64, sigma)), keys, 240)
            assert np.all(np.asarray(made.ambiguous) == flagged)


LAWS = [(64, 500_000, 1.0, 0.0), (784, 20_000, 3.0, 390.0), (3072, 8_000, 2.0, 0.0)]


@pytest.mark.parametrize(
    ("dimension", "n", "eta", "k"),
    [(64, 50_000, 2.0, 30.0), *(pytest.param(*law, marks=pytest.mark.slow) for law in LAWS)],
)
def test_level_and_direction_have_their_law(dimension: int, n: int, eta: float, k: float) -> None:
    law = generalized_gaussian(dimension, 0.5, k, eta)
    grid = 1_000_000  # so fine that cells tell the direction
    with jax.enable_x64(True):
        level, square, first, third = map(np.asarray, _summary(as_numbers(law), n, grid))
    assert stats.kstest(level, stats.gamma(law.shape).cdf).pvalue > 1e-4
    spread = 5 / math.sqrt(n)
    assert abs(square.mean() / (0.25 * dimension) - 1) < spread * square.std() / square.mean()
    half = 0.5 * (dimension - 1)
    for cosine in (first, third):
        assert stats.kstest(0.5 * (1 + cosine), stats.beta(half, half).cdf).pvalue > 1e-4
    # Coordinates of one pair and of two, and of level and direction.
    assert abs(np.corrcoef(first, third)[0, 1]) < spread
    assert abs(np.corrcoef(first**2, third**2)[0, 1] + 1 / (dimension - 1)) < 2 * spread
    assert abs(np.corrcoef(level, first**2)[0, 1]) < spread


@functools.partial(jax.jit, static_argnames=("n", "grid"))
def _summary(law, n, grid):
    """Of n draws the level, |e|^2, the first coordinate's cosine, and its pair's other one."""

    def one(key):
        made = sound.draw(law, key, grid)
        e = made.cells.astype(jnp.float64) / grid
        square = jnp.sum(e * e)
        root = jnp.sqrt(square)
        return made.level, square, e[0] / root, e[law.dimension // 2] / root

    return jax.lax.map(one, jax.random.split(jax.random.key(11), n), batch_size=512)


@pytest.mark.parametrize("shape", [0.3, 1.0, 1.5, 10.0, 1e6])
def test_levels_have_the_gamma_law_at_every_shape(shape: float) -> None:
    dimension = 4_000_000
    law = generalized_gaussian(dimension, 0.5, dimension / 2 - shape)
    for one in (law, law.truncated(0.4)):
        with jax.enable_x64(True):
            level = np.asarray(_levels(as_numbers(one), 50_000))
        known = stats.gamma(one.shape)
        whole = known.cdf(one.cutoff) if one.cutoff is not None else 1.0
        assert stats.kstest(level, lambda u, k=known, w=whole: k.cdf(u) / w).pvalue > 1e-4
        assert one.cutoff is None or level.max() <= one.cutoff


@functools.partial(jax.jit, static_argnames=("n",))
def _levels(law, n):
    keys = jax.random.split(jax.random.key(4), n)
    return jax.lax.map(lambda key: sound._level(law, key)[0], keys, batch_size=4096)
