"""Certifies published sampling results: intervals, bounds, certificates, report.

`run` is what `scripts/certify.py --published` calls; `load`, `certify_with` and `compare` are its
steps. It writes into one directory:

    certificates.csv           one row an image; with several Q's certificates-NAME.csv for each
    report.png                 certified accuracy against radius
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import data, noise, report
from dsrs_jax.certify import (
    Certificate,
    certify,
    interval,
    last_on_grid,
    lower_bound,
    recover_votes,
    worst_case,
)
from dsrs_jax.certify.thresholds import pools, threshold
from dsrs_jax.errors import UserError
from dsrs_jax.noise import RadialLaw
from dsrs_jax.report import published as layout
from dsrs_jax.sampling import write_whole

# Published radii may pass ours by this much and still agree (their own precision is 5e-5).
AGREEMENT = 1e-4
# The paper's `+` rules draw from P again instead of Q when P's upper end reaches this.
_ALL_RIGHT = 1.0 - 1e-8
_UNITS = (0.05, 0.01)  # of the published grids


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `scripts/certify.py --published`."""

    published: str
    model_name: str
    dataset: str
    sigma: float
    k: float | None = None
    noise: str = "general-gaussian"
    q_sigma: tuple[float, ...] = ()
    q_threshold: tuple[str, ...] = ()
    n: int = 50_000
    alpha: float = 0.001
    bounds: str = "one-sided"
    search: str = "precise"
    grid_unit: float = 0.05
    skip: int = 1
    start: int = 0
    stop: int = -1
    write_published: str | None = None
    out: str | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a published file says of one law, aligned with P's images.

    Attributes:
        low, high: (n,) the interval; 0 and 1 where the file has no line for an image.
        votes: (n,) the count that the interval comes from; -1 where it comes from another number
            of draws (the sampler stopped early) or is not there.
        present: (n,) whether the file has a line.
        draws: number of draws of a full count.
        alpha: failure probability of a whole interval.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    votes: NDArray[np.int64]
    present: NDArray[np.bool_]
    draws: int
    alpha: float

    def lower(self, alpha: float, *, one_sided: bool) -> NDArray[np.float64]:
        """(n,) lower bounds that each fail with probability at most `alpha`.

        The published end is kept where no count is known; where it fails with more than `alpha`
        the bound is 0, which says nothing.
        """
        if not one_sided and alpha == self.alpha:
            return self.low
        known = np.maximum(self.votes, 0)
        counted = (
            lower_bound(known, self.draws, alpha)
            if one_sided
            else interval(known, self.draws, alpha)[0]
        )
        kept = self.low if alpha >= self.alpha else np.zeros_like(self.low)
        return np.where(self.votes >= 0, counted, kept)


@dataclasses.dataclass(frozen=True)
class ExtraSample:
    """One Q: its law (one for each image where a rule picks it) and what was drawn from it.

    `discarded` marks images whose lines are not Q's (see `load`).
    """

    name: str
    law: RadialLaw | list[RadialLaw]
    sample: Sample
    discarded: NDArray[np.bool_]
    sigma: float | None = None
    threshold: str | None = None
    quantile: NDArray[np.float64] | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A study's files: P, every Q, and P with twice the draws at the whole alpha, if published."""

    study: layout.Study
    law: RadialLaw
    index: NDArray[np.int64]
    base: Sample
    extra: list[ExtraSample]
    twice: Sample | None
    alpha: float


@dataclasses.dataclass(frozen=True)
class Result:
    """Certificates from P and some Q's.

    Attributes:
        name: of the Q, or "joint".
        plain: Neyman-Pearson from P's bounds alone.
        joint: DSRS.
        radius: (n,) DSRS radii as given: those of `joint`, or on a grid.
        status: (n,) as `Certificate.status`, or why a Q does not count: "P-below", "Q-below" (the
            interval of the slack law lies below what the worst classifier gives it: the paper uses
            a negative multiplier), "unpaired" (no line in Q's file), "no-bound" (Q's lower bound
            is 0), "discarded" (the line is not Q's).
        negative: (n,) whether the paper would use a negative multiplier.
        refuted: (n,) whether a classifier with probabilities inside all published intervals
            loses its answer just beyond `joint.radius`: no method can certify more from them.
        evidence: the Q's as the report wants them.
    """

    name: str
    plain: Certificate
    joint: Certificate
    radius: NDArray[np.float64]
    status: Shaped[np.ndarray, " images"]
    negative: NDArray[np.bool_]
    refuted: NDArray[np.bool_]
    evidence: list[report.Evidence]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Published radii beside ours, on the images that both have.

    Attributes:
        images: number of images compared.
        left_out: images whose published radius does not follow from its own draws (`+` rules).
        unit: the step of the published grid.
        published, ours: (images,) radii.
        above: (images,) the published radius is more than AGREEMENT above ours.
        behind: (images,) the published radius is a unit or more below ours.
        negative, refuted: (images,) as in `Result`.
        status: (images,).
    """

    images: int
    left_out: int
    unit: float
    published: NDArray[np.float64]
    ours: NDArray[np.float64]
    above: NDArray[np.bool_]
    behind: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    refuted: NDArray[np.bool_]
    status: Shaped[np.ndarray, " images"]


def load(settings: Settings) -> Loaded:
    """Reads the files that the settings name.

    For the rules `x+` and `x2+` the lines of images whose draws from P were all right are
    discarded: they count draws that are not Q's.

    Raises:
        UserError: a file is missing (the message names it) or damaged, or a setting is wrong.
    """
    law = _law(settings)
    any_q = settings.q_sigma or settings.q_threshold
    share = _rounded(settings.alpha / 2) if any_q else settings.alpha
    study = layout.Study(
        directory=Path(settings.published),
        model=settings.model_name,
        noise=settings.noise,
        k=float(law.k),
        sigma=settings.sigma,
        draws=settings.n,
        alpha=share,
    )
    intervals = layout.read_intervals(study.intervals())
    index = _chosen(settings, np.array(list(intervals), dtype=np.int64))
    base = _sample(intervals, index, settings.n, share)
    extra = []
    for sigma in settings.q_sigma:
        found = layout.read_intervals(study.intervals(sigma=sigma))
        extra.append(
            ExtraSample(
                name=f"sigma_{sigma:g}",
                law=law.with_sigma(sigma),
                sample=_sample(found, index, settings.n, share),
                discarded=np.zeros(len(index), dtype=bool),
                sigma=sigma,
            )
        )
    for rule in settings.q_threshold:
        name = layout.threshold_name(rule)
        found = layout.read_intervals(study.intervals(threshold=rule))
        discarded = (base.high >= _ALL_RIGHT) & pools(rule)
        taken = [i not in found or out for i, out in zip(index.tolist(), discarded, strict=True)]
        kept = {i: found[i] for i, out in zip(index.tolist(), taken, strict=True) if not out}
        # The rule saw P's published lower end, whatever bounds are used now.
        quantile = np.array([threshold(rule, float(low)) for low in base.low])
        known = {b: law.truncated(b, float32=False) for b in np.unique(quantile).tolist()}
        extra.append(
            ExtraSample(
                name=f"threshold_{name}",
                law=[known[b] for b in quantile.tolist()],
                sample=_sample(kept, index, settings.n, share),
                discarded=discarded,
                threshold=rule,
                quantile=quantile,
            )
        )
    twice = study.intervals(draws=2 * settings.n, alpha=settings.alpha)
    doubled = None
    if extra and twice.exists():
        found = layout.read_intervals(twice)
        if set(index.tolist()) <= set(found):
            doubled = _sample(found, index, 2 * settings.n, settings.alpha)
    return Loaded(study, law, index, base, extra, doubled, settings.alpha)


def certify_with(loaded: Loaded, which: Sequence[int], *, one_sided: bool) -> Result:
    """Certificates from P and the Q's of these numbers in `loaded.extra`, at the study's alpha.

    With one Q the published share of alpha is each law's; with more Q's alpha is split anew, by
    the counts of votes.
    """
    chosen = [loaded.extra[j] for j in which]
    share = loaded.study.alpha if len(chosen) <= 1 else loaded.alpha / (1 + len(chosen))
    base = loaded.base.lower(share, one_sided=one_sided)
    plain = certify(loaded.law, base)
    lower = [extra.sample.lower(share, one_sided=one_sided) for extra in chosen]
    joint = plain
    if chosen:
        joint = certify(loaded.law, base, [extra.law for extra in chosen], lower)
    samples = [loaded.base, *(extra.sample for extra in chosen)]
    lows = np.column_stack([base, *lower])
    highs = np.column_stack([sample.high for sample in samples])
    given = worst_case(joint, [loaded.law, *(extra.law for extra in chosen)])
    negative = np.any(given > highs + 1e-9, axis=1)
    refuted = np.all((given >= lows - 1e-9) & (given <= highs + 1e-9), axis=1)
    status = np.where(negative, np.char.add(joint.status.astype("U9"), "-below"), joint.status)
    for extra, bound in zip(chosen, lower, strict=True):
        alone = joint.status == "P"
        status = np.where(alone & (bound == 0.0), "no-bound", status)
        status = np.where(alone & ~extra.sample.present, "unpaired", status)
        status = np.where(alone & extra.discarded, "discarded", status)
    evidence = [
        report.Evidence(
            extra.name,
            np.where(extra.sample.votes >= 0, extra.sample.draws, -1),
            extra.sample.votes,
            bound,
            extra.quantile,
        )
        for extra, bound in zip(chosen, lower, strict=True)
    ]
    name = chosen[0].name if len(chosen) == 1 else "joint"
    return Result(name, plain, joint, joint.radius, status, negative, refuted, evidence)


def compare(
    loaded: Loaded,
    result: Result,
    published: Mapping[int, float],
    neyman_pearson: Mapping[int, float],
) -> Comparison:
    """Our radii of one Q beside the published ones.

    Args:
        loaded: the study.
        result: ours, from a single Q.
        published: index -> DSRS radius.
        neyman_pearson: index -> Neyman-Pearson radius that the published search began with.
    """
    both = np.array([i in published for i in loaded.index.tolist()], dtype=bool)
    discarded = np.zeros(len(both), dtype=bool)
    for extra in loaded.extra:
        if extra.name == result.name:
            discarded = extra.discarded
    rows = np.flatnonzero(both & ~discarded)
    indices = loaded.index[rows].tolist()
    theirs = np.array([published[i] for i in indices])
    start = np.array([neyman_pearson.get(i, math.nan) for i in indices])
    ours = result.radius[rows]
    unit = _unit(theirs[theirs > start + 1e-9])
    return Comparison(
        images=len(rows),
        left_out=int(np.sum(both & discarded)),
        unit=unit,
        published=theirs,
        ours=ours,
        above=theirs > ours + AGREEMENT,
        behind=ours >= theirs + unit,
        negative=result.negative[rows],
        refuted=result.refuted[rows],
        status=result.status[rows],
    )


def run(settings: Settings, console: Console) -> None:
    """Certifies a published study as the settings say.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged; nothing is written then.
    """
    _check(settings)
    loaded = load(settings)
    one_sided = settings.bounds == "one-sided"
    console.print(
        f"{settings.model_name}: {len(loaded.index)} images; {noise.describe(loaded.law)}, "
        f"N = {settings.n:,} under each law, α = {settings.alpha:g}."
    )
    clock = time.perf_counter()
    selections: list[list[int]] = [[j] for j in range(len(loaded.extra))]
    if len(loaded.extra) != 1:
        selections.append(list(range(len(loaded.extra))))
    results = [certify_with(loaded, which, one_sided=one_sided) for which in selections]
    if settings.search == "grid":
        results = [
            dataclasses.replace(
                result,
                radius=last_on_grid(result.plain.radius, result.radius, settings.grid_unit),
            )
            for result in results
        ]
    methods = {f"Neyman-Pearson, N = {settings.n:,}": results[0].plain.radius}
    if loaded.twice is not None:
        bound = loaded.twice.lower(settings.alpha, one_sided=one_sided)
        methods[f"Neyman-Pearson, N = {2 * settings.n:,}"] = certify(loaded.law, bound).radius
    if loaded.extra:
        methods |= {f"DSRS, {_readable(result.name)}": result.radius for result in results}
    seconds = time.perf_counter() - clock
    methods = dict(sorted(methods.items(), key=lambda method: -float(method[1].mean())))

    out = Path(settings.out or Path("runs") / settings.model_name.removesuffix(".pth"))
    _write(settings, loaded, results, methods, out)
    console.print(report.accuracy_table(methods))
    _say_cases(loaded, results, one_sided, console)
    _say_published(loaded, results, console)
    console.print(f"seconds: certification {seconds:.1f}")
    console.print(f"{out / 'report.png'} and certificates beside it", soft_wrap=True)


def _check(settings: Settings) -> None:
    if settings.n <= 0:
        raise UserError(f"--n must be positive, got {settings.n}")
    if not 0.0 < settings.alpha < 1.0:
        raise UserError(f"--alpha must lie in (0, 1), got {settings.alpha:g}")
    if not settings.grid_unit > 0.0:
        raise UserError(f"--grid-unit must be positive, got {settings.grid_unit:g}")
    if not Path(settings.published).is_dir():
        raise UserError(f"no folder {settings.published}; --published takes one with sampling/")
    for rule in settings.q_threshold:
        threshold(rule, 0.5)
    names = [layout.threshold_name(rule) for rule in settings.q_threshold]
    for option, values in (("--q-sigma", settings.q_sigma), ("--q-threshold", names)):
        if len(set(values)) < len(values):
            raise UserError(f"{option} was given the same value twice")


def _law(settings: Settings) -> RadialLaw:
    if settings.noise == "gaussian":
        if settings.k:
            raise UserError("--noise gaussian has k = 0")
    elif settings.k is None:
        raise UserError("--published with --noise general-gaussian needs --k")
    if settings.dataset not in data.IMAGE_SHAPES:
        raise UserError(
            f"--published does not know the images of {settings.dataset!r}; "
            f"known: {', '.join(data.IMAGE_SHAPES)}"
        )
    dimension = math.prod(data.IMAGE_SHAPES[settings.dataset])
    return noise.generalized_gaussian(dimension, settings.sigma, settings.k or 0.0)


def _chosen(settings: Settings, index: NDArray[np.int64]) -> NDArray[np.int64]:
    if settings.skip < 1:
        raise UserError(f"--skip must be at least 1, got {settings.skip}")
    stop = index.max(initial=-1) + 1 if settings.stop == -1 else settings.stop
    inside = (index >= settings.start) & (index < stop)
    chosen = index[inside & ((index - settings.start) % settings.skip == 0)]
    if not chosen.size:
        raise UserError("no image of P's file has an index that --start, --stop, --skip choose")
    return chosen


def _sample(
    intervals: Mapping[int, tuple[float, float]],
    index: NDArray[np.int64],
    draws: int,
    alpha: float,
) -> Sample:
    present = np.array([i in intervals for i in index.tolist()], dtype=bool)
    ends = np.array([intervals.get(i, (0.0, 1.0)) for i in index.tolist()])
    # A printed end of 1 is a rounded one: certify wants bounds below 1.
    low = np.minimum(ends[:, 0], np.nextafter(1.0, 0.0))
    votes = np.where(present, recover_votes(low, ends[:, 1], draws, alpha), -1)
    return Sample(low, ends[:, 1], votes, present, draws, alpha)


def _rounded(alpha: float) -> float:
    """A share of alpha as a file name has it: 0.003/2 is 0.0015."""
    return float(f"{alpha:.12g}")


def _unit(gained: NDArray[np.float64]) -> float:
    """The coarsest of the known grids that all radii that a search has moved lie on."""
    for unit in _UNITS:
        if np.all(np.abs(gained / unit - np.round(gained / unit)) < 1e-6):
            return unit
    return _UNITS[-1]


def _readable(name: str) -> str:
    kind, _, value = name.partition("_")
    return {"sigma": f"Q σ = {value}", "threshold": f"Q at {value}"}.get(kind, "all Q")


def _write(
    settings: Settings,
    loaded: Loaded,
    results: list[Result],
    methods: Mapping[str, NDArray[np.float64]],
    out: Path,
) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    size = len(loaded.index)
    for result in results:
        columns = {
            "index": loaded.index,
            "n": np.where(loaded.base.votes >= 0, loaded.base.draws, -1),
            "votes": loaded.base.votes,
            **report.certificate_columns(
                result.plain, result.joint, result.radius, result.status, result.evidence
            ),
        }
        name = "certificates.csv" if len(results) == 1 else f"certificates-{result.name}.csv"
        write_whole(out / name, report.csv_text(columns))
    title = (
        f"{settings.model_name}, {size} images; {settings.bounds} bounds, "
        f"α = {settings.alpha:g}\n{noise.describe(loaded.law)}"
    )
    write_whole(out / "report.png", report.curves(methods, title))
    if settings.write_published is not None:
        _write_published(Path(settings.write_published), loaded, results)


def _write_published(directory: Path, loaded: Loaded, results: list[Result]) -> None:
    """The files that exist for single Q's; a joint result has no name in that layout."""
    study = dataclasses.replace(loaded.study, directory=directory)
    index = loaded.index.tolist()
    # Neyman-Pearson's radii are the same for every single Q.
    plain = dict(zip(index, results[0].plain.radius.tolist(), strict=True))
    layout.write_neyman_pearson(study.neyman_pearson(), plain)
    for extra, result in zip(loaded.extra, results, strict=False):
        radii = dict(zip(index, result.radius.tolist(), strict=True))
        file = study.double_sampling(sigma=extra.sigma, threshold=extra.threshold)
        layout.write_double_sampling(file, radii, plain)


def _say_cases(loaded: Loaded, results: list[Result], one_sided: bool, console: Console) -> None:
    if one_sided:
        samples = [loaded.base, *(extra.sample for extra in loaded.extra)]
        stopped = sum(int(np.sum(sample.present & (sample.votes < 0))) for sample in samples)
        lines = sum(int(np.sum(sample.present)) for sample in samples)
        console.print(
            f"Votes recovered from {lines - stopped:,} of {lines:,} intervals; "
            f"{stopped:,} were stopped early and are kept as they are."
        )
    for result in results if loaded.extra else []:
        names, counts = np.unique(result.status, return_counts=True)
        cases = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
        console.print(
            f"{_readable(result.name)}: {cases}; {int(np.sum(result.negative))} where the paper "
            "would use a negative multiplier and we do not."
        )


def _say_published(loaded: Loaded, results: list[Result], console: Console) -> None:
    """Our radii beside the published ones, where there are any."""
    origin = loaded.study.neyman_pearson()
    start = layout.read_radii(origin) if origin.exists() else {}
    for extra, result in zip(loaded.extra, results, strict=False):
        file = loaded.study.double_sampling(sigma=extra.sigma, threshold=extra.threshold)
        if file.exists():
            found = compare(loaded, result, layout.read_radii(file), start)
            console.print(
                f"Published, {_readable(result.name)}: mean radius {found.published.mean():.4f} "
                f"on {found.images} images, ours "
                f"{report.rounded_down(float(found.ours.mean()))}; "
                f"above ours on {int(np.sum(found.above))}, {found.unit:g} or more below it on "
                f"{int(np.sum(found.behind))}."
            )
