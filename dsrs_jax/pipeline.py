"""The one way that data takes: images, noise, votes, bounds, certificates, report.

`run` is what `scripts/certify.py` calls. It writes into one directory:

    config.json        what the votes depend on
    model/             the small model, where none was given
    votes.jsonl        one record an image, appended as they come (sampling/records.py)
    certificates.csv   one row an image
    report.png         certified accuracy against radius
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import data, noise, report, sampling, train
from dsrs_jax.certify import certify, interval, last_on_grid, lower_bound
from dsrs_jax.certify.thresholds import pools, threshold
from dsrs_jax.convert import cached
from dsrs_jax.errors import UserError
from dsrs_jax.models import (
    Classifier,
    ModelMetadata,
    fingerprint,
    load_model,
    save_model,
)
from dsrs_jax.noise import RadialLaw
from dsrs_jax.proving import with_proofs

# The digits' default: chosen by measurement (README, "Which second law?").
DIGITS_SIGMA, DIGITS_K, DIGITS_EPOCHS = 0.5, 28.0, 150
DEFAULT_INSIDE = (0.2, 0.4, 0.6, 0.8)


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
    prove: bool = False


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """The laws that are drawn from, and how the failure probability is shared between them."""

    law: RadialLaw
    inside: tuple[RadialLaw, ...]  # P truncated: read off P's own draws
    scaled: tuple[RadialLaw, ...]  # P with another sigma: drawn separately
    rules: tuple[str, ...]  # P truncated by a rule: drawn separately
    n: int
    alpha: float
    one_sided: bool

    @property
    def share(self) -> float:
        """Failure probability of each of the J + 1 bounds; together they fail with alpha."""
        return self.alpha / (1 + len(self.inside) + len(self.scaled) + len(self.rules))

    @property
    def cutoffs(self) -> list[float]:
        return [law.cutoff for law in self.inside if law.cutoff is not None]

    def lower(
        self, votes: NDArray[np.int64], draws: NDArray[np.int64], alpha: float
    ) -> NDArray[np.float64]:
        if self.one_sided:
            return lower_bound(votes, draws, alpha)
        return interval(votes, draws, alpha)[0]


def run(settings: Settings, console: Console) -> bool:
    """Certifies a data set as the settings say, continuing what an earlier run left.

    Returns:
        Whether everything that `prove` asked for is proved.

    Raises:
        UserError: a setting is wrong, or a file is missing or damaged; nothing is lost.
    """
    _check(settings)
    dataset = data.load(settings.dataset, settings.split, settings.data_dir)
    indices = _chosen_indices(settings, len(dataset))
    out = Path(settings.out or Path("runs") / settings.dataset)
    stages: dict[str, float] = {}

    clock = time.perf_counter()
    classifier = _classifier(settings, dataset, out, console)
    law = _law(settings, classifier.metadata)
    stages["model"] = time.perf_counter() - clock
    protocol = _protocol(settings, law)
    clock = time.perf_counter()
    _announce_largest_radius(protocol, console)
    stages["certification"] = time.perf_counter() - clock

    with sampling.RunDirectory(out, _vote_settings(settings, protocol, classifier)) as directory:
        clock = time.perf_counter()
        _sample(settings, protocol, classifier, dataset, indices, directory, console)
        stages["sampling"] = time.perf_counter() - clock
        clock = time.perf_counter()
        columns = _certify_records(settings, protocol, [directory.records[i] for i in indices])
        stages["certification"] += time.perf_counter() - clock
        clock = time.perf_counter()
        sampling.write_whole(out / "certificates.csv", report.csv_text(columns))
        proved = True
        if settings.prove:
            stages["report"] = time.perf_counter() - clock
            clock = time.perf_counter()
            columns, proved = with_proofs(columns, out, console)
            sampling.write_whole(out / "certificates.csv", report.csv_text(columns))
            stages["proofs"] = time.perf_counter() - clock
            clock = time.perf_counter() - stages.pop("report")
        methods = {
            "Neyman-Pearson": columns["radius_np"],
            "DSRS": columns["radius_dsrs"],
        }
        title = (
            f"{settings.dataset} {settings.split}, {len(indices)} images; "
            f"N = {settings.n:,}, α = {settings.alpha:g}\n{noise.describe(law)}"
        )
        report.draw_curves(out / "report.png", methods, title)
        stages["report"] = time.perf_counter() - clock
    console.print(report.accuracy_table(methods))
    console.print(
        "seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
    )
    console.print(f"{out / 'certificates.csv'}, {out / 'report.png'}", soft_wrap=True)
    return proved


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
    settings: Settings, dataset: data.Dataset, out: Path, console: Console
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
    elif (out / "model").exists():
        classifier = load_model(out / "model", settings.dtype)
    else:
        classifier = _train_digits(settings, out, console)
    metadata = classifier.metadata
    if (metadata.image_shape, metadata.classes) != (dataset.image_shape, dataset.classes):
        raise UserError(
            f"the model {metadata.arch} takes images {metadata.image_shape} of "
            f"{metadata.classes} classes, {dataset.name} has {dataset.image_shape} of "
            f"{dataset.classes}; give the model of this dataset"
        )
    return classifier


def _train_digits(settings: Settings, out: Path, console: Console) -> Classifier:
    sigma = DIGITS_SIGMA if settings.sigma is None else settings.sigma
    k = DIGITS_K if settings.k is None else settings.k
    k = 0.0 if settings.noise == "gaussian" else k
    eta = 2.0 if settings.eta is None else settings.eta
    training = data.load("digits", "train")
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


def _protocol(settings: Settings, law: RadialLaw) -> _Protocol:
    any_q = settings.q_sigma or settings.q_inside or settings.q_threshold
    quantiles = settings.q_inside if any_q else DEFAULT_INSIDE
    return _Protocol(
        law=law,
        inside=tuple(law.truncated(quantile) for quantile in sorted(quantiles)),
        scaled=tuple(law.with_sigma(sigma) for sigma in settings.q_sigma),
        rules=settings.q_threshold,
        n=settings.n,
        alpha=settings.alpha,
        one_sided=settings.bounds == "one-sided",
    )


def _vote_settings(
    settings: Settings, protocol: _Protocol, classifier: Classifier
) -> dict[str, Any]:
    law = protocol.law
    return {
        "dataset": settings.dataset,
        "split": settings.split,
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


def _announce_largest_radius(protocol: _Protocol, console: Console) -> None:
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
    protocol: _Protocol,
    classifier: Classifier,
    dataset: data.Dataset,
    indices: list[int],
    directory: sampling.RunDirectory,
    console: Console,
) -> None:
    missing = [index for index in indices if index not in directory.records]
    if not missing:
        return
    if len(missing) < len(indices):
        console.print(f"{len(indices) - len(missing)} of {len(indices)} images were done before.")
    width = jax.local_device_count()
    with report.progress(console, "sampling", len(missing), "images") as advance:
        for start in range(0, len(missing), width):
            block = missing[start : start + width]
            directory.append(_records(settings, protocol, classifier, dataset, block))
            advance(len(block))


def _records(
    settings: Settings,
    protocol: _Protocol,
    classifier: Classifier,
    dataset: data.Dataset,
    block: list[int],
) -> list[dict[str, Any]]:
    """Draws all that the protocol asks for on a block of images."""
    images, labels = dataset.images[block], dataset.labels[block]

    def votes(laws: RadialLaw | list[RadialLaw], rows: list[int], **options: Any) -> sampling.Votes:
        return sampling.count_votes(
            classifier,
            images[rows],
            labels[rows],
            laws,
            protocol.n,
            indices=np.asarray(block)[rows],
            seed=settings.seed,
            batch=settings.batch,
            **options,
        )

    everyone = list(range(len(block)))
    base = votes(protocol.law, everyone, cutoffs=protocol.cutoffs)
    right = base.right[:, -1]
    records: list[dict[str, Any]] = [
        {
            "index": index,
            "label": int(labels[i]),
            "p": {"draws": base.draws[i].tolist(), "votes": base.right[i].tolist()},
            "scaled": [],
            "threshold": [],
        }
        for i, index in enumerate(block)
    ]
    for law in protocol.scaled:
        counted = votes(law, everyone).right[:, -1]
        for record, count in zip(records, counted, strict=True):
            record["scaled"].append(int(count))
    for rule in protocol.rules:
        lower = protocol.lower(right, np.full_like(right, protocol.n), protocol.share)
        pooled = [i for i in everyone if pools(rule) and right[i] == protocol.n]
        others = [i for i in everyone if i not in pooled]
        if pooled:
            more = votes(protocol.law, pooled, first=protocol.n).right[:, -1]
            for i, count in zip(pooled, more, strict=True):
                records[i]["threshold"].append({"pooled": True, "votes": int(count)})
        if others:
            quantiles = [threshold(rule, float(lower[i])) for i in others]
            laws = [protocol.law.truncated(quantile) for quantile in quantiles]
            counted = votes(laws, others).right[:, -1]
            for i, quantile, count in zip(others, quantiles, counted, strict=True):
                records[i]["threshold"].append({"quantile": quantile, "votes": int(count)})
    return records


def _certify_records(
    settings: Settings, protocol: _Protocol, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """The columns of `certificates.csv`, a row for each record."""
    share, n = protocol.share, protocol.n
    draws = np.array([record["p"]["draws"] for record in records])
    right = np.array([record["p"]["votes"] for record in records])
    total = right[:, -1]
    plain = certify(protocol.law, protocol.lower(total, np.full_like(total, n), protocol.alpha))

    base = protocol.lower(total, np.full_like(total, n), share)
    laws: list[RadialLaw | list[RadialLaw]] = []
    evidence: list[report.Evidence] = []

    def add(
        name: str,
        law: RadialLaw | list[RadialLaw],
        drawn: NDArray[np.int64],
        count: NDArray[np.int64],
        quantile: NDArray[np.float64] | None = None,
    ) -> None:
        lower = protocol.lower(count, drawn, share)
        laws.append(law)
        evidence.append(report.Evidence(name, drawn, count, lower, quantile))

    for j, law in enumerate(protocol.inside):
        add(f"inside_{law.quantile:.4g}", law, draws[:, j], right[:, j])
    for j, law in enumerate(protocol.scaled):
        count = np.array([record["scaled"][j] for record in records])
        add(f"sigma_{law.sigma:g}", law, np.full_like(count, n), count)
    for j, rule in enumerate(protocol.rules):
        entries = [record["threshold"][j] for record in records]
        quantile = np.array([entry.get("quantile", math.nan) for entry in entries])
        each = [protocol.law.truncated(entry.get("quantile", 0.5)) for entry in entries]
        count = np.array([entry["votes"] for entry in entries])
        add(f"threshold_{rule}", each, np.full_like(count, n), count, quantile)
    joint = certify(protocol.law, base, laws, [law.lower for law in evidence])
    pooled = np.array([any("pooled" in e for e in record["threshold"]) for record in records])
    more = np.array([sum(e["votes"] for e in r["threshold"] if "pooled" in e) for r in records])
    # Neyman-Pearson from 2N draws of P, at P's own share (design: the rules with a plus).
    twice = certify(protocol.law, lower_bound(np.where(pooled, total + more, 0), 2 * n, share))
    used = joint.replaced_by(twice, pooled)
    radius = used.radius
    if settings.search == "grid":
        start = certify(protocol.law, base).radius
        radius = np.where(pooled, radius, last_on_grid(start, radius, settings.grid_unit))
    status = np.where(pooled & (radius > 0.0), "pooled", used.status)
    return {
        "index": [record["index"] for record in records],
        "label": [record["label"] for record in records],
        "n": [n] * len(records),
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
