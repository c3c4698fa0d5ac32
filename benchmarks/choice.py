"""Which second laws: --q auto beside the default and the paper's choices, at the same draws.

    python benchmarks/choice.py digits [--model DIR] [--n 50000] [--skip 1]
    python benchmarks/choice.py mnist --data-dir DIR --model DIR [--n 20000] [--skip 100]

Each row is a run of `dsrs-jax certify`, with --n draws of an image in all: the paper's second laws,
drawn separately, share them with P. Mean radii and certified accuracies, the gain over the default
image by image with its standard error, and seconds as a ratio to the default's.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np

from dsrs_jax.run.main import main as run_command


def radii(out: Path) -> np.ndarray:
    """(images,) of DSRS."""
    with open(out / "certificates.csv") as stream:
        return np.array([float(row["radius_dsrs"]) for row in csv.DictReader(stream)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--data-dir")
    parser.add_argument("--model")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--skip", type=int, default=1)
    parser.add_argument("--sigma", type=float, default=0.5, help="of the model's training")
    settings = parser.parse_args()
    common = ["certify", "--dataset", settings.dataset, "--skip", str(settings.skip)]
    common += ["--seed", "0"]  # the same draws for all
    for name in ("data_dir", "model"):
        if value := getattr(settings, name):
            common += ["--" + name.replace("_", "-"), value]
    whole, half = (["--n", str(settings.n // parts)] for parts in (1, 2))
    methods = {
        "default: inside 0.2, 0.4, 0.6, 0.8": whole,
        "--q auto": [*whole, "--q", "auto"],
        "the paper's Q, σ' = 0.8 σ": [*half, "--q-sigma", f"{0.8 * settings.sigma:g}"],
        "the paper's x+": [*half, "--q-threshold", "x+"],
    }
    rows: list[tuple[str, np.ndarray, float]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, (name, words) in enumerate(methods.items()):
            out = Path(place) / str(number)
            clock = time.perf_counter()
            if run_command([*common, *words, "--out", str(out)]) != 0:
                raise SystemExit(f"{name} failed")
            rows.append((name, radii(out), time.perf_counter() - clock))
    first, seconds = rows[0][1:]
    steps = np.linspace(0.0, float(max(found.max() for _, found, _ in rows)), 6)[1:-1].round(2)
    print("\n| second laws | mean radius | gain | ± | " + " | ".join(f"≥ {r:g}" for r in steps)
          + " | seconds |")  # fmt: skip
    print("|---|" + "--:|" * (len(steps) + 4))
    for name, found, taken in rows:
        gain = found - first
        error = gain.std() / np.sqrt(max(len(gain) - 1, 1))
        shares = " | ".join(f"{100 * np.mean(found >= r):.1f}" for r in steps)
        print(
            f"| {name} | {found.mean():.4f} | {100 * gain.mean() / first.mean():+.2f}% | "
            f"{100 * error / first.mean():.2f}% | {shares} | {taken / seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
