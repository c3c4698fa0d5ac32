"""A caller's PyTorch module, copied: the module itself is never moved, switched or called."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch

from dsrs_jax.convert.user_code import failure
from dsrs_jax.system.errors import UserError, first_line


def evaluation_copy(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """A copy of the module on the CPU, in evaluation mode; it runs on one device.

    Args:
        module: a caller's, on whatever device.
        name: of it, for messages.

    Raises:
        UserError: in one line what to change: it is in training mode, lacks weights, cannot be
            copied, or is of a kind that can be neither moved nor read.
    """
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        module = module.module  # its forward pass would wait for other processes
    _refuse_unusable(module, name)
    try:
        copied = duplicate(module).cpu()
    except Exception as error:  # of many kinds: it holds a lock, a generator, a file
        raise UserError(
            f"{name} cannot be copied ({type(error).__name__}: {first_line(error)}), and a run "
            "works on a copy: keep in the module only what copy.deepcopy copies"
        ) from error
    for part in copied.modules():
        if isinstance(part, torch.nn.DataParallel):
            part.device_ids = []  # it then calls its module where that is
    return copied.eval()


def duplicate(module: torch.nn.Module) -> Any:
    """A deep copy, also of a module that keeps tensors with a gradient's history.

    Weight norm and modules that keep a result of theirs do; `copy.deepcopy` refuses such tensors.
    """
    kept = {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for tensor in itertools.chain(vars(part).values(), part.buffers(recurse=False))
        if isinstance(tensor, torch.Tensor) and not tensor.is_leaf
    }
    return copy.deepcopy(module, kept)


def _refuse_unusable(module: torch.nn.Module, name: str) -> None:
    for path, part in module.named_modules():
        kind = type(part).__name__
        where = f"{path}: {kind}" if path else kind
        if isinstance(part, torch.jit.ScriptModule) and not hasattr(part, "training"):
            raise UserError(
                f"{name} is frozen TorchScript ({where}), whose weights can be neither read nor "
                "moved; give the module as it is before torch.jit.freeze"
            )
        if ".quantized" in type(part).__module__:
            raise UserError(
                f"{name} has quantized weights ({where}), which cannot be read; give the module "
                "as it is before quantization"
            )
        if part.training and _has_mode(part):
            raise UserError(
                f"{name} is in training mode ({where}); call .eval() on it where it is made"
            )
    for path, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            why = "device meta" if tensor.is_meta else "a lazy module"
            raise UserError(f"{name} has weights that were never loaded ({path}: {why})")


def _has_mode(module: torch.nn.Module) -> bool:
    """Whether it does something else in training mode."""
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    batch_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return batch_norm or "drop" in type(module).__name__.lower()


def call_failure(
    module: torch.nn.Module, name: str, shape: tuple[int, ...], error: Exception
) -> str:
    """One line about an error of a module that was given images of this shape, with what to do."""
    text, advice = str(error), "does it take images of this size, (N, C, H, W)?"
    floats = {one.dtype for one in module.parameters() if one.is_floating_point()}
    others = ", ".join(sorted(str(one) for one in floats - {torch.float32}))
    if "device" in text or "cuda" in text.lower():
        advice = (
            "it must run on whatever device it is moved to: register_buffer for its tensors, "
            "device=images.device for new ones"
        )
    elif others and "type" in text:
        advice = (
            f"its weights are {others}, images are torch.float32: call .float() on it "
            "(--dtype bfloat16 computes in half precision)"
        )
    elif "type" in text and "same" in text:
        advice = "images are torch.float32: dtype=images.dtype for new tensors"
    elif text.startswith("Guard failed"):
        advice = (
            "export it for any batch, dynamic_shapes=({0: torch.export.Dim.AUTO},), or give the "
            "file of torch.export.save"
        )
    elif 'required "forward"' in text:
        advice = "define forward(images), which returns logits"
    return f"{failure(f'{name} of images {shape}', error)}; {advice}"
