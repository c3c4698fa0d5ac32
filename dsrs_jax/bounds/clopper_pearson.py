"""Confidence bounds for the probability of a vote (Clopper and Pearson, 1934), rounded outward."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dsrs_jax.system.errors import UserError

# Anything that numpy makes an array of; run-time type checks do not count an int as a complex.
Numbers = ArrayLike | int | float

# SciPy's inverse incomplete beta function errs by half of _ROUNDING p (1 - p) + _EPSILON p at most,
# up to MOST_DRAWS (against ball arithmetic: tests/bounds/test_clopper_pearson.py); beyond by more.
_ROUNDING, _EPSILON = 4e-10, 2e-15
MOST_DRAWS = 10**9
# Two programs' Clopper-Pearson ends differ by less (relatively); those of neighbouring counts of
# up to millions by far more.
_AGREES = 1e-9


def lower_bound(votes: Numbers, draws: Numbers, alpha: Numbers) -> NDArray[np.float64]:
    """One-sided lower bound: P(bound > true probability) <= alpha, for `votes` of `draws`.

    The p that solves I_p(votes, draws - votes + 1) = alpha, rounded down; 0 without a vote.

    Args:
        votes: whole numbers, 0 <= votes <= draws; any shape, broadcast against `draws`.
        draws: number of draws, fixed before sampling, at most `MOST_DRAWS` (0 allowed: the bound
            is then 0).
        alpha: failure probability of this one bound, in (0, 1); one, or what broadcasts.

    Raises:
        UserError: an argument is outside its domain.
    """
    count, total = _checked(votes, draws)
    _check_alpha(alpha)
    some = count > 0
    safe = np.where(some, count, 1.0)
    bound = special.betaincinv(safe, np.where(some, total - count + 1.0, 1.0), alpha)
    outward = bound * (1.0 - (_ROUNDING * (1.0 - bound) + _EPSILON))
    return np.where(some, np.maximum(outward, 0.0), 0.0)


def rounding(bound: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a `lower_bound` may be below another program's: both err, ours is rounded down.

    At most 8e-10 p (1 - p) + 4e-15 p, where the other one errs by no more than SciPy does.
    """
    return 2.0 * bound * (_ROUNDING * (1.0 - bound) + _EPSILON)


def interval(
    votes: Numbers, draws: Numbers, alpha: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two-sided interval at confidence 1 - alpha: alpha/2 on each side, rounded outward.

    This is what Li et al. (ICML 2022) use and publish; a certificate uses its lower end only.
    """
    count, total = _checked(votes, draws)
    _check_alpha(alpha)
    half = np.asarray(alpha, dtype=np.float64) / 2
    low = lower_bound(count, total, half)
    high = np.nextafter(1.0 - lower_bound(total - count, total, half), 2.0)
    return low, np.asarray(np.minimum(high, 1.0))


def recover_votes(low: Numbers, high: Numbers, draws: int, alpha: float) -> NDArray[np.int64]:
    """The counts of votes whose `interval` at `draws` and `alpha` is [low, high]; -1 for none.

    The lower end grows with the count, so it names at most one; the upper end must then agree.
    Where it does not, the interval came from another number of draws.

    Args:
        low: (n,) lower ends in [0, 1], as somebody computed and printed them.
        high: (n,) upper ends in [0, 1].
        draws: number of draws.
        alpha: failure probability of a whole interval, half on each side.
    """
    lower, upper = np.broadcast_arrays(
        np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    )
    first, last = np.zeros(lower.shape, dtype=np.int64), np.full(lower.shape, draws)
    while np.any(first < last):
        middle = (first + last + 1) // 2
        below = interval(middle, draws, alpha)[0] <= lower * (1.0 + _AGREES)
        first, last = np.where(below, middle, first), np.where(below, last, middle - 1)
    found = interval(first, draws, alpha)
    agree = (np.abs(found[0] - lower) <= _AGREES * lower) & (np.abs(found[1] - upper) <= _AGREES)
    return np.where(agree, first, -1)


def _check_alpha(alpha: Numbers) -> None:
    given = np.asarray(alpha, dtype=np.float64)
    if not np.all(inside := (given > 0.0) & (given < 1.0)):
        raise UserError(f"alpha must lie in (0, 1), got {given[~inside].ravel()[0]:g}")


def _checked(votes: Numbers, draws: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count, total = np.broadcast_arrays(
        np.asarray(votes, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    )
    whole = (count == np.floor(count)) & (total == np.floor(total))
    if not np.all(whole & (count >= 0) & (count <= total)):
        raise UserError("votes and draws must be whole numbers with 0 <= votes <= draws")
    if np.any(total > MOST_DRAWS):
        raise UserError(f"bounds are proved up to {MOST_DRAWS:,} draws, got {total.max():,.0f}")
    return count, total
