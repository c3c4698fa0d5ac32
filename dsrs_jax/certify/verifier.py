"""The last word on a radius: one evaluation of g at the multipliers that are given with it.

A radius is certified because g there, less the error declared for its integrals, is above 1/2, and
not because a search converged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64

from dsrs_jax.bounds.clopper_pearson import Numbers
from dsrs_jax.certify import dual
from dsrs_jax.certify.blocks import Bools, Float64s, blocks, float64, log, padded, some, truncated
from dsrs_jax.certify.certificates import Certificates
from dsrs_jax.certify.laws import LawArrays, RowLaws
from dsrs_jax.certify.mesh import Resolution
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError

_RESOLUTION = Resolution(panels=16, order=16, rounds=5, corners=6, grading=2.0)
# Rounding in the integrals: this multiple of float64's epsilon, for each term of g (measured
# against 30-digit integration: tests/certify/test_error_bound.py).
_ROUNDING = 100 * np.finfo(np.float64).eps
_BETA_ROUNDING = 4.0  # the incomplete beta function of small dimensions errs by more
_DIFFERENCES = 4.0
_MARGIN = 4.0  # of the declared error: costs about 1e-13 of radius
_ATTEMPTS = 12
_LOG_NEGLIGIBLE = -36.0  # a multiplier changes g by no more than itself: 2e-16


class Verification(NamedTuple):
    """g, its declared error, dg/dr, and the probability that each law gives to the region S."""

    value: Any
    error_bound: Any
    slope: Any
    masses: Any  # (rows, laws)


def evaluate(
    laws: Sequence[RadialLaw | Sequence[RadialLaw]],
    bounds: Numbers,
    multipliers: Numbers,
    radius: Numbers,
) -> tuple[Float64s, Float64s]:
    """g and its declared numerical error at given multipliers and radii: checks a certificate.

    Args:
        laws: (P, Q_1, ..., Q_J); each Q one law, or one for each row.
        bounds: (n, J + 1) in [0, 1).
        multipliers: (n, J + 1), >= 0, at least one of each row positive.
        radius: (n,), positive.

    Returns:
        (g, error bound), each (n,): the radius is certified where g - error bound > 1/2.
    """
    rows = np.asarray(bounds, dtype=np.float64)
    weights = np.asarray(multipliers, dtype=np.float64)
    lengths = np.asarray(radius, dtype=np.float64)
    if not np.all((weights >= 0) & np.isfinite(weights)) or not np.all(weights.sum(axis=1) > 0):
        raise UserError("multipliers must be finite and not negative, and one of them positive")
    if not np.all((lengths > 0) & np.isfinite(lengths)):
        raise UserError("radii must be positive and finite")
    with float64():
        all_rows = RowLaws.of(laws, len(rows))
        verified = verify(all_rows.arrays(), rows, log(weights), lengths / all_rows.base.scale)
    return verified.value, verified.error_bound


def worst_case(
    certificates: Certificates, laws: Sequence[RadialLaw | Sequence[RadialLaw]]
) -> Float64s:
    """The probability that each law gives to the class under the worst classifier of all.

    The worst classifier is the indicator of S = {p_shifted < h} at a certificate's multipliers and
    radius: it shifts no more than half of its probability to a point so far away. If what it gives
    to each law lies within that law's confidence interval, no method can certify more from these
    intervals. If it gives more to some Q than Q's upper end, the paper certifies more, with a
    negative multiplier, which is not done here (dual.py: multipliers are never negative).

    Args:
        certificates: n certificates.
        laws: (P, Q_1, ...) as in `certify`, beginning with the certificates' own laws.

    Returns:
        (n, laws) probabilities; nan where the radius is 0.
    """
    rows = np.flatnonzero(certificates.radius > 0.0)
    result = np.full((len(certificates), len(laws)), np.nan)
    if not rows.size:
        return result
    all_rows = RowLaws.of(laws, len(certificates))
    own = certificates.multipliers[rows]
    weights = np.pad(own, ((0, 0), (0, len(laws) - own.shape[1])))
    radius = certificates.radius[rows] / all_rows.base.scale
    with float64():
        arrays = RowLaws(all_rows.combinations, all_rows.number[rows]).arrays()
        result[rows] = verify(arrays, np.zeros_like(weights), log(weights), radius).masses
    return result


def verified_radii(
    laws: LawArrays, bounds: Float64s, theta: Float64s, radius: Float64s, able: Bools
) -> tuple[Float64s, Float64s, Float64s, Float64s]:
    """Radii that the last evaluation of g proves: those given, or shorter by what it lacks.

    Returns:
        (radius, multipliers, g, error bound), all 0 where nothing is proved.
    """
    weights = np.where(theta > _LOG_NEGLIGIBLE, np.exp(theta), 0.0)
    theta = log(weights)
    radius = np.where(able, radius, 0.0)
    value, error_bound = np.zeros(len(bounds)), np.zeros(len(bounds))
    proved = np.zeros(len(bounds), dtype=bool)
    for attempt in range(_ATTEMPTS):
        open_ = np.flatnonzero(able & ~proved & (radius > 0.0))
        if open_.size == 0:
            break
        g, error, slope, _ = verify(some(laws, open_), bounds[open_], theta[open_], radius[open_])
        # With a margin, so that whoever evaluates the certificate again finds it true: another
        # order of roundings gives another g and another declared error.
        lacking = 0.5 + _MARGIN * error - g
        good = lacking < 0.0
        value[open_], error_bound[open_], proved[open_] = g, error, good
        shrink = (1.1 * lacking + 1e-15) / np.maximum(-slope, 1e-300) * 2.0**attempt
        shorter = radius[open_] - np.where(good, 0.0, shrink)
        radius[open_] = np.where(np.isfinite(shorter), np.maximum(shorter, 0.0), 0.0)
    radius = np.where(proved, radius, 0.0)
    weights = np.where(proved[:, None], weights, 0.0)
    return radius, weights, np.where(proved, value, 0.0), np.where(proved, error_bound, 0.0)


def verify(laws: LawArrays, bounds: Float64s, theta: Float64s, radius: Float64s) -> Verification:
    """g of any number of rows, at log multipliers and radii in units of s_0."""
    if not len(radius):
        return Verification(radius, radius, radius, bounds)
    any_truncated = truncated(laws)
    begun = [
        verify_block(some(laws, rows), bounds[rows], theta[rows], radius[rows], any_truncated)
        for rows in map(padded, blocks(np.arange(len(radius))))
    ]
    columns = [
        np.concatenate([np.asarray(leaf) for leaf in leaves]) for leaves in zip(*begun, strict=True)
    ]
    return Verification(*(column[: len(radius)] for column in columns))


@jax.jit
def verify_block(
    laws: LawArrays,
    bounds: Float64[Array, "instances laws"],
    theta: Float64[Array, "instances laws"],
    radius: Float64[Array, " instances"],
    truncated: Bool[Array, ""],
) -> Verification:
    """`verify` for one block; compiled once for each number of laws."""

    def one(
        laws: LawArrays,
        bounds: Float64[Array, " laws"],
        theta: Float64[Array, " laws"],
        radius: Float64[Array, ""],
    ) -> Verification:
        multipliers = jnp.exp(theta)
        terms = multipliers * (1.0 - bounds)

        def value(halved: Array) -> dual.Evaluation:
            return dual.evaluate(laws, theta, radius, _RESOLUTION, halved, truncated)

        both = jax.lax.map(value, jnp.array([False, True]))
        result = jax.tree.map(lambda leaf: leaf[1], both)
        g = jnp.dot(multipliers, result.outside) - jnp.sum(terms) + result.shifted
        # Panel by panel: in a sum the errors of two panels may cancel, and hide both.
        differences = jnp.sum(jnp.abs(both.parts[1] - both.parts[0]))
        size = jnp.dot(multipliers, result.outside) + jnp.sum(terms) + result.shifted
        # A density's relative error grows with its exponent's size, about sqrt(shape) epsilon.
        rounding = _ROUNDING * (1.0 + 0.1 * jnp.sqrt(jnp.max(laws.shape)))
        if laws.cosine.small is not None:
            rounding = _BETA_ROUNDING * rounding
        error_bound = _DIFFERENCES * differences + rounding * size
        return Verification(g, error_bound, result.slope, 1.0 - result.outside)

    return jax.vmap(one)(laws, bounds, theta, radius)
