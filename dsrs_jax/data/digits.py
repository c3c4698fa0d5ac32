"""The 1,797 handwritten digits, 8x8, that ship with scikit-learn: no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository,
1998 (its test set). Each value counts the ink in a 4x4 block of a real scan, 0 to 16.
"""

from pathlib import Path

import numpy as np

from dsrs_jax.data.dataset import ArrayDataset

TEST_STRIDE = 5  # indices 0, 5, 10, … are the 360 test images, the other 1,437 train
INK_MAXIMUM = 16.0
# Sound draws' steps are fractions of the set's own 1/16, about as fine as those of other sets.
_GRID = 240


def load(split: str, data_dir: Path | None) -> ArrayDataset:
    """The split "train" (1,437 images) or "test" (360), in the original order.

    `data_dir` is not used. The set comes in runs of one writer each, so both splits see every
    writer and every class.
    """
    from sklearn.datasets import load_digits  # half a second that other data sets need not wait

    del data_dir
    digits = load_digits()
    is_test = np.arange(len(digits.target)) % TEST_STRIDE == 0
    chosen = is_test if split == "test" else ~is_test
    images = (digits.images[chosen, :, :, None] / INK_MAXIMUM).astype(np.float32)
    labels = digits.target[chosen].astype(np.int32)
    return ArrayDataset("digits", split, images, labels, classes=10, grid=_GRID)
