"""The table of ATen's operators, one at a time, beside PyTorch's own."""

import inspect
import io
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_classifier

from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.operators import OPERATORS
from dsrs_jax.convert.program import MissingOperatorError, program
from dsrs_jax.convert.pytorch import exported
from dsrs_jax.system.errors import UserError

TABLE = [name.removeprefix("aten.") for name in OPERATORS if name.startswith("aten.")]
Given = tuple[Any, ...]


def of_pytorch(target: str) -> Any:
    name, _, overload = target.rpartition(".")
    return getattr(getattr(torch.ops.aten, name), overload)


def in_jax(value: Any) -> Any:
    """What the program hands over: tensors as arrays of 32 bits, lists as tuples."""
    if isinstance(value, torch.Tensor):
        array = value.numpy()
        return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)
    return tuple(in_jax(one) for one in value) if isinstance(value, (list, tuple)) else value


def compare(target: str, *given: Any, within: float = 0.0, **named: Any) -> None:
    """Ours beside PyTorch's; `within` is of the largest number of the result."""
    names = [one.name for one in of_pytorch(target)._schema.arguments]
    arguments = dict(zip(names, given, strict=False)) | named
    # As a program calls them.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        mine = OPERATORS[f"aten.{target}"](**{name: in_jax(one) for name, one in arguments.items()})
    # After ours: an operator in place changes what it is given.
    theirs = of_pytorch(target)(*given, **named)
    several = isinstance(theirs, (tuple, list))
    pairs = zip(theirs, mine, strict=False) if several else [(theirs, mine)]
    for their, our in pairs:
        if our is None:  # of what a network in evaluation mode does not use
            continue
        expected, found = their.numpy(), np.asarray(our)
        assert found.shape == expected.shape
        assert (found.dtype.kind == "f") == (expected.dtype.kind == "f"), found.dtype
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0) if within else 0.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=within * scale)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def examples(n: int) -> Any:
    return settings(max_examples=n, deadline=None)


@pytest.mark.parametrize("target", TABLE)
def test_the_table_takes_what_the_schema_names(target: str) -> None:
    signature = inspect.signature(OPERATORS[f"aten.{target}"])
    arguments = of_pytorch(target)._schema.arguments
    signature.bind(**{one.name: None for one in arguments})
    signature.bind(**{one.name: None for one in arguments if not one.has_default_value()})


# Where each function is defined and smooth enough; many points at once, the corners among them.
CORNERS = [0.0, -0.0, 0.5, 1.0, 1.5, 2.5, 3.0, 6.0, 20.0, 30.0, 1e-4, 1e-6]
ANY = torch.tensor([*CORNERS, *(-x for x in CORNERS), *np.linspace(-7, 7, 101)]).float()
UNARY: dict[str, list[Given]] = {
    **{name: [()] for name in (
        "abs", "neg", "exp", "exp2", "expm1", "sin", "cos", "tan", "tanh", "erf", "floor", "ceil",
        "round", "trunc", "sign", "square", "isnan", "isinf", "logical_not", "sigmoid", "relu",
        "silu", "relu6", "hardsigmoid", "hardswish", "mish", "selu", "log_sigmoid",
    )},
    **{name: [()] for name in ("log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "leaky_relu": [(), (0.2,)],
    "elu": [(), (0.7, 1.3, 2.0)],
    "softplus": [(), (2.0, 5.0)],
    "hardtanh": [(), (-2.0, 0.5)],
    "clamp": [(-1.0, 2.0), (None, 0.5), (0.5,)],
    "clamp_min": [(0.3,)],
    "clamp_max": [(0.3,)],
}  # fmt: skip
POSITIVE = {"log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal"}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(name: str) -> None:
    x = ANY.abs() + 1e-3 if name in POSITIVE else ANY
    for more in UNARY[name]:
        # Relative to each result: these have one number in and one out.
        for points in x.split(8):
            compare(f"{name}.default", points, *more, within=1e-6)
            if f"{name}_.default" in TABLE:
                compare(f"{name}_.default", points.clone(), *more, within=1e-6)


def test_gelu_and_its_approximation() -> None:
    for how in ("none", "tanh"):
        compare("gelu.default", ANY, approximate=how, within=1e-6)


SHAPES = st.sampled_from([((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((3, 4), ())])
BINARY = [name for name in TABLE if name.partition(".")[0] in (
    "add", "sub", "rsub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum",
    "fmod", "remainder", "atan2", "floor_divide", "add_", "sub_", "mul_", "div_",
) and not name.endswith("_mode")]  # fmt: skip


@pytest.mark.parametrize("target", BINARY)
@examples(6)
@given(shapes=SHAPES, whole=st.booleans(), alpha=st.sampled_from([1, 3]), number=st.integers(-3, 3))
def test_arithmetic_and_comparison(
    target: str, shapes: Any, whole: bool, alpha: int, number: int
) -> None:
    first, second = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    second = torch.where(second.abs() < 0.1, second + 0.5, second)
    if whole:
        first, second = (first * 9).int(), (second * 9).int() + 12
    other = second
    if target.endswith(".Scalar"):
        other = (number or 2) if whole else (number or 2) + 0.25
    name = target.partition(".")[0]
    if name.endswith("_") and (whole or first.shape != torch.broadcast_shapes(*shapes)):
        return  # PyTorch refuses to put it there
    named = {"alpha": alpha} if name.rstrip("_") in ("add", "sub", "rsub") else {}
    compare(target, first, other, within=1e-6, **named)


@pytest.mark.parametrize("mode", [None, "floor", "trunc"])
@pytest.mark.parametrize("target", ["div.Tensor_mode", "div.Scalar_mode"])
@pytest.mark.parametrize("whole", [False, True])
def test_division_that_rounds(target: str, mode: str | None, whole: bool) -> None:
    first, second = normal(5, 7) * 20, normal(5, 7, seed=1) + 4
    if whole:
        first, second = first.int(), second.int().clamp(min=1)
    other = second if "Tensor" in target else -3
    compare(target, first, other, rounding_mode=mode, within=1e-6)


LOGIC = [
    name for name in TABLE if name.startswith(("bitwise_", "__", "logical_")) and "not" not in name
]


@pytest.mark.parametrize("target", LOGIC)
def test_logic(target: str) -> None:
    first, second = (normal(4, 5, seed=i) for i in (0, 1))
    for other in (first > 0, (first * 5).int()):
        same = second > 0 if other.dtype == torch.bool else (second * 5).int()
        scalar = True if other.dtype == torch.bool else 5
        compare(target, other, scalar if target.endswith("Scalar") else same)
    for one in ((first > 0), (first * 5).int()):
        compare("bitwise_not.default", one)
    compare("mul.Tensor", first > 0, second > 0)


def test_choices_and_powers() -> None:
    x, y = normal(3, 4), normal(3, 4, seed=1)
    compare("where.self", x > 0, x, y)
    compare("where.ScalarOther", x > 0, x, 2.0)
    compare("where.ScalarSelf", x > 0, 2.0, x)
    compare("masked_fill.Scalar", x, x > 0, -math.inf)
    compare("masked_fill.Tensor", x, x > 0, torch.tensor(3.0))
    compare("lerp.Scalar", x, y, 0.3, within=1e-6)
    compare("lerp.Tensor", x, y, y, within=1e-6)
    for exponent in (2, 3, 0, -1, 0.5, 2.5):
        compare("pow.Tensor_Scalar", x.abs() if exponent % 1 else x, exponent, within=1e-6)
    compare("pow.Tensor_Tensor", x.abs(), y, within=1e-6)
    compare("pow.Scalar", 2.0, x, within=1e-6)
    compare("glu.default", x, 1, within=1e-6)
    compare("glu.default", x, -1, within=1e-6)
    compare("prelu.default", normal(2, 3, 4), normal(3), within=1e-6)
    compare("prelu.default", normal(2, 3, 4), normal(1), within=1e-6)


def test_matrices() -> None:
    a, b, c = normal(3, 4), normal(4, 5, seed=1), normal(3, 5, seed=2)
    stack, other = normal(2, 3, 4), normal(2, 4, 5, seed=1)
    compare("mm.default", a, b, within=1e-6)
    compare("bmm.default", stack, other, within=1e-6)
    compare("matmul.default", stack, b, within=1e-6)
    compare("mv.default", a, normal(4), within=1e-6)
    compare("dot.default", normal(4), normal(4, seed=1), within=1e-6)
    compare("linear.default", stack, b.T.contiguous(), normal(5), within=1e-6)
    compare("linear.default", stack, b.T.contiguous(), within=1e-6)
    compare("einsum.default", "nij,jk->nik", [stack, b], within=1e-6)
    for bias in (c, normal(5), normal(1, 5)):
        compare("addmm.default", bias, a, b, beta=0.5, alpha=2, within=1e-6)
    compare("baddbmm.default", normal(2, 3, 5), stack, other, beta=0.5, alpha=2, within=1e-6)


OF_SEVERAL_AXES = ["mean.dim", "sum.dim_IntList", "amax.default", "amin.default",
                   "logsumexp.default", "var.correction", "std.correction", "var_mean.correction",
                   "any.dims", "all.dims"]  # fmt: skip
OF_ONE_AXIS = ["prod.dim_int", "any.dim", "all.dim", "argmax.default", "argmin.default",
               "max.dim", "min.dim"]  # fmt: skip
OF_ALL = ["mean.default", "sum.default", "prod.default", "max.default", "min.default",
          "any.default", "all.default", "argmax.default", "argmin.default"]  # fmt: skip


@pytest.mark.parametrize("target", [*OF_SEVERAL_AXES, *OF_ONE_AXIS])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions(target: str, keepdim: bool) -> None:
    x = normal(2, 3, 4)
    if target.startswith(("any", "all")):
        x = x > 1
    axes = ([1], [-1], [0, 2], [1, -1]) if target in OF_SEVERAL_AXES else (0, 1, -1)
    for dim in axes:
        compare(target, x, dim, keepdim=keepdim, within=1e-6)
        if "correction" in target:
            for correction in (0, 1, 2):
                compare(target, x, dim, keepdim=keepdim, correction=correction, within=1e-6)


@pytest.mark.parametrize("target", OF_ALL)
def test_reductions_to_one_number(target: str) -> None:
    x = normal(2, 3, 4)
    compare(target, x > 0 if target.startswith(("any", "all")) else x, within=1e-6)


def test_norms_of_vectors_sums_so_far_and_the_largest() -> None:
    x = normal(2, 3, 4)
    for order in (1, 2, 3, math.inf, -math.inf):
        compare("linalg_vector_norm.default", x, order, [1], True, within=1e-6)
        compare("norm.ScalarOpt_dim", x, order, [-1], within=1e-6)
    compare("linalg_vector_norm.default", x, within=1e-6)
    for unbiased in (True, False):
        compare("var.dim", x, [1], unbiased, True, within=1e-6)
        compare("std.dim", x, [1], unbiased, within=1e-6)
        compare("var.default", x, unbiased, within=1e-6)
        compare("std.default", x, unbiased, within=1e-6)
    for dim in (0, 1, -1):
        compare("cumsum.default", x, dim, within=1e-6)
        compare("topk.default", x, 2, dim)
        compare("topk.default", x, 2, dim, largest=False)
    compare("cumsum.default", (x * 5).int(), 1)
    compare("cumsum.default", x > 0, 1)


# Of a tensor (2, 3, 4, 6); nothing is computed, so nothing may differ.
MOVES: dict[str, list[Given]] = {
    "view.default": [([6, -1],), ([2, 3, 24],)],
    "reshape.default": [([4, -1, 3],)],
    "_unsafe_view.default": [([24, 6],)],
    "flatten.using_ints": [(), (1,), (-2, -1), (1, 2)],
    "unflatten.int": [(3, [2, 3]), (-1, [-1, 2])],
    "permute.default": [([0, 2, 3, 1],), ([-1, 0, 1, 2],)],
    "transpose.int": [(1, 3), (-1, -2)],
    "movedim.int": [(1, -1), (0, 2)],
    "movedim.intlist": [([0, 1], [2, 0])],
    "unsqueeze.default": [(0,), (-1,), (2,)],
    "slice.Tensor": [(), (1, 1), (3, 0, 2**63 - 1, 2), (-1, -3), (2, 1, -1), (1, 2, 2)],
    "narrow.default": [(3, 1, 4)],
    "select.int": [(0, 1), (-1, -2), (2, 0)],
    "unbind.int": [(), (2,), (-1,)],
    "chunk.default": [(2, 1), (4, 3), (5, -1)],
    "split.Tensor": [(2, 1), (4, -1)],
    "split_with_sizes.default": [([1, 2], 1), ([1, 2, 3], -1)],
    "as_strided.default": [([2, 12, 6], [72, 6, 1]), ([3, 2], [2, 5], 7)],
    "repeat.default": [([1, 2, 1, 3],), ([2, 1, 1, 1, 1],)],
    "repeat_interleave.self_int": [(2, 1), (3,)],
    "roll.default": [([1], [3]), ([-1, 2], [1, 2]), ([5],)],
    "flip.default": [([3],), ([0, -2],)],
    "tril.default": [(), (1,), (-2,)],
    "triu.default": [(), (2,)],
    "constant_pad_nd.default": [([1, 2], 3.0), ([1, 0, 2, 1],), ([-1, 0, 0, -1, 1, 1], -1.5)],
    "pad.default": [([1, 2, 3, 0], "reflect"), ([1, 2, 3, 0], "replicate"),
                    ([1, 2, 3, 0], "circular"), ([1, 2, 3, 0], "constant", 2.0), ([-1, 2],)],
    "reflection_pad2d.default": [([1, 2, 3, 0],)],
    "replication_pad2d.default": [([1, 2, 3, 0],)],
    "expand_as.default": [(torch.zeros(2, 3, 4, 6),)],
    "index_select.default": [(3, torch.tensor([4, 0, 0])), (-2, torch.tensor([1]))],
    "gather.default": [(3, torch.zeros(2, 3, 4, 2, dtype=torch.int64) + 5)],
    "index.Tensor": [([None, torch.tensor([2, 0])],),
                     ([torch.tensor([1, 0]), torch.tensor([2, -1])],),
                     ([None, torch.tensor([1]), None, torch.tensor([2, 3])],)],
    "select_scatter.default": [(torch.ones(2, 3, 6), 2, 1)],
    "slice_scatter.default": [(torch.ones(2, 2, 4, 6), 1, 1),
                              (torch.ones(2, 3, 4, 3), -1, 0, 6, 2)],
    "copy.default": [(torch.ones(4, 6),)],
    "full_like.default": [(2.5,)], "zeros_like.default": [()], "ones_like.default": [()],
    "new_zeros.default": [([2, 3],)], "new_ones.default": [([2],)],
    "new_full.default": [([2], 4.0)],
}  # fmt: skip


@pytest.mark.parametrize("target", MOVES)
def test_what_moves_numbers(target: str) -> None:
    for more in MOVES[target]:
        compare(target, normal(2, 3, 4, 6), *more)


def test_what_moves_numbers_of_other_shapes() -> None:
    for x in (normal(2, 1, 4), normal(1, 3, 1, 1)):
        compare("squeeze.default", x)
        compare("squeeze.dim", x, 1)
        compare("squeeze.dims", x, [0, 1, -1])
    compare("expand.default", normal(3, 1), [2, -1, 4])
    compare("t.default", normal(3, 4))
    compare("cat.default", [normal(2, 3), torch.zeros(0), normal(2, 1)], 1)
    compare("cat.default", [normal(2, 3), normal(1, 3)])
    compare("stack.default", [normal(2, 3), normal(2, 3, seed=1)], -1)
    compare("pixel_shuffle.default", normal(2, 18, 2, 3), 3)
    compare("pixel_unshuffle.default", normal(2, 2, 6, 3), 3)
    compare("embedding.default", normal(7, 3), torch.tensor([[1, 6], [0, 0]]))
    compare("reflection_pad1d.default", normal(2, 3, 5), [1, 3])
    compare("replication_pad1d.default", normal(2, 3, 5), [1, 3])
    compare("dropout.default", normal(3), 0.5, False)


def test_constants() -> None:
    compare("arange.default", 5)
    compare("arange.start", 2, 7)
    compare("arange.start_step", 0, 1, 0.3, within=1e-7)
    compare("arange.start_step", 7, -2, -3)
    compare("linspace.default", -1, 1, 7, within=1e-7)
    compare("full.default", [2, 3], 1.5)
    compare("full.default", [2], True)
    compare("zeros.default", [2, 0])
    compare("ones.default", [2, 1])
    compare("scalar_tensor.default", 3.5)


@examples(40)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    n, transposed = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    few = st.integers(1, 3)
    groups, kernel, stride, dilation = (
        data.draw(few),
        data.draw(few),
        data.draw(few),
        data.draw(few),
    )
    padding = data.draw(st.integers(0, 2))
    steps = [stride, data.draw(few)][:n]
    outer = [data.draw(st.integers(0, max(step, dilation) - 1)) for step in steps]
    x = normal(2, 2 * groups, *(7, 9)[:n])
    inside, outside = (2 * groups, 3) if transposed else (3 * groups, 2)
    weight = normal(inside, outside, *[kernel, data.draw(few)][:n], seed=1)
    bias = data.draw(st.sampled_from([None, normal(3 * groups, seed=2)]))
    compare(
        "convolution.default", x, weight, bias, steps, [padding] * n, [dilation] * n,
        transposed, outer if transposed else [0] * n, groups, within=1e-6,
    )  # fmt: skip


def test_convolutions_by_their_names() -> None:
    x, weight = normal(2, 4, 7, 9), normal(6, 2, 3, 2, seed=1)
    compare("conv2d.default", x, weight, None, [2, 1], [1, 0], [1, 2], 2, within=1e-6)
    compare("conv1d.default", x[..., 0], weight[..., 0], normal(6), [2], [1], [1], 2, within=1e-6)
    for padding in ("same", "valid"):
        compare("conv2d.padding", x, weight, None, [1, 1], padding, [2, 1], 2, within=1e-6)
    turned = normal(4, 3, 3, 2, seed=1)
    compare("conv_transpose2d.input", x, turned, normal(6), [2, 3], [1, 0], [1, 2], 2, within=1e-6)


@examples(40)
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))]
    stride = data.draw(st.sampled_from([[], [1, 1], [2, 3], [3, 2]]))
    padding = [data.draw(st.integers(0, size // 2)) for size in kernel]
    dilation = data.draw(st.sampled_from([[1, 1], [2, 1]]))
    ceil_mode, counted = data.draw(st.booleans()), data.draw(st.booleans())
    divisor = data.draw(st.sampled_from([None, 3]))
    x = normal(2, 3, 8, 9)
    named = {"ceil_mode": ceil_mode}
    compare("max_pool2d.default", x, kernel, stride, padding, dilation, **named)
    named |= {"count_include_pad": counted, "divisor_override": divisor}
    compare("avg_pool2d.default", x, kernel, stride, padding, **named, within=1e-6)


@pytest.mark.parametrize("size", [[1, 1], [3, 4], [8, 9], [5, 2], [11, 3]])
def test_pools_to_a_size(size: list[int]) -> None:
    x = normal(2, 3, 8, 9)
    compare("adaptive_avg_pool2d.default", x, size, within=1e-6)
    compare("adaptive_max_pool2d.default", x, size)
    compare("adaptive_avg_pool1d.default", x[..., 0], size[:1], within=1e-6)


SIZES = [[16, 18], [5, 7], [8, 20], [1, 1], [3, 2]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_resizing(kind: str, align: bool, size: list[int]) -> None:
    x = normal(2, 3, 8, 9)
    compare(f"upsample_{kind}2d.vec", x, size, align, None, within=2e-6)
    compare(f"_upsample_{kind}2d_aa.vec", x, size, align, None, within=2e-6)


@pytest.mark.parametrize("factors", [[2.0, 2.0], [0.5, 1.5], [2.4, 0.7], [1.0, 3.0]])
def test_resizing_by_factors(factors: list[float]) -> None:
    x = normal(2, 3, 8, 9)
    for kind in ("bilinear", "bicubic"):
        compare(f"upsample_{kind}2d.vec", x, None, False, factors, within=2e-6)
        compare(f"_upsample_{kind}2d_aa.vec", x, None, False, factors, within=2e-6)
    for nearest in ("upsample_nearest2d.vec", "_upsample_nearest_exact2d.vec"):
        compare(nearest, x, None, factors)
    compare("upsample_linear1d.vec", x[..., 0], None, False, factors[:1], within=2e-6)
    compare("upsample_nearest1d.vec", x[..., 0], None, factors[:1])


@pytest.mark.parametrize("size", SIZES)
def test_resizing_to_the_nearest_pixel(size: list[int]) -> None:
    for nearest in ("upsample_nearest2d", "_upsample_nearest_exact2d"):
        compare(f"{nearest}.default", normal(2, 3, 8, 9), size)
        compare(f"{nearest}.vec", normal(2, 3, 8, 9), size, None)


@pytest.mark.parametrize("with_weights", [False, True])
def test_norms(with_weights: bool) -> None:
    x, eps = normal(2, 6, 5, 4) * 3 + 1, 1e-5
    weight, bias = (normal(6, seed=1), normal(6, seed=2)) if with_weights else (None, None)
    mean, var = normal(6, seed=3), normal(6, seed=4).abs() + 0.1
    wide = 3e-6
    compare("_native_batch_norm_legit_no_training.default", x, weight, bias, mean, var, 0.1, eps,
            within=wide)  # fmt: skip
    compare("batch_norm.default", x, weight, bias, mean, var, False, 0.1, eps, True, within=wide)
    compare("instance_norm.default", x, weight, bias, mean, var, False, 0.1, eps, True, within=wide)
    compare("instance_norm.default", x, weight, bias, None, None, True, 0.1, eps, True, within=wide)
    for groups in (1, 3, 6):
        compare("group_norm.default", x, groups, weight, bias, eps, within=wide)
        compare("native_group_norm.default", x, weight, bias, 2, 6, 20, groups, eps, within=wide)
    for shape in ([4], [5, 4]):
        scale, shift = (normal(*shape, seed=i) if with_weights else None for i in (5, 6))
        compare("layer_norm.default", x, shape, scale, shift, eps, within=wide)
        compare("native_layer_norm.default", x, shape, scale, shift, eps, within=wide)
        for least in (None, 1e-6):
            compare("rms_norm.default", x, shape, scale, least, within=wide)
    for target in ("softmax.int", "log_softmax.int"):
        compare(target, x, 1, within=1e-6)
    for target in ("_softmax.default", "_log_softmax.default"):
        compare(target, x, -1, False, within=1e-6)


@pytest.mark.parametrize("masked", ["no", "bool", "added", "causal"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention(masked: str, scale: float | None) -> None:
    query, key, value = (normal(2, 4, n, 8, seed=n) for n in (5, 7, 7))
    value = value + 1
    mask = None
    if masked == "bool":
        mask = normal(5, 7) > -0.5
    elif masked == "added":
        mask = normal(2, 1, 5, 7)
    named = {"is_causal": masked == "causal", "scale": scale}
    target = "scaled_dot_product_attention.default"
    compare(target, query, key, value, mask, **named, within=2e-6)
    compare(target, query, key[:, :2], value[:, :2], enable_gqa=True, scale=scale, within=2e-6)


class Strided(torch.nn.Module):
    """The numbers of a transposed tensor as they lie in memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        turned = images.transpose(2, 3) * 2  # keeps the order of memory
        return torch.as_strided(turned, (len(images), 64), (64, 1))


def test_strides_of_what_does_not_lie_in_order_are_refused() -> None:
    file = io.BytesIO()
    images = torch.zeros(2, 1, 8, 8)
    torch.export.save(torch.export.export(Strided(), (images,)), file)
    with pytest.raises(MissingOperatorError, match=r"as_strided.* not contiguous"):
        program(*read_program(file))


def test_whole_numbers_beyond_32_bits_are_refused() -> None:
    class Large(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_classifier()
            self.register_buffer("number", torch.tensor([2**40]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images) + (self.number - 2**40)

    with pytest.raises(UserError, match="beyond 32 bits"):
        program(*read_program(exported(Large().eval(), "it", (8, 8, 1))))
