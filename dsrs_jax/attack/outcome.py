"""What is attacked, what becomes of it, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True)
class Target:
    """An image to attack: its place in the data set, its label, and radii of balls, increasing."""

    index: int
    image: np.ndarray
    label: int
    radii: Sequence[float]


class Votes(NamedTuple):
    """Of the label, with the ambiguous draws, and of the answer that has most of the others: a
    class, or none, where logits are not all finite."""

    label: int
    other: int


def is_right(votes: Votes) -> bool:
    """Whether no other answer has more votes than the label."""
    return votes.label >= votes.other


def p_value(votes: Votes, classes: int, look: int) -> float:
    """Of "no answer is more probable than the label", by an image's look of this number.

    Where that is so, the label's votes among its own and one other answer's are binomial, with a
    share of at least a half; `other` are those of the best of the other answers, which are as many
    as there are classes. Fresh draws look at an image whenever a check says so: the look of
    number j, from 1, has 1/(j (j + 1)) of the error, and all looks together have it once.
    """
    of_two = float(special.bdtr(votes.label, votes.label + votes.other, 0.5))
    return min(1.0, of_two * classes * look * (look + 1))


@dataclasses.dataclass
class Try:
    """What became of an image in one ball.

    Attributes:
        radius: of the ball.
        voted: whether the check after a step gave another class more votes than the label.
        broken: whether fresh draws confirmed it (`Attack.alpha`); without any, the same.
        start: the last start, from 0.
        steps, idle: taken in all, and how many of them found no gradient.
        perturbation: norm of what broke it, computed in float64; None where nothing did.
        recheck: the last fresh draws' votes; None where there were none.
        p_value: of the fresh draws that broke it (`p_value`); None where none did.
        image: the attacked image that was broken.
    """

    radius: float
    voted: bool = False
    broken: bool = False
    start: int = 0
    steps: int = 0
    idle: int = 0
    perturbation: float | None = None
    recheck: Votes | None = None
    p_value: float | None = None
    image: np.ndarray | None = None


@dataclasses.dataclass
class Outcome:
    """What became of an image: its votes without a perturbation, and a try for each ball.

    A ball is not tried after one that broke the image, which lies inside it; nor is any where the
    image is wrong without a perturbation.

    Attributes:
        index, label: of the target.
        clean: votes without a perturbation; fresh draws' where the check found another class.
        right: whether the smoothed classifier's answer is the label, unperturbed: the check found
            it, or fresh draws did not confirm another (`Attack.alpha`).
        p_value: of the fresh draws where they confirmed it (`p_value`); else None.
        tries: of the balls, smallest first.
    """

    index: int
    label: int
    clean: Votes
    right: bool = True
    p_value: float | None = None
    tries: list[Try] = dataclasses.field(default_factory=list)
