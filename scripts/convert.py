"""Converts a published PyTorch checkpoint into a model for scripts/certify.py.

    python scripts/convert.py models/cifar10/.../checkpoint.pth.tar runs/cifar_resnet110 --check

The file is untrusted input: nothing in it is executed. Needs PyTorch (pip install
'dsrs_jax[torch]'). Writes the folder OUT whole or not at all.
"""

import argparse
import dataclasses
import sys

from rich.console import Console

from dsrs_jax.command_line import OneLineParser, exit_code
from dsrs_jax.convert import convert, logit_difference
from dsrs_jax.data import IMAGE_SHAPES
from dsrs_jax.errors import UserError
from dsrs_jax.models import ARCHITECTURES, SCALINGS, save_model

# Of the largest logit: float32 sums in another order differ by less.
_AGREEMENT = 1e-4


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings that a command line gives."""
    parser = OneLineParser(
        prog="convert.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("file", metavar="CHECKPOINT", help="a .pth.tar file")
    option("out", metavar="OUT", help="folder to write")
    option("--arch", choices=ARCHITECTURES, help="where the file does not say it")
    option("--dataset", choices=IMAGE_SHAPES, help="default: the one the architecture is for")
    option(
        "--input-scaling",
        choices=SCALINGS,
        help="no file says it; default: center for imagenet (the paper), else standardize",
    )
    option("--sigma", type=float, help="of the noise the model was trained with, for the record")
    option("--k", type=float, help="of that noise")
    option("--check", action="store_true", help="compare logits with PyTorch on random images")
    return parser.parse_args(argv)


def run(settings: argparse.Namespace, console: Console) -> None:
    """Converts, compares, saves."""
    classifier = convert(
        settings.file,
        arch=settings.arch,
        dataset=settings.dataset,
        scaling=settings.input_scaling,
    )
    metadata = dataclasses.replace(
        classifier.metadata,
        sigma=settings.sigma,
        k=settings.k if settings.sigma is None else settings.k or 0.0,
        eta=None if settings.sigma is None else 2.0,
    )
    if settings.check:
        difference = logit_difference(settings.file, classifier)
        console.print(
            f"largest difference from PyTorch's logits: {difference.largest:.2e} "
            f"({difference.relative:.1e} of the largest logit)"
        )
        if not difference.relative <= _AGREEMENT:  # nor if it is nan
            raise UserError(f"the logits differ from PyTorch's; {settings.out} was not written")
    save_model(settings.out, classifier, metadata)
    console.print(
        f"{metadata.arch}, {metadata.parameters:,} parameters, input: {metadata.scaling} "
        f"({metadata.dataset}); saved {settings.out}",
        soft_wrap=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 a mistake of the user's, 130 interrupted."""
    return exit_code(
        "convert.py", lambda: run(parse(argv), Console()), interrupted="nothing was written"
    )


if __name__ == "__main__":
    sys.exit(main())
