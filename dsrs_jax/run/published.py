"""Certifies a whole test set from published votes, in seconds.

  dsrs-jax published DIR --model-name cohen-mnist-380-0.50.pth --dataset mnist \\
      --k 380 --sigma 0.5 --q-sigma 0.4

--alpha is that of a whole certificate; the files carry each law's part. Several Q's:
each alone, then all jointly. It writes certificates.csv (certificates-NAME.csv for each
of several Q's) and report.png into --out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import noise, report
from dsrs_jax.bounds import Bound
from dsrs_jax.certify import certify_table, compile_ahead
from dsrs_jax.run import ending
from dsrs_jax.run import published_layout as layout
from dsrs_jax.run.published_study import (
    Loaded,
    Result,
    StudyOptions,
    certify_with,
    compare,
    file_of,
    load,
)
from dsrs_jax.run.settings import CompilationOptions
from dsrs_jax.system.errors import IncompleteError
from dsrs_jax.system.files import make_folder
from dsrs_jax.system.folder_lock import held
from dsrs_jax.system.options import group, option
from dsrs_jax.votes import State


@dataclasses.dataclass(frozen=True)
class Settings:
    """Run."""

    study: StudyOptions = group(StudyOptions)
    out: str | None = option(None, "folder; runs/MODEL_NAME", metavar="DIR", often=True, local=True)
    prove: bool = option(False, "prove every radius in ball arithmetic", often=True)
    write_published: str | None = option(
        None, "write our radii in the authors' layout too", metavar="DIR", local=True
    )
    compilation: CompilationOptions = group(CompilationOptions)


def run(settings: Settings, words: Sequence[str]) -> None:
    """Certifies a published study as the settings say.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged; nothing is written then.
        IncompleteError: not all that `prove` asks for is proved; all else is done.
    """
    del words
    settings.compilation.apply()
    console = Console()
    loaded = load(settings.study)
    number = len(loaded.extra)
    compiled = compile_ahead(*({2, 1 + number} if number else {1}))
    n, alpha = loaded.study.draws, loaded.protocol.alpha
    console.print(
        f"{loaded.study.model}: {len(loaded.table)} images; {noise.describe(loaded.table.base)}, "
        f"N = {n:,} under each law, α = {alpha:g}."
    )
    compiled()
    begun = time.perf_counter()
    selections = [[j] for j in range(number)]
    if number != 1:
        selections.append(list(range(number)))
    results = [certify_with(loaded, which) for which in selections]
    twice = None
    if loaded.twice is not None:
        twice = certify_table(loaded.twice, loaded.protocol).neyman_pearson.radius
    seconds = time.perf_counter() - begun
    out = Path(settings.out or Path("runs") / loaded.study.model.removesuffix(".pth"))
    make_folder(out)
    with held(out):
        proved = True
        if settings.prove:
            found = [ending.prove(result.certificates, out, console) for result in results]
            proved = all(good for _, good in found)
            results = [
                dataclasses.replace(result, certificates=table)
                for result, (table, _) in zip(results, found, strict=True)
            ]
        methods = {f"Neyman-Pearson, N = {n:,}": results[0].certificates.neyman_pearson.radius}
        if twice is not None:
            methods[f"Neyman-Pearson, N = {2 * n:,}"] = twice
        if loaded.extra:
            methods |= {f"DSRS, {_readable(r.name)}": r.certificates.radius for r in results}
        methods = dict(sorted(methods.items(), key=lambda method: -float(method[1].mean())))
        _write(settings, loaded, results, methods, out, console)
    _say_cases(loaded, results, console)
    _say_published(loaded, results, console)
    console.print(f"seconds: certification {seconds:.1f}")
    console.print(f"{out / ending.PICTURE_FILE} and certificates beside it", soft_wrap=True)
    if not proved:
        raise IncompleteError(ending.NOT_PROVED)


def _readable(name: str) -> str:
    kind, _, value = name.partition("_")
    return {"sigma": f"Q σ = {value}", "threshold": f"Q at {value}"}.get(kind, "all Q")


def _write(
    settings: Settings,
    loaded: Loaded,
    results: list[Result],
    methods: Mapping[str, NDArray[np.float64]],
    out: Path,
    console: Console,
) -> None:
    title = (
        f"{loaded.study.model}, {len(loaded.table)} images; {loaded.protocol.bound} bounds, "
        f"α = {loaded.protocol.alpha:g}\n{noise.describe(loaded.table.base)}"
    )
    names = [f"certificates-{r.name}.csv" for r in results]
    names = names if len(results) > 1 else [ending.CERTIFICATES_FILE]
    tables = {name: r.certificates for name, r in zip(names, results, strict=True)}
    ending.write(out, tables, methods, title, console)
    if settings.write_published is not None:
        _write_published(Path(settings.write_published), loaded, results)


def _write_published(directory: Path, loaded: Loaded, results: list[Result]) -> None:
    """The files that exist for single Q's; one of several Qs has no name in that layout."""
    study = dataclasses.replace(loaded.study, directory=directory)
    index = loaded.table.index.tolist()
    # Neyman-Pearson's radii are the same for every single Q.
    first = results[0].certificates.neyman_pearson.radius
    neyman_pearson = dict(zip(index, first.tolist(), strict=True))
    layout.write_neyman_pearson(study.neyman_pearson(), neyman_pearson)
    for extra, result in zip(loaded.extra, results, strict=False):
        radii = dict(zip(index, result.certificates.radius.tolist(), strict=True))
        layout.write_double_sampling(file_of(study, extra), radii, neyman_pearson)


def _say_cases(loaded: Loaded, results: list[Result], console: Console) -> None:
    if loaded.protocol.bound is Bound.ONE_SIDED:
        here = loaded.table.state == State.COMPLETE
        lines, known = int(here.sum()), int(np.sum(here & (loaded.table.votes >= 0)))
        console.print(
            f"Votes recovered from {known:,} of {lines:,} intervals; "
            f"{lines - known:,} were stopped early and are kept as they are."
        )
    for result in results if loaded.extra else []:
        status = result.certificates.status.astype(str)
        names, counts = np.unique(status, return_counts=True)
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
        file = file_of(loaded.study, extra)
        if file.exists():
            found = compare(result, layout.read_radii(file), start)
            console.print(
                f"Published, {_readable(result.name)}: mean radius {found.published.mean():.4f} "
                f"on {found.images} images, ours "
                f"{report.rounded_down(float(found.ours.mean()))}; "
                f"above ours on {int(np.sum(found.above))}, {found.unit:g} or more below it on "
                f"{int(np.sum(found.behind))}."
            )
