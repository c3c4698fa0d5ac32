"""Grids of images: what lies on one is found there, what does not is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax import data
from dsrs_jax.data import cells_of, grid_of
from dsrs_jax.system.errors import UserError

GRIDS = [255 << power for power in range(9)]


@given(grid=st.sampled_from([*GRIDS, 240, 16]), seed=st.integers(0, 2**32 - 1))
def test_cells_are_the_numbers_that_an_image_was_made_of(grid: int, seed: int) -> None:
    cells = np.random.default_rng(seed).integers(0, grid + 1, (2, 5, 4, 3)).astype(np.int32)
    images = cells.astype(np.float32) / np.float32(grid)
    np.testing.assert_array_equal(cells_of(images, grid), cells)
    found = grid_of(images)
    if grid in GRIDS:
        # The coarsest one that holds them, which is seldom a coarser one than theirs.
        assert found is not None and grid % found == 0
        np.testing.assert_array_equal(cells_of(images, found) * (grid // found), cells)


@pytest.mark.parametrize("value", [0.1001, 1 / 254, 1e-9, np.nan, np.inf, -np.inf, 1e30])
def test_what_lies_on_no_grid_is_refused(value: float) -> None:
    images = np.full((1, 2, 2, 1), 51 / 255, np.float32)
    assert grid_of(images) == 255
    images[0, 0, 0, 0] = value
    assert grid_of(images) is None
    with pytest.raises(UserError, match="no multiples of 1/255"):
        cells_of(images, 255)


def test_every_set_says_its_grid(mnist_dir) -> None:
    digits = data.load("digits")
    assert digits.grid == 240
    assert set(np.unique(cells_of(digits[3][0], 240)) % 15) == {0}  # its own levels are sixteenths
    mnist = data.load("mnist", "test", mnist_dir)
    assert mnist.grid == 255 and cells_of(mnist[0][0], 255).max() == 255


def test_an_npz_lies_on_the_coarsest_grid_that_holds_it(tmp_path) -> None:
    random = np.random.default_rng(0)
    made = {
        255: random.integers(0, 256, (4, 8, 8, 1), np.uint8),
        1020: random.integers(0, 1021, (4, 8, 8, 1)) / 1020,
        None: random.random((4, 8, 8, 1)),
    }
    for grid, images in made.items():
        np.savez(tmp_path / "images.npz", images=images, labels=np.arange(4))
        assert data.load("npz", data_dir=tmp_path / "images.npz").grid == grid
