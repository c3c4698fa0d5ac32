"""Certifies a data set: images, noise, votes, bounds, certificates, report.

    python scripts/certify.py
        trains a small model on scikit-learn's digits and certifies its 360 test images, by
        Neyman-Pearson and by DSRS, into runs/digits/ (about a minute on two cores)

    python scripts/certify.py --dataset mnist --data-dir DIR --model DIR --skip 100 --out DIR
        certifies every hundredth MNIST test image with a model of yours

    python scripts/certify.py --published DIR --model-name cohen-mnist-380-0.50.pth \\
            --dataset mnist --k 380 --sigma 0.5 --q-sigma 0.4 --out DIR
        certifies a whole test set from published probabilities, in seconds

The same command continues a run that was interrupted. `--help` lists the options.
"""

import argparse
import dataclasses
import shlex
import sys
from typing import Any

from rich.console import Console

from dsrs_jax import pipeline, published
from dsrs_jax.command_line import OneLineParser, exit_code
from dsrs_jax.data import DATASETS, SPLITS
from dsrs_jax.errors import UserError
from dsrs_jax.models import ARCHITECTURES, DTYPES, SCALINGS


def parse(argv: list[str] | None) -> pipeline.Settings | published.Settings:
    """The settings that a command line gives.

    Raises:
        UserError: an option that does not go with the others.
    """
    default = pipeline.Settings()
    parser = OneLineParser(
        prog="certify.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # only what was given reaches the settings
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--dataset", choices=DATASETS)
    option(
        "--data-dir",
        metavar="DIR|tfds:NAME",
        help="folder with the files of --dataset (npz: the file), or a set that "
        "tensorflow-datasets built",
    )
    option("--split", choices=SPLITS)
    option(
        "--model",
        metavar="DIR|FILE",
        help="a checkpoint, ours or a PyTorch .pth.tar; digits train one where none is given",
    )
    option("--arch", choices=ARCHITECTURES, help="of a PyTorch file that does not say it")
    option("--input-scaling", choices=SCALINGS, help="of a PyTorch file, which never says it")
    option("--dtype", choices=DTYPES, help=f"of the model's arithmetic; {default.dtype}")
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
    option("--n", type=int, metavar="N", help=f"draws under each law; {default.n}")
    option(
        "--alpha",
        type=float,
        metavar="A",
        help=f"failure probability of a whole certificate; {default.alpha:g}",
    )
    option("--bounds", choices=("one-sided", "two-sided"), help=default.bounds)
    option("--search", choices=("precise", "grid"), help=default.search)
    option("--grid-unit", type=float, metavar="U", help=f"{default.grid_unit:g}")
    option("--skip", type=int, help="every SKIP-th image")
    option("--start", type=int)
    option("--stop", type=int, help="-1: to the end")
    option(
        "--batch",
        type=int,
        help="draws in flight on a device; default: the fastest one, measured where that pays "
        "(votes do not depend on it)",
    )
    option("--seed", type=int)
    option("--out", metavar="DIR", help="default: runs/DATASET or runs/MODEL_NAME")
    hosts = parser.add_argument_group(
        "several processes, on as many hosts: start the same command in each, with one --out that "
        "all can reach"
    )
    hosts.add_argument(
        "--distributed",
        action="store_true",
        help="find the processes from the cluster (TPU, Slurm, Open MPI, Kubernetes); without it "
        "that is done where the environment names several",
    )
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    hosts.add_argument("--num-processes", type=int, metavar="P")
    hosts.add_argument("--process-id", type=int, metavar="I", help="0 ... P - 1")
    hosts.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help=f"seconds of silence after which process 0 gives another up; {default.patience:g}",
    )
    results = parser.add_argument_group("published sampling results instead of a model")
    results.add_argument(
        "--published", metavar="DIR", help="a folder in the layout of the paper's authors"
    )
    results.add_argument("--model-name", metavar="NAME", help="whose files to certify")
    results.add_argument(
        "--write-published", metavar="DIR", help="writes our radii in that layout too"
    )
    given = vars(parser.parse_args(argv))
    for name in ("q_sigma", "q_inside", "q_threshold"):
        if name in given:
            given[name] = tuple(given[name])
    return _settings(given)


def _settings(given: dict[str, Any]) -> pipeline.Settings | published.Settings:
    from_files = "published" in given
    kind = published.Settings if from_files else pipeline.Settings
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in given:
        if name not in fields:
            where = "with --published" if from_files else "without --published"
            raise UserError(f"{_spelled(name)} means nothing {where}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise UserError(f"--published needs {_spelled(name)}")
    return kind(**given)


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


def _again(argv: list[str] | None) -> str:
    """This command as one process would be given it."""
    words = list(sys.argv[1:] if argv is None else argv)
    for option in ("--coordinator", "--num-processes", "--process-id"):
        for i in reversed(range(len(words))):
            if words[i] == option:
                del words[i : i + 2]
            elif words[i].startswith(f"{option}="):
                del words[i]
    words = [word for word in words if word != "--distributed"]
    return shlex.join(["python", "scripts/certify.py", *words])


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 done but for images that a line names, 2 a mistake of the user's,
    130 interrupted, 143 terminated (the same command goes on)."""

    def action() -> None:
        settings = parse(argv)
        if isinstance(settings, published.Settings):
            published.run(settings, Console())
        else:
            pipeline.run(settings, Console(), _again(argv))

    return exit_code("certify.py", action, interrupted="the same command continues this run")


if __name__ == "__main__":
    sys.exit(main())
