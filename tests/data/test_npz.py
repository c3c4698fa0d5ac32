"""One NumPy file as a data set."""

from pathlib import Path

import numpy as np
import pytest

from dsrs_jax import data
from dsrs_jax.system.errors import UserError

BYTES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 2])


def test_bytes_and_floats_hold_the_same_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "bytes.npz", images=BYTES, labels=LABELS)
    np.savez(
        tmp_path / "floats.npz", images=BYTES.astype(np.float32) / np.float32(255), labels=LABELS
    )
    one, other = (
        data.load("npz", "test", tmp_path / f"{name}.npz") for name in ("bytes", "floats")
    )
    assert one.image_shape == (6, 5, 3) and one.classes == 3
    for i in range(4):
        np.testing.assert_array_equal(one[i][0], other[i][0])
        assert one[i][1] == other[i][1] == LABELS[i]


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": BYTES},
        {"images": BYTES[0], "labels": LABELS},
        {"images": BYTES, "labels": LABELS[:2]},
        {"images": BYTES, "labels": LABELS + 0.5},
        {"images": BYTES, "labels": LABELS - 1},
        {"images": BYTES.astype(np.float32), "labels": LABELS},
        {"images": np.full((4, 6, 5, 3), np.nan, np.float32), "labels": LABELS},
        {"images": np.array([None] * 4), "labels": LABELS},
    ],
)
def test_other_content_is_refused(tmp_path: Path, arrays: dict) -> None:
    file = tmp_path / "set.npz"
    np.savez(file, **arrays)
    with pytest.raises(UserError, match=r"is not a \.npz file with `images`"):
        data.load("npz", "test", file)


def test_no_npz_file(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is not a \.npz file"):
        data.load("npz", "test", tmp_path / "set.npz")
