"""Trains a classifier under smoothing noise and saves a checkpoint for scripts/certify.py.

    python scripts/train.py --dataset mnist --data-dir DIR --sigma 0.5 --k 380 --epochs 3 --out DIR

trains the paper's MNIST net (about 80 s an epoch on two cores).
"""

import argparse
import math
import sys
from pathlib import Path

from rich.console import Console

from dsrs_jax import data, noise
from dsrs_jax.command_line import OneLineParser, exit_code
from dsrs_jax.errors import UserError
from dsrs_jax.models import ARCHITECTURES, ModelMetadata, save_model
from dsrs_jax.train import EpochInfo, train

_ARCH = {"digits": "digits_cnn", "mnist": "mnist_43"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings that a command line gives."""
    parser = OneLineParser(
        prog="train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--dataset", choices=data.DATASETS, default="digits")
    option("--data-dir", metavar="DIR")
    option("--arch", choices=ARCHITECTURES, help="default: the one made for the data set")
    option("--sigma", type=float, default=0.5)
    option("--k", type=float, default=0.0, help="0: Gaussian noise")
    option("--eta", type=float, default=2.0)
    option("--epochs", type=int, default=10)
    option("--batch", type=int, default=128)
    option("--lr", type=float, default=0.05, help="largest learning rate of the schedule")
    option("--seed", type=int, default=0)
    option("--out", metavar="DIR", required=True)
    return parser.parse_args(argv)


def run(settings: argparse.Namespace, console: Console) -> None:
    """Trains and saves."""
    if (Path(settings.out)).exists():
        raise UserError(f"{settings.out} exists; give another --out")
    dataset = data.load(settings.dataset, "train", settings.data_dir)
    arch = settings.arch or _ARCH[settings.dataset]
    dimension = math.prod(dataset.image_shape)
    law = noise.generalized_gaussian(dimension, settings.sigma, settings.k, settings.eta)
    metadata = ModelMetadata(
        arch=arch,
        dataset=settings.dataset,
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        sigma=settings.sigma,
        k=settings.k,
        eta=settings.eta,
        method="gaussian",
        epochs=settings.epochs,
        batch=settings.batch,
        learning_rate=settings.lr,
        seed=settings.seed,
    )

    def show(epoch: int, info: EpochInfo) -> None:
        console.print(
            f"epoch {epoch + 1}/{settings.epochs}: loss {info.loss:.4f}, "
            f"accuracy under noise {100 * info.accuracy:.1f}%"
        )

    model = train(
        dataset,
        arch,
        law,
        epochs=settings.epochs,
        batch=settings.batch,
        learning_rate=settings.lr,
        seed=settings.seed,
        on_epoch=show,
    )
    save_model(settings.out, model, metadata)
    console.print(f"saved {settings.out}")


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 a mistake of the user's, 130 interrupted."""
    return exit_code(
        "train.py", lambda: run(parse(argv), Console()), interrupted="nothing was saved"
    )


if __name__ == "__main__":
    sys.exit(main())
