"""Makes a model for `dsrs-jax certify` of a published PyTorch checkpoint.

  dsrs-jax convert models/cifar10/.../checkpoint.pth.tar runs/cifar_resnet110 --check

The file is untrusted input: nothing in it is executed. Needs PyTorch
(pip install 'dsrs_jax[torch]'). Writes the folder OUT whole or not at all.
--input-scaling takes a name or numbers, mean:0.485,0.456,0.406;std:0.229,0.224,0.225.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rich.console import Console

from dsrs_jax.convert import convert, logit_difference
from dsrs_jax.data import IMAGE_SHAPES
from dsrs_jax.models import ARCHITECTURES, SCALINGS, check_scaling, save_model
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import option

# Of the largest logit: float32 sums in another order differ by less.
_AGREEMENT = 1e-4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Conversion."""

    file: str = option(
        help="a .pth.tar or .safetensors file", metavar="CHECKPOINT", positional=True, local=True
    )
    out: str = option(help="folder to write", metavar="OUT", positional=True, local=True)
    arch: str | None = option(
        None, "where the file does not say it", choices=ARCHITECTURES, often=True
    )
    dataset: str | None = option(
        None, "default: the architecture's", choices=tuple(IMAGE_SHAPES), often=True
    )
    input_scaling: str | None = option(
        None,
        f"{', '.join(SCALINGS)} or mean:...;std:...; by itself center for imagenet, else "
        "standardize",
        metavar="SCALING",
        often=True,
    )
    weights: str | None = option(
        None, "which state dict, where the file holds several", metavar="KEY", often=True
    )
    sigma: float | None = option(None, "of the training's noise, for the record", often=True)
    k: float | None = option(None, "of that noise", often=True)
    check: bool = option(False, "compare logits with PyTorch's on random images", often=True)

    def __post_init__(self) -> None:
        if self.input_scaling is not None:
            check_scaling(self.input_scaling)


def run(settings: Settings, words: Sequence[str]) -> None:
    """Converts, compares, saves.

    Raises:
        UserError: the file cannot be converted, or its logits are not PyTorch's or not finite.
    """
    del words
    console = Console()
    classifier = convert(
        settings.file,
        arch=settings.arch,
        dataset=settings.dataset,
        scaling=settings.input_scaling,
        weights=settings.weights,
    )
    metadata = dataclasses.replace(
        classifier.metadata,
        sigma=settings.sigma,
        k=settings.k if settings.sigma is None else settings.k or 0.0,
        eta=None if settings.sigma is None else 2.0,
    )
    if settings.check:
        difference = logit_difference(settings.file, classifier, weights=settings.weights)
        console.print(
            f"largest difference from PyTorch's logits: {difference.largest:.2e} "
            f"({difference.relative:.1e} of the largest logit)"
        )
        if not math.isfinite(difference.largest):
            raise UserError(
                f"its logits of random images are not finite; {settings.out} was not written"
            )
        if difference.relative > _AGREEMENT:
            raise UserError(f"the logits differ from PyTorch's; {settings.out} was not written")
    save_model(settings.out, classifier, metadata)
    console.print(
        f"{metadata.arch}, {metadata.parameters:,} parameters, input: {metadata.scaling} "
        f"({metadata.dataset}); saved {settings.out}",
        soft_wrap=True,
    )
