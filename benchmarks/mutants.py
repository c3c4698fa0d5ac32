"""Serious faults, put into the package one at a time: which suites of tests find them.

    python benchmarks/mutants.py [NUMBER ...]          (all of mutants.toml, about 20 minutes)

Each fault changes one place of a copy of this checkout. The tests that mutants.toml names for it
run there, those of the fast suite first, then with `--full`; what they find, the whole suite finds.
They must pass on an unchanged copy. Prints the table of docs/testing.md. The exit code is 1 where
the full suite misses a fault, or the fast suite more than three of twenty.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED, NONE_COLLECTED = 0, 1, 5  # exit codes of pytest


class Mutant(NamedTuple):
    """`old`, which stands once in `file`, becomes `new`; the paths of tests that should find it."""

    fault: str
    file: str
    old: str
    new: str
    tests: list[str]


def copy_checkout(place: Path) -> None:
    """The files that git tracks and new ones that it does not ignore, and the programs compiled."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    (ROOT / ".cache").mkdir(exist_ok=True)
    (place / ".cache").symlink_to(ROOT / ".cache")


def run_tests(place: Path, tests: Iterable[str], full: bool) -> int:
    """pytest's exit code."""
    shared = ROOT.parent / "shared"
    defaults = {"DSRS_MNIST": shared / "mnist", "DSRS_PUBLISHED": shared / "published"}
    real_data = {name: os.environ.get(name, str(folder)) for name, folder in defaults.items()}
    command = [sys.executable, "-m", "pytest", "-x", "-q", *["--full"] * full, *tests]
    environment = {**os.environ, **real_data, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if ended.returncode not in (PASSED, FAILED, NONE_COLLECTED):
        sys.exit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return ended.returncode


def find(mutant: Mutant, place: Path) -> str:
    """The suite that finds the fault in a copy of the checkout: "fast", "full" or "none"."""
    file = place / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.file} does not hold this once, mend mutants.toml:\n{mutant.old}")
    for suite, full in (("fast", False), ("full", True)):
        file.write_text(text.replace(mutant.old, mutant.new))
        failed = run_tests(place, mutant.tests, full) == FAILED
        file.write_text(text)
        if failed and run_tests(place, mutant.tests, full) != PASSED:
            sys.exit(f"{' '.join(mutant.tests)} fail without a fault, too")
        if failed:
            return suite
    return "none"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("numbers", metavar="NUMBER", type=int, nargs="*", help="only these faults")
    numbers = parser.parse_args().numbers
    with open(Path(__file__).with_suffix(".toml"), "rb") as stream:
        mutants = [Mutant(**fields) for fields in tomllib.load(stream)["mutant"]]
    chosen = numbers or range(1, len(mutants) + 1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        copy_checkout(place)
        print("| | fault | in | found by |\n|--:|---|---|---|")
        for number in chosen:
            mutant = mutants[number - 1]
            found.append(find(mutant, place))
            print(f"| {number} | {mutant.fault} | `{mutant.file}` | {found[-1]} |", flush=True)
    print(
        f"\n{found.count('fast')} by the fast suite, {found.count('full')} by the full suite alone,"
    )
    print(f"{found.count('none')} by none, of {len(found)}")
    return int("none" in found or found.count("full") > 0.15 * len(found))


if __name__ == "__main__":
    sys.exit(main())
