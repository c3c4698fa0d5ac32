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

SCALINGS = ("standardize", "center", "none")
SCALING_FORM = "mean:0.485,0.456,0.406;std:0.229,0.224,0.225"  # of one that has no name
# Images that anyone brings: nothing is known of their pixels.
OWN_SETS = ("folder", "npz", "arrays")

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
    """(image - mean)/deviation, channel by channel; a tuple of one number is for all channels."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Of the images that it is for; 1 where one number is for all channels."""
        return max(len(self.mean), len(self.deviation))

    def __call__(self, images: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Scaled images (..., channels), float32."""
        mean = jnp.asarray(self.mean, jnp.float32)
        deviation = jnp.asarray(self.deviation, jnp.float32)
        shape = (1,) * (images.ndim - 1) + (-1,)
        return (images.astype(jnp.float32) - mean.reshape(shape)) / deviation.reshape(shape)

    def pixels_for(self, other: InputScaling) -> InputScaling:
        """The map of images after which this scaling gives what `other` gives without it.

        self(self.pixels_for(other)(images)) = other(images), up to rounding: it tries another
        scaling on a model that has this one built in.
        """
        means, deviations = [], []
        for channel in range(max(self.channels, other.channels)):
            mean, deviation = self._of(channel)
            other_mean, other_deviation = other._of(channel)
            ratio = other_deviation / deviation
            means.append(other_mean - mean * ratio)
            deviations.append(ratio)
        return InputScaling(tuple(means), tuple(deviations))

    def _of(self, channel: int) -> tuple[float, float]:
        return self.mean[channel % len(self.mean)], self.deviation[channel % len(self.deviation)]


def default_scaling(dataset: str) -> str:
    """Which scaling a published checkpoint has: the paper's own ImageNet models only center."""
    return "center" if dataset == "imagenet" else "standardize"


def check_scaling(text: str) -> None:
    """UserError, which says what is expected, unless `text` is an input scaling by name or form."""
    if text not in SCALINGS:
        _parsed(text)


def input_scaling(dataset: str, kind: str) -> InputScaling:
    """The scaling of a data set, by name or by its numbers.

    Args:
        dataset: whose statistics `standardize` and `center` (the mean only) take.
        kind: one of SCALINGS; `none` leaves images as they are. Or numbers as in SCALING_FORM,
            one for each channel or one for all: without `mean` nothing is subtracted, without
            `std` nothing is divided. Neither these nor `none` ask for the data set.

    Raises:
        UserError: an unknown data set or kind; the message lists the known ones.
    """
    if kind == "none":
        return InputScaling((0.0,), (1.0,))
    if kind not in SCALINGS:
        return _parsed(kind)
    if dataset not in _STATISTICS:
        raise UserError(f"no input scaling of {dataset!r}; known: {', '.join(_STATISTICS)}")
    mean, deviation = _STATISTICS[dataset]
    return InputScaling(mean, deviation if kind == "standardize" else (1.0,) * len(mean))


def _parsed(text: str) -> InputScaling:
    """The scaling that SCALING_FORM's form says."""
    given: dict[str, tuple[float, ...]] = {}
    for part in text.split(";"):
        name, colon, numbers = part.partition(":")
        name = name.strip()
        if not colon or name not in ("mean", "std") or name in given:
            raise _unknown(text)
        try:
            given[name] = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            raise _unknown(text) from None
    mean, deviation = given.get("mean", (0.0,)), given.get("std", (1.0,))
    # In the float32 of the images.
    smallest, largest = (float(getattr(jnp.finfo(jnp.float32), end)) for end in ("tiny", "max"))
    if not all(abs(number) <= largest for number in mean + deviation):
        raise _unknown(text, "its numbers must be finite")
    if min(deviation) < smallest:
        raise _unknown(text, "its deviations must be greater than 0")
    if len({len(mean), len(deviation)} - {1}) > 1:
        raise _unknown(text, f"it has {len(mean)} means and {len(deviation)} deviations")
    return InputScaling(mean, deviation)


def _unknown(text: str, fault: str = "") -> UserError:
    shown = f"{text!r:.80}{f' ({fault})' if fault else ''}"
    return UserError(
        f"unknown input scaling {shown}; known: {', '.join(SCALINGS)}, or numbers as in "
        f"{SCALING_FORM!r}"
    )
