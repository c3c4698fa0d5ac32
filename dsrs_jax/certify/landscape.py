"""How often a network is right on noise of each length: the family that forecasts go by.

A network of level a and slope b is right with the probability Phi(a - b z) on noise that is z
standard deviations longer than P's usual one, on the scale of the logarithm of its length. It says
what is likely, and decides what is drawn; no certificate rests on it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dsrs_jax.noise import RadialLaw

_POINTS = 200


def right(
    base: RadialLaw,
    law: RadialLaw,
    levels: Float64[np.ndarray, " networks"],
    slopes: Float64[np.ndarray, " networks"],
    between: tuple[float, float] = (0.0, 1.0),
) -> Float64[np.ndarray, " networks"]:
    """(networks,) probability of being right under a law.

    Args:
        base: P, whose lengths the networks' levels and slopes speak of.
        law: a radial law of the same dimension, whole or truncated.
        levels, slopes: (networks,) a and b.
        between: of the law's draws those between these two quantiles of its length alone.
    """
    low, high = between
    quantiles = low + (high - low) * (np.arange(_POINTS) + 0.5) / _POINTS
    deviations = _deviations(base, law, quantiles)
    return special.ndtr(levels[:, None] - slopes[:, None] * deviations).mean(axis=-1)


def _deviations(base: RadialLaw, law: RadialLaw, quantiles: ArrayLike) -> NDArray[np.float64]:
    """Of a law's lengths at its quantiles, from P's usual one, in P's standard deviations."""
    middle = np.log(base.shape) / base.eta + np.log(base.scale)
    deviation = 1.0 / (base.eta * np.sqrt(base.shape))
    level = special.gammaincinv(law.shape, np.asarray(quantiles) * (law.quantile or 1.0))
    return (np.log(level) / law.eta + np.log(law.scale) - middle) / deviation
