"""Asks of each line of a log of radii whether any number of votes gives it.

  dsrs-jax audit sigma_0.50.tsv --sigma 0.5 --n 100000 --alpha 0.001

A log is tab-separated, as Cohen et al. (2019) write it: idx label predict radius correct time.
Its radii are sigma Phi^-1 of the one-sided lower bound, printed with a few digits: rounded up
they claim more than the votes prove. Exit code 1: a radius that no votes give, or a log that cannot
be read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import special

from dsrs_jax import data, noise
from dsrs_jax.bounds import Protocol, lower_bound, rounding
from dsrs_jax.certify import certify_table
from dsrs_jax.proof import schema
from dsrs_jax.run import ending
from dsrs_jax.run.names import shortest_names
from dsrs_jax.run.settings import CompilationOptions
from dsrs_jax.run.smoothing_log import LogLine, read_log
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.files import make_folder, write_whole
from dsrs_jax.system.options import group, option
from dsrs_jax.votes import State, VoteTable
from dsrs_jax.votes.records import CONFIG_FILE

_MOST_DRAWS = 10**7
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Audit."""

    logs: tuple[str, ...] = option(
        help="logs, all of one sigma, n and alpha", metavar="LOG", positional=True,
        several=True, local=True,
    )  # fmt: skip
    sigma: float = option(help="sigma of the Gaussian noise", metavar="S", often=True)
    n: int = option(100_000, "draws of an image", metavar="N", often=True)
    alpha: float = option(0.001, "failure probability of a certificate", metavar="A", often=True)
    as_run: str | None = option(
        None, "makes a run of one log: votes, our radii", metavar="DIR", often=True, local=True
    )
    dataset: str | None = option(
        None, "of the images; --as-run needs it", choices=tuple(data.IMAGE_SHAPES), often=True
    )
    compilation: CompilationOptions = group(CompilationOptions)

    def __post_init__(self) -> None:
        if not self.sigma > 0.0 or not math.isfinite(self.sigma):
            raise UserError(f"--sigma must be positive, got {self.sigma:g}")
        if not 1 <= self.n <= _MOST_DRAWS:
            raise UserError(f"--n must lie in [1, {_MOST_DRAWS:,}], got {self.n:,}")
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"--alpha must lie in (0, 1), got {self.alpha:g}")
        if self.as_run is not None and (len(self.logs) != 1 or self.dataset is None):
            raise UserError("--as-run is for one log, and needs --dataset")


@dataclasses.dataclass(frozen=True)
class VoteRadii:
    """What 0, 1, ... n votes prove, by Cohen et al. (2019), section 3.2.

    Attributes:
        radius: (n + 1,) in pixel units, rounded down; 0 where the bound is not above 1/2.
        error: (n + 1,) by how much another program's radius of as many votes may be above it.
    """

    radius: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Audit:
    """What the votes say of the radii of a log.

    Attributes:
        lines: those with a radius above 0.
        least, most: (lines,) the smallest and the largest number of votes whose radius is printed
            so, rounded any way; -1 where there is none.
        above: (lines,) by how much the printed radius is at least above what the votes prove; 0
            where it need not be.
        perhaps: (lines,) by how much it may be above, at most.
        nearest: (lines,) the radius, of all that votes give, that is nearest.
    """

    lines: list[LogLine]
    least: NDArray[np.int64]
    most: NDArray[np.int64]
    above: NDArray[np.float64]
    perhaps: NDArray[np.float64]
    nearest: NDArray[np.float64]


def run(settings: Settings, words: Sequence[str]) -> int:
    """The exit code: 1 where a radius is one that no votes give.

    Raises:
        UserError: no file is a log that can be read.
        IncompleteError: one of several is none; what the others say is printed.
    """
    del words
    settings.compilation.apply()
    console = Console()
    radii = radii_of_votes(settings.sigma, settings.n, settings.alpha)
    names = shortest_names(settings.logs)
    table = Table(title="radii of logs: above what votes prove, or may be", box=box.SIMPLE_HEAD)
    # Names are not cut, however many columns a screen has.
    table.add_column("log", min_width=max(map(len, names)), no_wrap=True)
    for column in ("lines", "radii", "no votes", "above", "by up to", "may be", "by up to"):
        table.add_column(column, justify="right")
    bad = 0
    sentences: list[str] = []
    left_out = []
    for log, name in zip(settings.logs, names, strict=True):
        try:
            lines, wrong = read_log(Path(log))
        except UserError as error:
            left_out.append(str(error))
            continue
        found = audit(lines, radii)
        none = found.least < 0
        bad += int(none.sum())
        certain, maybe = found.above > 0.0, (found.perhaps > 0.0) & (found.above == 0.0) & ~none
        table.add_row(
            Text(name), str(len(lines)), str(len(found.lines)), str(int(none.sum())),
            *_counted(certain, found.above), *_counted(maybe, found.perhaps),
        )  # fmt: skip
        sentences += [*wrong, *_named(name, found, settings.n)]
        if settings.as_run is not None:
            sentences.append(_as_run(settings, lines, found))
    if len(left_out) == len(settings.logs):
        raise UserError("; ".join(left_out))
    # Nor are numbers, where names are long.
    width = max(console.width, console.measure(table).maximum)
    console.print(table, crop=False, width=width)
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    if left_out:
        raise IncompleteError(f"left out: {'; '.join(left_out)}; of all others see above")
    return 1 if bad else 0


def radii_of_votes(sigma: float, n: int, alpha: float) -> VoteRadii:
    """The radius that each number of n votes proves."""
    bound = np.asarray(lower_bound(np.arange(n + 1), n, alpha))
    certain = bound > 0.5
    quantile = special.ndtri(np.where(certain, bound, 0.5))
    # Of Phi^-1 the slope is one over the density.
    error = rounding(bound) * math.sqrt(2.0 * math.pi) * np.exp(quantile**2 / 2.0)
    return VoteRadii(sigma * quantile, np.where(certain, sigma * error, 0.0))


def audit(lines: Sequence[LogLine], proved: VoteRadii) -> Audit:
    """Which votes give the radii of a log."""
    radii, most_radii = proved.radius, proved.radius + proved.error
    own = [line for line in lines if line.radius > 0.0]
    printed = np.array([line.radius for line in own], dtype=np.float64)
    unit = _units(own)
    # Rounded to the nearest, up or down: the radius lies less than a unit from what is printed.
    start = np.searchsorted(most_radii, printed - unit, side="left")
    stop = np.searchsorted(radii, printed + unit, side="right")
    start = np.maximum(start, np.searchsorted(radii, 0.0, side="right"))
    some = stop > start
    last = len(radii) - 1
    low, high = np.minimum(start, last), np.clip(stop - 1, 0, last)

    def excess(votes: NDArray[np.int64]) -> NDArray[np.float64]:
        more = printed - radii[votes]
        return np.where(some & (printed > most_radii[votes]), more, 0.0)

    at = np.clip(np.searchsorted(radii, printed), 1, last)
    nearer = printed - radii[at - 1] < np.abs(radii[at] - printed)
    return Audit(
        own,
        np.where(some, low, -1),
        np.where(some, high, -1),
        excess(high),
        excess(low),
        np.where(nearer, radii[at - 1], radii[at]),
    )


def _units(lines: Sequence[LogLine]) -> NDArray[np.float64]:
    """(lines,) of the last digit that a radius was printed with.

    Either all have so many decimals, or so many significant digits, zeros at the end left away.
    """
    decimals = [len(line.written.lower().split("e")[0].partition(".")[2]) for line in lines]
    if len(set(decimals)) == 1 and not any("e" in line.written.lower() for line in lines):
        return np.array([10.0**-number for number in decimals])
    digits = [len(line.written.lower().split("e")[0].replace(".", "").strip("0")) for line in lines]
    most = max(digits, default=1)
    return np.array(
        [10.0 ** (math.floor(math.log10(line.radius)) + 1 - most) for line in lines],
        dtype=np.float64,
    )


def _counted(which: NDArray[np.bool_], by: NDArray[np.float64]) -> tuple[str, str]:
    return str(int(which.sum())), f"{by[which].max():.1e}" if which.any() else ""


def _named(name: str, found: Audit, n: int) -> list[str]:
    """Of the first radii that no votes give, which votes give the nearest one."""
    rows = np.flatnonzero(found.least < 0).tolist()
    said = [
        f"{name}, index {found.lines[i].index}: no number of {n:,} votes gives "
        f"{found.lines[i].written}; the nearest radius is {found.nearest[i]:.6g}."
        for i in rows[:_SHOWN]
    ]
    return said + ([f"{name}: and {len(rows) - _SHOWN} more."] if len(rows) > _SHOWN else [])


def _as_run(settings: Settings, lines: Sequence[LogLine], found: Audit) -> str:
    """Writes certificates from the votes behind a log; of several counts the smallest."""
    out = Path(settings.as_run or "")
    known = dict(zip((line.index for line in found.lines), found.least.tolist(), strict=True))
    votes = np.array([max(known.get(line.index, 0), 0) if line.correct else 0 for line in lines])
    law = noise.gaussian(math.prod(data.IMAGE_SHAPES[settings.dataset or ""]), settings.sigma)
    table = VoteTable.from_counts(
        [law],
        votes,
        settings.n,
        index=np.array([line.index for line in lines]),
        label=np.array([line.label for line in lines]),
    )
    # Of an image that is not classified right nobody knows the votes of its label.
    state = np.where(votes[:, None] > 0, table.state, State.ABSTAINED).astype(object)
    made = certify_table(dataclasses.replace(table, state=state), Protocol(settings.alpha))
    make_folder(out)
    write_whole(out / ending.CERTIFICATES_FILE, schema.text(schema.columns(made)))
    config = {"dataset": settings.dataset, "split": "test", "arch": Path(settings.logs[0]).name}
    write_whole(out / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    exact = int(np.sum((found.least == found.most) & (found.least >= 0)))
    return (
        f"{out / ending.CERTIFICATES_FILE}: {exact:,} counts of votes are certain, of "
        f"{int(np.sum(found.least < found.most)):,} the smallest that is printed so was taken."
    )
