"""The one way that data takes: images, noise, votes, bounds, certificates, report.

`run` is what `scripts/certify.py` calls. It writes into one directory:

    config.json        what the votes depend on
    model/             the small model, where none was given
    votes/             the records of all images, a file a block (sampling/records.py)
    certificates.csv   one row an image
    report.png         certified accuracy against radius
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import data, distributed, noise, report, sampling, train
from dsrs_jax.certify import certify, last_on_grid, lower_bound
from dsrs_jax.certify.thresholds import threshold
from dsrs_jax.collection import Protocol, collect
from dsrs_jax.convert import cached
from dsrs_jax.errors import IncompleteError, UserError
from dsrs_jax.models import (
    Classifier,
    ModelMetadata,
    fingerprint,
    load_model,
    save_model,
)
from dsrs_jax.noise import RadialLaw
from dsrs_jax.proving import NOT_PROVED, with_proofs

# The digits' default: chosen by measurement (README, "Which second law?").
DIGITS_SIGMA, DIGITS_K, DIGITS_EPOCHS = 0.5, 28.0, 150
DEFAULT_INSIDE = (0.2, 0.4, 0.6, 0.8)
_WORTH_TUNING = 1_000_000  # draws: a run with fewer would not win back the search for a batch


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `scripts/certify.py`; None means: as the model was trained."""

    dataset: str = "digits"
    data_dir: str | None = None
    split: str = "test"
    model: str | None = None
    arch: str | None = None
    input_scaling: str | None = None
    dtype: str = "float32"
    noise: str | None = None
    sigma: float | None = None
    k: float | None = None
    eta: float | None = None
    q_sigma: tuple[float, ...] = ()
    q_inside: tuple[float, ...] = ()
    q_threshold: tuple[str, ...] = ()
    n: int = 50_000
    alpha: float = 0.001
    bounds: str = "one-sided"
    search: str = "precise"
    grid_unit: float = 0.05
    skip: int = 1
    start: int = 0
    stop: int = -1
    batch: int | None = None
    seed: int = 0
    out: str | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    distributed: bool = False
    patience: float = 60.0
    prove: bool = False


def run(settings: Settings, console: Console, again: str = "the same command") -> None:
    """Certifies a data set as the settings say, continuing what an earlier run left.

    With several processes each works on its share of the images, and process 0 gathers all
    records at the end and writes certificates and report.

    Args:
        settings: see `Settings`.
        console: where progress and the table go.
        again: the command line that completes a run, for messages.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged; nothing is lost.
        IncompleteError: some images could not be read, a process was lost, or not all that
            `prove` asks for is proved; all else is done.
    """
    _check(settings)
    dataset = data.load(settings.dataset, settings.split, settings.data_dir)
    indices = _chosen_indices(settings, len(dataset))
    out = epath.Path(settings.out or Path("runs") / settings.dataset)
    stages: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        # While all processes are here, none writes: they agree on what is missing.
        with distributed.rendezvous(
            settings.coordinator,
            settings.num_processes,
            settings.process_id,
            settings.distributed,
        ) as group:
            clock = time.perf_counter()
            classifier = _classifier(settings, dataset, out, group, console)
            law = _law(settings, classifier.metadata)
            stages["model"] = time.perf_counter() - clock
            protocol = _protocol(settings, law)
            clock = time.perf_counter()
            if group.process == 0:
                _announce_largest_radius(protocol, console)
            stages["certification"] = time.perf_counter() - clock
            directory = stack.enter_context(
                sampling.RunDirectory(
                    out, _vote_settings(settings, protocol, classifier, dataset), group.process
                )
            )
            missing = [index for index in indices if not directory.has(index)]
            stack.enter_context(sampling.Presence(out, group.process, settings.patience))
        clock = time.perf_counter()
        if group.process == 0 and 0 < len(missing) < len(indices):
            console.print(
                f"{len(indices) - len(missing)} of {len(indices)} images were done before."
            )
        share = missing[group.process :: group.processes]
        _sample(settings, protocol, classifier, dataset, share, directory, group, console)
        if group.process != 0:
            return
        _gather(settings, indices, directory, group, again, console)
        stages["sampling"] = time.perf_counter() - clock
        clock = time.perf_counter()
        records = [directory.records[index] for index in indices]
        columns = _certify_records(settings, protocol, records)
        stages["certification"] += time.perf_counter() - clock
        clock = time.perf_counter()
        sampling.write_whole(out / "certificates.csv", report.csv_text(columns))
        stages["report"] = time.perf_counter() - clock
        proved = True
        if settings.prove:
            clock = time.perf_counter()
            columns, proved = with_proofs(columns, out, console)
            sampling.write_whole(out / "certificates.csv", report.csv_text(columns))
            stages["proofs"] = time.perf_counter() - clock
        clock = time.perf_counter()
        methods = {
            "Neyman-Pearson": columns["radius_np"],
            "DSRS": columns["radius_dsrs"],
        }
        title = (
            f"{settings.dataset} {settings.split}, {len(indices)} images; "
            f"N = {settings.n:,}, α = {settings.alpha:g}\n{noise.describe(law)}"
        )
        sampling.write_whole(out / "report.png", report.curves(methods, title))
        stages["report"] += time.perf_counter() - clock
    console.print(report.accuracy_table(methods))
    console.print(
        "seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
    )
    console.print(f"{out / 'certificates.csv'}, {out / 'report.png'}", soft_wrap=True)
    unreadable = [record for record in records if sampling.UNREADABLE in record]
    for record in unreadable:
        console.print(f"unreadable: {record[sampling.UNREADABLE]}", soft_wrap=True)
    if unreadable:
        raise IncompleteError(
            f"{_some([record['index'] for record in unreadable])} could not be read; all others "
            f"are done. Mend the files, then: {again}"
        )
    if not proved:
        raise IncompleteError(NOT_PROVED)


def _gather(
    settings: Settings,
    indices: list[int],
    directory: sampling.RunDirectory,
    group: distributed.Group,
    again: str,
    console: Console,
) -> None:
    """Waits for the records of the other processes."""

    def absent() -> list[int]:
        directory.refresh()
        return [index for index in indices if index not in directory.records]

    lost: list[int] = []
    if group.processes > 1 and absent():
        console.print(f"This process's share is done; waiting for {group.processes - 1} others.")
        lost = sampling.wait_for_others(
            directory.path, range(1, group.processes), settings.patience, lambda: not absent()
        )
    if missing := absent():
        who = ", ".join(str(process) for process in lost) or "none that is known of"
        raise IncompleteError(
            f"{_some(missing)} of {len(indices)} missing (lost processes: {who}); all else is "
            f"kept. This completes them, with any number of processes: {again}"
        )


def _some(indices: list[int]) -> str:
    """How many images, and which."""
    shown = ", ".join(str(index) for index in indices[:10])
    more = ", ..." if len(indices) > 10 else ""
    noun = "image" if len(indices) == 1 else "images"
    return f"{len(indices)} {noun} (index {shown}{more})"


def _check(settings: Settings) -> None:
    if settings.n <= 0:
        raise UserError(f"--n must be positive, got {settings.n}")
    if not 0.0 < settings.alpha < 1.0:
        raise UserError(f"--alpha must lie in (0, 1), got {settings.alpha:g}")
    if settings.batch is not None and settings.batch <= 0:
        raise UserError(f"--batch must be positive, got {settings.batch}")
    if not settings.grid_unit > 0.0:
        raise UserError(f"--grid-unit must be positive, got {settings.grid_unit:g}")
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {settings.seed}")
    for option, values in (
        ("--q-inside", settings.q_inside),
        ("--q-sigma", settings.q_sigma),
        ("--q-threshold", settings.q_threshold),
    ):
        if len(set(values)) < len(values):
            raise UserError(f"{option} was given the same value twice")
    if settings.noise == "gaussian" and (settings.k or (settings.eta or 2.0) != 2.0):
        raise UserError(
            "--noise gaussian has k = 0 and eta = 2; use --noise general-gaussian for others"
        )
    if not settings.patience > 0.0:
        raise UserError(f"--patience must be positive, got {settings.patience:g}")
    for rule in settings.q_threshold:
        threshold(rule, 0.5)


def _chosen_indices(settings: Settings, size: int) -> list[int]:
    if settings.skip < 1:
        raise UserError(f"--skip must be at least 1, got {settings.skip}")
    stop = size if settings.stop == -1 else settings.stop
    if not 0 <= settings.start < stop <= size:
        raise UserError(
            f"--start {settings.start} --stop {settings.stop} chooses nothing: "
            f"{settings.dataset} {settings.split} has the indices 0 to {size - 1}"
        )
    return list(range(settings.start, stop, settings.skip))


def _classifier(
    settings: Settings,
    dataset: data.Dataset,
    out: epath.Path,
    group: distributed.Group,
    console: Console,
) -> Classifier:
    from_file = settings.model is not None and Path(settings.model).is_file()
    if not from_file and (settings.arch or settings.input_scaling):
        raise UserError("--arch and --input-scaling are for a PyTorch file given as --model")
    if settings.model is not None:
        folder: str | Path = settings.model
        if from_file:
            folder = cached(folder, arch=settings.arch, scaling=settings.input_scaling)
        classifier = load_model(folder, settings.dtype)
    elif settings.dataset != "digits":
        raise UserError(
            f"--dataset {settings.dataset} needs --model DIR; scripts/train.py makes one"
        )
    elif group.processes > 1 or sampling.is_remote(out):
        raise UserError(
            "several processes, or a bucket as --out, need --model; a run of one process makes "
            "one, runs/digits/model"
        )
    elif (out / "model").exists():
        classifier = load_model(out / "model", settings.dtype)
    else:
        classifier = _train_digits(settings, out, console)
    metadata = classifier.metadata
    # Files of one's own need not show every class of the model.
    fits = dataset.classes == metadata.classes or (
        dataset.name in ("folder", "npz") and dataset.classes <= metadata.classes
    )
    if metadata.image_shape != dataset.image_shape or not fits:
        raise UserError(
            f"the model {metadata.arch} takes images {metadata.image_shape} of "
            f"{metadata.classes} classes, {dataset.name} has {dataset.image_shape} of "
            f"{dataset.classes}; give the model of this dataset"
        )
    return classifier


def _train_digits(settings: Settings, out: epath.Path, console: Console) -> Classifier:
    sigma = DIGITS_SIGMA if settings.sigma is None else settings.sigma
    k = DIGITS_K if settings.k is None else settings.k
    k = 0.0 if settings.noise == "gaussian" else k
    eta = 2.0 if settings.eta is None else settings.eta
    training = data.in_memory(data.load("digits", "train"))
    recipe = train.Recipe(
        arch="digits_cnn",
        method="smoothmix",
        sigma=sigma,
        k=k,
        eta=eta,
        k_warmup=20,
        copies=2,
        epochs=DIGITS_EPOCHS,
        batch=128,
        learning_rate=0.05,
        learning_rate_step=DIGITS_EPOCHS // 3 + 1,
        weight=1.0,
        steps=4,
        step_size=0.5,
        seed=settings.seed,
    )
    metadata = ModelMetadata(
        arch=recipe.arch,
        dataset="digits",
        image_shape=training.image_shape,
        classes=training.classes,
        sigma=sigma,
        k=k,
        eta=eta,
        method=recipe.method,
        epochs=recipe.epochs,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=settings.seed,
    )
    with report.progress(console, "training", DIGITS_EPOCHS, "epochs") as advance:
        model = train.train(training, recipe, on_epoch=lambda info: advance(1))
    save_model(out / "model", model, metadata)
    return load_model(out / "model", settings.dtype)


def _law(settings: Settings, trained: ModelMetadata) -> RadialLaw:
    sigma = trained.sigma if settings.sigma is None else settings.sigma
    k = trained.k if settings.k is None else settings.k
    eta = trained.eta if settings.eta is None else settings.eta
    if settings.noise == "gaussian":
        k, eta = 0.0, 2.0
    if sigma is None or k is None:
        raise UserError(
            "the model does not say which noise it was trained with; give --sigma, and --k or "
            "--noise gaussian"
        )
    return noise.generalized_gaussian(
        math.prod(trained.image_shape), sigma, k, 2.0 if eta is None else eta
    )


def _protocol(settings: Settings, law: RadialLaw) -> Protocol:
    if law.sigma in settings.q_sigma:
        raise UserError(f"--q-sigma {law.sigma:g} is P itself: its draws are P's own draws again")
    any_q = settings.q_sigma or settings.q_inside or settings.q_threshold
    quantiles = settings.q_inside if any_q else DEFAULT_INSIDE
    return Protocol(
        law=law,
        inside=tuple(law.truncated(quantile) for quantile in sorted(quantiles)),
        scaled=tuple(law.with_sigma(sigma) for sigma in settings.q_sigma),
        rules=settings.q_threshold,
        n=settings.n,
        alpha=settings.alpha,
        one_sided=settings.bounds == "one-sided",
    )


def _vote_settings(
    settings: Settings, protocol: Protocol, classifier: Classifier, dataset: data.Dataset
) -> dict[str, Any]:
    law = protocol.law
    return {
        "dataset": settings.dataset,
        "split": settings.split,
        "index_order": dataset.order,
        "sigma": law.sigma,
        "k": law.k,
        "eta": law.eta,
        "q_sigma": [q.sigma for q in protocol.scaled],
        "q_inside": [q.quantile for q in protocol.inside],
        "q_threshold": list(protocol.rules),
        "n": protocol.n,
        "alpha": protocol.alpha,
        "bounds": settings.bounds,
        "seed": settings.seed,
        "arch": classifier.metadata.arch,
        "input_scaling": classifier.metadata.scaling,
        "dtype": settings.dtype,
        "model": fingerprint(classifier),
    }


def _announce_largest_radius(protocol: Protocol, console: Console) -> None:
    n, share = np.array([protocol.n]), protocol.share
    plain = certify(protocol.law, protocol.lower(n, n, protocol.alpha)).radius[0]
    base = protocol.lower(n, n, share)
    extra = [
        (law, protocol.lower(inside, inside, share))
        for law in protocol.inside
        for inside in [np.floor(n * (law.quantile or 1.0)).astype(np.int64)]
    ]
    extra += [(law, base) for law in protocol.scaled]
    extra += [(protocol.law.truncated(threshold(r, float(base[0]))), base) for r in protocol.rules]
    best = certify(protocol.law, base, [q for q, _ in extra], [b for _, b in extra]).radius[0]
    if max(plain, best) <= 0.0:
        raise UserError(
            f"--n {protocol.n} draws can certify nothing at alpha = {protocol.alpha:g}, "
            "even if all votes are right; give a larger --n"
        )
    console.print(
        f"{noise.describe(protocol.law)}; {protocol.n:,} draws under each law, "
        f"α = {protocol.alpha:g}.\n"
        "Largest radius, were all votes right: "
        f"Neyman-Pearson {report.rounded_down(plain)}, DSRS {report.rounded_down(best)}."
    )


def _sample(
    settings: Settings,
    protocol: Protocol,
    classifier: Classifier,
    dataset: data.Dataset,
    missing: list[int],
    directory: sampling.RunDirectory,
    group: distributed.Group,
    console: Console,
) -> None:
    """Draws and records this process's share of the images."""
    if not missing:
        return
    sampler = sampling.Sampler(
        classifier,
        seed=settings.seed,
        cutoffs=protocol.cutoffs,
        batch=settings.batch,
        on_smaller=lambda batch: console.print(
            f"The devices' memory is full: going on with --batch {batch}."
        ),
    )
    if settings.batch is None:
        _find_batch(protocol, sampler, dataset.image_shape, len(missing), directory)
    what = "sampling" if group.processes == 1 else f"sampling ({group.process})"
    with report.progress(console, what, len(missing), "images") as advance:
        collect(protocol, sampler, data.read_ahead(dataset, missing), directory, advance)


def _find_batch(
    protocol: Protocol,
    sampler: sampling.Sampler,
    image_shape: tuple[int, int, int],
    images: int,
    directory: sampling.RunDirectory,
) -> None:
    """The fastest batch on this kind of device: remembered, or measured where that pays."""
    device = f"{jax.local_devices()[0].device_kind} x {sampler.devices}"
    sampler.batch = directory.batch(device)
    if sampler.batch is None and images * protocol.n >= _WORTH_TUNING:
        grey = np.full(image_shape, 0.5, dtype=np.float32)
        directory.remember_batch(device, sampler.tune(grey, protocol.law))


def _certify_records(
    settings: Settings, protocol: Protocol, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """The columns of `certificates.csv`, a row for each record."""
    share, n = protocol.share, protocol.n
    none = [0] * (len(protocol.inside) + 1)
    known = [record.get("p", {"draws": none, "votes": none}) for record in records]
    draws = np.array([entry["draws"] for entry in known])
    right = np.array([entry["votes"] for entry in known])
    # An image that was given up, or could not be read, has radius 0 whatever its bounds.
    whole = np.array(["label" in record and "abstained" not in record for record in records])
    drawn, total = draws[:, -1], right[:, -1]
    plain = certify(
        protocol.law, np.where(whole, protocol.lower(total, drawn, protocol.alpha), 0.0)
    )

    base = np.where(whole, protocol.lower(total, drawn, share), 0.0)
    laws: list[RadialLaw | list[RadialLaw]] = []
    evidence: list[report.Evidence] = []

    def add(
        name: str,
        law: RadialLaw | list[RadialLaw],
        drawn: NDArray[np.int64],
        count: NDArray[np.int64],
        quantile: NDArray[np.float64] | None = None,
    ) -> None:
        lower = np.where(whole, protocol.lower(count, drawn, share), 0.0)
        laws.append(law)
        evidence.append(report.Evidence(name, drawn, count, lower, quantile))

    rows = list(zip(records, whole.tolist(), strict=True))
    pooled, more = np.zeros(len(records), dtype=bool), np.zeros(len(records), dtype=np.int64)

    def votes_of(entries: list[dict[str, Any]]) -> NDArray[np.int64]:
        return np.array([entry.get("votes", 0) for entry in entries], dtype=np.int64)

    for j, law in enumerate(protocol.inside):
        add(f"inside_{law.quantile:.4g}", law, draws[:, j], right[:, j])
    for j, law in enumerate(protocol.scaled):
        count = votes_of([record["scaled"][j] if ok else {} for record, ok in rows])
        add(f"sigma_{law.sigma:g}", law, np.where(whole, n, 0), count)
    for j, rule in enumerate(protocol.rules):
        entries = [record["threshold"][j] if ok else {} for record, ok in rows]
        quantile = np.array([entry.get("quantile", math.nan) for entry in entries])
        each = [protocol.law.truncated(entry.get("quantile", 0.5)) for entry in entries]
        add(f"threshold_{rule}", each, np.where(whole, n, 0), votes_of(entries), quantile)
        pooled |= np.array(["pooled" in entry for entry in entries])
        # Two such rules share these draws.
        more = np.maximum(more, [entry["votes"] if "pooled" in entry else 0 for entry in entries])
    joint = certify(protocol.law, base, laws, [law.lower for law in evidence])
    # Neyman-Pearson from 2N draws of P, at P's own share (design: the rules with a plus).
    twice = certify(protocol.law, lower_bound(np.where(pooled, total + more, 0), 2 * n, share))
    used = joint.replaced_by(twice, pooled)
    radius = used.radius
    if settings.search == "grid":
        start = certify(protocol.law, base).radius
        radius = np.where(pooled, radius, last_on_grid(start, radius, settings.grid_unit))
    status = np.where(pooled & (radius > 0.0), "pooled", used.status.astype("U10"))
    status = np.where([sampling.UNREADABLE in record for record in records], "unreadable", status)
    return {
        "index": [record["index"] for record in records],
        "label": [record.get("label", -1) for record in records],
        "n": drawn,
        "votes": total,
        **report.certificate_columns(
            plain,
            used,
            radius,
            status,
            evidence,
            bounds=settings.bounds,
            alpha_np=protocol.alpha,
            alpha_dsrs=protocol.alpha,
        ),
    }
