"""Certified accuracies of one method or many, with what a sample of images leaves open."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from dsrs_jax.bounds import interval
from dsrs_jax.report.paper import PaperTable

# The paper's authors count a radius at r when it reaches r less this.
AUTHORS_SLACK = 1e-5
_CONFIDENCE = 0.95
_MOST_STEPS = 100


def certified_accuracy(
    radii: Float64[np.ndarray, " images"], radius: float, slack: float = 0.0
) -> float:
    """Share of images with a certificate at `radius`; at radius 0, of those with any at all.

    A radius counts when it is at least `radius` less `slack`.
    """
    return float(np.mean((radii >= radius - slack) & (radii > 0.0)))


def share_or_accuracy(labelled: bool) -> str:
    """What a share of images with a certificate is called."""
    return "certified accuracy" if labelled else "certified share"


@dataclasses.dataclass(frozen=True)
class Radii:
    """The radii of one method on some images of a data set.

    Attributes:
        method: what made them.
        model: of whose votes.
        dataset: the images'.
        training: how the model was trained, as its name says; "" where nobody says.
        sigma, k: of the smoothing law; nan where nobody says.
        index: (images,) places in the data set.
        radius: (images,) in pixel units, 0 without a certificate.
        slack: a radius counts at r when it is at least r less this.
        q: the second law, where there is one and it matters which.
        wrong: how many images have a certificate of a class that is not their label; they have
            radius 0 here.
        labelled: whether the images' labels are known; else the radii are of the predicted classes.
    """

    method: str
    model: str
    dataset: str
    training: str
    sigma: float
    k: float
    index: Int64[np.ndarray, " images"]
    radius: Float64[np.ndarray, " images"]
    slack: float = 0.0
    q: str = ""
    wrong: int = 0
    labelled: bool = True

    def share(self, radius: float) -> float:
        """Certified accuracy at `radius`."""
        return certified_accuracy(self.radius, radius, self.slack)

    def interval(self, radius: float) -> tuple[float, float]:
        """Clopper and Pearson's interval of the share among all images that these stand for."""
        total = len(self.radius)
        low, high = interval(round(self.share(radius) * total), total, 1.0 - _CONFIDENCE)
        return float(low), float(high)

    @property
    def mean(self) -> float:
        """The average certified radius: of all images, 0 without a certificate."""
        return float(np.mean(self.radius))


def percent(share: float) -> str:
    """A share as a table has it: 77.5."""
    return f"{100.0 * share:.1f}"


def rounded_down(radius: float) -> str:
    """A radius as a person reads it: four digits, never above what was proved."""
    return f"{math.floor(radius * 1e4) / 1e4:.4f}"


def steps(found: Iterable[Radii], unit: float) -> list[float]:
    """unit, 2 unit, ... up to the last that any image reaches; a unit twice as long, or 4 times,
    where these were more than 100."""
    most = max((float(one.radius.max(initial=0.0)) + one.slack for one in found), default=0.0)
    while most > _MOST_STEPS * unit:
        unit *= 2.0
    return [unit * i for i in range(1, int(most / unit + 1e-9) + 1)]


def one_by_one(
    name: str,
    title: str,
    found: Sequence[Radii],
    radii: Sequence[float],
    words: Mapping[str, Callable[[Radii], str]],
    note: str = "",
) -> PaperTable:
    """A row for each method's radii: words that tell it apart, accuracies, mean radius."""
    rows = [
        [
            *(say(one) for say in words.values()),
            str(len(one.radius)),
            *(percent(one.share(radius)) for radius in radii),
            rounded_down(one.mean),
        ]
        for one in found
    ]
    header = [*words, "images", *(f"{radius:g}" for radius in radii), "mean radius"]
    return PaperTable(name, title, header, rows, len(words), note)


def by_radius(
    name: str, title: str, found: Mapping[str, Radii], radii: Sequence[float], note: str = ""
) -> PaperTable:
    """A column for each method's radii, a row for each radius: accuracy (interval)."""
    rows = []
    for radius in radii:
        cells = []
        for one in found.values():
            low, high = one.interval(radius)
            cells.append(f"{percent(one.share(radius))} ({percent(low)}–{percent(high)})")
        rows.append([f"{radius:g}", *cells])
    abstained = [str(int(np.sum(one.radius == 0.0)) - one.wrong) for one in found.values()]
    means = [rounded_down(one.mean) for one in found.values()]
    rows += [["images", *(str(len(one.radius)) for one in found.values())]]
    rows += [["abstain", *abstained]]
    if any(one.wrong for one in found.values()):
        rows += [["another class", *(str(one.wrong) for one in found.values())]]
    rows += [["mean radius", *means]]
    return PaperTable(name, title, ["radius", *found], rows, 1, note)


def best_of(
    name: str, title: str, groups: Sequence[Sequence[Radii]], radii: Sequence[float], note: str
) -> PaperTable:
    """A row for each group: at each radius the best accuracy of its models, one for each sigma."""
    rows = []
    for group in groups:
        first = group[0]
        sigmas = " ".join(f"{one.sigma:g}" for one in group)
        shares = [percent(max(one.share(radius) for one in group)) for radius in radii]
        rows.append([first.dataset, first.training, first.method, sigmas, *shares])
    header = ["data set", "training", "method", "σ", *(f"{radius:g}" for radius in radii)]
    return PaperTable(name, title, header, rows, 4, note)


def with_intervals(name: str, found: Sequence[Radii], radii: Sequence[float]) -> PaperTable:
    """Every accuracy with its interval, a line each: what the other tables are made from."""
    rows = []
    for one, radius in itertools.product(found, radii):
        low, high = one.interval(radius)
        said = [one.dataset, one.model, f"{one.sigma:g}", f"{one.k:g}", one.method]
        three = [percent(share) for share in (one.share(radius), low, high)]
        rows.append([*said, f"{radius:g}", str(len(one.radius)), *three])
    header = [
        "data set",
        "model",
        "σ",
        "k",
        "method",
        "radius",
        "images",
        "accuracy",
        "low",
        "high",
    ]
    return PaperTable(name, "Certified accuracies with 95% intervals", header, rows, 5)
