"""The second way to a converted model's logits: PyTorch itself, from the same file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsrs_jax.convert.checkpoint import read_tensors
from dsrs_jax.convert.layouts import parts
from dsrs_jax.models import Classifier, default_scaling, input_scaling
from dsrs_jax.system.errors import UserError


class Difference(NamedTuple):
    """Largest absolute difference of two sets of logits, and the largest of the logits.

    Not finite where a logit is not.
    """

    largest: float
    scale: float

    @property
    def relative(self) -> float:
        """Of the largest logit."""
        return self.largest / max(self.scale, float(np.finfo(np.float32).tiny))


def logit_difference(
    file: str | Path, classifier: Classifier, images: int = 8, *, weights: str | None = None
) -> Difference:
    """Compares a converted classifier with a PyTorch forward pass of the file it came from.

    The images are random, with noise of standard deviation 1 around the middle of [0, 1]; `weights`
    is what `convert` was given.

    Raises:
        UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError("--check needs PyTorch: pip install 'dsrs_jax[torch]'") from None

    from dsrs_jax.convert.pytorch_models import pytorch_model

    metadata = classifier.metadata
    network = pytorch_model(metadata.arch)
    # The input layer that a file may have is the classifier's own scaling, or it is not converted.
    prefix, tensors, _ = parts(read_tensors(Path(file), weights)[1], metadata.arch)
    wanted = network.state_dict()
    found = {_ranked(name, tensors, prefix): tensor for name, tensor in tensors.items()}
    if "fc.weight" in wanted and "fc.weight" not in found:  # others call the last layer so
        found = {name.replace("linear.", "fc."): tensor for name, tensor in found.items()}
    ranked = {_ranked(name, wanted, ""): name for name in wanted}
    network.load_state_dict(
        # Old files lack the counters of batch norm, which change nothing here.
        wanted | {ranked[name]: torch.from_numpy(t.copy()) for name, t in found.items()}
    )
    shape = (images, *metadata.image_shape)
    noisy = np.random.default_rng(0).normal(0.5, 1.0, shape).astype(np.float32)
    kind = metadata.scaling or default_scaling(metadata.dataset)
    scaling = input_scaling(metadata.dataset, kind)
    # Apart, because one number may stand for all channels.
    mean, deviation = (np.asarray(n, np.float32) for n in (scaling.mean, scaling.deviation))
    scaled = (noisy - mean) / deviation
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))
        theirs = network.eval()(pixels).numpy()
    ours = np.asarray(jax.jit(Classifier.__call__)(classifier, jnp.asarray(noisy)))
    with np.errstate(invalid="ignore"):  # infinite logits have no difference: nan
        largest = float(np.abs(ours - theirs).max())
    return Difference(largest, float(np.abs(theirs).max()))


def _ranked(name: str, among: Mapping[str, object], prefix: str) -> str:
    """What follows the prefix, a leading number as its rank: layers without weights may vary."""
    first, _, rest = name.removeprefix(prefix).partition(".")
    if not first.isdigit():
        return name.removeprefix(prefix)
    heads = {other.removeprefix(prefix).partition(".")[0] for other in among}
    numbers = sorted(int(head) for head in heads if head.isdigit())
    return f"{numbers.index(int(first))}.{rest}"
