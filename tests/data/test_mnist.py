import gzip
import struct

import numpy as np
import pytest

from dsrs_jax import data
from dsrs_jax.system.errors import UserError

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array):
    header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small MNIST: five test images whose pixels are known, one file plain, one gzipped."""
    pixels = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28)
    (tmp_path / IMAGES).write_bytes(idx(pixels))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.arange(5, dtype=np.uint8))))
    return tmp_path


def message_of(folder):
    with pytest.raises(UserError) as caught:
        data.load("mnist", "test", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_real_files(mnist_dir):
    test, train = (data.load("mnist", split, mnist_dir) for split in ("test", "train"))
    assert test.images.shape == (10000, 28, 28, 1) and train.images.shape == (60000, 28, 28, 1)
    assert test.images.dtype == np.float32 and test.labels.dtype == np.int32
    assert test.images.min() == 0 and test.images.max() == 1
    # The first labels and the class counts that every description of MNIST gives.
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == counts
    # The published mean and standard deviation of the training pixels.
    assert abs(train.images.mean(dtype=np.float64) - 0.1307) < 1e-4
    assert abs(train.images.std(dtype=np.float64) - 0.3081) < 1e-4


def test_plain_and_gzipped_files_are_read_alike(folder):
    mnist = data.load("mnist", "test", folder)
    assert mnist.images.shape == (5, 28, 28, 1) and mnist.labels.tolist() == [0, 1, 2, 3, 4]
    assert mnist.images[0, 9, 3, 0] == np.float32(255) / 255  # pixel 9·28 + 3 = 255
    assert mnist.images[0, 0, 7, 0] == np.float32(7) / np.float32(255)


def test_no_folder_says_which_files_and_where_from(tmp_path):
    missing = message_of(None)
    assert IMAGES in missing and "https://" in missing and "--data-dir" in missing
    assert str(tmp_path / "nowhere") in message_of(tmp_path / "nowhere")
    assert f"neither {IMAGES} nor {IMAGES}.gz" in message_of(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 15, 16, 3000, -1])
def test_a_file_cut_short(folder, kept):
    path = folder / IMAGES
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is cut short" in message_of(folder)


@pytest.mark.parametrize("kept", [0, 5, 20, -1])
def test_a_gzip_file_cut_short(folder, kept):
    path = folder / f"{LABELS}.gz"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in message_of(folder)


def test_a_file_with_bytes_after_its_end(folder):
    path = folder / IMAGES
    path.write_bytes(path.read_bytes() + b"\0")
    assert "damaged" in message_of(folder)


def test_labels_where_images_belong(folder):
    (folder / IMAGES).write_bytes(idx(np.arange(50, dtype=np.uint8)))
    assert "begins with 2049, not 2051" in message_of(folder)


def test_a_negative_size_in_the_header(folder):
    (folder / IMAGES).write_bytes(struct.pack(">4i", 2051, -1, 28, 28))
    assert "damaged" in message_of(folder)


def test_a_corrupt_gzip_file(folder):
    path = folder / f"{LABELS}.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum
    path.write_bytes(content)
    assert f"{path} is not a whole gzip file" in message_of(folder)
    path.write_bytes(b"this is no gzip file")
    assert f"{path} is not a whole gzip file" in message_of(folder)


def test_more_images_than_labels(folder):
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.arange(4, dtype=np.uint8))))
    message = message_of(folder)
    assert "5 images" in message and "4 labels" in message


def test_images_of_another_size(folder):
    (folder / IMAGES).write_bytes(idx(np.zeros((5, 32, 32), np.uint8)))
    assert "32x32" in message_of(folder)


def test_a_label_beyond_nine(folder):
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.arange(6, 11, dtype=np.uint8))))
    assert "label 10" in message_of(folder)
