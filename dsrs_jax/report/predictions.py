"""What a person reads of predictions: the class of each image, and how often it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int64
from rich import box
from rich.table import Table
from rich.text import Text

from dsrs_jax.bounds import Prediction, interval
from dsrs_jax.report.accuracy import percent
from dsrs_jax.report.paper import PaperTable

_ABSTAINED = -1  # as a class, as the logs of the field have it
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The smoothed classifier's answers, a row an image.

    Attributes:
        images: what each is called: its file, or its index.
        index: (images,) places in the data set or the list.
        label: (images,) of the data set; -1 where nobody says it.
        problems: why an image could not be read, else "".
        prediction: of the votes.
        not_finite, ambiguous: (images,) draws without a vote.
        draws: of each image.
        names: of the classes, where they are known.
    """

    images: Sequence[str]
    index: Int64[np.ndarray, " images"]
    label: Int64[np.ndarray, " images"]
    problems: Sequence[str]
    prediction: Prediction
    not_finite: Int64[np.ndarray, " images"]
    ambiguous: Int64[np.ndarray, " images"]
    draws: int
    names: Mapping[int, str]

    @property
    def readable(self) -> Bool[np.ndarray, " images"]:
        """(images,) whether an image could be read."""
        return np.array([not problem for problem in self.problems])

    @property
    def labelled(self) -> bool:
        """Whether the images' labels are known."""
        return bool(np.any(self.label >= 0))

    def table(self, most: int) -> Table:
        """The first images, for a terminal."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("image", overflow="fold")
        head = ["label"] * self.labelled + ["class", "votes", "second", "votes", "p-value"]
        for name in head:
            table.add_column(name, justify="right" if name in ("votes", "p-value") else "left")
        found = self.prediction
        for i in range(min(len(self.images), most)):
            row = [self.images[i], *[self._named(self.label[i])] * self.labelled]
            if self.problems[i]:
                table.add_row(*map(Text, [*row, "unreadable"]))
                continue
            leading, second = self._named(found.leading[i]), self._named(found.second[i])
            row += [leading if found.decided[i] else f"ABSTAIN ({leading})"]
            row += [f"{found.votes[i]:,}", second, f"{found.second_votes[i]:,}"]
            table.add_row(*map(Text, [*row, f"{found.p_value[i]:.2g}"]))
        return table

    def rows(self) -> PaperTable:
        """All images: what predictions.csv has (docs/commands.md)."""
        found, rows = self.prediction, []
        for i, problem in enumerate(self.problems):
            decided = bool(found.decided[i])
            status = "predicted" if decided else "abstained"
            predicted = int(found.leading[i]) if decided else _ABSTAINED
            cells = [self.index[i], self.images[i], self.label[i], predicted]
            cells += [self.names.get(predicted, ""), "unreadable" if problem else status]
            cells += [0 if problem else self.draws, found.leading[i], found.votes[i]]
            cells += [found.second[i], found.second_votes[i], self.not_finite[i]]
            cells += [self.ambiguous[i], repr(float(found.p_value[i]))]
            rows.append([str(cell) for cell in cells])
        header = [
            "index", "image", "label", "class", "name", "status", "n", "first", "votes_first",
            "second", "votes_second", "not_finite", "ambiguous", "p_value",
        ]  # fmt: skip
        return PaperTable("predictions", "Predictions", header, rows)

    def accuracy(self) -> PaperTable:
        """How often the smoothed classifier is right; abstentions are wrong.

        With the share that has most votes for its label, whether the test is sure of it or not:
        the clean accuracy of Li et al. (ICML 2022).
        """
        found, total, readable = self.prediction, len(self.images), self.readable
        most = readable & (found.leading == self.label)
        right = int(np.sum(most & found.decided))
        decided = int(np.sum(readable & found.decided))
        low, high = interval(right, total, 1.0 - _CONFIDENCE)
        counts = [total, right, decided - right, int(np.sum(readable)) - decided]
        shares = [right / total, float(low), float(high), float(np.mean(most))]
        row = [str(one) for one in [*counts, int(np.sum(~readable)), *shares]]
        header = [
            "images", "right", "wrong", "abstained", "unreadable", "accuracy", "low", "high",
            "accuracy_of_most_votes",
        ]  # fmt: skip
        return PaperTable("accuracy", "Clean accuracy", header, [row], 0)

    def sentences(self) -> Iterator[str]:
        """Clean accuracy where labels are known, and what is odd about the draws."""
        if self.labelled:
            table = self.accuracy()
            row = dict(zip(table.header, table.rows[0], strict=True))
            share, low, high, most = (
                percent(float(row[name]))
                for name in ("accuracy", "low", "high", "accuracy_of_most_votes")
            )
            unreadable = f", {row['unreadable']} unreadable" if row["unreadable"] != "0" else ""
            yield (
                f"Clean accuracy of the smoothed classifier: {share}% (95% interval of the sample "
                f"of images: {low}–{high}%); of {row['images']} images {row['right']} right, "
                f"{row['wrong']} wrong, {row['abstained']} abstained{unreadable}. By most votes, "
                f"sure or not: {most}%."
            )
        if odd := int(self.not_finite.sum()):
            yield (
                f"{odd:,} of {self.draws * int(np.sum(self.readable)):,} draws had logits that are "
                "not finite: they vote for no class."
            )

    def _named(self, label: int | np.int64) -> str:
        known = self.names.get(int(label))
        return str(label) if known is None else f"{label} {known}"
