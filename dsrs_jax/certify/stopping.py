"""When the draws of an image end: rules that weigh what further draws are likely to add.

A rule sees the votes so far and may be any function of them: every bound of every look holds at
once (`bounds.Looks`), so a forecast that is wrong costs draws or radius, and never a certificate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify.forecast import Forecast
from dsrs_jax.noise import RadialLaw
from dsrs_jax.votes.table import Counted

# A goal that is out of reach of the probabilities seen may be within that of ones so many standard
# deviations larger.
_OPTIMISM = 2.0
_FURTHER = 1.0 + 1e-4  # a forecast is trusted to this


@dataclasses.dataclass(frozen=True)
class Goal:
    """What draws are spent on; one of the two, or neither where a budget ends them.

    Attributes:
        tolerance: to go on is worth while if it adds more than this share of the radius.
        radii: only which of these radii an image reaches is wanted; increasing, in pixels.
    """

    tolerance: float | None = None
    radii: tuple[float, ...] = ()


class Stopping:
    """A goal's rule for a run: which images go on after a look (`votes.collect`).

    Args:
        laws: (P, Q_1, ..., Q_J), the same for every image.
        names: of the laws, as in `VoteTable`.
        charges: (laws,) taken off each bound of sound draws (`noise.sound.charge`); else 0.
        protocol: of the certificates.
        looks: the schedule.
        most: draws that an image gets at most; one of the schedule's.
        goal: see `Goal`.
        forecast: of these laws, where it was made before.
    """

    def __init__(
        self,
        laws: Sequence[RadialLaw],
        names: Sequence[str],
        charges: Sequence[float],
        protocol: Protocol,
        looks: Looks,
        most: int,
        goal: Goal,
        forecast: Forecast | None = None,
    ) -> None:
        self.looks, self.goal, self._protocol = looks, goal, protocol
        self.forecast = forecast or Forecast(laws)
        self._charge = np.array(charges)
        self._shares = protocol.shares(len(laws))
        self._all_right = protocol.all_right(names)
        self._last = len(looks.up_to(most))
        self._radii = np.array(goal.radii)
        # By look, where the all-right rule is in force: its ceiling, and the radius above it.
        self._of_no_wrong_vote: dict[int, NDArray[np.float64]] = {}

    def radius(self, counted: Counted) -> Float64[np.ndarray, " images"]:
        """(images,) the radius to expect of these counts, if no more are drawn."""
        return self._radius(counted.votes, counted.draws, counted.number)

    def __call__(self, counted: Counted) -> Bool[np.ndarray, " images"]:
        """(images,) whether to go on: some further look is worth while."""
        now, later = self.outlook(counted)
        most = np.max([np.zeros(len(now)), *later.values()], axis=0)
        if self._radii.size:
            return self.gain(now, most) > 0.0
        return most > now * (1.0 + (self.goal.tolerance or 0.0))

    def outlook(
        self, counted: Counted
    ) -> tuple[Float64[np.ndarray, " images"], dict[int, Float64[np.ndarray, " images"]]]:
        """(images,) radii to expect now, and at each later look from the planned one on."""
        now = self.radius(counted)
        reach = np.where((now == 0.0) | (self._radii.size > 0), _OPTIMISM, 0.0)
        ahead = range(max(counted.number + 1, self.looks.planned_look), self._last + 1)
        return now, {number: self._at(counted, number, reach) for number in ahead}

    def gain(
        self, now: Float64[np.ndarray, " images"], later: Float64[np.ndarray, " images"]
    ) -> Float64[np.ndarray, " images"]:
        """(images,) what is gained between two radii: further ones of the goal, or length."""
        if self._radii.size:
            return (self._reached(later) - self._reached(now / _FURTHER)).astype(np.float64)
        return later - now

    def _reached(self, radius: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many of the goal's radii are reached."""
        return np.searchsorted(self._radii, radius, side="right")

    def _at(self, counted: Counted, number: int, reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """The radius to expect at a later look, where probabilities are as the votes say."""
        share = counted.votes / np.maximum(counted.draws, 1)
        # Of what is still to be drawn: these draws are among those.
        fresh = 1.0 - self.looks.draws(counted.number) / self.looks.draws(number)
        spread = np.sqrt(share * (1.0 - share) * fresh / np.maximum(counted.draws, 1))
        likely = np.minimum(share + reach[:, None] * spread, 1.0)
        own = counted.draws / counted.draws[:, :1]
        draws = np.round(own * self.looks.draws(number))
        return self._radius(np.round(likely * draws), draws, number)

    def _radius(
        self, votes: NDArray[np.generic], draws: NDArray[np.generic], number: int
    ) -> NDArray[np.float64]:
        alpha = self._protocol.alpha * float(self.looks.share(number))
        bounds = self._protocol.lower(votes, draws, alpha * self._shares) - self._charge
        radius = self.forecast(np.maximum(bounds, 0.0))
        if not self._all_right:
            return radius
        if number not in self._of_no_wrong_vote:
            total = self.looks.draws(number)
            alone = np.zeros((2, len(self._shares)))
            alone[:, 0] = self._protocol.lower(
                total, total, alpha * np.array([self._shares[0], 1.0])
            )
            self._of_no_wrong_vote[number] = self.forecast(np.maximum(alone - self._charge, 0.0))
        ceiling, whole = self._of_no_wrong_vote[number]
        return np.where(votes[:, 0] == draws[:, 0], whole, np.minimum(radius, ceiling))
