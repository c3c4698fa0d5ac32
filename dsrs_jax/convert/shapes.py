"""ATen's operators that move numbers and make none: shapes, slices, indices, constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrs_jax.convert.operators import operator, view


@operator(
    "alias.default", "clone.default", "contiguous.default", "detach.default",
    "lift_fresh_copy.default", "detach_.default",
)  # fmt: skip
def _same(self: Any, memory_format: Any = None) -> Any:
    return self


@operator(
    "_assert_tensor_metadata.default", "sym_constrain_range.default", "_assert_scalar.default",
    "sym_constrain_range_for_size.default", "_assert_async.msg",
)  # fmt: skip
def _nothing(*_: Any, **__: Any) -> None:
    """What the exporter was promised of sizes; a size that breaks it fails where it is used."""
    return None


@operator(
    "_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as.default"
)
def _to(self: Any, dtype: Any = None, other: Any = None, **_: Any) -> Any:
    if other is not None:
        dtype = other.dtype
    return self if dtype is None else self.astype(dtype)


@operator("dropout.default", "dropout_.default", "feature_dropout.default", "alpha_dropout.default")
def _dropout(p: float, train: bool, input: Any = None, self: Any = None) -> Any:
    if train and p > 0:
        raise ValueError("dropout is on: export the model after .eval()")
    return self if input is None else input


@view("view.default", "reshape.default", "_unsafe_view.default", "_reshape_alias.default")
def _reshape(self: Any, size: Any = None, shape: Any = None, stride: Any = None) -> Any:
    return self.reshape(tuple(size if shape is None else shape))


@view("flatten.using_ints")
def _flatten(self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    first, last = start_dim % self.ndim, end_dim % self.ndim
    middle = math.prod(self.shape[first : last + 1])
    return self.reshape(*self.shape[:first], middle, *self.shape[last + 1 :])


@view("unflatten.int")
def _unflatten(self: Any, dim: int, sizes: Sequence[int]) -> Any:
    dim %= self.ndim
    return self.reshape(*self.shape[:dim], *_filled(sizes, self.shape[dim]), *self.shape[dim + 1 :])


def _filled(sizes: Sequence[int], total: int) -> list[int]:
    known = math.prod(size for size in sizes if size != -1)
    return [total // known if size == -1 else size for size in sizes]


@view("permute.default")
def _permute(self: Any, dims: Sequence[int]) -> Any:
    return jnp.transpose(self, [dim % self.ndim for dim in dims])


@view("transpose.int")
def _transpose(self: Any, dim0: int, dim1: int) -> Any:
    return jnp.swapaxes(self, dim0, dim1)


@view("t.default", "numpy_T.default")
def _t(self: Any) -> Any:
    return self.T


@view("movedim.int", "movedim.intlist")
def _movedim(self: Any, source: Any, destination: Any) -> Any:
    return jnp.moveaxis(self, source, destination)


@view("unsqueeze.default", "unsqueeze_.default")
def _unsqueeze(self: Any, dim: int) -> Any:
    return jnp.expand_dims(self, dim)


@view("squeeze.dim", "squeeze.dims", "squeeze.default")
def _squeeze(self: Any, dim: Any = None) -> Any:
    wanted = range(self.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    ones = tuple(d % self.ndim for d in wanted if self.shape[d] == 1)
    return jnp.squeeze(self, ones)


@view("expand.default")
def _expand(self: Any, size: Sequence[int], implicit: bool = False) -> Any:
    shape = (1,) * (len(size) - self.ndim) + self.shape
    wanted = [have if want == -1 else want for want, have in zip(size, shape, strict=True)]
    return jnp.broadcast_to(self.reshape(shape), wanted)


@view("expand_as.default")
def _expand_as(self: Any, other: Any) -> Any:
    return jnp.broadcast_to(self, other.shape)


@view("slice.Tensor")
def _slice(
    self: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    dim %= self.ndim
    return self[(slice(None),) * dim + (slice(start, end, step),)]


@view("narrow.default")
def _narrow(self: Any, dim: int, start: int, length: int) -> Any:
    return _slice(self, dim, start, start + length)


@view("select.int")
def _select(self: Any, dim: int, index: int) -> Any:
    return self[(slice(None),) * (dim % self.ndim) + (index,)]


@view("unbind.int")
def _unbind(self: Any, dim: int = 0) -> Any:
    return tuple(jnp.moveaxis(self, dim, 0))


@view("chunk.default")
def _chunk(self: Any, chunks: int, dim: int = 0) -> Any:
    return _split(self, -(-self.shape[dim] // chunks), dim)


@view("split.Tensor", "split.sizes", "split_with_sizes.default")
def _split(
    self: Any, split_size: Any = None, dim: int = 0, split_sizes: Any = None
) -> tuple[Any, ...]:
    sizes = split_size if split_sizes is None else split_sizes
    if isinstance(sizes, int):
        places = list(range(sizes, self.shape[dim], sizes))
    else:
        places = np.cumsum(sizes)[:-1].tolist()
    return tuple(jnp.split(self, places, axis=dim))


@view("as_strided.default")
def _as_strided(
    self: Any, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    # Of the contiguous tensor: what a decomposed program asks for are its own strides again.
    places = np.full((), storage_offset or 0, dtype=np.int64)
    for length, step in zip(size, stride, strict=True):
        places = places[..., None] + np.arange(length, dtype=np.int64) * step
    if math.prod(size) == self.size and (places.ravel() == np.arange(self.size)).all():
        return self.reshape(tuple(size))
    return self.reshape(-1)[places.astype(np.int32)]


@operator("cat.default", "concat.default")
def _cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    return jnp.concatenate([t for t in tensors if t.shape != (0,)], axis=dim)


@operator("stack.default")
def _stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    return jnp.stack(tensors, axis=dim)


@operator("repeat.default")
def _repeat(self: Any, repeats: Sequence[int]) -> Any:
    return jnp.tile(self, repeats)


@operator("repeat_interleave.self_int")
def _repeat_interleave(
    self: Any, repeats: int, dim: int | None = None, output_size: Any = None
) -> Any:
    return jnp.repeat(self, repeats, axis=dim)


@operator("roll.default")
def _roll(self: Any, shifts: Any, dims: Any = ()) -> Any:
    return jnp.roll(self, shifts, dims or None)


@operator("flip.default")
def _flip(self: Any, dims: Sequence[int]) -> Any:
    return jnp.flip(self, tuple(dims))


@operator("tril.default")
def _tril(self: Any, diagonal: int = 0) -> Any:
    return jnp.tril(self, diagonal)


@operator("triu.default")
def _triu(self: Any, diagonal: int = 0) -> Any:
    return jnp.triu(self, diagonal)


@operator("constant_pad_nd.default")
def _constant_pad(self: Any, pad: Sequence[int], value: Any = 0) -> Any:
    ends = [(0, 0)] * (self.ndim - len(pad) // 2)
    ends += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return jax.lax.pad(self, jnp.asarray(value, self.dtype), [(a, b, 0) for a, b in ends])


@operator("pad.default")
def _pad(self: Any, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    if mode == "constant":
        return _constant_pad(self, pad, 0 if value is None else value)
    ends = [(0, 0)] * (self.ndim - len(pad) // 2)
    ends += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return jnp.pad(self, ends, mode={"reflect": "reflect", "replicate": "edge"}.get(mode, "wrap"))


@operator("reflection_pad2d.default", "reflection_pad1d.default")
def _reflection_pad(self: Any, padding: Sequence[int]) -> Any:
    return _pad(self, padding, "reflect")


@operator("replication_pad2d.default", "replication_pad1d.default")
def _replication_pad(self: Any, padding: Sequence[int]) -> Any:
    return _pad(self, padding, "replicate")


@operator("pixel_shuffle.default")
def _pixel_shuffle(self: Any, upscale_factor: int) -> Any:
    images, channels, height, width = self.shape
    r = upscale_factor
    tiles = self.reshape(images, channels // r**2, r, r, height, width)
    return tiles.transpose(0, 1, 4, 2, 5, 3).reshape(
        images, channels // r**2, height * r, width * r
    )


@operator("pixel_unshuffle.default")
def _pixel_unshuffle(self: Any, downscale_factor: int) -> Any:
    images, channels, height, width = self.shape
    r = downscale_factor
    tiles = self.reshape(images, channels, height // r, r, width // r, r)
    return tiles.transpose(0, 1, 3, 5, 2, 4).reshape(
        images, channels * r**2, height // r, width // r
    )


@operator("index.Tensor", "_unsafe_index.Tensor")
def _index(self: Any, indices: Sequence[Any]) -> Any:
    return self[tuple(slice(None) if one is None else one for one in indices)]


@operator("index_select.default")
def _index_select(self: Any, dim: int, index: Any) -> Any:
    return jnp.take(self, index, axis=dim)


@operator("gather.default")
def _gather(self: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    return jnp.take_along_axis(self, index, axis=dim)


@operator("embedding.default")
def _embedding(weight: Any, indices: Any, **_: Any) -> Any:
    return jnp.take(weight, indices, axis=0)


@operator("select_scatter.default")
def _select_scatter(self: Any, src: Any, dim: int, index: int) -> Any:
    return self.at[(slice(None),) * (dim % self.ndim) + (index,)].set(src)


@operator("slice_scatter.default")
def _slice_scatter(
    self: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    return self.at[(slice(None),) * (dim % self.ndim) + (slice(start, end, step),)].set(src)


@operator("copy.default")
def _copy(self: Any, src: Any, non_blocking: bool = False) -> Any:
    return jnp.broadcast_to(src, self.shape).astype(self.dtype)


# ---- constants


def _kind(dtype: Any, *values: Any) -> Any:
    if dtype is not None:
        return dtype
    if values and all(isinstance(value, bool) for value in values):
        return bool
    return jnp.float32 if not values or any(isinstance(v, float) for v in values) else jnp.int32


@operator("arange.default", "arange.start", "arange.start_step")
def _arange(start: Any = 0, end: Any = None, step: Any = 1, dtype: Any = None, **_: Any) -> Any:
    # From NumPy: a whole number of steps, computed as PyTorch does, in double.
    found = np.arange(start, end, step)
    return jnp.asarray(found.astype(_kind(dtype, start, end, step)))


@operator("linspace.default")
def _linspace(start: Any, end: Any, steps: int, dtype: Any = None, **_: Any) -> Any:
    return jnp.asarray(np.linspace(start, end, steps), _kind(dtype))


@operator("full.default")
def _full(size: Sequence[int], fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.full(tuple(size), fill_value, _kind(dtype, fill_value))


@operator("scalar_tensor.default")
def _scalar(s: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.asarray(s, _kind(dtype, s))


@operator("zeros.default")
def _zeros(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return jnp.zeros(tuple(size), _kind(dtype))


@operator("ones.default")
def _ones(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return jnp.ones(tuple(size), _kind(dtype))


@operator("full_like.default")
def _full_like(self: Any, fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.full_like(self, fill_value, dtype=dtype)


@operator("zeros_like.default")
def _zeros_like(self: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.zeros_like(self, dtype=dtype)


@operator("ones_like.default")
def _ones_like(self: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.ones_like(self, dtype=dtype)


@operator("new_zeros.default")
def _new_zeros(self: Any, size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return jnp.zeros(tuple(size), self.dtype if dtype is None else dtype)


@operator("new_ones.default")
def _new_ones(self: Any, size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return jnp.ones(tuple(size), self.dtype if dtype is None else dtype)


@operator("new_full.default")
def _new_full(self: Any, size: Sequence[int], fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    return jnp.full(tuple(size), fill_value, self.dtype if dtype is None else dtype)
