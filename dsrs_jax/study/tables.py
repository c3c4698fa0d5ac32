"""Mean radii over images, one point of a study after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import RadialLaw
from dsrs_jax.votes import State, VoteTable


class Means(NamedTuple):
    """Mean radii in pixels; an image without a certificate counts as 0."""

    neyman_pearson: float
    dsrs: float


def means(tables: Sequence[VoteTable], alpha: float) -> list[Means]:
    """Of each table; they have the same P and as many laws, and are certified as one.

    Neyman-Pearson has the whole alpha, and so has DSRS.
    """
    rows = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    first = tables[0]
    laws = [
        tuple(table.law(j, i) for table in tables for i in range(len(table)))
        for j in range(1, len(first.names))
    ]
    stacked = VoteTable.from_counts(
        [first.base, *laws],
        np.concatenate([table.votes for table in tables]),
        np.concatenate([table.draws for table in tables]),
        names=first.names,
    )
    found = certify_table(stacked, Protocol(alpha))
    return [
        Means(*(float(each.radius[rows == i].mean()) for each in (found.neyman_pearson, found)))
        for i in range(len(tables))
    ]


def inside_of(law: RadialLaw, quantiles: Sequence[float]) -> tuple[list[RadialLaw], list[str]]:
    """(laws, names) of P and of P truncated, as tables have them."""
    names = ["p", *(f"inside_{one:g}" for one in quantiles)]
    return [law, *(law.truncated(one) for one in quantiles)], names


def draws_inside(laws: Sequence[RadialLaw], n: int) -> list[int]:
    """Of n draws of P, how many are to be expected inside each law; rounded down."""
    return [int(n * float(law.quantile or 1.0)) for law in laws]


def known(table: VoteTable) -> NDArray[np.bool_]:
    """(images,) whether the counts under every law are there."""
    return np.all((table.state == State.COMPLETE) & (table.votes >= 0), axis=1)
