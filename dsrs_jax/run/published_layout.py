"""The layout in which the paper's authors publish samples and radii, read and written.

    DIR/sampling/MODEL/NOISE-K-SIGMA-N-ALPHA[-THRESHOLD].txt      intervals
    DIR/orig-radius/MODEL/orig-rad-NOISE-K-SIGMA-N-ALPHA.txt      Neyman-Pearson radii
    DIR/new-radius/MODEL/new-rad-NOISE-K-SIGMA-Q-N-ALPHA.txt      DSRS radii
    .../time-...                                                  seconds

Li et al. (ICML 2022), the data beside their code. Numbers in a name stand as Python prints
them: `0.5`, `1.0`, `380`, `5e-05`. ALPHA is the failure probability of one law's interval. Q is
Q's sigma, or its truncation where NOISE ends with `-th`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import make_folder, write_whole

_MOST_NAMES = 30  # in the message for a file that is not there


@dataclasses.dataclass(frozen=True)
class Study:
    """What the names of a study's files have in common."""

    directory: Path
    model: str
    noise: str
    k: float
    sigma: float
    draws: int
    alpha: float

    def intervals(
        self,
        *,
        sigma: float | None = None,
        threshold: str | None = None,
        draws: int | None = None,
        alpha: float | None = None,
    ) -> Path:
        """The file of P's intervals, or of Q's at another sigma or truncation."""
        parts = [
            self.noise,
            self._k,
            str(float(self.sigma if sigma is None else sigma)),
            str(self.draws if draws is None else draws),
            str(self.alpha if alpha is None else alpha),
        ]
        tail = "" if threshold is None else f"-{threshold_name(threshold)}"
        return self.directory / "sampling" / self.model / f"{'-'.join(parts)}{tail}.txt"

    def neyman_pearson(self, *, draws: int | None = None, alpha: float | None = None) -> Path:
        """The file of Neyman-Pearson radii."""
        name = self.intervals(draws=draws, alpha=alpha).name
        return self.directory / "orig-radius" / self.model / f"orig-rad-{name}"

    def double_sampling(self, *, sigma: float | None = None, threshold: str | None = None) -> Path:
        """The file of DSRS radii for one Q, given by its sigma or its truncation."""
        if threshold is None:
            noise, q = self.noise, str(float(math.nan if sigma is None else sigma))
        else:
            noise, q = f"{self.noise}-th", threshold_name(threshold)
        parts = [noise, self._k, str(float(self.sigma)), q, str(self.draws), str(self.alpha)]
        return self.directory / "new-radius" / self.model / f"new-rad-{'-'.join(parts)}.txt"

    @property
    def _k(self) -> str:
        if self.noise == "gaussian":
            return "None"
        return str(int(self.k)) if self.k == int(self.k) else str(self.k)


@dataclasses.dataclass(frozen=True)
class Published:
    """What the name of a file of DSRS radii says.

    Attributes:
        study: all but Q.
        dataset: as this project calls it.
        training: the first word of the model's name.
        sigma: Q's, or None where Q is truncated.
        threshold: Q's truncation, or None.
        file: the file.
    """

    study: Study
    dataset: str
    training: str
    sigma: float | None
    threshold: str | None
    file: Path

    @property
    def q(self) -> str:
        """Q as a table has it."""
        return self.threshold or f"σ {self.sigma:g}"


_NAME = re.compile(r"new-rad-(general-gaussian)(-th)?-(\d+)-([\d.]+)-(.+)-(\d+)-([\d.e-]+)\.txt")
_DATASETS = {"mnist": "mnist", "cifar": "cifar10", "imagenet": "imagenet"}


def all_published(directory: Path) -> list[Published]:
    """All files of l2 DSRS radii under generalized Gaussian noise, of models with such a name.

    A model is called TRAINING-DATASET-K-SIGMA.pth, the data set mnist, cifar or imagenet.
    """
    found = []
    for file in sorted((directory / "new-radius").glob("*/new-rad-general-gaussian*.txt")):
        name, words = _NAME.fullmatch(file.name), file.parent.name.split("-")
        if name is None or len(words) < 2 or words[1] not in _DATASETS:
            continue
        noise, truncated, k, sigma, q, draws, alpha = name.groups()
        study = Study(
            directory, file.parent.name, noise, float(k), float(sigma), int(draws), float(alpha)
        )
        sigma_q, threshold = (None, q) if truncated else (float(q), None)
        found.append(Published(study, _DATASETS[words[1]], words[0], sigma_q, threshold, file))
    return found


def threshold_name(threshold: str) -> str:
    """A truncation as file names have it: a rule as it is, a number as Python prints it."""
    try:
        return str(float(threshold))
    except ValueError:
        return threshold


def times_of(radii: Path) -> Path:
    """The file of the seconds that each radius of a file took."""
    return radii.with_name(f"time-{radii.name}")


def read_intervals(file: Path) -> dict[int, tuple[float, float]]:
    """index -> (lower, upper) of a sampling file; of an index that stands twice the first counts.

    Raises:
        UserError: no such file (the message says which are there), or a line that is no interval.
    """
    intervals: dict[int, tuple[float, float]] = {}
    for place, words in _lines(file):
        if words[0] == "x":  # metadata
            continue
        try:
            kind, index, low, high = words
            entry = (float(low), float(high))
            if kind != "o" or not 0.0 <= entry[0] <= entry[1] <= 1.0:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{place}: expected `o INDEX LOWER UPPER` with 0 <= LOWER <= UPPER <= 1, "
                f"got {' '.join(words)!r}"
            ) from None
        intervals.setdefault(_whole(index, place), entry)
    return intervals


def read_radii(file: Path) -> dict[int, float]:
    """index -> radius of a file of radii; of an index that stands twice the last line counts.

    Raises:
        UserError: no such file, or a line that does not begin with an index and a radius >= 0.
    """
    radii: dict[int, float] = {}
    for place, words in _lines(file):
        try:
            radius = float(words[1])
            if not 0.0 <= radius < math.inf:
                raise ValueError
        except (IndexError, ValueError):
            raise UserError(
                f"{place}: expected `INDEX RADIUS ...`, got {' '.join(words)!r}"
            ) from None
        radii[_whole(words[0], place)] = radius
    return radii


def read_seconds(file: Path) -> list[float]:
    """The seconds of a time file: each line's last number."""
    try:
        return [float(words[-1]) for _, words in _lines(file)]
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def write_neyman_pearson(file: Path, radii: Mapping[int, float]) -> None:
    """Writes `INDEX RADIUS` lines; makes the folder."""
    _write(file, (f"{index} {radius!r}" for index, radius in radii.items()))


def write_double_sampling(
    file: Path, radii: Mapping[int, float], neyman_pearson: Mapping[int, float]
) -> None:
    """Writes `INDEX RADIUS GAIN RELATIVE_GAIN` lines; makes the folder.

    The relative gain is over a Neyman-Pearson radius of at least 1e-5, as in the published files.
    """

    def line(index: int, radius: float) -> str:
        gain = radius - neyman_pearson[index]
        return f"{index} {radius!r} {gain!r} {gain / max(neyman_pearson[index], 1e-5)!r}"

    _write(file, (line(index, radius) for index, radius in radii.items()))


def _write(file: Path, lines: Iterable[str]) -> None:
    make_folder(file.parent)
    write_whole(file, "".join(f"{line}\n" for line in lines))


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of the lines that are neither blank nor comments."""
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_missing(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield f"{file}, line {number}", words


def _missing(file: Path) -> str:
    folder = file.parent
    while not folder.is_dir() and folder != folder.parent:
        file, folder = folder, folder.parent
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("time-"))
    more = [f"and {len(there) - _MOST_NAMES} more"] if len(there) > _MOST_NAMES else []
    return (
        f"no {file.name} in {folder}; there are: "
        f"{', '.join(there[:_MOST_NAMES] + more) or 'no files'}"
    )


def _whole(word: str, place: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{place}: the index must be a whole number, got {word!r}") from None
