"""Which second laws a model's votes speak for: what a pilot says of each way to spend draws.

Pilot draws, counted by the length of their noise, say how often the network is right on noise of
each length, image by image. A mixture of the networks of `landscape` that makes these counts most
likely stands for the images; with the counts that each of its networks would give, any second
laws have the radii that `certify` gives. All this decides what is drawn, before it is drawn, from
other draws: no bound and no certificate rests on it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify.landscape import right
from dsrs_jax.certify.search import certify
from dsrs_jax.noise import RadialLaw

_LEVELS = np.linspace(-1.0, 5.5, 40)
_SLOPES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.1, 1.4, 1.7, 2.2, 3.0, 4.0, 6.0)
_ROUNDS = 500  # of expectation and maximisation
_LEAST = 5e-3  # of the mixture: networks below are left out
_SHARES = (0.2, 0.35, 0.65, 0.8, 0.9)  # of P, beside the half that is tried first
_BEST = 6  # candidates whose shares are tried
_MOST_INSIDE = 4
_SURE = 1.0  # standard errors of its gain that another choice than the first must have


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to spend an image's draws.

    Attributes:
        inside: quantiles at which P is truncated, read off P's own draws; increasing.
        scale: of sigma, of a second law that is drawn separately; or None.
        threshold: quantile of one that is P truncated and drawn separately; or None.
        base_share: P's own share of alpha (`Protocol.base_share`).
    """

    inside: tuple[float, ...] = ()
    scale: float | None = None
    threshold: float | None = None
    base_share: float = 0.5

    @property
    def drawn(self) -> int:
        """Laws that have draws of their own, which share an image's draws equally."""
        return 1 + (self.scale is not None) + (self.threshold is not None)

    def laws(self, base: RadialLaw) -> list[RadialLaw]:
        """Its second laws."""
        found = [base.truncated(quantile) for quantile in self.inside]
        if self.scale is not None:
            found.append(base.with_sigma(float(base.sigma) * self.scale))
        if self.threshold is not None:
            found.append(base.truncated(self.threshold))
        return found


def candidates(first: Candidate) -> list[Candidate]:
    """The given one; P alone; up to four laws inside P; scales, thresholds; scales and inside."""
    inside = {(quantile,) for quantile in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}
    for low, high, count in itertools.product(
        (0.05, 0.1, 0.2, 0.4, 0.6), (0.8, 0.9, 0.95), range(2, _MOST_INSIDE + 1)
    ):
        inside.add(tuple(np.linspace(low, high, count).round(3).tolist()))
    found = [first, *(Candidate(one) for one in sorted({(), *inside}))]
    found += [Candidate(scale=one) for one in (0.5, 0.6, 0.7, 0.8, 0.9)]
    found += [Candidate(threshold=one) for one in (0.2, 0.4, 0.6, 0.8)]
    for both in itertools.product(((0.5,), (0.3, 0.6), (0.25, 0.5, 0.75)), (0.6, 0.7, 0.8, 0.9)):
        found.append(Candidate(*both))
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Shell:
    """Pilot draws of one law between two quantiles of its length.

    Attributes:
        law: the law.
        between: the quantiles.
        draws, votes: (images,) how many there were, and how many of them were right.
    """

    law: RadialLaw
    between: tuple[float, float]
    draws: Int64[np.ndarray, " images"]
    votes: Int64[np.ndarray, " images"]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Networks that stand for the images of a pilot.

    Attributes:
        levels, slopes: (networks,) of `landscape`.
        weights: (images, networks) how likely each image's counts come from each; rows sum to 1.
    """

    levels: Float64[np.ndarray, " networks"]
    slopes: Float64[np.ndarray, " networks"]
    weights: Float64[np.ndarray, "images networks"]

    @classmethod
    def of(cls, base: RadialLaw, shells: Sequence[Shell]) -> Mixture:
        """The mixture that makes the counts most likely (Kiefer and Wolfowitz, 1956), by EM."""
        levels, slopes = (one.ravel() for one in np.meshgrid(_LEVELS, _SLOPES, indexing="ij"))
        log_likelihood = np.zeros((len(shells[0].draws), len(levels)))
        for shell in shells:
            p = np.clip(right(base, shell.law, levels, slopes, shell.between), 1e-12, 1.0 - 1e-12)
            log_likelihood += shell.votes[:, None] * np.log(p)
            log_likelihood += (shell.draws - shell.votes)[:, None] * np.log1p(-p)
        likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        shares = np.full(len(levels), 1.0 / len(levels))
        for _ in range(_ROUNDS):
            shares = _rows_to_one(likelihood * shares).mean(axis=0)
        kept = shares >= min(_LEAST, shares.max())
        return cls(levels[kept], slopes[kept], _rows_to_one(likelihood[:, kept] * shares[kept]))


def _rows_to_one(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def expected_radii(
    base: RadialLaw,
    mixture: Mixture,
    tried: Sequence[Candidate],
    protocol: Protocol,
    n: int,
    share: float = 1.0,
) -> Float64[np.ndarray, "candidates networks"]:
    """(candidates, networks) radii to expect of each network's votes, in pixels.

    Args:
        base: P.
        mixture: whose networks.
        tried: the candidates.
        protocol: alpha and bounds; a candidate has a share of alpha of its own.
        n: draws of an image, of all laws together.
        share: of alpha, that the counts may use.
    """
    networks = len(mixture.levels)
    alpha = protocol.alpha * share
    known: dict[RadialLaw, NDArray[np.float64]] = {}

    def probability(law: RadialLaw) -> NDArray[np.float64]:
        if law not in known:
            known[law] = right(base, law, mixture.levels, mixture.slopes)
        return known[law]

    # One call for all: a law that a candidate has not is any law, with a bound that says nothing.
    bounds = np.zeros((len(tried), networks, 1 + _MOST_INSIDE))
    extra = [[base.truncated(0.5)] * (len(tried) * networks) for _ in range(_MOST_INSIDE)]
    ceilings = np.zeros((len(tried), networks))
    for i, one in enumerate(tried):
        own = dataclasses.replace(protocol, base_share=one.base_share)
        laws, drawn = one.laws(base), n // one.drawn
        shares = own.shares(1 + len(laws)) * alpha
        for j, law in enumerate((base, *laws)):
            # Of P's own draws so many fall inside, on average.
            total = int(drawn * (one.inside[j - 1] if 0 < j <= len(one.inside) else 1.0))
            votes = np.floor(probability(law) * total)
            bounds[i, :, j] = own.lower(votes, np.full(networks, total), shares[j])
            if j:
                extra[j - 1][i * networks : (i + 1) * networks] = [law] * networks
        ceilings[i] = own.lower(np.array([drawn]), np.array([drawn]), shares[:1])[0]
    flat = bounds.reshape(-1, 1 + _MOST_INSIDE)
    radius = certify(base, flat[:, 0], extra, list(flat[:, 1:].T)).radius.reshape(ceilings.shape)
    # The all-right rule (`Protocol.all_right`).
    ceiling = certify(base, ceilings.ravel()).radius.reshape(ceilings.shape)
    whole = certify(base, own.lower(np.array([n]), np.array([n]), np.array([alpha]))).radius[0]
    all_right = probability(base) ** n
    ruled = all_right * whole + (1.0 - all_right) * np.minimum(radius, ceiling)
    all_inside = np.array([bool(one.inside) and one.drawn == 1 for one in tried])
    return np.where(all_inside[:, None], ruled, radius)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What became of the candidates.

    Attributes:
        tried: the candidates, the given one first.
        mean: (candidates,) expected mean of what is wanted: radius, or radii reached.
        best: number of the one with the largest mean.
        chosen: of the one that is taken: the best, or the first where that is not surely less.
        gain, error: of the best over the first, and its standard error over the images.
    """

    tried: list[Candidate]
    mean: Float64[np.ndarray, " candidates"]
    best: int
    chosen: int
    gain: float
    error: float


def choose(
    base: RadialLaw,
    mixture: Mixture,
    first: Candidate,
    protocol: Protocol,
    n: int,
    *,
    wanted: Sequence[float] = (),
    share: float = 1.0,
) -> Choice:
    """The candidate with the largest mean radius: with P's share at a half, then the best's shares.

    Args:
        base, mixture, protocol, n, share: as for `expected_radii`.
        first: what is done where nothing is surely better.
        wanted: radii; with any, the mean number of them that images reach counts instead.
    """

    def worth(tried: Sequence[Candidate]) -> NDArray[np.float64]:
        radii = expected_radii(base, mixture, tried, protocol, n, share)
        if len(wanted):
            radii = np.searchsorted(wanted, radii, side="right").astype(np.float64)
        return radii @ mixture.weights.T

    tried = candidates(first)
    each = worth(tried)
    order = np.argsort(-each.mean(axis=1), kind="stable")[:_BEST]
    more = [
        dataclasses.replace(tried[i], base_share=one)
        for i, one in itertools.product(order.tolist(), _SHARES)
        if tried[i] != Candidate()
    ]
    tried, each = tried + more, np.concatenate([each, worth(more)])
    mean = each.mean(axis=1)
    best = int(np.argmax(mean))
    gain = each[best] - each[0]
    error = float(gain.std() / np.sqrt(max(len(gain) - 1, 1)))
    chosen = best if gain.mean() > _SURE * error else 0
    return Choice(tried, mean, best, chosen, float(gain.mean()), error)
