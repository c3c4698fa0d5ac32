"""The estimate of how often a classifier is right at each length of the noise.

It says how often under any radial law, from one sample: no certificate rests on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from dsrs_jax.noise import RadialLaw
from dsrs_jax.study.lengths import length_at
from dsrs_jax.votes import VoteTable

_POINTS = 1000  # of an integral over the lengths of a law


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Votes of images in bins of the noise's length.

    Attributes:
        law: that was drawn from.
        quantiles: (bins + 1,) of its length, from 0 to 1: where bins begin and end.
        draws, votes: (images, bins).
    """

    law: RadialLaw
    quantiles: Float64[np.ndarray, " edges"]
    draws: Int64[np.ndarray, "images bins"]
    votes: Int64[np.ndarray, "images bins"]

    @classmethod
    def of(cls, table: VoteTable) -> Landscape:
        """From the counts under P and under P truncated, in the order of the truncations.

        What is inside one truncation and not inside the one before is a bin's.
        """
        inside = [float(table.law(j, 0).quantile or 1.0) for j in range(1, len(table.names))]
        order = [*range(1, len(table.names)), 0]
        draws, votes = (np.diff(counts[:, order], axis=1, prepend=0)
                        for counts in (table.draws, table.votes))  # fmt: skip
        return cls(table.base, np.array([0.0, *inside, 1.0]), draws, votes)

    @property
    def share(self) -> Float64[np.ndarray, "images bins"]:
        """Of right votes; of a bin without draws as much as of all."""
        everywhere = self.votes.sum(axis=1, keepdims=True) / self.draws.sum(axis=1, keepdims=True)
        return np.where(self.draws > 0, self.votes / np.maximum(self.draws, 1), everywhere)

    @property
    def length(self) -> Float64[np.ndarray, " bins"]:
        """The median length of each bin's noise, in pixels."""
        return length_at(self.law, 0.5 * (self.quantiles[1:] + self.quantiles[:-1]))

    def right(self, law: RadialLaw) -> Float64[np.ndarray, " images"]:
        """The estimated probability of being right under another law of the same dimension.

        The share is interpolated between the bins' median lengths, and constant beyond the last.
        """
        points = length_at(law, (np.arange(_POINTS) + 0.5) / _POINTS)
        return np.array([np.interp(points, self.length, one).mean() for one in self.share])

    def expected(
        self, laws: Sequence[RadialLaw], names: Sequence[str], draws: Sequence[int]
    ) -> VoteTable:
        """The votes to be expected of so many draws under each law, rounded down."""
        shares = np.stack([self.right(law) for law in laws], axis=1)
        votes = np.floor(shares * np.array(draws) + 1e-9).astype(np.int64)
        return VoteTable.from_counts(laws, votes, draws, names=names)
