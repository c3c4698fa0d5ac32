"""How votes become a certificate: alpha and its division, the kind of bound, the search."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds.clopper_pearson import Numbers, interval, lower_bound
from dsrs_jax.system.errors import UserError


class Bound(enum.StrEnum):
    """Clopper and Pearson's lower bound with all of its alpha, or the lower end of their interval.

    TWO_SIDED is the paper's; ONE_SIDED is larger, and all that a certificate needs (multipliers
    are never negative).
    """

    ONE_SIDED = "one-sided"
    TWO_SIDED = "two-sided"


class Search(enum.StrEnum):
    """The largest radius, or the paper's last multiple of a unit above Neyman-Pearson's radius."""

    PRECISE = "precise"
    GRID = "grid"


# (votes, draws, alpha) -> lower bounds that each fail with probability at most alpha.
LOWER: dict[Bound, Callable[[Numbers, Numbers, float], NDArray[np.float64]]] = {
    Bound.ONE_SIDED: lower_bound,
    Bound.TWO_SIDED: lambda votes, draws, alpha: interval(votes, draws, alpha)[0],
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """All that decides a certificate besides the votes; the one place where alpha is divided.

    Attributes:
        alpha: failure probability of a whole certificate, in (0, 1): its bounds, one for each
            law, share it equally and hold together with probability 1 - alpha (union bound).
        bound: see `Bound`.
        search: see `Search`.
        grid_unit: of Search.GRID, in pixel units; > 0.
        paper_baseline: Neyman-Pearson's certificates get P's own part of alpha, with which the
            paper's search begins, instead of all of it.

    Raises:
        UserError: a number outside its domain.
    """

    alpha: float
    bound: Bound = Bound.ONE_SIDED
    search: Search = Search.PRECISE
    grid_unit: float = 0.05
    paper_baseline: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"alpha must lie in (0, 1), got {self.alpha:g}")
        if not self.grid_unit > 0.0:
            raise UserError(f"the grid's unit must be positive, got {self.grid_unit:g}")

    def alpha_per_bound(self, laws: int) -> float:
        """Failure probability of each bound of a certificate from P and `laws` - 1 others."""
        return self.alpha / laws

    def alpha_neyman_pearson(self, laws: int) -> float:
        """Failure probability of the Neyman-Pearson certificate beside it."""
        return self.alpha_per_bound(laws) if self.paper_baseline else self.alpha

    def lower(self, votes: Numbers, draws: Numbers, alpha: float) -> NDArray[np.float64]:
        """Lower bounds of this kind, each failing with probability at most `alpha`."""
        return LOWER[self.bound](votes, draws, alpha)

    def abstains_early(
        self, votes: NDArray[np.int64], draws: NDArray[np.int64], laws: int
    ) -> NDArray[np.bool_]:
        """Whether an interim look already says that less than half of P is right.

        Giving up on the word of it only costs a radius, it never makes one: any alpha would do.
        """
        return lower_bound(draws - votes, draws, self.alpha_per_bound(laws)) > 0.5
