"""The law of the noise's length |x|: in it alone radial laws differ.

A radial law is the law of its length and a uniform direction. So how often a classifier is right
at each length gives the probability that it is right under every radial law.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import special

from dsrs_jax.noise import RadialLaw


def length_at(law: RadialLaw, quantile: ArrayLike) -> Float64[np.ndarray, "..."]:
    """The length below which a share `quantile` in [0, 1] of the law's draws lie."""
    share = np.asarray(quantile, dtype=np.float64) * float(law.quantile or 1.0)
    return np.asarray(law.scale * special.gammaincinv(law.shape, share) ** (1.0 / law.eta))


def share_within(law: RadialLaw, length: ArrayLike) -> Float64[np.ndarray, "..."]:
    """The probability that a draw is no longer than `length` >= 0."""
    level = (np.asarray(length, dtype=np.float64) / law.scale) ** law.eta
    share = special.gammainc(law.shape, level) / float(law.quantile or 1.0)
    return np.asarray(np.minimum(share, 1.0))


def whole(law: RadialLaw) -> RadialLaw:
    """The law without its truncation."""
    return dataclasses.replace(law, cutoff=None, quantile=None)
