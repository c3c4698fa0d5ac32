"""How votes become a certificate: alpha and its division, the kind of bound, the search."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds.clopper_pearson import Numbers, interval, lower_bound
from dsrs_jax.system.errors import UserError

INSIDE = "inside_"  # how the names of laws begin that are read off P's own draws


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
LOWER: dict[Bound, Callable[[Numbers, Numbers, Numbers], NDArray[np.float64]]] = {
    Bound.ONE_SIDED: lower_bound,
    Bound.TWO_SIDED: lambda votes, draws, alpha: interval(votes, draws, alpha)[0],
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """All that decides a certificate besides the votes; the one place where alpha is divided.

    Attributes:
        alpha: failure probability of a whole certificate, in (0, 1): its bounds, one for each
            law, share it and hold together with probability 1 - alpha (union bound). Where votes
            are looked at several times each look has a share of it (`Looks`).
        bound: see `Bound`.
        search: see `Search`.
        grid_unit: of Search.GRID, in pixel units; > 0.
        paper_baseline: Neyman-Pearson's certificates get P's own part of alpha, with which the
            paper's search begins, instead of all of it.
        base_share: P's own share of alpha, in (0, 1); the other laws have equal parts of the rest.
            None: all laws have equal parts, as in the paper.

    Raises:
        UserError: a number outside its domain.
    """

    alpha: float
    bound: Bound = Bound.ONE_SIDED
    search: Search = Search.PRECISE
    grid_unit: float = 0.05
    paper_baseline: bool = False
    base_share: float | None = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"alpha must lie in (0, 1), got {self.alpha:g}")
        if not self.grid_unit > 0.0:
            raise UserError(f"the grid's unit must be positive, got {self.grid_unit:g}")
        if self.base_share is not None and not 0.0 < self.base_share < 1.0:
            raise UserError(f"P's share of alpha must lie in (0, 1), got {self.base_share:g}")

    def shares(self, laws: int) -> NDArray[np.float64]:
        """(laws,) of alpha, for each bound of a certificate from P and `laws` - 1 others."""
        if laws == 1:
            return np.ones(1)
        own = 1.0 / laws if self.base_share is None else self.base_share
        return np.array([own, *[(1.0 - own) / (laws - 1)] * (laws - 1)])

    def alpha_neyman_pearson(self, laws: int) -> float:
        """Failure probability of the Neyman-Pearson certificate beside it."""
        return self.alpha * float(self.shares(laws)[0]) if self.paper_baseline else self.alpha

    def all_right(self, names: Sequence[str]) -> bool:
        """Whether the all-right rule is in force for these laws (docs/certificates.md).

        An image without a wrong vote then gets Neyman-Pearson's radius at all of alpha, any other
        none above Neyman-Pearson's of all votes right at P's own share. Laws inside P lose nothing
        by it; those with draws of their own might.
        """
        inside = len(names) > 1 and all(name.startswith(INSIDE) for name in names[1:])
        return inside and self.base_share is not None and not self.paper_baseline

    def lower(self, votes: Numbers, draws: Numbers, alpha: Numbers) -> NDArray[np.float64]:
        """Lower bounds of this kind, each failing with probability at most `alpha`."""
        return LOWER[self.bound](votes, draws, alpha)

    @property
    def fewest_draws(self) -> int:
        """Of fewer no radius follows, even if all votes are right: no lower bound is above 1/2."""
        n = max(1, int(-np.log2(self.alpha)) - 1)
        while not self.lower(n, n, self.alpha) > 0.5:
            n += 1
        return n

    def abstains_early(
        self, votes: NDArray[np.int64], draws: NDArray[np.int64], laws: int
    ) -> NDArray[np.bool_]:
        """Whether an interim look already says that less than half of P is right.

        Giving up on the word of it only costs a radius, it never makes one: any alpha would do.
        """
        return lower_bound(draws - votes, draws, self.alpha * self.shares(laws)[0]) > 0.5
