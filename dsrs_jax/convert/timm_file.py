"""A checkpoint of a network that timm defines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsrs_jax.convert.checkpoint import read_tensors
from dsrs_jax.convert.layouts import parts
from dsrs_jax.convert.user_code import Made
from dsrs_jax.system.errors import UserError, first_line


def timm_network(name: str, file: Path, weights: str | None, channels: int) -> Made:
    """timm's network with a file's weights, in evaluation mode; it has the file's classes.

    Args:
        name: of timm's.
        file: a `.pth.tar` or `.safetensors` file, of which nothing is executed.
        weights: under which name its state dict lies, where it holds several.
        channels: of the images.

    Raises:
        UserError: timm is not installed or has no such network, or the file's tensors are not its:
            the first one that is missing, too many or of another shape is named.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"--arch timm:{name} needs timm: pip install timm") from None
    except Exception as error:  # of what timm imports: a torchvision of another PyTorch
        raise UserError(
            f"timm cannot be imported ({type(error).__name__}: {first_line(error)})"
        ) from error
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise UserError(f"timm has no network {name!r}{f'; it has {close}' if close else ''}")
    _, tensors = read_tensors(file, weights)
    prefix, network, _ = parts(tensors, "")
    found = {key.removeprefix(prefix): tensor for key, tensor in network.items()}
    try:
        module: Any = timm.create_model(
            name, num_classes=_classes(timm.get_pretrained_cfg(name), found), in_chans=channels
        )
    except Exception as error:  # of timm's many networks
        raise UserError(
            f"timm cannot make {name} for images of {channels} channels "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    _refuse_others(f"timm's {name}", file, module.state_dict(), found)
    module.load_state_dict({key: torch.from_numpy(one.copy()) for key, one in found.items()})
    return Made(module.eval(), f"timm:{name}", "")


def _classes(config: Any, tensors: dict[str, np.ndarray]) -> int:
    """How many classes the last layer of the file has; timm's own number where it is not found."""
    last = getattr(config, "classifier", None) or ""
    first = last if isinstance(last, str) else last[0]
    weight = tensors.get(f"{first}.weight")
    return int(config.num_classes) if weight is None else len(weight)


def _refuse_others(
    name: str, file: Path, expected: dict[str, torch.Tensor], found: dict[str, np.ndarray]
) -> None:
    """UserError unless the tensors are those that are expected, by name and shape."""
    for key in expected:
        if key not in found:
            raise UserError(f"{file}: the tensor {key} of {name} is missing")
    for key, tensor in found.items():
        if key not in expected:
            raise UserError(f"{file}: the tensor {key} is not part of {name}")
        if tensor.shape != tuple(expected[key].shape):
            raise UserError(
                f"{file}: the tensor {key} has shape {tensor.shape}, {name} needs "
                f"{tuple(expected[key].shape)}"
            )
