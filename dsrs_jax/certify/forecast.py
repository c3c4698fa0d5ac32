"""What radius to expect of bounds, in microseconds: it decides what is drawn, never a certificate.

g(lambda; r) = lambda . p - I(lambda; r) is linear in the bounds p, so multipliers that are best for
some bounds prove a radius for all others too: the root of I(lambda; r) = lambda . p - 1/2. The
largest root over hundreds of such multipliers, each with I tabulated beforehand, is the radius from
below, and close to it where the bounds are like those that the multipliers came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy import interpolate, special

from dsrs_jax.bounds import lower_bound
from dsrs_jax.certify.blocks import float64, log
from dsrs_jax.certify.landscape import right
from dsrs_jax.certify.laws import RowLaws
from dsrs_jax.certify.search import certify
from dsrs_jax.certify.verifier import verify
from dsrs_jax.noise import RadialLaw

_DRAWS = (2_000, 50_000)  # that the bounds of the family could come from
_ALPHA = 1e-4
# Of the networks that the bounds could come from (`landscape`).
_SLOPES = (0.0, 0.2, 0.4, 0.7, 1.1, 1.6, 2.2)
_LEVELS = 16
_TANGENTS = 224  # of all laws, as well spread as they come; those of P alone beside them
_RADII = np.array([0.5, 0.7, 0.85, 0.95, 1.05, 1.15, 1.3])  # of a tangent's own
_POINTS = 256


class Forecast:
    """The radius that bounds under fixed laws are likely to prove.

    Args:
        laws: (P, Q_1, ..., Q_J).
    """

    def __init__(self, laws: Sequence[RadialLaw]) -> None:
        base, *extra = laws
        bounds = _family(laws)
        found = certify(base, bounds[:, 0], extra, list(bounds[:, 1:].T))
        alone = certify(base, special.ndtr(np.linspace(0.02, 5.2, _TANGENTS // 4)))
        own = np.pad(alone.multipliers, ((0, 0), (0, len(extra))))
        multipliers = np.concatenate([_spread(found.multipliers, found.radius, _TANGENTS),
                                      _spread(own, alone.radius, _TANGENTS // 4)])  # fmt: skip
        weights, radius = multipliers[:, :-1], multipliers[:, -1]
        self._multipliers = weights
        lengths = radius[:, None] * _RADII
        size = len(radius) * len(_RADII)
        rows = RowLaws.of(tuple(laws), size)
        with float64():
            made = verify(
                rows.arrays(),
                np.zeros((size, len(laws))),
                log(weights.repeat(len(_RADII), axis=0)),
                lengths.ravel() / base.scale,
            )
        integral = -made.value.reshape(lengths.shape)
        self._first, self._last = integral[:, 0], integral[:, -1]
        self._radii = np.stack(
            [
                interpolate.PchipInterpolator(one, length)(np.linspace(one[0], one[-1], _POINTS))
                for one, length in zip(integral, lengths, strict=True)
            ]
        )

    def __call__(self, bounds: Float64[np.ndarray, "*rows laws"]) -> Float64[np.ndarray, "*rows"]:
        """(...) radii in pixels, from (..., J + 1) lower bounds; 0 where none is near."""
        gained = bounds @ self._multipliers.T - 0.5
        place = (gained - self._first) / (self._last - self._first) * (_POINTS - 1)
        inside = np.clip(place, 0.0, _POINTS - 1.0 - 1e-9)
        cell = inside.astype(np.int64)
        tangent = np.arange(len(self._multipliers))
        low, high = self._radii[tangent, cell], self._radii[tangent, cell + 1]
        radius = low + (inside - cell) * (high - low)
        return np.max(np.where(place < 0.0, 0.0, radius), axis=-1)


def _family(laws: Sequence[RadialLaw]) -> NDArray[np.float64]:
    """(rows, laws) bounds as networks have them: on longer noise right less often."""
    levels, slopes = np.meshgrid(np.linspace(0.0, 4.5, _LEVELS), _SLOPES, indexing="ij")
    networks = levels.ravel(), slopes.ravel()
    probability = np.stack([right(laws[0], law, *networks) for law in laws], axis=1)
    share = np.array([law.quantile or 1.0 for law in laws])
    rows = []
    for draws in _DRAWS:
        drawn = np.round(draws * share)
        votes = np.floor(probability * drawn)
        rows.append(lower_bound(votes, drawn, _ALPHA))
    return np.concatenate(rows)


def _spread(
    multipliers: NDArray[np.float64], radius: NDArray[np.float64], most: int
) -> NDArray[np.float64]:
    """Multipliers and radii of certificates with one, evenly by radius, at most so many."""
    order = np.argsort(radius)
    order = order[radius[order] > 0.0]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, most).round().astype(np.int64))]
    return np.column_stack([multipliers[chosen], radius[chosen]])
