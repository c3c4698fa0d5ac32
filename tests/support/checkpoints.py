"""PyTorch checkpoints with random weights, as other projects save them."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dsrs_jax.convert import pytorch_models

SAFETENSORS = "safetensors"


def random_network(arch: str) -> Any:
    """All parameters and averages random: what would be 0 or 1 at first cannot hide."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = pytorch_models.pytorch_model(arch)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        for name, parameter in network.named_parameters():
            if parameter.ndim in (1, 3):  # norms and biases; class token and positions
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
            elif name.endswith("qkv.weight"):  # attention that is not the same for all tokens
                parameter.mul_(3)
    return network.eval()


def state_of(arch: str, prefix: str = "") -> dict[str, Any]:
    state = random_network(arch).state_dict()
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(folder: Path, arch: str, prefix: str = "1.", /, **more: Any) -> Path:
    """A checkpoint of the authors, with what `more` puts in place of its entries."""
    content = {"arch": arch, "epoch": 90, "state_dict": state_of(arch, prefix), "optimizer": {}}
    return written(folder, content | more)


def written(folder: Path, content: Any, container: str = "bare") -> Path:
    """A file of this content, or of a state dict under a key, or as .safetensors."""
    if container == SAFETENSORS:
        file = folder / "model.safetensors"
        safetensors.torch.save_file(content, file)
        return file
    file = folder / "checkpoint.pth.tar"
    torch.save(content if container == "bare" else {container: content, "epoch": 90}, file)
    return file
