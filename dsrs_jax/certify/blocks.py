"""Rows in compiled calls: the one door into float64, and blocks of one size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from numpy.typing import NDArray

from dsrs_jax.certify.laws import LawArrays

Float64s = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Instances in one compiled call; the last block is padded. A CPU takes as long for each instance of
# a small block as of a large one.
_BLOCK_ON_CPU = 32
_BLOCK = 256
_GPUS = ("gpu", "cuda", "rocm")  # names of backends


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """64-bit mode, on a device that has it: the default one, or the CPU beside a TPU."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() not in ("cpu", *_GPUS):
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        yield


def block_size() -> int:
    """Instances in one compiled call, on the device that `float64` chooses."""
    return _BLOCK if jax.default_backend() in _GPUS else _BLOCK_ON_CPU


def blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows, `block_size` at a time."""
    size = block_size()
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A block of full size: the first row again and again."""
    return np.concatenate([rows, np.full(block_size() - len(rows), rows[0])])


def some(laws: LawArrays, rows: NDArray[np.int64]) -> LawArrays:
    """The laws of these rows."""
    return jax.tree.map(lambda leaf: leaf[rows], laws)


def truncated(laws: LawArrays) -> np.bool_:
    """Whether any law is truncated."""
    return np.bool_(np.any(np.isfinite(laws.edge)))


def log(weights: Float64s) -> Float64s:
    """The logarithm, -inf of 0."""
    with np.errstate(divide="ignore"):
        return np.log(weights)
