"""Makes torchvision importable beside a build of PyTorch that its kernels were not made for.

timm asks torchvision for names alone. Where the kernels are missing, the operators that torchvision
describes are declared here; nothing can call them.
"""

import importlib.util
import re
from pathlib import Path


def make_importable() -> None:
    """Declares torchvision's operators where its own library of them cannot be loaded."""
    import torch
    from torch import library as libraries

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _KEPT:
        return
    folder = Path(spec.origin).parent
    for kernels in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(kernels)
            return
        except OSError:
            pass
    text = (folder / "_meta_registrations.py").read_text()
    names = set(re.findall(r"register_(?:fake|meta)\(\"(?:torchvision::)?(\w+)\"", text))
    library = libraries.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor x) -> Tensor")
    _KEPT.append(library)  # its declarations live as long as it does


_KEPT: list[object] = []
