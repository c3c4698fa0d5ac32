"""Trains a classifier under smoothing noise, for scripts/certify.py --model OUT/model.

    python scripts/train.py --dataset mnist --data-dir DIR --method consistency --num-noise-vec 2 \\
            --sigma 0.5 --k 380 --k-warmup 100 --out runs/mnist_43

`--method gaussian` (Cohen et al., 2019), `smoothadv` (Salman et al., 2019), `consistency` (Jeong
and Shin, 2020), `smoothmix` (Jeong et al., 2021), each under noise whose k grows during training
(Li et al., 2022). `--resume` continues a run that was interrupted.

All devices of this machine share each step. For several machines start the same command on each
with --coordinator HOST:PORT --num-processes N --process-id I (on clusters that JAX knows:
--distributed); process 0 alone writes OUT.
"""

import argparse
import sys
from pathlib import Path

import jax
from rich.console import Console

from dsrs_jax import data, distributed
from dsrs_jax.command_line import OneLineParser, exit_code
from dsrs_jax.convert import cached
from dsrs_jax.errors import UserError
from dsrs_jax.models import ARCHITECTURES, DTYPES
from dsrs_jax.report import progress
from dsrs_jax.train import METHODS, EpochInfo, Recipe, train

_ARCH = {"digits": "digits_cnn", "mnist": "mnist_43"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings that a command line gives."""
    default = Recipe(arch="")
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
    option("--method", choices=METHODS, default=default.method)
    noise = parser.add_argument_group("noise")
    noise.add_argument("--sigma", type=float, default=default.sigma)
    noise.add_argument("--k", type=float, default=default.k, help="0: Gaussian noise")
    noise.add_argument("--eta-law", dest="eta", type=float, default=default.eta, metavar="ETA")
    noise.add_argument(
        "--k-warmup",
        type=int,
        default=default.k_warmup,
        metavar="T",
        help="epochs (ImageNet: optimizer steps) until k is reached; 0: at once",
    )
    noise.add_argument(
        "--num-noise-vec",
        dest="copies",
        type=int,
        default=default.copies,
        metavar="M",
        help="draws of each image; a batch is cut into M mini-batches",
    )
    schedule = parser.add_argument_group("schedule")
    schedule.add_argument("--epochs", type=int, default=default.epochs)
    schedule.add_argument("--batch", type=int, default=default.batch)
    schedule.add_argument(
        "--lr", dest="learning_rate", type=float, default=default.learning_rate, metavar="LR"
    )
    schedule.add_argument(
        "--lr-step-size",
        dest="learning_rate_step",
        type=int,
        default=default.learning_rate_step,
        metavar="E",
        help="epochs until the learning rate falls to a tenth",
    )
    method = parser.add_argument_group("methods")
    method.add_argument(
        "--lbd", "--eta",
        dest="weight",
        type=float,
        default=default.weight,
        metavar="W",
        help="lambda of consistency, eta of smoothmix",
    )  # fmt: skip
    method.add_argument("--num-steps", dest="steps", type=int, default=default.steps, metavar="T")
    method.add_argument(
        "--alpha", dest="step_size", type=float, default=default.step_size, help="smoothmix"
    )
    method.add_argument("--mix-step", type=int, default=default.mix_step, help="smoothmix")
    method.add_argument(
        "--epsilon", type=float, default=default.epsilon, help="smoothadv; in units of 1/256"
    )
    method.add_argument("--warmup", type=int, default=default.warmup, help="epochs")
    option("--dtype", choices=DTYPES, default=default.dtype)
    option("--pretrained", metavar="MODEL", help="start from this checkpoint, ours or a .pth.tar")
    option("--resume", action="store_true", help="continue the run in OUT")
    option("--seed", type=int, default=default.seed)
    option("--out", metavar="DIR", required=True)
    processes = parser.add_argument_group("several machines")
    processes.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    processes.add_argument("--num-processes", type=int, metavar="N")
    processes.add_argument("--process-id", type=int, metavar="I", help="of this process, from 0")
    processes.add_argument(
        "--distributed", action="store_true", help="find the others from the cluster's environment"
    )
    return parser.parse_args(argv)


def run(settings: argparse.Namespace) -> None:
    """Trains, and records each epoch in OUT."""
    distributed.initialize(
        settings.coordinator, settings.num_processes, settings.process_id, settings.distributed
    )
    console = Console(quiet=jax.process_index() > 0)
    recipe, training, test, pretrained = distributed.together(lambda: _read(settings))
    images = recipe.epochs * (len(training) // recipe.batch * recipe.batch or len(training))

    def show(info: EpochInfo) -> None:
        console.print(
            f"epoch {info.epoch + 1}/{recipe.epochs}: k {info.k:g}, loss {info.loss:.4f}, right "
            f"under noise {100 * info.accuracy:.1f}%, on test images "
            f"{100 * info.test_accuracy:.1f}%; {info.images_per_second:,.0f} images/s"
        )

    with progress(console, "training", images, "images") as advance:
        train(
            training,
            recipe,
            test=test,
            out=Path(settings.out),
            resume=settings.resume,
            pretrained=pretrained,
            on_epoch=show,
            on_batch=advance,
        )
    console.print(f"saved {Path(settings.out) / 'model'}", soft_wrap=True)


def _read(
    settings: argparse.Namespace,
) -> tuple[Recipe, data.ArrayDataset, data.ArrayDataset, Path | None]:
    given = vars(settings)
    arch = settings.arch or _ARCH.get(settings.dataset)
    if arch is None:
        raise UserError(f"--dataset {settings.dataset} needs --arch")
    names = Recipe.__dataclass_fields__.keys() - {"arch", "entropy_weight"}
    recipe = Recipe(arch=arch, **{name: given[name] for name in names})
    training, test = (
        data.in_memory(data.load(settings.dataset, split, settings.data_dir))
        for split in ("train", "test")
    )
    if settings.pretrained is None:
        return recipe, training, test, None
    pretrained = Path(settings.pretrained)
    if pretrained.is_file():
        pretrained = cached(pretrained, arch=arch)
    return recipe, training, test, pretrained


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 a mistake of the user's, 130 interrupted."""
    return exit_code(
        "train.py",
        lambda: run(parse(argv)),
        interrupted="--resume continues it",
    )


if __name__ == "__main__":
    sys.exit(main())
