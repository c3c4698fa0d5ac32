"""The record of what the votes say of every law, image by image."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from numpy.typing import ArrayLike, NDArray

from dsrs_jax.bounds import Looks
from dsrs_jax.noise import RadialLaw, sound
from dsrs_jax.system.errors import UserError


class State(enum.StrEnum):
    """What one image's votes under one law are good for."""

    COMPLETE = "complete"  # a bound may be made of them
    ABSTAINED = "abstained"  # the image was given up at an interim look: radius 0
    UNREADABLE = "unreadable"  # the image could not be read, nothing was drawn
    NOT_FINITE = "not-finite"  # no draw had logits that are all finite: none was right, radius 0
    MISSING = "missing"  # nobody drew from this law
    DISCARDED = "discarded"  # counts that are not of this law


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Confidence intervals, where only these were published and not the counts behind them.

    Attributes:
        low, high: (images, laws) ends in [0, 1]; 0 and 1 where nothing is known.
        alpha: failure probability of each whole interval.
    """

    low: Float64[np.ndarray, "images laws"]
    high: Float64[np.ndarray, "images laws"]
    alpha: float


@dataclasses.dataclass(frozen=True)
class SoundDraws:
    """That the draws were sound (`noise.sound`).

    Attributes:
        grid: steps in a unit of pixels.
        ambiguous: (images,) of all draws, how many were ambiguous; none of them has a vote.
    """

    grid: int
    ambiguous: Int64[np.ndarray, " images"]

    @property
    def rounding(self) -> float:
        """Relative error within which a draw counted as ambiguous."""
        return sound.ROUNDING


@dataclasses.dataclass(frozen=True)
class Counted:
    """Counts of images at one look, the same for all.

    Attributes:
        index: (images,) place of each image in its data set.
        number: of the look, from 1.
        draws, votes: (images, laws) of all draws so far, and the right ones among them.
    """

    index: NDArray[np.int64]
    number: int
    draws: NDArray[np.int64]
    votes: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class LookedAt:
    """That votes were looked at several times, and of which look the counts are.

    Attributes:
        looks: the schedule.
        number: (images,) of the look, from 1; 0 where nothing was drawn.
    """

    looks: Looks
    number: Int64[np.ndarray, " images"]

    def shares(self) -> Float64[np.ndarray, " images"]:
        """(images,) each image's share of alpha; 1 where nothing was drawn."""
        number, place = np.unique(self.number, return_inverse=True)
        found = [float(self.looks.share(one)) if one else 1.0 for one in number.tolist()]
        return np.array(found, dtype=np.float64)[place]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """That the class of each image was chosen by draws of its own (Cohen et al., ICML 2019).

    Attributes:
        draws: of P, how many of each image; none of them is among the table's.
        votes: (images,) of these, for the class that has most.
        true_label: (images,) of the data set; -1 where nobody says it.
    """

    draws: int
    votes: Int64[np.ndarray, " images"]
    true_label: Int64[np.ndarray, " images"]


@dataclasses.dataclass(frozen=True)
class VoteTable:
    """Votes of each image under each law: a row an image, a column a law, P first.

    A run of ours, a published sample and arrays that a user has all become one; certificates are
    made from it (`certify.certify_table`).

    Attributes:
        names: of the laws: "p", then what its columns in a file are called.
        laws: of each column, or one for each image where a rule picked it. P is not truncated. A
            column whose law is P itself for an image holds further draws of P, none of which is
            among the first column's.
        index: (images,) place of each image in its data set.
        label: (images,) class whose votes are counted, and that a certificate is for; -1 where it
            is not known.
        draws: (images, laws) number of draws; -1 where it is not known.
        votes: (images, laws) how many of them were right; -1 where only `intervals` is known.
        state: (images, laws) of `State`.
        intervals: of every cell, where intervals and not counts were published.
        sound: of sound draws; None where they were drawn in floating point.
        looked: None where all of alpha belongs to these counts.
        chosen: where draws chose `label`; None where it is the data set's.
        seed: of the draws; None where nobody knows it.
        compared: of how many draws the classifier's answers were compared with those to the draw
            alone and among others (`votes.compared`); None where nobody did.

    Raises:
        UserError: shapes or dimensions that do not fit together, or a truncated P.
    """

    names: tuple[str, ...]
    laws: tuple[RadialLaw | tuple[RadialLaw, ...], ...]
    index: Int64[np.ndarray, " images"]
    label: Int64[np.ndarray, " images"]
    draws: Int64[np.ndarray, "images laws"]
    votes: Int64[np.ndarray, "images laws"]
    state: Shaped[np.ndarray, "images laws"]
    intervals: Intervals | None = None
    sound: SoundDraws | None = None
    looked: LookedAt | None = None
    chosen: Chosen | None = None
    seed: int | None = None
    compared: int | None = None

    def __post_init__(self) -> None:
        shape = (len(self.index), len(self.names))
        cells = [self.draws, self.votes, self.state]
        if self.intervals is not None:
            cells += [self.intervals.low, self.intervals.high]
        if any(array.shape != shape for array in cells) or len(self.label) != len(self):
            raise UserError(
                f"a table of {shape[0]} images and {shape[1]} laws needs arrays of shape {shape}"
            )
        if self.sound is not None and len(self.sound.ambiguous) != len(self):
            raise UserError("a table of sound draws needs a number of ambiguous ones of each image")
        if self.looked is not None and len(self.looked.number) != len(self):
            raise UserError("a table of several looks needs the number of each image's look")
        if self.chosen is not None and not (
            len(self.chosen.votes) == len(self.chosen.true_label) == len(self)
        ):
            raise UserError("a table of chosen classes needs votes and a label of each image")
        base = self.laws[0] if self.laws else None
        if not isinstance(base, RadialLaw) or base.cutoff is not None:
            raise UserError("the first law is the smoothing law itself and must not be truncated")
        for column in self.laws:
            each = [column] if isinstance(column, RadialLaw) else column
            if len(each) != (1 if isinstance(column, RadialLaw) else len(self)):
                raise UserError("a column of laws needs one for each image")
            if any(law.dimension != base.dimension for law in each):
                raise UserError("all laws of a table must have the same dimension")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def base(self) -> RadialLaw:
        """P, the law under which the classifier is smoothed."""
        assert isinstance(self.laws[0], RadialLaw)
        return self.laws[0]

    @property
    def true_label(self) -> Int64[np.ndarray, " images"]:
        """(images,) of the data set; -1 where nobody says it."""
        return self.label if self.chosen is None else self.chosen.true_label

    def law(self, column: int, row: int) -> RadialLaw:
        """The law of one cell."""
        found = self.laws[column]
        return found if isinstance(found, RadialLaw) else found[row]

    def shares(self) -> Float64[np.ndarray, " images"]:
        """(images,) of alpha that the counts may use: 1 but for a schedule of looks."""
        return np.ones(len(self)) if self.looked is None else self.looked.shares()

    def charge(self, column: int) -> Float64[np.ndarray, " images"]:
        """(images,) what is taken off the lower bounds of a column (`noise.sound.charge`)."""
        if self.sound is None:
            return np.zeros(len(self))
        found, grid = self.laws[column], self.sound.grid
        if isinstance(found, RadialLaw):
            return np.full(len(self), sound.charge(found, grid))
        return np.array([sound.charge(law, grid) for law in found])

    def more_of_base(self, column: int) -> NDArray[np.bool_]:
        """(images,) whether a column after P's holds further draws of P itself."""
        found = self.laws[column]
        if column == 0 or isinstance(found, RadialLaw):
            return np.zeros(len(self), dtype=bool)
        return np.array([law == self.base for law in found], dtype=bool)

    def only(self, columns: Sequence[int]) -> VoteTable:
        """The same images with some of the laws; the first is P."""
        chosen = list(columns)
        intervals = self.intervals
        if intervals is not None:
            low, high = intervals.low[:, chosen], intervals.high[:, chosen]
            intervals = Intervals(low, high, intervals.alpha)
        return VoteTable(
            names=tuple(self.names[j] for j in chosen),
            laws=tuple(self.laws[j] for j in chosen),
            index=self.index,
            label=self.label,
            draws=self.draws[:, chosen],
            votes=self.votes[:, chosen],
            state=self.state[:, chosen],
            intervals=intervals,
            sound=self.sound,
            looked=self.looked,
            chosen=self.chosen,
            seed=self.seed,
            compared=self.compared,
        )

    @classmethod
    def from_counts(
        cls,
        laws: Sequence[RadialLaw | tuple[RadialLaw, ...]],
        votes: ArrayLike,
        draws: ArrayLike,
        *,
        names: Sequence[str] | None = None,
        index: ArrayLike | None = None,
        label: ArrayLike | None = None,
    ) -> VoteTable:
        """A table of complete counts.

        Args:
            laws: P, Q_1, ..., Q_J.
            votes: (images, laws) right answers; for P alone (images,) will do.
            draws: the same of draws, or what broadcasts to it: (laws,) or one number.
            names: of the laws; "p", "q1", "q2", ... unless given.
            index, label: (images,); 0, 1, ... and -1 unless given.

        Raises:
            UserError: shapes that do not fit.
        """
        counted = np.asarray(votes, dtype=np.int64)
        counted = counted[:, None] if counted.ndim == 1 else counted
        if counted.ndim != 2 or counted.shape[1] != len(laws):
            raise UserError(
                f"votes need the shape (images, {len(laws)}) for {len(laws)} laws, "
                f"got {np.shape(votes)}"
            )
        total = np.asarray(draws, dtype=np.int64)
        total = total[:, None] if total.ndim == 1 and len(laws) == 1 else total
        try:
            total = np.broadcast_to(total, counted.shape).copy()
        except ValueError:
            raise UserError(
                f"draws of shape {np.shape(draws)} do not fit votes of shape {counted.shape}"
            ) from None
        size = len(counted)
        place = np.arange(size) if index is None else np.asarray(index)
        known = np.full(size, -1) if label is None else np.asarray(label)
        return cls(
            names=tuple(names or ["p", *(f"q{j}" for j in range(1, len(laws)))]),
            laws=tuple(laws),
            index=place.astype(np.int64),
            label=known.astype(np.int64),
            draws=total,
            votes=counted,
            state=np.full(counted.shape, State.COMPLETE, dtype=object),
        )
