"""ATen's operators on JAX arrays: arithmetic, comparison, reductions, shapes, indexing.

Each is called with the arguments that the program names, as ATen's schema names them. What stands
in `convert.layers` and `convert.resampling` is in the same table. A size
that is a symbol in the program is a plain number here: shapes are known when JAX traces.
"""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}
# Change their argument: right here only where nothing else looks at it (`convert.program`).
IN_PLACE: set[str] = set()
# Give another view of the same numbers: what is changed in one is changed in the other.
VIEWS: set[str] = set()


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Enters an operator under these names, "aten.add.Tensor" without "aten."."""

    def enter(function: Operator) -> Operator:
        for name in names:
            key = name if "_operator" in name or "math." in name else f"aten.{name}"
            OPERATORS[key] = function
            if name.partition(".")[0].endswith("_"):
                IN_PLACE.add(key)
        return function

    return enter


def view(*names: str) -> Callable[[Operator], Operator]:
    """`operator`, of one whose result is a view."""
    VIEWS.update(f"aten.{name}" for name in names)
    return operator(*names)


# ---- arithmetic


def _scaled(other: Any, alpha: Any) -> Any:
    return other if alpha == 1 else other * alpha


@operator("add.Tensor", "add.Scalar", "add_.Tensor", "add_.Scalar")
def _add(self: Any, other: Any, alpha: Any = 1) -> Any:
    return self + _scaled(other, alpha)


@operator("sub.Tensor", "sub.Scalar", "sub_.Tensor", "sub_.Scalar")
def _sub(self: Any, other: Any, alpha: Any = 1) -> Any:
    return self - _scaled(other, alpha)


@operator("rsub.Tensor", "rsub.Scalar")
def _rsub(self: Any, other: Any, alpha: Any = 1) -> Any:
    return other - _scaled(self, alpha)


@operator("mul.Tensor", "mul.Scalar", "mul_.Tensor", "mul_.Scalar")
def _mul(self: Any, other: Any) -> Any:
    return self & other if _is_bool(self) and _is_bool(other) else self * other


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.dtype(bool)


@operator("div.Tensor", "div.Scalar", "div_.Tensor", "div_.Scalar")
def _div(self: Any, other: Any) -> Any:
    return self / other


@operator("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return self / other
    if rounding_mode == "floor":
        return jnp.floor_divide(self, other)
    whole = jnp.trunc(self / other)
    integers = not jnp.issubdtype(jnp.result_type(self, other), jnp.floating)
    return whole.astype(jnp.int32) if integers else whole


def _unary(function: Callable[[Any], Any], *names: str) -> None:
    for name in names:
        operator(name)(lambda self: function(self))


_UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": jnp.abs, "neg": jnp.negative, "exp": jnp.exp, "exp2": jnp.exp2, "expm1": jnp.expm1,
    "log": jnp.log, "log2": jnp.log2, "log1p": jnp.log1p, "sqrt": jnp.sqrt,
    "rsqrt": lambda x: 1 / jnp.sqrt(x), "reciprocal": lambda x: 1 / x, "sin": jnp.sin,
    "cos": jnp.cos, "tan": jnp.tan, "tanh": jnp.tanh, "erf": jax.scipy.special.erf,
    "floor": jnp.floor, "ceil": jnp.ceil, "round": jnp.round, "trunc": jnp.trunc,
    "sign": jnp.sign, "square": jnp.square, "isnan": jnp.isnan, "isinf": jnp.isinf,
    "logical_not": jnp.logical_not, "bitwise_not": jnp.invert, "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu, "silu": jax.nn.silu, "relu6": jax.nn.relu6,
    "hardsigmoid": jax.nn.hard_sigmoid, "hardswish": jax.nn.hard_silu, "mish": jax.nn.mish,
    "selu": jax.nn.selu, "log_sigmoid": jax.nn.log_sigmoid,
}  # fmt: skip
_NOT_IN_PLACE = {"isnan", "isinf", "log_sigmoid", "logical_not"}
for _name, _function in _UNARY.items():
    _unary(_function, f"{_name}.default")
    if _name not in _NOT_IN_PLACE:
        _unary(_function, f"{_name}_.default")


@operator("gelu.default", "gelu_.default")
def _gelu(self: Any, approximate: str = "none") -> Any:
    return jax.nn.gelu(self, approximate=approximate == "tanh")


@operator("leaky_relu.default", "leaky_relu_.default")
def _leaky_relu(self: Any, negative_slope: float = 0.01) -> Any:
    return jnp.where(self > 0, self, self * negative_slope)


@operator("elu.default", "elu_.default")
def _elu(self: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    return scale * jnp.where(self > 0, self, alpha * jnp.expm1(self * input_scale))


@operator("softplus.default")
def _softplus(self: Any, beta: float = 1, threshold: float = 20) -> Any:
    return jnp.where(self * beta > threshold, self, jax.nn.softplus(self * beta) / beta)


@operator("prelu.default", "_prelu_kernel.default")
def _prelu(self: Any, weight: Any) -> Any:
    if weight.ndim == 1 and self.ndim > 1:
        weight = weight.reshape(1, -1, *(1,) * (self.ndim - 2))
    return jnp.where(self > 0, self, self * weight)


@operator("glu.default")
def _glu(self: Any, dim: int = -1) -> Any:
    first, second = jnp.split(self, 2, axis=dim)
    return first * jax.nn.sigmoid(second)


@operator("hardtanh.default", "hardtanh_.default")
def _hardtanh(self: Any, min_val: float = -1, max_val: float = 1) -> Any:
    return jnp.clip(self, min_val, max_val)


@operator("clamp.default", "clamp_.default", "clamp.Tensor", "clip.default")
def _clamp(self: Any, min: Any = None, max: Any = None) -> Any:
    return jnp.clip(self, min, max)


@operator("clamp_min.default", "clamp_min.Tensor", "clamp_min_.default")
def _clamp_min(self: Any, min: Any) -> Any:
    return jnp.maximum(self, min)


@operator("clamp_max.default", "clamp_max.Tensor", "clamp_max_.default")
def _clamp_max(self: Any, max: Any) -> Any:
    return jnp.minimum(self, max)


@operator("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow_.Scalar")
def _pow(self: Any, exponent: Any) -> Any:
    return jnp.power(self, exponent)


@operator("pow.Scalar")
def _pow_of(self: Any, exponent: Any) -> Any:
    return jnp.power(self, exponent)


# Under two names, of a tensor and of a number.
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "eq": jnp.equal, "ne": jnp.not_equal, "lt": jnp.less, "le": jnp.less_equal,
    "gt": jnp.greater, "ge": jnp.greater_equal, "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or, "bitwise_xor": jnp.bitwise_xor, "fmod": jnp.fmod,
    "remainder": jnp.remainder, "__and__": jnp.bitwise_and, "__or__": jnp.bitwise_or,
}  # fmt: skip
_OF_TENSORS: dict[str, Callable[[Any, Any], Any]] = {
    "logical_and": jnp.logical_and, "logical_or": jnp.logical_or, "logical_xor": jnp.logical_xor,
    "maximum": jnp.maximum, "minimum": jnp.minimum, "atan2": jnp.arctan2,
    "floor_divide": jnp.floor_divide,
}  # fmt: skip


def _binary(function: Callable[[Any, Any], Any], *names: str) -> None:
    operator(*names)(lambda self, other: function(self, other))


for _name, _two in _BINARY.items():
    _binary(_two, f"{_name}.Tensor", f"{_name}.Scalar")
for _name, _two in _OF_TENSORS.items():
    _binary(_two, f"{_name}.default")
_binary(jnp.floor_divide, "floor_divide.Scalar")


@operator("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(condition: Any, self: Any, other: Any) -> Any:
    return jnp.where(condition, self, other)


@operator("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(self: Any, mask: Any, value: Any) -> Any:
    return jnp.where(mask, jnp.asarray(value, self.dtype), self)


@operator("lerp.Scalar", "lerp.Tensor")
def _lerp(self: Any, end: Any, weight: Any) -> Any:
    return self + weight * (end - self)


# ---- matrices


@operator("mm.default", "bmm.default", "matmul.default", "mv.default", "dot.default")
def _matmul(self: Any, mat2: Any = None, other: Any = None, vec: Any = None, tensor: Any = None):  # type: ignore[no-untyped-def]
    return jnp.matmul(self, next(x for x in (mat2, other, vec, tensor) if x is not None))


@operator("addmm.default")
def _addmm(self: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _scaled(self, beta) + _scaled(jnp.matmul(mat1, mat2), alpha)


@operator("baddbmm.default")
def _baddbmm(self: Any, batch1: Any, batch2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _scaled(self, beta) + _scaled(jnp.matmul(batch1, batch2), alpha)


@operator("linear.default")
def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    result = jnp.matmul(input, weight.T)
    return result if bias is None else result + bias


@operator("einsum.default")
def _einsum(equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    return jnp.einsum(equation, *tensors)


# ---- reductions


def _axes(dim: Any) -> Any:
    if dim is None or dim == ():
        return None
    return dim if isinstance(dim, int) else tuple(dim)


def _reduction(function: Callable[..., Any], *names: str) -> None:
    def reduce(self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        result = function(self, axis=_axes(dim), keepdims=keepdim)
        return result if dtype is None else result.astype(dtype)

    operator(*names)(reduce)


_reduction(jnp.mean, "mean.dim", "mean.default")
_reduction(jnp.sum, "sum.dim_IntList", "sum.default")
_reduction(jnp.prod, "prod.dim_int", "prod.default")
_reduction(jnp.max, "amax.default", "max.default")
_reduction(jnp.min, "amin.default", "min.default")
_reduction(jnp.any, "any.dim", "any.default", "any.dims")
_reduction(jnp.all, "all.dim", "all.default", "all.dims")
_reduction(jax.scipy.special.logsumexp, "logsumexp.default")
_reduction(jnp.argmax, "argmax.default")
_reduction(jnp.argmin, "argmin.default")


def _freedom(correction: Any, unbiased: Any) -> Any:
    if correction is None:
        return 1 if unbiased in (None, True) else 0
    return correction


@operator("var.correction", "var.dim", "var.default")
def _var(
    self: Any, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False
) -> Any:
    return jnp.var(self, axis=_axes(dim), ddof=_freedom(correction, unbiased), keepdims=keepdim)


@operator("std.correction", "std.dim", "std.default")
def _std(self: Any, dim: Any = None, correction: Any = None, unbiased: Any = None,
         keepdim: bool = False) -> Any:  # fmt: skip
    return jnp.sqrt(_var(self, dim, correction, unbiased, keepdim))


@operator("var_mean.correction")
def _var_mean(self: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    return (
        _var(self, dim, correction, None, keepdim),
        jnp.mean(self, axis=_axes(dim), keepdims=keepdim),
    )


@operator("linalg_vector_norm.default", "norm.ScalarOpt_dim")
def _norm(self: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None,
          p: Any = None) -> Any:  # fmt: skip
    order = ord if p is None else p
    if order == 2:
        return jnp.sqrt(jnp.sum(self * self, axis=_axes(dim), keepdims=keepdim))
    if math.isinf(order):
        ends = jnp.max if order > 0 else jnp.min
        return ends(jnp.abs(self), axis=_axes(dim), keepdims=keepdim)
    total = jnp.sum(jnp.abs(self) ** order, axis=_axes(dim), keepdims=keepdim)
    return total ** (1 / order)


@operator("max.dim")
def _max_dim(self: Any, dim: int, keepdim: bool = False) -> Any:
    where = jnp.argmax(self, axis=dim, keepdims=keepdim)
    return jnp.max(self, axis=dim, keepdims=keepdim), where


@operator("min.dim")
def _min_dim(self: Any, dim: int, keepdim: bool = False) -> Any:
    return jnp.min(self, axis=dim, keepdims=keepdim), jnp.argmin(self, axis=dim, keepdims=keepdim)


@operator("cumsum.default")
def _cumsum(self: Any, dim: int, dtype: Any = None) -> Any:
    return jnp.cumsum(self, axis=dim, dtype=dtype)


@operator("topk.default")
def _topk(self: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    moved = jnp.moveaxis(self if largest else -self, dim, -1)
    values, places = jax.lax.top_k(moved, k)
    values = values if largest else -values
    return jnp.moveaxis(values, -1, dim), jnp.moveaxis(places, -1, dim)


# ---- numbers between a size and a shape


def _of_numbers(function: Callable[..., Any]) -> Operator:
    # The program names their arguments a and b, or x.
    return lambda **numbers: function(*numbers.values())


_NUMBERS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{one}": getattr(python, one) for one in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "eq", "ne", "lt", "le",
        "gt", "ge", "getitem",
    )},
    **{f"math.{one}": getattr(math, one) for one in ("ceil", "floor", "trunc", "sqrt")},
}  # fmt: skip
OPERATORS.update({name: _of_numbers(function) for name, function in _NUMBERS.items()})


@operator("sym_size.int")
def _sym_size(self: Any, dim: int) -> int:
    return int(self.shape[dim])


@operator("sym_numel.default")
def _sym_numel(self: Any) -> int:
    return int(np.prod(self.shape))
