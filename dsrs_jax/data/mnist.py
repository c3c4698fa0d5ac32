"""MNIST from its four IDX files, as everyone distributes them, gzipped or not.

Format: big-endian int32 magic (two zero bytes, the type 8 = unsigned byte, the rank), one
big-endian int32 for each dimension, then the bytes in row-major order (LeCun, Cortes and Burges,
"The MNIST database of handwritten digits").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dsrs_jax.data.dataset import ArrayDataset
from dsrs_jax.system.errors import UserError

FILE_PREFIX = {"train": "train", "test": "t10k"}
FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    "t10k-labels-idx1-ubyte"
)
SOURCES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashionmnist": "https://github.com/zalandoresearch/fashion-mnist/tree/master/data/fashion",
}
UNSIGNED_BYTE = 0x08
CLASSES = 10


def load(split: str, data_dir: Path | None, name: str = "mnist") -> ArrayDataset:
    """The split "train" (60,000 images 28x28x1) or "test" (10,000) from the files in `data_dir`.

    Fashion-MNIST has files of the same names and form: `name` says whose they are.

    Raises UserError when the folder or a file is missing, damaged, or not what its name says.
    """
    if data_dir is None:
        raise UserError(f"{name} needs --data-dir, a folder with {_where(name)}")
    if not data_dir.is_dir():
        raise UserError(f"no such folder: {data_dir}; {name} needs {_where(name)}")
    image_path = _find(data_dir, name, f"{FILE_PREFIX[split]}-images-idx3-ubyte")
    label_path = _find(data_dir, name, f"{FILE_PREFIX[split]}-labels-idx1-ubyte")
    images = _read_idx(image_path, rank=3)
    labels = _read_idx(label_path, rank=1)
    if len(images) != len(labels):
        raise UserError(
            f"{image_path} has {len(images)} images but {label_path} has {len(labels)} labels; "
            "fetch both files again from one place"
        )
    if images.shape[1:] != (28, 28):
        height, width = images.shape[1:]
        raise UserError(f"{image_path} holds {height}x{width} images, MNIST has 28x28")
    if labels.size and labels.max() >= CLASSES:
        raise UserError(f"{label_path} holds the label {labels.max()}, MNIST has 0 to 9")
    scaled = images[..., None].astype(np.float32) / np.float32(255)
    return ArrayDataset(name, split, scaled, labels.astype(np.int32), CLASSES)


def _find(data_dir: Path, name: str, file: str) -> Path:
    for path in (data_dir / file, data_dir / f"{file}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{data_dir} has neither {file} nor {file}.gz; {name} needs {_where(name)}")


def _where(name: str) -> str:
    return f"{FILES}, each as it is or with .gz, from {SOURCES[name]}"


def _read_idx(path: Path, rank: int) -> UInt8[np.ndarray, "..."]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    header = struct.calcsize(f">{1 + rank}i")
    if len(content) < header:
        raise UserError(f"{path} is cut short: {len(content)} bytes, its header alone has {header}")
    magic, *shape = struct.unpack_from(f">{1 + rank}i", content)
    expected = UNSIGNED_BYTE << 8 | rank
    if magic != expected:
        raise UserError(
            f"{path} is not the IDX file that its name says: it begins with {magic}, not {expected}"
        )
    size = header + math.prod(shape)
    if min(shape) < 0 or len(content) != size:
        raise UserError(
            f"{path} is cut short or damaged: {len(content)} bytes where its header says {size}; "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
