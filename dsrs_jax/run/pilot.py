"""--q auto: a pilot of a few images says which second laws the run's draws are best spent on.

The choice is made before the run's own draws, from draws that the run does not use again, so every
certificate holds as if it had been given. What was tried stands in pilot.csv.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from dsrs_jax import data
from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import Candidate, Choice, Mixture, Shell, choose
from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw
from dsrs_jax.report import progress, rounded_down
from dsrs_jax.run.settings import AUTO, DEFAULT_INSIDE, SecondLawOptions
from dsrs_jax.run.spending import SpendingOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import from_first, together
from dsrs_jax.votes import Sampler, SecondLaw, second_laws

PILOT_FILE = "pilot.csv"
_CHOSEN = {"q_inside", "q_sigma", "q_threshold", "n", "share_p"}  # in config.json
_IMAGES = 64
_SCALES = (1.0, 0.8)  # of sigma: laws that pilot draws are of
_QUANTILES = (*np.linspace(0.0, 0.95, 20).round(2).tolist(), 0.99, 1.0)  # the shells' ends


class Chosen(NamedTuple):
    """What is drawn.

    Attributes:
        second: the second laws.
        n: draws under each law that has its own.
        base_share: P's own share of alpha.
        tried: pilot.csv; nothing where no pilot was drawn here.
    """

    second: tuple[SecondLaw, ...]
    n: int
    base_share: float | None
    tried: str = ""


def given(options: SecondLawOptions, n: int) -> Chosen:
    """What the options themselves say."""
    return Chosen(options.laws(), n, Protocol(0.5).base_share)


def recorded(settings: Mapping[str, Any]) -> Chosen | None:
    """What an earlier run in the folder chose, from its config.json; None where there was none."""
    if not settings.get("pilot") or not set(settings) >= _CHOSEN:
        return None  # a damaged file is refused with the folder
    inside, sigma, threshold = (settings[f"q_{kind}"] for kind in ("inside", "sigma", "threshold"))
    return Chosen(second_laws(inside, sigma, threshold), settings["n"], settings["share_p"])


def described(options: SecondLawOptions, n: int) -> dict[str, int] | None:
    """Of the pilot, as config.json has it: another one may choose otherwise."""
    return {"draws": options.pilot, "of": n} if options.q == AUTO else None


def chosen_for_all(
    options: SecondLawOptions,
    earlier: Mapping[str, Any],
    dataset: data.Dataset,
    indices: Sequence[int],
    classifier: BaseClassifier,
    law: RadialLaw,
    protocol: Protocol,
    n: int,
    spending: SpendingOptions,
    n0: int,
    *,
    seed: int,
    first: bool,
    console: Console,
) -> Chosen:
    """The options' own second laws, or those that process 0 chooses for all.

    Args:
        options: of second laws.
        earlier: settings of an earlier run in the same folder: what it chose stays.
        dataset, indices: of the run; the pilot's images are others where there are enough.
        classifier, law: what is sampled.
        protocol: alpha and bounds.
        n: draws of an image, of all laws together.
        spending: its radii are what is wanted; without any the mean radius is.
        n0: draws that choose the class of an image; 0 where its label is certified.
        seed: of the run.
        first: whether this is process 0.
        console: for two lines.

    Raises:
        UserError: no image of the pilot could be read.
    """
    if options.q != AUTO:
        return given(options, n)
    if (before := recorded(earlier)) is not None:
        return before
    candidate = Candidate(DEFAULT_INSIDE)

    tried = ""

    def decide() -> np.ndarray:
        nonlocal tried
        if not first:
            return np.zeros(_NUMBERS)
        examples = _examples(dataset, indices, console)
        shells = _drawn(classifier, law, examples, n0, options.pilot, seed, console)
        looks, radii = spending.looks(n), spending.radii
        share = 1.0 if looks is None else float(looks.share(looks.planned_look))
        mixture = Mixture.of(law, shells)
        found = choose(law, mixture, candidate, protocol, n, wanted=radii, share=share)
        tried = _table(found, law)
        _say(found, law, len(examples), radii, console)
        return _as_numbers(found.tried[found.chosen])

    one = _from_numbers(from_first(together(decide)))
    return _as_chosen(one, law, n)._replace(tried=tried)


def _examples(
    dataset: data.Dataset, indices: Sequence[int], console: Console
) -> list[data.Example]:
    """Images that the run leaves out, if it leaves out as many; else of its own."""
    wanted = min(_IMAGES, len(indices))
    others = np.setdiff1d(np.arange(len(dataset)), indices)
    source = others if len(others) >= wanted else np.asarray(indices)
    places = np.linspace(0, len(source) - 1, wanted).round().astype(np.int64)
    found = [
        one for one in data.read_ahead(dataset, source[places].tolist()) if one.image is not None
    ]
    if not found:
        raise UserError("--q auto: no image of the pilot could be read; give --q-inside instead")
    return found


def _drawn(
    classifier: BaseClassifier,
    law: RadialLaw,
    examples: Sequence[data.Example],
    n0: int,
    draws: int,
    seed: int,
    console: Console,
) -> list[Shell]:
    """Counts of the pilot's draws by the length of their noise."""
    images = np.stack([one.image for one in examples if one.image is not None])
    index = np.array([one.index for one in examples])
    cutoffs = [law.truncated(quantile).cutoff for quantile in _QUANTILES[1:-1]]
    sampler = Sampler(classifier, seed=seed, cutoffs=[one for one in cutoffs if one], pilot=True)
    labels = np.array([one.label for one in examples])
    if n0:
        classes = classifier.metadata.classes
        chosen = sampler.start(images, None, law, n0, indices=index, classes=classes)
        labels = np.argmax(chosen.result().correct, axis=1)
    shells = []
    with progress(console, "pilot", len(_SCALES) * len(images) * draws, "draws") as advance:
        for scale in _SCALES:
            own = law.with_sigma(float(law.sigma) * scale)
            votes = sampler.start(images, labels, own, draws, indices=index).result(advance)
            zero = np.zeros((len(images), 1), dtype=np.int64)
            drawn = np.diff(np.concatenate([zero, votes.draws], axis=1), axis=1)
            right = np.diff(np.concatenate([zero, votes.correct], axis=1), axis=1)
            ends = itertools.pairwise(_QUANTILES)
            shells += [Shell(own, end, drawn[:, j], right[:, j]) for j, end in enumerate(ends)]
    return shells


_INSIDE = 4  # quantiles of a candidate at most
_NUMBERS = _INSIDE + 3


def _as_numbers(one: Candidate) -> np.ndarray:
    """(7,) a candidate as processes exchange it; 0 for what it has not."""
    inside = (*one.inside, *(0.0,) * (_INSIDE - len(one.inside)))
    return np.array([*inside, one.scale or 0.0, one.threshold or 0.0, one.base_share])


def _from_numbers(numbers: np.ndarray) -> Candidate:
    *inside, scale, threshold, share = numbers.tolist()
    return Candidate(
        tuple(quantile for quantile in inside if quantile), scale or None, threshold or None, share
    )


def _as_chosen(one: Candidate, law: RadialLaw, n: int) -> Chosen:
    sigma = () if one.scale is None else (_sigma(one, law),)
    threshold = () if one.threshold is None else (f"{one.threshold:g}",)
    return Chosen(second_laws(one.inside, sigma, threshold), n // one.drawn, one.base_share)


def _sigma(one: Candidate, law: RadialLaw) -> float:
    """Of a second law, without the last digits that a product brings."""
    return float(f"{float(law.sigma) * (one.scale or 1.0):.12g}")


def _named(one: Candidate, law: RadialLaw) -> str:
    """As options say it, and P's share of alpha."""
    said = [f"--q-inside {quantile:g}" for quantile in one.inside]
    if one.scale is not None:
        said.append(f"--q-sigma {_sigma(one, law):g}")
    if one.threshold is not None:
        said.append(f"--q-threshold {one.threshold:g}")
    return f"{' '.join(said)}, P's share of α {one.base_share:g}" if said else "P alone"


def _say(
    found: Choice, law: RadialLaw, images: int, radii: Sequence[float], console: Console
) -> None:
    best = f"{_named(found.tried[found.best], law)}"
    what = "radii reached" if radii else "radius"
    gain = f"mean {what} {found.gain:+.4f} ± {found.error:.4f}"
    default = _named(found.tried[0], law)
    line = f"Pilot of {images} images: {best}: {gain} to be expected over {default}"
    if found.best == 0:
        line = f"Pilot of {images} images: nothing is better than {default}"
    elif found.chosen == 0:
        line += ", which is not sure enough and stays"
    least = rounded_down(float(found.mean.min()))
    console.print(f"{line}. {len(found.tried)} were tried, the worst has {least} ({PILOT_FILE}).",
                  soft_wrap=True, highlight=False)  # fmt: skip


def _table(found: Choice, law: RadialLaw) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["second_laws", "draws_under_each_law", "expected_mean", "chosen"])
    for number in np.argsort(-found.mean, kind="stable").tolist():
        one = found.tried[number]
        chosen = "yes" if number == found.chosen else ""
        writer.writerow(
            [_named(one, law), f"n/{one.drawn}", repr(float(found.mean[number])), chosen]
        )
    return stream.getvalue()
