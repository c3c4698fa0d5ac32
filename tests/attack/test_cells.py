"""What sound draws see of an image off the grid: the sum in fractions, and what is flagged."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from dsrs_jax import generalized_gaussian
from dsrs_jax.attack.cells import seen_cells
from dsrs_jax.noise import sound

GRID = 255
LAW = generalized_gaussian(5, 0.3, 1.0, 1.5)
WHOLE = np.array([0.0, 255.0, 7.0, 128.0, -3.0])


def each(function: Callable[..., Any], keys: jax.Array, *more: np.ndarray) -> Any:
    """What a function makes of each key's draw, and of each row of the others."""
    rows = jax.jit(jax.vmap(lambda key, *row: function(LAW, key, GRID, *row)))
    return jax.tree.map(np.asarray, rows(keys, *more))


def test_the_sum_with_the_noise_is_rounded_exactly_or_flagged() -> None:
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 500)
        made, drawn = each(sound.coordinates, keys), each(sound.draw, keys)
        noise = np.concatenate([made.first, made.second], axis=1)[:, :5]
        shift = np.random.default_rng(0).uniform(-9.0, 9.0, noise.shape)
        # The sums with the first noise of some draws lie on an edge between cells, or so near it
        # that the noise's own error decides.
        edge = np.floor(noise[:20, 0]) + 0.5 - noise[:20, 0]
        shift[:20, 0] = edge + np.linspace(-1e-13, 1e-13, 20) * np.abs(noise[:20, 0])
        whole = np.tile(WHOLE, (500, 1))
        pixels, ambiguous = each(seen_cells, keys, whole, shift)
        still, lost = each(seen_cells, keys, whole, np.zeros_like(noise))
        _, far = each(seen_cells, keys, whole + 2.0**31, shift)
    assert ambiguous[:20].all() and far.all()
    assert ambiguous[20:].sum() < 10  # levels that nobody knows, once in 10^5 draws of other laws
    for i in np.flatnonzero(~ambiguous).tolist():
        for row in zip(WHOLE, shift[i], noise[i], pixels[i], strict=True):
            number, by, e, pixel = map(Fraction, map(float, row))
            cell = round(number + by + e)
            assert pixel == Fraction(float(np.float32(cell / GRID)))
            # Not even the noise's error reaches the next cell.
            assert abs(number + by + e - cell) + abs(e) / 10**13 < Fraction(1, 2)
    # Without a shift these are the draws that certificates have.
    np.testing.assert_array_equal(lost, drawn.ambiguous)
    cells = (WHOLE + drawn.cells) / GRID
    np.testing.assert_array_equal(still, cells.astype(np.float32))
