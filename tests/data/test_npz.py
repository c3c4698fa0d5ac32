"""One NumPy file as a data set."""

from pathlib import Path

import numpy as np
import pytest

from dsrs_jax import data
from dsrs_jax.run.main import main
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
        {"labels": LABELS},
        {"images": BYTES[0], "labels": LABELS},
        {"images": BYTES[0]},
        {"images": BYTES, "labels": LABELS[:2]},
        {"images": BYTES, "labels": LABELS + 0.5},
        {"images": BYTES, "labels": LABELS - 1},
        {"images": BYTES.astype(np.float32), "labels": LABELS},
        {"images": np.full((4, 6, 5, 3), np.nan, np.float32), "labels": LABELS},
        {"images": np.array([None] * 4), "labels": LABELS},
        {"images": BYTES[:, :0], "labels": LABELS},
        {"images": BYTES[..., :0], "labels": LABELS},
        {"images": BYTES / 255 + 0j, "labels": LABELS},
        {"images": BYTES > 9, "labels": LABELS},
        {"images": BYTES.astype(np.int64) % 2, "labels": LABELS},
        {"images": BYTES.astype("U3"), "labels": LABELS},
        {"images": BYTES, "labels": LABELS + 2**32},
        {"images": BYTES, "labels": LABELS.astype(np.uint64) + np.uint64(2**63)},
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


def test_one_array_and_a_folder_are_told_what_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", BYTES)
    with pytest.raises(UserError, match=r"set\.npy is not .*it is one array \(4, 6, 5, 3\)"):
        data.load("npz", "test", tmp_path / "set.npy")
    (tmp_path / "set.npz").mkdir()
    with pytest.raises(UserError, match=r"set\.npz is a folder"):
        data.load("npz", "test", tmp_path / "set.npz")


def test_a_flipped_byte_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=BYTES, labels=LABELS)
    whole = file.read_bytes()
    kinds = set()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            found = data.load("npz", "test", file)
        except UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            kinds.add(type(error.__cause__).__name__)
        else:  # a byte that holds neither the arrays nor where they are
            np.testing.assert_array_equal([found[i][1] for i in range(4)], LABELS)
            np.testing.assert_array_equal(found[0][0], BYTES[0] / np.float32(255))
    assert {"BadZipFile", "error"} <= kinds  # zipfile's and zlib's
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    file.write_bytes(damaged)
    command = ["certify", "--dataset", "npz", "--data-dir", str(file), "--model", "none"]
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and str(file) in printed
