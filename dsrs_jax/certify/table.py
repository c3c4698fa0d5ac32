"""From a VoteTable to a CertificateTable: the one way from votes to radii."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray

from dsrs_jax.bounds import Bound, Protocol, Search, lower_bound
from dsrs_jax.certify.certificates import Certificates
from dsrs_jax.certify.grid import last_on_grid
from dsrs_jax.certify.search import certify
from dsrs_jax.votes.table import State, VoteTable


class Status(enum.StrEnum):
    """What a row's DSRS radius rests on, or why no second law counts."""

    DSRS = "dsrs"  # P and a Q bind
    ALL_RIGHT = "all-right"  # Neyman-Pearson: no draw was wrong (`Protocol.all_right`)
    P = "P"  # only P binds: the other bounds do not help
    Q = "Q"  # P's own bound does not
    POOLED = "pooled"  # Neyman-Pearson from twice the draws of P (rules with a plus)
    NONE = "none"  # radius 0
    UNREADABLE = "unreadable"  # radius 0: the image could not be read
    NOT_FINITE = "not-finite"  # radius 0: no draw had logits that are all finite
    # Of published samples (run/published_study.py):
    P_BELOW = "P-below"  # Q, where the paper takes a negative multiplier for P
    DSRS_BELOW = "dsrs-below"  # P and a Q, where the paper takes one for another Q
    Q_BELOW = "Q-below"  # P, where the paper takes a negative multiplier for Q
    UNPAIRED = "unpaired"  # P: Q's file has no such image
    NO_BOUND = "no-bound"  # P: Q's bound is 0
    DISCARDED = "discarded"  # P: the published second sample is not Q's


class Ceiling(NamedTuple):
    """Neyman-Pearson's certificate of no wrong draw at P's own share of alpha, for each image.

    Where the all-right rule is in force no other image's DSRS radius is above it.
    """

    radius: NDArray[np.float64]
    multiplier: NDArray[np.float64]


class Proofs(NamedTuple):
    """For each image "proved", "unproved: why", or nothing where the radius is 0."""

    neyman_pearson: list[str]
    dsrs: list[str]


@dataclasses.dataclass(frozen=True)
class CertificateTable:
    """Radii of every image by Neyman-Pearson and by DSRS, and all that they follow from.

    Each of the two columns of radii holds with probability 1 - alpha; choosing the larger of both
    afterwards would double alpha.

    Attributes:
        votes: what was counted.
        protocol: how alpha was shared, which bounds, which search.
        neyman_pearson: from P alone.
        dsrs: from all laws; radii are the final ones (on the grid where that was asked for).
        lower: (images, laws) lower bounds of each law's own votes, less the charge of sound draws
            (`VoteTable.charge`). `dsrs.bounds` is the same but
            for pooled rows, whose one bound is that of twice the draws of P.
        status: (images,) of `Status`.
        ceiling: of the all-right rule, where it is in force.
        proofs: what the proof says of both radii of every row, where they were proved.
    """

    votes: VoteTable
    protocol: Protocol
    neyman_pearson: Certificates
    dsrs: Certificates
    lower: NDArray[np.float64]
    status: Shaped[np.ndarray, " images"]
    ceiling: Ceiling | None = None
    proofs: Proofs | None = None

    def __len__(self) -> int:
        return len(self.votes)

    def proved(
        self, radii: list[NDArray[np.float64]], results: list[list[str]]
    ) -> CertificateTable:
        """The table with proofs, and the radii that they prove (none of them longer).

        Args:
            radii: (images,) of Neyman-Pearson, and of DSRS.
            results: for each radius "proved", why it is not, or nothing where it is 0.
        """
        return dataclasses.replace(
            self,
            neyman_pearson=self.neyman_pearson.with_radius(radii[0]),
            dsrs=self.dsrs.with_radius(radii[1]),
            proofs=Proofs(*results),
        )

    @property
    def radius(self) -> NDArray[np.float64]:
        """(images,) the radii of DSRS."""
        return self.dsrs.radius

    @property
    def alpha_neyman_pearson(self) -> float:
        """Failure probability of a Neyman-Pearson radius."""
        return self.protocol.alpha_neyman_pearson(len(self.votes.names))


def certify_table(table: VoteTable, protocol: Protocol) -> CertificateTable:
    """Certificates for every image of a table.

    Rows whose votes are not complete under P have radius 0; a law whose votes are not complete
    plays no part in a row.

    Args:
        table: see `VoteTable`.
        protocol: see `Protocol`.

    Raises:
        UserError: counts outside their domain.
    """
    laws, looked = len(table.names), table.shares()
    alphas = protocol.alpha * looked[:, None] * protocol.shares(laws)
    alone = _lower(table, 0, protocol, protocol.alpha_neyman_pearson(laws) * looked)
    neyman_pearson = certify(table.base, alone)
    lower = np.stack([_lower(table, j, protocol, alphas[:, j]) for j in range(laws)], axis=1)
    pooled, total, drawn = _pooled(table)
    used = np.where(pooled[:, None] & (np.arange(laws) > 0), 0.0, lower)
    dsrs = certify(table.base, used[:, 0], table.laws[1:], list(used[:, 1:].T))
    if pooled.any():
        # Neyman-Pearson from 2N draws of P, at P's own part of alpha (docs/certificates.md).
        own = lower_bound(total, drawn, alphas[:, 0])
        dsrs = dsrs.replaced_by(certify(table.base, _below(own, table.charge(0))), pooled)
    ceiling, all_right = None, np.zeros(len(table), dtype=bool)
    if protocol.all_right(table.names):
        ceiling, all_right = _ceiling(table, protocol, alphas[:, 0]), _all_right(table)
        dsrs = dsrs.with_radius(np.minimum(dsrs.radius, ceiling.radius))
        dsrs = dsrs.replaced_by(neyman_pearson, all_right)
    if protocol.search is Search.GRID:
        start = certify(table.base, used[:, 0]).radius
        on_grid = last_on_grid(start, dsrs.radius, protocol.grid_unit)
        dsrs = dsrs.with_radius(np.where(pooled | all_right, dsrs.radius, on_grid))
    status = _status(dsrs)
    status[pooled & (dsrs.radius > 0.0)] = Status.POOLED
    status[all_right & (dsrs.radius > 0.0)] = Status.ALL_RIGHT
    status[table.state[:, 0] == State.UNREADABLE] = Status.UNREADABLE
    status[table.state[:, 0] == State.NOT_FINITE] = Status.NOT_FINITE
    return CertificateTable(table, protocol, neyman_pearson, dsrs, lower, status, ceiling)


def _ceiling(table: VoteTable, protocol: Protocol, alpha: NDArray[np.float64]) -> Ceiling:
    draws = np.maximum(table.draws[:, 0], 0)
    bound = _below(protocol.lower(draws, draws, alpha), table.charge(0))
    made = certify(table.base, bound)
    return Ceiling(made.radius, made.multipliers[:, 0])


def _all_right(table: VoteTable) -> Bool[np.ndarray, " images"]:
    """(images,) whether P's votes are complete and all draws right."""
    complete = (table.state[:, 0] == State.COMPLETE) & (table.votes[:, 0] >= 0)
    return complete & (table.votes[:, 0] == table.draws[:, 0])


def _lower(
    table: VoteTable, column: int, protocol: Protocol, alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(images,) lower bounds of one law that each fail with probability at most `alpha`.

    Of a published interval the counts are used where they are known; else its lower end, where it
    fails with no more than `alpha`. Of sound draws what lies between them and the law is taken off.
    A bound of 0 says nothing.
    """
    complete = (table.state[:, column] == State.COMPLETE) & (table.state[:, 0] == State.COMPLETE)
    votes, draws = table.votes[:, column], table.draws[:, column]
    known = complete & (votes >= 0)
    counted = protocol.lower(np.where(known, votes, 0), np.where(known, draws, 0), alpha)
    given = np.zeros(len(table))
    if table.intervals is not None:
        given = np.where(alpha >= table.intervals.alpha, table.intervals.low[:, column], 0.0)
        if protocol.bound is Bound.TWO_SIDED:  # the published end itself
            known = known & (alpha != table.intervals.alpha)
    counted = _below(counted, table.charge(column))
    return np.where(known, counted, np.where(complete, given, 0.0))


def _below(bounds: NDArray[np.float64], charge: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bounds less a charge, rounded down; what costs nothing stays as it is."""
    less = np.maximum(np.nextafter(bounds - charge, -np.inf), 0.0)
    return np.where(charge > 0.0, less, bounds)


def _pooled(
    table: VoteTable,
) -> tuple[Bool[np.ndarray, " images"], NDArray[np.int64], NDArray[np.int64]]:
    """Rows with further draws of P: whether, all right answers, all draws.

    Sound only where all of P's first draws were right (Li et al., ICML 2022). Columns that hold
    further draws hold the same ones: they count once.
    """
    pooled = np.zeros(len(table), dtype=bool)
    more, drawn = np.zeros((2, len(table)), dtype=np.int64)
    known = (table.state == State.COMPLETE) & (table.votes >= 0)
    all_right = _all_right(table)
    for j in range(1, len(table.names)):
        rows = table.more_of_base(j) & known[:, j] & all_right
        pooled |= rows
        more = np.where(rows, np.maximum(more, table.votes[:, j]), more)
        drawn = np.where(rows, np.maximum(drawn, table.draws[:, j]), drawn)
    total = np.where(pooled, table.votes[:, 0] + more, 0)
    return pooled, total, np.where(pooled, table.draws[:, 0] + drawn, 0)


def _status(dsrs: Certificates) -> Shaped[np.ndarray, " images"]:
    binds = dsrs.binding()
    status = np.full(len(dsrs), Status.DSRS, dtype=object)
    status[~binds[:, 0]] = Status.Q
    status[~np.any(binds[:, 1:], axis=1)] = Status.P
    status[dsrs.radius == 0.0] = Status.NONE
    return status
