"""From the tensors of a published checkpoint to the parameters of our models.

Most of our attributes are named as PyTorch's, so a name is translated leaf by leaf
(`layer1.0.bn1.running_mean` → `layer1.0.bn1.mean`). Convolutions go from (out, in, H, W) to
(H, W, in, out), dense layers from (out, in) to (in, out); a dense layer that follows a flattening
is reordered too, because PyTorch flattens (C, H, W) and we flatten (H, W, C). A parameter that
belongs to no layer (`cls_token`) keeps its name and shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from dsrs_jax.models import fault_of
from dsrs_jax.system.errors import UserError

# What is put around a network: `DataParallel`, `torch.compile`, a module that holds it, and the
# authors' `Sequential` of input scaling and network, where it may be the one or the other.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "0.", "1.")
# Buffers of an input layer; batch norm's have other names. `mu` and `sigma` are RobustBench's.
MEANS = ("mean", "means", "new_mean", "mu")
DEVIATIONS = ("std", "stds", "sds", "new_std", "sigma")
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"  # of a batch norm; recent files have it, nothing depends on it
# Networks that were published as a bare `Sequential`: the numbers of its layers with parameters.
_SEQUENTIAL = {
    "mnist_43": {
        "conv1": 0, "conv2": 2, "conv3": 4, "conv4": 6, "dense1": 9, "dense2": 11, "dense3": 13,
    },
    "fashion_22full": {"conv1": 0, "bn1": 2, "conv2": 4, "bn2": 6, "fc1": 9, "fc2": 11},
}  # fmt: skip
# The (C, H, W) that a dense layer's input was flattened from.
_FLATTENED = {
    ("mnist_43", "dense1"): (64, 7, 7),
    ("lenet", "fc1"): (50, 4, 4),
    ("fashion_22full", "fc1"): (64, 8, 8),
    ("wide_resnet_imagenet64", "linear"): (640, 2, 2),
}


# The last layer of CIFAR's residual networks: its name, and the one that others give it.
_LAST = {
    **dict.fromkeys(("cifar_resnet20", "cifar_resnet56", "cifar_resnet110"), ("fc", "linear")),
    **dict.fromkeys(
        ("cifar_resnet20_a", "cifar_resnet56_a", "cifar_resnet110_a"), ("linear", "fc")
    ),
}
# TRADES' network has a block that its forward pass never calls: its tensors change nothing.
_UNUSED = dict.fromkeys(("cifar_wrn_28_10", "cifar_wrn_34_10"), "sub_block1.")


class Parts(NamedTuple):
    """What a file's tensors are: those of an input layer, and the others.

    Most names of the others begin with `prefix`, a stack of known wrappers. Names are the file's.
    """

    prefix: str
    network: dict[str, np.ndarray]
    input_layer: dict[str, np.ndarray]


def parts(tensors: Mapping[str, np.ndarray], arch: str) -> Parts:
    """Input layer and network, told apart by the names of a file's tensors.

    Tensors that the forward pass of the architecture `arch` never uses are left out.
    """
    leaves = MEANS + DEVIATIONS
    first = {name: t for name, t in tensors.items() if name.rpartition(".")[2] in leaves}
    network = {name: tensor for name, tensor in tensors.items() if name not in first}
    prefix = ""
    while True:
        # Most, not all: a stray tensor is then named by itself, not by what it hides.
        of_most = [
            wrapper
            for wrapper in _WRAPPERS
            if 2 * sum(name.startswith(prefix + wrapper) for name in network) > len(network)
        ]
        if not of_most:
            break
        prefix += of_most[0]
    if arch in _UNUSED:
        unused = prefix + _UNUSED[arch]
        network = {name: t for name, t in network.items() if not name.startswith(unused)}
    return Parts(prefix, network, first)


def parameters_from(
    tensors: Mapping[str, np.ndarray],
    prefix: str,
    arch: str,
    expected: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, np.ndarray]:
    """Our parameters from a checkpoint's tensors: each of either is used exactly once.

    Args:
        tensors: name -> tensor of the network (`parts`).
        prefix: of its names.
        arch: name of the architecture.
        expected: name -> shape of our parameters (`models.parameters_of`).

    Raises:
        UserError: names the first tensor that is missing, not known, of another shape or type, or
            with values that no parameter may have (`models.fault_of`).
    """
    names = _names(tensors, arch, expected, prefix)
    for name in names.values():
        if name not in tensors:
            raise UserError(
                f"the tensor {name} of {arch} is missing; the first of the file is "
                f"{next(iter(tensors), 'nothing')}"
            )
    counters = {_replace_leaf(name, _COUNTER) for ours, name in names.items() if _is_mean(ours)}
    known = set(names.values()) | counters
    for name in tensors:
        if name not in known:
            raise UserError(f"the tensor {name} is not part of {arch}")
    return {
        ours: _converted(tensors[name], name, arch, ours, expected[ours].shape)
        for ours, name in names.items()
    }


def _names(
    tensors: Mapping[str, np.ndarray],
    arch: str,
    expected: Iterable[str],
    prefix: str,
) -> dict[str, str]:
    """Our name -> the file's, if its names begin with `prefix`."""
    modules: dict[str, str] = {}
    if arch in _SEQUENTIAL:
        layers = _SEQUENTIAL[arch]
        inner = {name.removeprefix(prefix).split(".")[0] for name in tensors}
        numbers = sorted(int(name) for name in inner if name.isascii() and name.isdigit())
        # Layers without parameters may be others, so the order counts, not the number itself.
        if len(numbers) != len(layers):
            numbers = list(layers.values())
        modules = {ours: str(number) for ours, number in zip(layers, numbers, strict=True)}
    if arch in _LAST:
        last, other = _LAST[arch]
        modules["fc"] = other if f"{prefix}{other}.weight" in tensors else last
    names = {}
    for ours in expected:
        module, _, leaf = ours.rpartition(".")
        names[ours] = prefix + (
            f"{modules.get(module, module)}.{_LEAVES[leaf]}" if module else leaf
        )
    return names


def _converted(
    tensor: np.ndarray, name: str, arch: str, ours: str, shape: tuple[int, ...]
) -> np.ndarray:
    if not np.issubdtype(tensor.dtype, np.floating):
        raise UserError(f"the tensor {name} holds {tensor.dtype}, not floating-point numbers")
    result = tensor
    if tensor.ndim == 4:
        result = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        flattened = _FLATTENED.get((arch, ours.rsplit(".", 1)[0]))
        if flattened is not None and tensor.shape[1] == np.prod(flattened):
            result = tensor.reshape(-1, *flattened).transpose(2, 3, 1, 0)
            result = result.reshape(-1, len(tensor))
        else:
            result = tensor.T
    if result.shape != shape:
        wanted = shape
        if len(shape) == 4:
            wanted = (shape[3], shape[2], shape[0], shape[1])
        elif len(shape) == 2:
            wanted = shape[::-1]
        raise UserError(f"the tensor {name} has shape {tensor.shape}, {arch} needs {wanted}")
    if fault := fault_of(ours, result):
        raise UserError(f"the tensor {name} {fault}")
    return np.ascontiguousarray(result, dtype=np.float32)


def _is_mean(name: str) -> bool:
    return name.endswith(".mean")


def _replace_leaf(name: str, leaf: str) -> str:
    return f"{name.rsplit('.', 1)[0]}.{leaf}"
