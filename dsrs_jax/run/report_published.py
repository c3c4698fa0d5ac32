"""The paper's tables and figures from published files, and ours of the same samples beside them."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console

from dsrs_jax import report
from dsrs_jax.bounds import Bound, Search
from dsrs_jax.certify import certify_table, compile_ahead
from dsrs_jax.report import AUTHORS_SLACK, PaperTable, Radii
from dsrs_jax.run import published_layout as layout
from dsrs_jax.run.published_layout import Published
from dsrs_jax.run.published_study import grid_unit, load, options_of
from dsrs_jax.system.errors import UserError

NEYMAN_PEARSON, DSRS = "Neyman-Pearson, published", "DSRS, published"
AGAIN, OURS = "DSRS, their rule", "DSRS, ours"
NEYMAN_PEARSON_OURS = "Neyman-Pearson, ours"
_METHODS = (NEYMAN_PEARSON, DSRS, AGAIN, NEYMAN_PEARSON_OURS, OURS)
TRAININGS = {
    "cohen": "Gaussian augmentation", "consistency": "Consistency", "smoothmix": "SmoothMix",
}  # fmt: skip
_DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "imagenet": "ImageNet"}
_SIGMAS = (0.25, 0.5, 1.0)
_MAIN_SIGMA = 0.8  # Q's in the main tables, of P's
_RULE = "x+"  # of the main tables for ImageNet, and where the sample of Q's sigma is missing
_UNIT = 0.25  # of the paper's tables
_NOTE = (
    "Certified accuracy (%) at l2 radii. Published: by the authors' rule, a radius counts at r "
    "when it is at least r - 1e-5, and the mean is over all images. Their rule: the published "
    "intervals certified again, two-sided, on their grid. Ours: one-sided bounds from the same "
    "samples, the largest radius. Neyman-Pearson has N = 100,000 draws of P, DSRS 50,000 of P and "
    "of Q; α = 0.001. Means are rounded down. †: the sample of this Q is not published, it is Q "
    f"truncated by {_RULE}."
)


@dataclasses.dataclass(frozen=True)
class FromPublished:
    """What there is to show.

    Attributes:
        tables: in the order of a page.
        figures: curves by the picture's name and title, each by its label.
        missing: a sentence for each piece that is not there.
    """

    tables: list[PaperTable]
    figures: dict[tuple[str, str], dict[str, report.Curve]]
    missing: list[str]


def from_published(directory: Path, console: Console) -> FromPublished:
    """Tables and curves of every (data set, training, sigma) that a folder holds.

    Args:
        directory: in the layout of the paper's authors.
        console: for the progress bar.

    Raises:
        UserError: there are no files of DSRS radii, or one is damaged.
    """
    if not directory.is_dir():
        raise UserError(f"no folder {directory}; give one with sampling/ and new-radius/ in it")
    files = layout.all_published(directory)
    if not files:
        raise UserError(
            f"{directory} has no new-radius/TRAINING-DATASET-K-SIGMA.pth/new-rad-general-gaussian"
            "*.txt; give a folder in the layout of the paper's authors"
        )
    compile_ahead(1, 2)()
    everything: dict[Published, dict[str, Radii]] = {}
    missing: list[str] = []
    with (
        report.progress(console, "certifying", len(files), "files") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for one, (found, absent) in zip(files, pool.map(_methods, files), strict=True):
            everything[one] = found
            missing += absent
            advance(1)
    tables, figures = _main(everything, missing)
    tables += [*_variants(everything), *_numbers_of_draws(everything)]
    missing += _absent(files)
    return FromPublished(tables, figures, missing)


def published_radii(directory: Path, dataset: str, sigma: float, k: float) -> list[Radii]:
    """The published radii of Neyman-Pearson and DSRS of models of one data set, sigma and k."""
    found: list[Radii] = []
    for one in layout.all_published(directory):
        if (one.dataset, one.study.sigma, one.study.k) == (dataset, sigma, k) and _is_main(one):
            found += _published(one, *_read(one))[0].values()
    return found


def _main_q(dataset: str, sigma: float) -> str:
    """Q of the paper's main tables."""
    return _RULE if dataset == "imagenet" else f"σ {_MAIN_SIGMA * sigma:g}"


def _is_main(one: Published) -> bool:
    return one.q == _main_q(one.dataset, one.study.sigma)


def _leads(one: Published) -> bool:
    """Whether ours in the main tables is of this Q: the paper's, where its sample is there."""
    if one.dataset == "imagenet":
        return _is_main(one)
    sample = one.study.intervals(sigma=_MAIN_SIGMA * one.study.sigma)
    return _is_main(one) if sample.exists() else one.threshold == _RULE


def _marked(radii: Radii) -> Radii:
    """With a mark behind the method, where Q is not that of the paper's main tables."""
    other = radii.q not in ("", _main_q(radii.dataset, radii.sigma))
    return dataclasses.replace(radii, method=f"{radii.method}†") if other else radii


Known = Mapping[int, float]  # radii by index


def _radii(one: Published, method: str, found: Known, slack: float = 0.0) -> Radii:
    study, index = one.study, sorted(found)
    return Radii(
        method=method,
        model=study.model.removesuffix(".pth"),
        dataset=one.dataset,
        training=one.training,
        sigma=study.sigma,
        k=study.k,
        index=np.array(index, dtype=np.int64),
        radius=np.array([found[i] for i in index], dtype=np.float64),
        slack=slack,
        q=one.q if method in (DSRS, AGAIN, OURS) else "",
    )


Found = tuple[dict[str, Radii], list[str]]  # by method; a sentence for each piece that is missing


def _read(one: Published) -> tuple[Known, Known]:
    """The radii that the authors' search began with, and those that it found."""
    return layout.read_radii(one.study.neyman_pearson()), layout.read_radii(one.file)


def _published(one: Published, begun: Known, radii: Known) -> Found:
    """The authors' own radii: DSRS's are no smaller than those that its search began with."""
    study = one.study
    best = {i: max(radius, radii.get(i, 0.0)) for i, radius in begun.items()}
    found = {DSRS: _radii(one, DSRS, best, AUTHORS_SLACK)}
    twice = study.neyman_pearson(draws=2 * study.draws, alpha=2 * study.alpha)
    if not twice.exists():
        return found, [f"{study.model}: no {twice.name}."]
    known = layout.read_radii(twice)
    return {NEYMAN_PEARSON: _radii(one, NEYMAN_PEARSON, known, AUTHORS_SLACK), **found}, []


def _methods(one: Published) -> Found:
    """All that can be said of one file: the published radii, and ours where the samples are."""
    try:
        begun, theirs = _read(one)
        found, missing = _published(one, begun, theirs)
    except UserError as error:
        return {}, [_of_missing(one, error)]
    try:
        loaded = load(options_of(one))
    except UserError as error:
        return found, [*missing, _of_missing(one, error)]

    def add(method: str, radius: np.ndarray, index: np.ndarray) -> None:
        known = dict(zip(index.tolist(), radius.tolist(), strict=True))
        # The images of the published table.
        found[method] = _radii(one, method, {i: known[i] for i in begun if i in known})

    table = loaded.table
    add(OURS, certify_table(table, loaded.protocol).radius, table.index)
    if not _leads(one):
        return found, missing
    gained = [radius for i, radius in theirs.items() if radius > begun.get(i, 0.0) + 1e-9]
    unit = grid_unit(np.array(gained))
    again = dataclasses.replace(
        loaded.protocol, bound=Bound.TWO_SIDED, search=Search.GRID, grid_unit=unit
    )
    add(AGAIN, certify_table(table, again).radius, table.index)
    if loaded.twice is not None:
        twice = certify_table(loaded.twice, loaded.protocol).neyman_pearson.radius
        add(NEYMAN_PEARSON_OURS, twice, loaded.twice.index)
    return found, missing


def _of_missing(one: Published, error: UserError) -> str:
    return f"{one.study.model}, Q {one.q}: {str(error).split(';')[0]}."


Everything = Mapping[Published, Mapping[str, Radii]]


def _order(radii: Radii) -> tuple[str, float, str, int]:
    return radii.dataset, radii.sigma, radii.training, _METHODS.index(radii.method)


def _in_main_tables(everything: Everything) -> list[Radii]:
    """The published radii of the paper's Q, and ours of it or of what stands in for it."""
    chosen = []
    for one, found in everything.items():
        published = (NEYMAN_PEARSON, DSRS) if _is_main(one) else ()
        # Without the published radii there is nothing that ours could stand beside.
        here = any(_is_main(other) and other.study == one.study for other in everything)
        ours = (AGAIN, NEYMAN_PEARSON_OURS, OURS) if here and _leads(one) else ()
        chosen += [found[method] for method in (*published, *ours) if method in found]
    return sorted(chosen, key=_order)


def _main(
    everything: Everything, missing: list[str]
) -> tuple[list[PaperTable], dict[tuple[str, str], dict[str, report.Curve]]]:
    chosen = _in_main_tables(everything)
    if not chosen:
        missing.append("No file is of the Q of the paper's main tables.")
        return [], {}
    tables, figures = [], {}
    words: dict[str, Callable[[Radii], str]] = {
        "σ": lambda one: f"{one.sigma:g}",
        "training": lambda one: TRAININGS.get(one.training, one.training),
        "method": lambda one: one.method,
    }
    steps = report.steps(chosen, _UNIT)
    groups: dict[tuple[str, str, str], list[Radii]] = {}
    for radii in chosen:
        key = (radii.dataset, radii.training, radii.method)
        groups.setdefault(key, []).append(radii)
    ordered = sorted(groups, key=lambda key: (key[0], key[1], _METHODS.index(key[2])))
    tables.append(
        report.best_of(
            "best-over-sigma",
            "Best certified accuracy over σ",
            [[_marked(one) for one in groups[key]] for key in ordered],
            steps,
            f"At each radius the best model of the σ named; as Table 2 of the paper. {_NOTE}",
        )
    )
    for dataset, rows in itertools.groupby(chosen, key=lambda one: one.dataset):
        own = [_marked(one) for one in rows]
        title = f"{_DATASETS[dataset]}: certified accuracy by σ and training"
        table = report.one_by_one(
            f"certified-{dataset}", title, own, report.steps(own, _UNIT), words, _NOTE
        )
        tables.append(table)
    tables.append(report.with_intervals("intervals", [_marked(one) for one in chosen], steps))
    for (dataset, training, _), keys in itertools.groupby(
        ordered, key=lambda key: (key[0], key[1], "")
    ):
        curves = {
            key[2]: report.best_curve([one.radius for one in groups[key]], groups[key][0].slack)
            for key in keys
            if key[2] != AGAIN
        }
        sigmas = sorted(
            {one.sigma for one in chosen if (one.dataset, one.training) == (dataset, training)}
        )
        said = ", ".join(f"{sigma:g}" for sigma in sigmas)
        title = f"{_DATASETS[dataset]}, {TRAININGS.get(training, training)}; best of σ = {said}"
        figures[f"{dataset}-{training}", title] = curves
    return tables, figures


def _variants(everything: Everything) -> list[PaperTable]:
    """A table of every Q, for the data sets that have models with several."""
    tables = []
    for dataset, group in _by_dataset(everything):
        rows: list[Radii] = []
        for one in group:
            if sum(other.study == one.study for other in group) > 1:
                found = everything[one]
                rows += [found[method] for method in (DSRS, OURS) if method in found]
        if not rows:
            continue
        tables.append(
            report.one_by_one(
                f"q-variants-{dataset}",
                f"{_DATASETS[dataset]}: the second law Q",
                rows,
                report.steps(rows, _UNIT),
                {
                    "model": lambda one: one.model,
                    "Q": lambda one: one.q,
                    "method": lambda one: one.method,
                },
                "Q is P with another σ, or P truncated at a quantile or by a rule. A published "
                f"sample of the rule {_RULE} is not Q's where all draws of P were right: ours "
                "leaves it out there, and has P's own radius.",
            )
        )
    return tables


def _numbers_of_draws(everything: Everything) -> list[PaperTable]:
    """Neyman-Pearson with each number of draws that is there, beside DSRS."""
    tables = []
    for dataset, group in _by_dataset(everything):
        rows = []
        for one in group:
            if not _is_main(one):
                continue
            study = one.study
            for draws, alpha in ((study.draws, study.alpha), (2 * study.draws, 2 * study.alpha)):
                file = study.neyman_pearson(draws=draws, alpha=alpha)
                if file.exists():
                    name = f"Neyman-Pearson, N = {draws:,}, α = {alpha:g}"
                    rows.append(_radii(one, name, layout.read_radii(file), AUTHORS_SLACK))
            both = f"DSRS, N = {study.draws:,} + {study.draws:,}, α = {2 * study.alpha:g}"
            if DSRS in everything[one]:
                rows.append(dataclasses.replace(everything[one][DSRS], method=both))
        if rows:
            tables.append(
                report.one_by_one(
                    f"draws-{dataset}",
                    f"{_DATASETS[dataset]}: the number of draws",
                    rows,
                    report.steps(rows, _UNIT),
                    {"model": lambda one: one.model, "method": lambda one: one.method},
                    "Published radii, by the authors' rule.",
                )
            )
    return tables


def _by_dataset(everything: Everything) -> Iterable[tuple[str, list[Published]]]:
    def place(one: Published) -> tuple[str, str, float, str]:
        return one.dataset, one.training, one.study.sigma, one.q

    ordered = sorted(everything, key=place)
    for dataset, group in itertools.groupby(ordered, key=lambda one: one.dataset):
        yield dataset, list(group)


def _absent(files: list[Published]) -> list[str]:
    """What of the paper's main tables is not there."""
    here = {(one.dataset, one.training, one.study.sigma) for one in files if _is_main(one)}
    return [
        f"{_DATASETS[dataset]}, {TRAININGS[training]}, σ = {sigma:g}: no radii."
        for dataset, training, sigma in itertools.product(_DATASETS, TRAININGS, _SIGMAS)
        if (dataset, training, sigma) not in here
    ] + ["Figure 2b's model, salman-imagenet-0.50: no radii of several numbers of draws."]
