"""The law of the cosine between a fixed axis and a uniform direction in d dimensions.

Its density is C (1 - c^2)^((d-3)/2) on [-1, 1], C = Gamma(d/2)/(sqrt(pi) Gamma((d-1)/2)).
The share of a sphere that lies on one side of a hyperplane, and so every integral of a
certificate, is its distribution function.

With w^2 = -log(1 - c^2) and nu = (d - 1)/2 the density becomes C e^(-nu w^2) m(w),
m(w) = w/sqrt(1 - e^(-w^2)) = sum_i m_i w^(2i). Integrating term by term,

    P(cosine > c) = erfc(sqrt(nu) w)/2 + C e^(-nu w^2) w Poly(w^2)        (c >= 0)

where the coefficients of Poly depend on d alone: they are arrays, so one compiled program serves
every dimension from SMALLEST_SERIES_DIMENSION on. The upper tail keeps its relative precision,
which is what a large multiplier needs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Array, Float, Float64

if TYPE_CHECKING:
    _Leaf = Any
else:
    _Leaf = Array | np.ndarray  # laws are stacked on the host

# Below this dimension the series in w^2 (radius of convergence 2 pi) is too slow in the tail, and
# the incomplete beta function, whose parameters are then small, is both exact and fast enough.
SMALLEST_SERIES_DIMENSION = 48
_TERMS = 24


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CosineLaw:
    """What the law needs to know of d; made by `cosine_law` on the host, in float64.

    Attributes:
        dimension: d, as a float.
        constant: C.
        polynomial: coefficients of Poly; none for a dimension that is served without it.
        small: d where it is under SMALLEST_SERIES_DIMENSION (such a d has programs of its own),
            else None.
    """

    dimension: Float64[_Leaf, "*rows"]
    constant: Float64[_Leaf, "*rows"]
    polynomial: Float64[_Leaf, "*rows terms"]
    small: int | None = dataclasses.field(metadata={"static": True})


@functools.cache
def cosine_law(dimension: int) -> CosineLaw:
    """The law in `dimension` >= 2 dimensions."""
    small = dimension < SMALLEST_SERIES_DIMENSION
    polynomial = () if small else _series(dimension)[1]
    return CosineLaw(
        np.asarray(dimension, dtype=np.float64),
        np.asarray(normalisation(dimension)),
        np.asarray(polynomial, dtype=np.float64),
        dimension if small else None,
    )


def upper_tail(cosine: Float[Array, "..."], law: CosineLaw) -> Float[Array, "..."]:
    """P(cosine > c), relative precision about 1e-14 for c >= 0.

    Args:
        cosine: c in [-1, 1], float64.
        law: of one dimension.
    """
    magnitude = jnp.abs(cosine)
    square = jnp.minimum(magnitude * magnitude, 1.0)
    nu: Any
    if law.small == 2:
        tail = jnp.arctan2(jnp.sqrt((1.0 - magnitude) * (1.0 + magnitude)), magnitude) / jnp.pi
    elif law.small == 3:
        tail = 0.5 * (1.0 - magnitude)
    elif law.small is not None:
        nu = 0.5 * (law.small - 1)
        # Near c = 0 the argument 1 - c^2 would lose c: count from the centre there.
        central = square * law.small < 1.0
        outer = 0.5 * special.betainc(nu, 0.5, 1.0 - jnp.where(central, 0.5, square))
        inner = 0.5 - 0.5 * special.betainc(0.5, nu, jnp.where(central, square, 0.0))
        tail = jnp.where(central, inner, outer)
    else:
        nu = 0.5 * (law.dimension - 1.0)
        # 1 - 2^-53: w stays finite at c = 1, where the tail is far below the smallest float64.
        square_w = -jnp.log1p(-jnp.minimum(square, 1.0 - 2.0**-53))
        w = jnp.sqrt(square_w)
        poly = jnp.zeros_like(w)
        for i in reversed(range(_TERMS - 1)):
            poly = poly * square_w + law.polynomial[i]
        gauss = law.constant * jnp.exp(-nu * square_w)
        tail = 0.5 * special.erfc(jnp.sqrt(nu) * w) + gauss * w * poly
    return jnp.where(cosine >= 0.0, tail, 1.0 - tail)


def density(cosine: Float[Array, "..."], law: CosineLaw) -> Float[Array, "..."]:
    """C (1 - c^2)^((d-3)/2) for c strictly inside (-1, 1), 0 elsewhere."""
    square = cosine * cosine
    inside = square < 1.0
    log = 0.5 * (law.dimension - 3.0) * jnp.log1p(-jnp.where(inside, square, 0.0))
    return jnp.where(inside, law.constant * jnp.exp(log), 0.0)


@functools.cache
def normalisation(dimension: int) -> float:
    """C = Gamma(d/2)/(sqrt(pi) Gamma((d-1)/2))."""
    if dimension < SMALLEST_SERIES_DIMENSION:
        return math.gamma(dimension / 2) / (math.sqrt(math.pi) * math.gamma((dimension - 1) / 2))
    return _series(dimension)[0]


@functools.cache
def _series(dimension: int) -> tuple[float, tuple[float, ...]]:
    """C and the coefficients of Poly: both from the requirement P(cosine > 0) = 1/2.

    With I_i = integral of x^(2i) e^(-nu x^2) over (w, inf), integration by parts gives
    I_i = w^(2i-1) e^(-nu w^2)/(2 nu) + (2i-1)/(2 nu) I_(i-1).
    """
    two_nu = dimension - 1
    moments = _series_of_m(_TERMS)
    # The terms at w = 0, relative to I_0: m_i (2i-1)!!/(2 nu)^i. The series is asymptotic in 1/nu.
    total, factor = 0.0, 1.0
    for i, moment in enumerate(moments):
        total += moment * factor
        factor *= (2 * i + 1) / two_nu
    constant = math.sqrt(two_nu / (2 * math.pi)) / total
    polynomial = np.zeros(_TERMS - 1)
    for i in range(1, _TERMS):
        weight = moments[i] / two_nu
        for power in range(i, 0, -1):  # w^(2 power - 1) of I_i
            polynomial[power - 1] += weight
            weight *= (2 * power - 1) / two_nu
    return constant, tuple(polynomial.tolist())


@functools.cache
def _series_of_m(terms: int) -> tuple[float, ...]:
    """Taylor coefficients of (x/(1 - e^-x))^(1/2) in x = w^2, by exact rational arithmetic."""
    # (1 - e^-x)/x = sum_n (-1)^n x^n/(n+1)!; its power -1/2 by the recurrence for powers of series.
    base = [Fraction((-1) ** n, math.factorial(n + 1)) for n in range(terms)]
    power = Fraction(-1, 2)
    result = [Fraction(1)]
    for n in range(1, terms):
        total = sum(
            ((power * j - (n - j)) * base[j] * result[n - j] for j in range(1, n + 1)), Fraction(0)
        )
        result.append(total / n)
    return tuple(float(value) for value in result)
