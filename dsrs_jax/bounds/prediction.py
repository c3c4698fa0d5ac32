"""The class that a smoothed classifier gives an image, or an abstention: from votes under noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy import stats

from dsrs_jax.system.errors import UserError


class Prediction(NamedTuple):
    """Which class has most votes of each image, and how sure that is.

    Attributes:
        leading, second: (images,) the two classes with most votes; of equal ones the lowest first.
        votes, second_votes: (images,) of them.
        p_value: (images,) of the test that `leading` is not the class of largest probability.
        decided: (images,) whether the test rejects that: else the classifier abstains.
    """

    leading: Int64[np.ndarray, " images"]
    second: Int64[np.ndarray, " images"]
    votes: Int64[np.ndarray, " images"]
    second_votes: Int64[np.ndarray, " images"]
    p_value: Float64[np.ndarray, " images"]
    decided: Bool[np.ndarray, " images"]


def predict(
    votes: Int64[np.ndarray, "images classes"],
    alpha: float,
    ambiguous: Int64[np.ndarray, " images"] | None = None,
    distance: float | Float[np.ndarray, " images"] = 0.0,
) -> Prediction:
    """The class of largest probability, wrong with probability at most alpha; or an abstention.

    The two-sided binomial test of the two leading classes (Cohen, Rosenfeld, Kolter, ICML 2019,
    section 3.2 and proposition 2; Hung and Fithian, Annals of Statistics 47, 2019): their votes are
    those of a fair coin.

    An ambiguous draw might be of any class. The p-value falls with the leading class's votes and
    rises with the other's, so it is largest where all of these are the second's: whatever they
    were, the test of the draws themselves rejects where this one does. Draws whose joint law is
    within `distance` of that of true ones have any outcome with a probability that is off by no
    more, which the p-value is raised by.

    Args:
        votes: of each class, at least two.
        alpha: in (0, 1).
        ambiguous: (images,) draws that have no vote and might be of any class; none unless given.
        distance: in total variation, between the draws of an image and those of the law.

    Raises:
        UserError: fewer than two classes.
    """
    if votes.shape[1] < 2:
        raise UserError("a classifier of fewer than two classes has nothing to predict")
    order = np.argsort(-votes, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(votes, order, axis=1).T
    against = second + (0 if ambiguous is None else ambiguous)
    chance = np.minimum(2.0 * stats.binom.cdf(against, first + against, 0.5), 1.0)
    p_value = np.minimum(np.where(first > against, chance, 1.0) + distance, 1.0)
    return Prediction(order[:, 0], order[:, 1], first, second, p_value, p_value <= alpha)


def fewest_draws(alpha: float) -> int:
    """Of so many draws of one class the test rejects at `alpha`; of fewer it never does."""
    return 1 + int(np.ceil(-np.log2(alpha)))
