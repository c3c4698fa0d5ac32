"""ATen's operators that networks are made of: convolutions, norms, attention.

Features are (N, C, H, W) or (N, C, W), as in PyTorch. Norms and softmax are computed in float32
whatever the arithmetic is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dsrs_jax.convert.operators import operator

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def each_of(value: Any, dimensions: int) -> list[int]:
    """One number for each dimension, where one may stand for all."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * dimensions if len(numbers) == 1 else numbers


# ---- convolutions


@operator("convolution.default")
def _convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    n = input.ndim - 2
    strides, pads, steps = (each_of(one, n) for one in (stride, padding, dilation))
    ends: Any = list(zip(pads, pads, strict=True))
    lhs_dilation = [1] * n
    if transposed:
        # The convolution whose gradient this is: its kernel turned round, strides between inputs.
        outer = each_of(output_padding, n)
        sides = [(size - 1) * step for size, step in zip(weight.shape[2:], steps, strict=True)]
        ends = [(s - p, s - p + o) for s, p, o in zip(sides, pads, outer, strict=True)]
        weight = jnp.flip(weight, tuple(range(2, 2 + n)))
        inside, outside = weight.shape[:2]
        grouped = weight.reshape(groups, inside // groups, outside, *weight.shape[2:])
        weight = grouped.swapaxes(1, 2).reshape(
            groups * outside, inside // groups, *weight.shape[2:]
        )
        lhs_dilation, strides = strides, [1] * n
    letters = _SPATIAL[n]
    result = lax.conv_general_dilated(
        input,
        weight,
        strides,
        ends,
        lhs_dilation=lhs_dilation,
        rhs_dilation=steps,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=groups,
    )
    return result if bias is None else result + bias.reshape(1, -1, *[1] * n)


@operator("conv1d.default", "conv2d.default", "conv3d.default")
def _conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    return _convolution(input, weight, bias, stride, padding, dilation, False, 0, groups)


@operator("conv2d.padding")
def _conv_padding(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    steps = each_of(dilation, input.ndim - 2)
    if padding == "valid":
        return _conv(input, weight, bias, stride, 0, dilation, groups)
    ends = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
    edges = [(0, 0, 0)] * 2 + [(end // 2, end - end // 2, 0) for end in ends]
    padded = lax.pad(input, jnp.zeros((), input.dtype), edges)
    return _conv(padded, weight, bias, stride, 0, dilation, groups)


@operator("conv_transpose2d.input", "conv_transpose1d.default")
def _conv_transpose(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    return _convolution(
        input, weight, bias, stride, padding, dilation, True, output_padding, groups
    )


# ---- norms


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Computes in float32 and gives back the first argument's type."""

    def computed(first: Any, *rest: Any) -> Any:
        wide = [one if one is None else one.astype(jnp.float32) for one in (first, *rest)]
        return function(*wide).astype(first.dtype)

    return computed


def _by_channel(values: Any, ndim: int) -> Any:
    return values.reshape(1, -1, *[1] * (ndim - 2))


def _batch_norm_of(input: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    def norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        factor = 1 / jnp.sqrt(var + eps)
        factor = factor if weight is None else factor * weight
        shift = -mean * factor if bias is None else bias - mean * factor
        return x * _by_channel(factor, x.ndim) + _by_channel(shift, x.ndim)

    return _in_float32(norm)(input, weight, bias, mean, var)


@operator("_native_batch_norm_legit_no_training.default")
def _native_batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
) -> Any:
    return _batch_norm_of(input, weight, bias, running_mean, running_var, eps), None, None


@operator("batch_norm.default")
def _batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if training or running_mean is None:
        raise ValueError("batch norm is in training mode: export the model after .eval()")
    return _batch_norm_of(input, weight, bias, running_mean, running_var, eps)


def _normalised(x: Any, axes: Any, eps: float) -> Any:
    mean = jnp.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    return centred / jnp.sqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + eps)


@operator("layer_norm.default")
def _layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    def norm(x: Any, weight: Any, bias: Any) -> Any:
        result = _normalised(x, tuple(range(-len(normalized_shape), 0)), eps)
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    return _in_float32(norm)(input, weight, bias)


@operator("native_layer_norm.default")
def _native_layer_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    return _layer_norm(input, normalized_shape, weight, bias, eps), None, None


@operator("rms_norm.default", "_fused_rms_norm.default")
def _rms_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    def norm(x: Any, weight: Any) -> Any:
        axes = tuple(range(-len(normalized_shape), 0))
        least = float(np.finfo(np.float32).eps) if eps is None else eps
        result = x / jnp.sqrt(jnp.mean(x * x, axis=axes, keepdims=True) + least)
        return result if weight is None else result * weight

    return _in_float32(norm)(input, weight)


@operator("group_norm.default")
def _group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    def norm(x: Any, weight: Any, bias: Any) -> Any:
        grouped = x.reshape(x.shape[0], num_groups, -1)
        result = _normalised(grouped, -1, eps).reshape(x.shape)
        result = result if weight is None else result * _by_channel(weight, x.ndim)
        return result if bias is None else result + _by_channel(bias, x.ndim)

    return _in_float32(norm)(input, weight, bias)


@operator("native_group_norm.default")
def _native_group_norm(
    input: Any, weight: Any, bias: Any, N: Any, C: Any, HxW: Any, group: int, eps: float
) -> Any:
    return _group_norm(input, group, weight, bias, eps), None, None


@operator("instance_norm.default")
def _instance_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if not use_input_stats:
        return _batch_norm_of(input, weight, bias, running_mean, running_var, eps)
    return _group_norm(input, input.shape[1], weight, bias, eps)


# ---- softmax, attention


@operator("softmax.int", "_softmax.default", "_safe_softmax.default")
def _softmax(self: Any, dim: int, dtype: Any = None, half_to_float: bool = False) -> Any:
    result = _in_float32(lambda x: jax.nn.softmax(x, axis=dim))(self)
    return result if dtype is None else result.astype(dtype)


@operator("log_softmax.int", "_log_softmax.default")
def _log_softmax(self: Any, dim: int, dtype: Any = None, half_to_float: bool = False) -> Any:
    result = _in_float32(lambda x: jax.nn.log_softmax(x, axis=dim))(self)
    return result if dtype is None else result.astype(dtype)


@operator("scaled_dot_product_attention.default")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p > 0:
        raise ValueError("dropout is on: export the model after .eval()")
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (jnp.repeat(one, times, axis=-3) for one in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = jnp.matmul(query * factor, jnp.swapaxes(key, -1, -2))
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is not None:
        if attn_mask.dtype == bool:
            scores = jnp.where(attn_mask, scores, -jnp.inf)
        else:
            scores = scores + attn_mask
    return jnp.matmul(_softmax(scores, -1), value)


@operator("_scaled_dot_product_flash_attention_for_cpu.default")
def _attention_for_cpu(
    query: Any,
    key: Any,
    value: Any,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Any = None,
    scale: float | None = None,
) -> Any:
    return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale), None
