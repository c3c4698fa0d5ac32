"""PyTorch checkpoints with random weights, as other projects save them."""

from pathlib import Path
from typing import Any

import torch

from dsrs_jax.convert.pytorch_models import pytorch_model


def random_network(arch: str) -> Any:
    """All parameters and averages random: what would be 0 or 1 at first cannot hide."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = pytorch_model(arch)
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


def saved(folder: Path, arch: str, prefix: str = "1.", /, **more: Any) -> Path:
    state = {prefix + name: value for name, value in random_network(arch).state_dict().items()}
    file = folder / "checkpoint.pth.tar"
    torch.save({"arch": arch, "epoch": 90, "state_dict": state, "optimizer": {}} | more, file)
    return file
