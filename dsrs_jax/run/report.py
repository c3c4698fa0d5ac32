"""Tables and figures of finished runs, or of published data, for a paper or a screen.

  dsrs-jax report runs/mnist runs/mnist_100 --out results
  dsrs-jax report --published DIR --out results

A RUN is the folder of a run or an attack (half of one, too), a certificates.csv, or a log in Cohen
et al.'s format. It writes into --out: report.html, one page to open from disk (of runs);
results.md with all tables, tables/*.csv and *.tex (booktabs), figures/*.png and *.pdf.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from dsrs_jax import report
from dsrs_jax.proof import schema
from dsrs_jax.report import PageRun, PaperTable, Radii, rounded_down
from dsrs_jax.run import report_attack, smoothing_log
from dsrs_jax.run.finished import DSRS, NEYMAN_PEARSON, Finished, read_run
from dsrs_jax.run.names import shortest_names
from dsrs_jax.run.report_published import from_published, published_radii
from dsrs_jax.run.settings import CompilationOptions
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.files import make_folder, write_whole
from dsrs_jax.system.folder_lock import held
from dsrs_jax.system.options import group, option

RESULTS_FILE, PAGE_FILE = "results.md", "report.html"
_BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Report."""

    runs: tuple[str, ...] = option(
        (), "folder of a run, certificates.csv, or log", metavar="RUN", positional=True,
        several=True, local=True,
    )  # fmt: skip
    out: str | None = option(None, "folder; results", metavar="DIR", often=True, local=True)
    published: str | None = option(
        None, "published data: alone, or beside the runs", metavar="DIR", often=True, local=True
    )
    radii: tuple[float, ...] = option(
        (), "the tables' radii; by themselves 0.25, 0.5, ...", metavar="R", several=True, often=True
    )
    write_log: str | None = option(
        None, "the run's radii in Cohen et al.'s format", metavar="FILE", local=True
    )
    no_thumbnails: bool = option(False, "leave the images out of report.html")
    compilation: CompilationOptions = group(CompilationOptions)

    def __post_init__(self) -> None:
        if not self.runs and self.published is None:
            raise UserError("nothing to report on; give a run's folder, or --published DIR")
        if self.write_log is not None and len(self.runs) != 1:
            raise UserError("--write-log is for one run")
        if any(not radius >= 0.0 for radius in self.radii):
            raise UserError("--radii must not be negative")


@dataclasses.dataclass
class Page:
    """What results.md says: banners, sentences, tables, figures by (name, title).

    `labelled`: whether all images' labels are known; `attacked`: what attacks add to figures.
    """

    title: str
    banners: list[str]
    sentences: list[str]
    tables: list[PaperTable]
    figures: dict[tuple[str, str], dict[str, report.Curve]]
    labelled: bool = True
    attacked: dict[tuple[str, str], dict[str, report.Curve]] = dataclasses.field(
        default_factory=dict
    )

    def write(self, out: Path) -> None:
        """Writes all files, results.md last."""
        for folder in (out, out / "tables", out / "figures"):
            make_folder(folder)
        for table in self.tables:
            write_whole(out / "tables" / f"{table.name}.csv", table.csv())
            write_whole(out / "tables" / f"{table.name}.tex", table.latex())
        lines = [f"# {self.title}\n", *(f"**{one}**\n" for one in self.banners)]
        lines += [f"{one}\n" for one in self.sentences]
        for (name, title), curves in self.figures.items():
            for kind in ("png", "pdf"):
                attacked = self.attacked.get((name, title), {})
                picture = report.drawn(curves, title, kind, (), self.labelled, attacked)
                write_whole(out / "figures" / f"{name}.{kind}", picture)
            lines.append(f"![{title}](figures/{name}.png)\n")
        lines += [table.markdown() for table in self.tables if table.name != "intervals"]
        write_whole(out / RESULTS_FILE, "\n".join(lines))


def run(settings: Settings, words: Sequence[str]) -> None:
    """Writes the report.

    Raises:
        UserError: a run is not there or has nothing to show, and no other has; nothing is written.
        IncompleteError: one of several could not be shown; all else is written.
    """
    del words
    settings.compilation.apply()
    console = Console()
    out = Path(settings.out or "results")
    runs: list[Finished] = []
    if settings.runs:
        page, runs, absent = _of_runs(settings)
    else:
        found = from_published(Path(settings.published or ""), console)
        sentences = ["What is not there:", *(f"* {one}" for one in found.missing)]
        page = Page("Published results", [], sentences, found.tables, found.figures)
        absent = []
    make_folder(out)
    with held(out, "report"):
        page.write(out)
        if runs:
            shown = _page_runs(runs, settings, page.sentences)
            # Markdown's signs, which the page does not need.
            sentences = [one.replace("**", "").replace("`", "") for one in page.sentences]
            attacked = {name: one for own in page.attacked.values() for name, one in own.items()}
            content = report.page(page.title, page.banners, sentences, shown, attacked)
            write_whole(out / PAGE_FILE, content)
    for sentence in page.banners + page.sentences:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    written = f"{out / PAGE_FILE}, {out / RESULTS_FILE}" if runs else f"{out / RESULTS_FILE}"
    console.print(f"{written}, with tables and figures beside it", soft_wrap=True)
    if absent:
        raise IncompleteError(f"left out: {'; '.join(absent)}; all else is in {out}")


def _page_runs(runs: list[Finished], settings: Settings, sentences: list[str]) -> list[PageRun]:
    """The runs as report.html shows them; a sentence where their images cannot be."""
    found = []
    for run in runs:
        thumbnails: dict[int, np.ndarray] = {}
        if not settings.no_thumbnails:
            try:
                thumbnails = run.thumbnails()
            except UserError as error:
                sentences.append(f"{run.name} is shown without its images: {error}.")
        found.append(
            PageRun(run.name, run.radii, run.images(), thumbnails, run.settings, run.command)
        )
    return found


def _of_runs(settings: Settings) -> tuple[Page, list[Finished], list[str]]:
    runs: list[Finished] = []
    attacks, absent = [], []
    for path, name in zip(settings.runs, shortest_names(settings.runs), strict=True):
        try:
            if report_attack.is_attack(Path(path)):
                attack = report_attack.read_attack(Path(path))
                found = dataclasses.replace(attack.found, name=name)
                attacks.append(dataclasses.replace(attack, found=found))
            else:
                runs.append(_named(read_run(Path(path)), name))
        except UserError as error:
            absent.append(str(error))
    if settings.write_log is not None and attacks:
        raise UserError("--write-log is for a run of certify")
    if not runs and not attacks:
        raise UserError("; ".join(absent))
    if settings.write_log is not None:
        _write_log(Path(settings.write_log), runs[0])
    banners = [f"{run.name}: {run.half}" for run in runs if run.half]
    labelled = all(radii.labelled for run in runs for radii in run.radii.values())
    page = Page(report.share_or_accuracy(labelled).capitalize(), banners, _sentences(runs), [], {},
                labelled)  # fmt: skip
    everything: list[Radii] = []
    groups = _of_same_images(runs)
    for number, group_ in enumerate(groups, start=1):
        tail = f"-{number}" if len(groups) > 1 else ""
        everything += _show(group_, tail, settings, page)
    radii = settings.radii or report.steps(everything, 0.25) or [0.0]
    if everything:
        page.tables.append(report.with_intervals("intervals", everything, radii))
    else:
        page.title = "Attacked accuracy"
    shown = report_attack.show(attacks, runs)
    page.banners += shown.banners
    page.sentences += shown.sentences
    page.tables += shown.tables
    page.figures |= shown.certified
    page.attacked = shown.attacked
    return page, runs, absent


def _named(run: Finished, name: str) -> Finished:
    radii = {method: dataclasses.replace(found, model=name) for method, found in run.radii.items()}
    return dataclasses.replace(run, name=name, radii=radii)


def _of_same_images(runs: list[Finished]) -> list[list[Finished]]:
    groups: list[list[Finished]] = []
    for run in runs:
        for others in groups:
            if all(run.same_images(other) for other in others):
                others.append(run)
                break
        else:
            groups.append([run])
    return groups


def _sentences(runs: list[Finished]) -> list[str]:
    """Of each run: what it is, what is missing, how it was made."""
    said = []
    for run in runs:
        what = [f"**{run.name}**: {len(run.index):,} images"]
        if run.dataset:
            what.append(f"of {run.dataset}")
        if run.settings.get("arch"):
            what.append(f"by {run.settings['arch']}")
        law = ""
        if "sigma" in run.columns:
            sigma, k, alpha = (run.columns[one][0] for one in ("sigma", "k", "alpha_dsrs"))
            law = f"; σ = {float(sigma):g}, k = {float(k):g}, α = {float(alpha):g}"
            law += f", {run.columns['bounds'][0]} bounds, {run.columns['draws'][0]} draws"
            law += f", seed {seed}" if (seed := run.columns["seed"][0]) else ""
            if count := schema.as_whole(run.columns["compared"][0] or "0"):
                law += f", the network's answers to {count:,} of them the same in a mixed batch"
        command = f" Command: `{run.command}`" if run.command else ""
        said.append(f"{' '.join(what)}{law}.{command}")
        said += run.remarks
    groups = _of_same_images(runs)
    if len(groups) > 1:
        names = "; ".join(", ".join(run.name for run in group_) for group_ in groups)
        said.append(f"These are of other images and have tables of their own: {names}.")
    return said


def _show(runs: list[Finished], tail: str, settings: Settings, page: Page) -> list[Radii]:
    """Adds tables and figure of runs of the same images; gives all radii that they show."""
    alone = len(runs) == 1
    shown = {
        method if alone else f"{run.name}, {method}": found
        for run in runs
        for method, found in run.radii.items()
    }
    if settings.published is not None and "sigma" in runs[0].columns:
        before = len(shown)
        laws = dict.fromkeys((one.dataset, one.sigma, one.k) for one in shown.values())
        for dataset, sigma, k in laws:
            for other in published_radii(Path(settings.published), dataset, sigma, k):
                shown[f"{other.model}, {other.method}"] = other
        if len(shown) == before:
            page.sentences.append("No published model has this data set, σ and k.")
    found = list(shown.values())
    radii = settings.radii or report.steps(found, 0.25) or [0.0]
    names = ", ".join(run.name for run in runs)
    note = "In brackets the 95% interval of the sample of images. Radii are rounded down."
    if any(DSRS in run.radii for run in runs):
        note += _same_draws(runs)
    labelled = all(one.labelled for one in found)
    title = f"{report.share_or_accuracy(labelled).capitalize()} (%): {names}"
    page.tables.append(report.by_radius(f"accuracy{tail}", title, shown, radii, note))
    certified = [run for run in runs if NEYMAN_PEARSON in run.radii]
    if certified:
        page.tables.append(_bounds(certified, tail))
    if pairs := _pairs(certified):
        page.tables.append(_gains(pairs, tail))
    if len({one.sigma for run in certified for one in run.radii.values()}) > 1:
        page.tables.append(_best(certified, tail, radii))
    curves = {name: report.curve(one.radius, one.slack) for name, one in shown.items()}
    page.figures[f"accuracy{tail}", names] = curves
    return found


def _same_draws(runs: list[Finished]) -> str:
    """Whether DSRS had more draws than Neyman-Pearson beside it."""
    more = [
        column.removeprefix("draws_")
        for run in runs
        for column in run.columns
        if column.startswith(("draws_sigma", "draws_threshold"))
    ]
    if not more:
        return " Both have the same draws and the same α: second laws are read off P's own draws."
    laws = ", ".join(sorted(set(more)))
    return f" DSRS has draws of {laws} besides; Neyman-Pearson has P's alone."


def _bounds(runs: list[Finished], tail: str) -> PaperTable:
    """How the lower bound of the label's probability is distributed: the mean radius hides it."""
    rows = []
    for run in runs:
        lower = run.numbers("lower_np")
        shares = [f"{100.0 * np.mean(lower > bound):.1f}" for bound in _BOUNDS]
        rows.append([run.name, str(len(lower)), *shares])
    header = ["run", "images", *(f"> {bound:g}" for bound in _BOUNDS)]
    note = (
        "Share of images (%) whose probability of the label under P is above a number, with "
        "confidence 1 - α: a few images of large radius can lift a mean radius, not these."
    )
    title = "The lower bound of the probability of the label"
    return PaperTable(f"lower-bounds{tail}", title, header, rows, 1, note)


Pair = tuple[str, Radii, Radii]  # what it is, before, after


def _pairs(runs: list[Finished]) -> list[Pair]:
    """DSRS's radii beside Neyman-Pearson's, and a run's best beside the first run's."""
    pairs = [
        (run.name, run.radii[NEYMAN_PEARSON], run.radii[DSRS]) for run in runs if DSRS in run.radii
    ]
    best = [(run.name, run.radii.get(DSRS, run.radii[NEYMAN_PEARSON])) for run in runs]
    return pairs + [(f"{name} beside {best[0][0]}", best[0][1], radii) for name, radii in best[1:]]


def _gains(pairs: list[Pair], tail: str) -> PaperTable:
    """How the radii of the same images differ."""
    rows = []
    for name, before, after in pairs:
        gain = after.radius - before.radius
        quartiles = [rounded_down(float(one)) for one in np.quantile(gain, (0.25, 0.5, 0.75))]
        ends = [rounded_down(float(gain.mean())), rounded_down(float(gain.max()))]
        counts = [str(int(np.sum(gain > 0.0))), str(int(np.sum(gain < 0.0)))]
        rows.append([name, *counts, ends[0], *quartiles, ends[1]])
    header = ["pair", "larger", "smaller", "mean", "25%", "median", "75%", "largest"]
    note = "Image by image: DSRS's radius less Neyman-Pearson's; one run's less another's."
    return PaperTable(f"gains{tail}", "Gain of the radius", header, rows, 1, note)


def _best(runs: list[Finished], tail: str, radii: Sequence[float]) -> PaperTable:
    found = [one for run in runs for one in run.radii.values()]
    ordered = sorted(found, key=lambda one: (one.training, one.method == DSRS, one.sigma))
    groups = [
        list(group_)
        for _, group_ in itertools.groupby(ordered, key=lambda one: (one.training, one.method))
    ]
    note = "At each radius the best run of the σ named."
    return report.best_of(f"best-over-sigma{tail}", "Best over σ", groups, radii, note)


def _write_log(file: Path, run: Finished) -> None:
    if NEYMAN_PEARSON not in run.radii:
        raise UserError(f"{run.name} is a log already; --write-log is for a run of ours")
    if not run.radii[NEYMAN_PEARSON].labelled:
        raise UserError(f"{run.name} has no labels, which a log must have")
    predicted = [int(float(label)) for label in run.columns["label"]]
    labels = [int(float(label)) for label in run.columns["true_label"]]
    # As the file has them: a log has the radius of the predicted class, right or wrong.
    radii = run.numbers("radius_dsrs" if DSRS in run.radii else "radius_np").tolist()
    make_folder(file.parent)
    rows = zip(run.index.tolist(), labels, predicted, radii, strict=True)
    smoothing_log.write_log(file, rows)
