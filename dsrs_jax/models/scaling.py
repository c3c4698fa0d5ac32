"""What a model does to pixels first: noise and radii live in [0, 1], networks want other ranges.

Means and standard deviations of a channel are those of the published checkpoints: MNIST's
(0.5, 0.5) give [-1, 1]; the others are of the training sets (Cohen et al., 2019; TinyImageNet:
Li et al., ICML 2022).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from dsrs_jax.system.errors import UserError

SCALINGS = ("standardize", "center")
OWN_SETS = ("folder", "npz")  # of images that anyone brings: nothing is known of their pixels

_STATISTICS = {
    "digits": ((0.5,), (0.5,)),
    "mnist": ((0.5,), (0.5,)),
    "fashionmnist": ((0.5,), (0.5,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "tinyimagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
SCALED_DATASETS = tuple(_STATISTICS)


@dataclasses.dataclass(frozen=True)
class InputScaling:
    """(image - mean)/deviation, channel by channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Scaled images (..., channels), float32."""
        mean = jnp.asarray(self.mean, jnp.float32)
        deviation = jnp.asarray(self.deviation, jnp.float32)
        shape = (1,) * (images.ndim - 1) + (-1,)
        return (images.astype(jnp.float32) - mean.reshape(shape)) / deviation.reshape(shape)


def default_scaling(dataset: str) -> str:
    """Which scaling a published checkpoint has: the paper's own ImageNet models only center."""
    return "center" if dataset == "imagenet" else "standardize"


def input_scaling(dataset: str, kind: str) -> InputScaling:
    """The scaling of a data set: `standardize`, or `center` (the mean only).

    Raises:
        UserError: an unknown data set or kind; the message lists the known ones.
    """
    if dataset not in _STATISTICS:
        raise UserError(f"no input scaling of {dataset!r}; known: {', '.join(_STATISTICS)}")
    if kind not in SCALINGS:
        raise UserError(f"unknown input scaling {kind!r}; known: {', '.join(SCALINGS)}")
    mean, deviation = _STATISTICS[dataset]
    return InputScaling(mean, deviation if kind == "standardize" else (1.0,) * len(mean))
