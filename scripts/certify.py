"""Certifies a data set: images, noise, votes, bounds, certificates, report.

    python scripts/certify.py
        trains a small model on scikit-learn's digits and certifies its 360 test images, by
        Neyman-Pearson and by DSRS, into runs/digits/ (about a minute on two cores)

    python scripts/certify.py --dataset mnist --data-dir DIR --model DIR --skip 100 --out DIR
        certifies every hundredth MNIST test image with a model of yours

The same command continues a run that was interrupted. `--help` lists the options.
"""

import argparse
import dataclasses
import sys
from typing import NoReturn

from rich.console import Console

from dsrs_jax import pipeline
from dsrs_jax.data import DATASETS, SPLITS
from dsrs_jax.errors import UserError


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse(argv: list[str] | None) -> pipeline.Settings:
    """The settings that a command line gives."""
    default = pipeline.Settings()
    parser = _OneLineParser(
        prog="certify.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--dataset", choices=DATASETS, default=default.dataset)
    option("--data-dir", metavar="DIR", help="folder with the files of --dataset mnist")
    option("--split", choices=SPLITS, default=default.split)
    option("--model", metavar="DIR", help="a checkpoint; digits train one where none is given")
    noise = parser.add_argument_group("smoothing law P (default: what the model was trained with)")
    noise.add_argument("--noise", choices=("gaussian", "general-gaussian"))
    noise.add_argument("--sigma", type=float, metavar="S", help="in pixel units, images in [0, 1]")
    noise.add_argument("--k", type=float, metavar="K", help="0 <= 2K < number of pixel values")
    noise.add_argument("--eta", type=float, metavar="E")
    extra = parser.add_argument_group(
        "extra laws Q, each repeatable; all that are given are used jointly",
        "Without any: --q-inside at "
        + " and ".join(f"{quantile:g}" for quantile in pipeline.DEFAULT_INSIDE),
    )
    extra.add_argument(
        "--q-sigma", type=float, action="append", metavar="B", help="P with another sigma"
    )
    extra.add_argument(
        "--q-inside",
        type=float,
        action="append",
        metavar="b",
        help="P truncated at its quantile b, read off P's own draws: no extra draws",
    )
    extra.add_argument(
        "--q-threshold",
        action="append",
        metavar="b|x|x+|x2|x2+",
        help="P truncated at b, or by the paper's rules, drawn separately",
    )
    option("--n", type=int, default=default.n, metavar="N", help="draws under each law")
    option(
        "--alpha",
        type=float,
        default=default.alpha,
        metavar="A",
        help="failure probability of a whole certificate",
    )
    option("--bounds", choices=("one-sided", "two-sided"), default=default.bounds)
    option("--search", choices=("precise", "grid"), default=default.search)
    option("--grid-unit", type=float, default=default.grid_unit, metavar="U")
    option("--skip", type=int, default=default.skip, help="every SKIP-th image")
    option("--start", type=int, default=default.start)
    option("--stop", type=int, default=default.stop, help="-1: to the end")
    option("--batch", type=int, help="draws in flight on a device; votes do not depend on it")
    option("--seed", type=int, default=default.seed)
    option("--out", metavar="DIR", help="default: runs/DATASET")
    given = vars(parser.parse_args(argv))
    for name in ("q_sigma", "q_inside", "q_threshold"):
        given[name] = tuple(given[name] or ())
    return dataclasses.replace(default, **given)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 2 a mistake of the user's, 130 interrupted (the same command goes on)."""
    settings = parse(argv)
    console = Console()
    try:
        pipeline.run(settings, console)
    except UserError as error:
        print(f"certify.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("certify.py: interrupted; the same command continues this run", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
