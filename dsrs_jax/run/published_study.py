"""A published study: its files as a VoteTable, its certificates, and its radii beside ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from dsrs_jax import data
from dsrs_jax.bounds import Protocol, Search, pools, recover_votes, threshold
from dsrs_jax.certify import CertificateTable, Status, certify_table, worst_case
from dsrs_jax.noise import RadialLaw
from dsrs_jax.run import published_layout as layout
from dsrs_jax.run.settings import ImageOptions, LawOptions, ProtocolOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import group, option
from dsrs_jax.votes import Intervals, Kind, SecondLaw, State, VoteTable, second_laws

# Published radii may pass ours by this much and still agree (their own precision is 5e-5).
AGREEMENT = 1e-4
# The paper's `+` rules draw from P again instead of Q when P's upper end reaches this.
_ALL_RIGHT = 1.0 - 1e-8
_UNITS = (0.05, 0.01)  # of the published grids
_WITHIN = 1e-9  # of an interval's end, for what the worst classifier gives
_BELOW = {Status.P: Status.P_BELOW, Status.Q: Status.Q_BELOW, Status.DSRS: Status.DSRS_BELOW}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Study."""

    published: str = option(
        help="folder in the authors' layout", metavar="DIR", positional=True, local=True
    )
    model_name: str = option(help="whose files to certify", metavar="NAME", often=True)
    dataset: str = option(help="of the images", choices=tuple(data.IMAGE_SHAPES), often=True)
    law: LawOptions = group(LawOptions)
    q_sigma: tuple[float, ...] = option(
        (), "Q: P with another sigma; repeatable", metavar="B", often=True
    )
    q_threshold: tuple[str, ...] = option(
        (), "Q: P truncated; repeatable", metavar="b|x|x+|x2|x2+", often=True
    )
    protocol: ProtocolOptions = group(ProtocolOptions)
    images: ImageOptions = group(ImageOptions)


def options_of(one: layout.Published) -> StudyOptions:
    """The options that mean one file of published radii."""
    study = one.study
    return StudyOptions(
        published=str(study.directory),
        model_name=study.model,
        dataset=one.dataset,
        law=LawOptions(sigma=study.sigma, k=study.k),
        protocol=ProtocolOptions(n=study.draws, alpha=2 * study.alpha),
        q_sigma=() if one.sigma is None else (one.sigma,),
        q_threshold=() if one.threshold is None else (one.threshold,),
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A study's files.

    Attributes:
        study: what the names of its files have in common.
        table: P and every Q, image by image.
        extra: the Q's.
        twice: P with twice the draws at the whole alpha, where that was published.
        protocol: alpha of the whole certificate; Neyman-Pearson's radii get P's own part of it.
    """

    study: layout.Study
    table: VoteTable
    extra: tuple[SecondLaw, ...]
    twice: VoteTable | None
    protocol: Protocol


@dataclasses.dataclass(frozen=True)
class Result:
    """Certificates from P and some Q's.

    Attributes:
        name: of the Q, or "all".
        certificates: their status says where the paper uses a negative multiplier, and why a Q
            does not count.
        negative: (n,) whether the paper would use a negative multiplier.
        refuted: (n,) whether a classifier with probabilities inside all published intervals
            loses its answer just beyond our radius: no method can certify more from them.
    """

    name: str
    certificates: CertificateTable
    negative: NDArray[np.bool_]
    refuted: NDArray[np.bool_]


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


def load(options: StudyOptions) -> Loaded:
    """Reads the files that the options name.

    For the rules `x+` and `x2+` the lines of images whose draws from P were all right are
    discarded: they count draws that are not Q's.

    Raises:
        UserError: a file is missing (the message names it) or damaged, or an option is wrong.
    """
    directory = Path(options.published)
    if not directory.is_dir():
        raise UserError(f"no folder {directory}; give one with sampling/ in it")
    law = options.law.law(data.IMAGE_SHAPES[options.dataset])
    extra = second_laws(sigma=options.q_sigma, threshold=options.q_threshold)
    n, alpha = options.protocol.n, options.protocol.alpha
    study = layout.Study(
        directory=directory,
        model=options.model_name,
        noise=options.law.noise or "general-gaussian",
        k=float(law.k),
        sigma=float(law.sigma),
        draws=n,
        # A file has the failure probability of one law's interval, as Python prints it.
        alpha=float(f"{alpha / 2:.12g}") if extra else alpha,
    )
    intervals = layout.read_intervals(study.intervals())
    index = _chosen(options.images, np.array(list(intervals), dtype=np.int64))
    base = _Column.read(intervals, index, law, n, study.alpha)
    columns = [base, *(_second(study, one, law, base, index) for one in extra)]
    table = _table(("p", *(one.name for one in extra)), columns, index, study.alpha)
    twice, file = None, study.intervals(draws=2 * n, alpha=alpha)
    if extra and file.exists():
        found = layout.read_intervals(file)
        if set(index.tolist()) <= set(found):
            twice = _table(("p",), [_Column.read(found, index, law, 2 * n, alpha)], index, alpha)
    protocol = dataclasses.replace(
        options.protocol.protocol(), paper_baseline=True, base_share=None
    )
    return Loaded(study, table, extra, twice, protocol)


def file_of(study: layout.Study, extra: SecondLaw) -> Path:
    """The file of published radii of one Q."""
    if extra.kind is Kind.SIGMA:
        return study.double_sampling(sigma=float(extra.value))
    return study.double_sampling(threshold=str(extra.value))


def certify_with(loaded: Loaded, which: Sequence[int], protocol: Protocol | None = None) -> Result:
    """Certificates from P and the Q's of these numbers in `loaded.extra`.

    Args:
        loaded: the study.
        which: none is Neyman-Pearson alone; with more than one alpha is divided anew, by the
            counts of votes.
        protocol: another than the study's.
    """
    protocol = protocol or loaded.protocol
    table = loaded.table.only([0, *(1 + j for j in which)])
    found = certify_table(table, dataclasses.replace(protocol, search=Search.PRECISE))
    assert table.intervals is not None
    given = worst_case(found.dsrs, table.laws)
    low, high = found.lower - _WITHIN, table.intervals.high + _WITHIN
    negative = np.any(given > high, axis=1)
    refuted = np.all((given >= low) & (given <= high), axis=1)
    status = found.status.copy()
    for i in np.flatnonzero(negative).tolist():
        status[i] = _BELOW[status[i]]
    for j in range(1, len(table.names)):
        alone = found.status == Status.P
        status[alone & (found.lower[:, j] == 0.0)] = Status.NO_BOUND
        status[alone & (table.state[:, j] == State.MISSING)] = Status.UNPAIRED
        status[alone & (table.state[:, j] == State.DISCARDED)] = Status.DISCARDED
    if protocol.search is not Search.PRECISE:
        found = certify_table(table, protocol)
    name = loaded.extra[which[0]].name if len(which) == 1 else "all"
    return Result(name, dataclasses.replace(found, status=status), negative, refuted)


def compare(
    result: Result, published: Mapping[int, float], neyman_pearson: Mapping[int, float]
) -> Comparison:
    """Our radii of one Q beside the published ones.

    Args:
        result: ours, from a single Q.
        published: index -> DSRS radius.
        neyman_pearson: index -> Neyman-Pearson radius that the published search began with.
    """
    votes = result.certificates.votes
    both = np.array([i in published for i in votes.index.tolist()], dtype=bool)
    discarded = votes.state[:, 1] == State.DISCARDED
    rows = np.flatnonzero(both & ~discarded)
    indices = votes.index[rows].tolist()
    theirs = np.array([published[i] for i in indices])
    start = np.array([neyman_pearson.get(i, math.nan) for i in indices])
    ours = result.certificates.radius[rows]
    unit = grid_unit(theirs[theirs > start + 1e-9])
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
        status=result.certificates.status[rows],
    )


@dataclasses.dataclass(frozen=True)
class _Column:
    """What a file says of one law, aligned with P's images."""

    law: RadialLaw | tuple[RadialLaw, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    votes: NDArray[np.int64]
    draws: NDArray[np.int64]
    state: Shaped[np.ndarray, " images"]

    @classmethod
    def read(
        cls,
        intervals: Mapping[int, tuple[float, float]],
        index: NDArray[np.int64],
        law: RadialLaw | tuple[RadialLaw, ...],
        draws: int,
        alpha: float,
        discarded: NDArray[np.bool_] | None = None,
    ) -> _Column:
        """From the lines of a file: a count is -1 where its interval is of other draws."""
        here = np.array([i in intervals for i in index.tolist()], dtype=bool)
        state = np.where(here, State.COMPLETE, State.MISSING).astype(object)
        if discarded is not None:
            state[discarded] = State.DISCARDED
            here = here & ~discarded
        ends = np.array(
            [
                intervals[i] if use else (0.0, 1.0)
                for i, use in zip(index.tolist(), here, strict=True)
            ]
        )
        # A printed end of 1 is a rounded one: bounds are below 1.
        low, high = np.minimum(ends[:, 0], np.nextafter(1.0, 0.0)), ends[:, 1]
        votes = np.where(here, recover_votes(low, high, draws, alpha), 0)
        total = np.where(here, np.where(votes >= 0, draws, -1), 0)
        return cls(law, low, high, votes, total, state)


def _second(
    study: layout.Study,
    extra: SecondLaw,
    law: RadialLaw,
    base: _Column,
    index: NDArray[np.int64],
) -> _Column:
    """The column of one Q."""
    if extra.kind is Kind.SIGMA:
        sigma = float(extra.value)
        found = layout.read_intervals(study.intervals(sigma=sigma))
        return _Column.read(found, index, law.with_sigma(sigma), study.draws, study.alpha)
    rule = str(extra.value)
    found = layout.read_intervals(study.intervals(threshold=rule))
    # The rule saw P's published lower end, whatever bounds are used now.
    quantiles = [threshold(rule, low) for low in base.low.tolist()]
    known = {b: law.truncated(b, float32=False) for b in set(quantiles)}
    each = tuple(known[b] for b in quantiles)
    discarded = (base.high >= _ALL_RIGHT) & pools(rule)
    return _Column.read(found, index, each, study.draws, study.alpha, discarded)


def _table(
    names: tuple[str, ...], columns: Sequence[_Column], index: NDArray[np.int64], alpha: float
) -> VoteTable:
    low, high, draws, votes, state = (
        np.stack([getattr(column, name) for column in columns], axis=1)
        for name in ("low", "high", "draws", "votes", "state")
    )
    return VoteTable(
        names=names,
        laws=tuple(column.law for column in columns),
        index=index,
        label=np.full(len(index), -1),
        draws=draws,
        votes=votes,
        state=state,
        intervals=Intervals(low, high, alpha),
    )


def _chosen(images: ImageOptions, index: NDArray[np.int64]) -> NDArray[np.int64]:
    stop = index.max(initial=-1) + 1 if images.stop == -1 else images.stop
    inside = (index >= images.start) & (index < stop)
    chosen = index[inside & ((index - images.start) % images.skip == 0)]
    if not chosen.size:
        raise UserError("no image of P's file has an index that --start, --stop, --skip choose")
    return chosen


def grid_unit(gained: NDArray[np.float64]) -> float:
    """The coarsest of the known grids that all radii that a search has moved lie on."""
    for unit in _UNITS:
        if np.all(np.abs(gained / unit - np.round(gained / unit)) < 1e-6):
            return unit
    return _UNITS[-1]
