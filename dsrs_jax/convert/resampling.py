"""ATen's operators that change the number of pixels: pools and resizing.

Features are (N, C, H, W) or (N, C, W), as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from dsrs_jax.convert.layers import each_of
from dsrs_jax.convert.operators import operator

# ---- pools


def _windows(
    self: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Sizes, strides, padding and dilation of the windows over the spatial axes."""
    n = self.ndim - 2
    sizes, pads, steps = (each_of(one, n) for one in (kernel_size, padding, dilation))
    strides = each_of(stride, n) if stride not in (None, (), []) else sizes
    ends = []
    for length, size, step, pad, gap in zip(
        self.shape[2:], sizes, strides, pads, steps, strict=True
    ):
        reach = gap * (size - 1) + 1
        more = 0
        if ceil_mode:
            windows = -(-(length + 2 * pad - reach) // step) + 1
            # A last window begins inside the input or its left padding.
            windows -= (windows - 1) * step >= length + pad
            more = max(0, (windows - 1) * step + reach - length - 2 * pad)
        ends.append((pad, pad + more))
    return sizes, strides, ends, steps


def _reduce_windows(self: Any, start: Any, function: Any, windows: Any) -> Any:
    sizes, strides, ends, steps = windows
    return lax.reduce_window(
        self,
        start,
        function,
        (1, 1, *sizes),
        (1, 1, *strides),
        [(0, 0), (0, 0), *ends],
        window_dilation=(1, 1, *steps),
    )


@operator("max_pool2d.default", "max_pool1d.default")
def _max_pool(
    self: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    windows = _windows(self, kernel_size, stride, padding, dilation, ceil_mode)
    return _reduce_windows(self, -jnp.inf, lax.max, windows)


@operator("max_pool2d_with_indices.default")
def _max_pool_with_indices(
    self: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    return _max_pool(self, kernel_size, stride, padding, dilation, ceil_mode), None


@operator("avg_pool2d.default", "avg_pool1d.default")
def _avg_pool(
    self: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    windows = _windows(self, kernel_size, stride, padding, 1, ceil_mode)
    total = _reduce_windows(self, 0.0, lax.add, windows)
    if divisor_override is not None:
        return total / divisor_override
    sizes, strides, ends, _ = windows
    pads = each_of(padding, self.ndim - 2)
    # How many places of each window count: those that ceil_mode adds never do.
    ones = np.ones(self.shape[2:], np.float32)
    if count_include_pad:
        ones = np.pad(ones, [(pad, pad) for pad in pads], constant_values=1)
        rest = [(0, high - pad) for pad, (_, high) in zip(pads, ends, strict=True)]
    else:
        rest = ends
    ones = np.pad(ones, rest)
    counts = lax.reduce_window(
        jnp.asarray(ones), 0.0, lax.add, tuple(sizes), tuple(strides), [(0, 0)] * len(sizes)
    )
    return total / counts.astype(self.dtype)


@operator(
    "adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default", "adaptive_avg_pool1d.default"
)
def _adaptive_avg_pool(self: Any, output_size: Any) -> Any:
    for axis, bins in enumerate(each_of(output_size, self.ndim - 2), start=2):
        length = self.shape[axis]
        weights = np.zeros((bins, length), np.float32)
        for i in range(bins):
            first, end = i * length // bins, -(-(i + 1) * length // bins)
            weights[i, first:end] = 1 / (end - first)
        self = _along(self, weights, axis)
    return self


@operator("adaptive_max_pool2d.default")
def _adaptive_max_pool(self: Any, output_size: Any) -> Any:
    for axis, bins in enumerate(each_of(output_size, self.ndim - 2), start=2):
        length = self.shape[axis]
        parts = [
            jnp.max(
                lax.slice_in_dim(self, i * length // bins, -(-(i + 1) * length // bins), axis=axis),
                axis=axis,
                keepdims=True,
            )
            for i in range(bins)
        ]
        self = jnp.concatenate(parts, axis=axis)
    return self, None


# ---- resizing


def _along(x: Any, weights: np.ndarray, axis: int) -> Any:
    """`x` with an axis multiplied by weights (out, in)."""
    moved = jnp.moveaxis(x, axis, -1)
    # In full precision wherever there is less: these are the pixels themselves.
    result = jnp.matmul(moved, jnp.asarray(weights.T, x.dtype), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(result, -1, axis)


def _step(length: int, wanted: int, factor: float | None, align_corners: bool) -> float:
    """From the centre of one new place to the next, in old ones."""
    if align_corners:
        return (length - 1) / (wanted - 1) if wanted > 1 else 0.0
    return 1 / factor if factor else length / wanted


def _places(length: int, wanted: int, factor: float | None, align_corners: bool) -> np.ndarray:
    """Where the centres of the new places lie among the old ones."""
    i, step = np.arange(wanted), _step(length, wanted, factor, align_corners)
    return i * step if align_corners else (i + 0.5) * step - 0.5


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981), eq. 15."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _interpolation(
    length: int, wanted: int, factor: float | None, align_corners: bool, cubic: bool
) -> np.ndarray:
    """Weights (wanted, length); beyond an edge the edge's pixel counts again."""
    places = _places(length, wanted, factor, align_corners)
    if not cubic:
        places = np.clip(places, 0, length - 1)
    base = np.floor(places).astype(int)
    weights = np.zeros((wanted, length))
    for tap in range(-1, 3):
        distance = places - (base + tap)
        # PyTorch's constant, -0.75.
        share = _cubic(distance, -0.75) if cubic else _linear(distance)
        np.add.at(weights, (np.arange(wanted), np.clip(base + tap, 0, length - 1)), share)
    return weights


def _antialiased(
    length: int, wanted: int, factor: float | None, align_corners: bool, cubic: bool
) -> np.ndarray:
    """As `_interpolation`, with a kernel as wide as the pixels that it makes, normalised."""
    step = _step(length, wanted, factor, align_corners)
    wide = max(step, 1.0)
    places = (np.arange(wanted) + 0.5) * step - 0.5
    distance = (np.arange(length)[None, :] - places[:, None]) / wide
    weights = _cubic(distance, -0.5) if cubic else _linear(distance)
    return weights / weights.sum(axis=1, keepdims=True)


Weights = Callable[[int, int, float | None, bool, bool], np.ndarray]


def _resized(
    self: Any, output_size: Any, factors: Any, align_corners: bool, cubic: bool, weights: Weights
) -> Any:
    n = self.ndim - 2
    factors = [None] * n if factors is None else _factors(factors, n)
    for axis in range(n):
        length, factor = self.shape[2 + axis], factors[axis]
        wanted = int(length * factor) if output_size is None else output_size[axis]
        if wanted != length or factor not in (None, 1.0):
            given = factor if output_size is None else None
            self = _along(self, weights(length, wanted, given, align_corners, cubic), 2 + axis)
    return self


def _factors(value: Any, n: int) -> list[float]:
    return [float(value)] * n if isinstance(value, (int, float)) else [float(one) for one in value]


def _resize(cubic: bool, weights: Weights, *names: str) -> None:
    def resize(
        self: Any = None,
        output_size: Any = None,
        align_corners: bool = False,
        scale_factors: Any = None,
        scales_h: float | None = None,
        scales_w: float | None = None,
        scales: float | None = None,
        input: Any = None,
    ) -> Any:
        x = input if self is None else self
        if scale_factors is None and scales_h is not None and scales_w is not None:
            scale_factors = (scales_h, scales_w)
        if output_size is not None and scale_factors is not None:
            # Where the caller gave factors, places are computed with them.
            n = x.ndim - 2
            sizes, output_size = output_size, None
            factors = _factors(scale_factors, n)
            assert [int(s * f) for s, f in zip(x.shape[2:], factors, strict=True)] == list(sizes)
        return _resized(x, output_size, scale_factors, align_corners, cubic, weights)

    operator(*names)(resize)


_resize(
    False,
    _interpolation,
    "upsample_bilinear2d.vec",
    "upsample_bilinear2d.default",
    "upsample_linear1d.vec",
)
_resize(True, _interpolation, "upsample_bicubic2d.vec", "upsample_bicubic2d.default")
_resize(False, _antialiased, "_upsample_bilinear2d_aa.vec", "_upsample_bilinear2d_aa.default")
_resize(True, _antialiased, "_upsample_bicubic2d_aa.vec", "_upsample_bicubic2d_aa.default")


def _nearest(exact: bool, *names: str) -> None:
    def resize(
        self: Any = None,
        output_size: Any = None,
        scale_factors: Any = None,
        scales_h: float | None = None,
        scales_w: float | None = None,
        input: Any = None,
    ) -> Any:
        x = input if self is None else self
        n = x.ndim - 2
        if scale_factors is None and scales_h is not None and scales_w is not None:
            scale_factors = (scales_h, scales_w)
        factors = [None] * n if scale_factors is None else _factors(scale_factors, n)
        for axis, factor in enumerate(factors, start=2):
            length = x.shape[axis]
            wanted = int(length * factor) if output_size is None else output_size[axis - 2]
            # In float32, as PyTorch computes it: a half is rounded the same way.
            step = np.float32(1 / factor) if factor else np.float32(length) / np.float32(wanted)
            i = np.arange(wanted, dtype=np.float32) + np.float32(0.5 if exact else 0.0)
            places = np.minimum(np.floor(i * step).astype(np.int32), length - 1)
            x = jnp.take(x, jnp.asarray(places), axis=axis)
        return x

    operator(*names)(resize)


_nearest(False, "upsample_nearest2d.vec", "upsample_nearest2d.default", "upsample_nearest1d.vec")
_nearest(True, "_upsample_nearest_exact2d.vec", "_upsample_nearest_exact2d.default")
