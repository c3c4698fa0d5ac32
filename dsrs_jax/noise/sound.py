"""Draws on a grid that are what they claim: integer noise, exact or flagged.

Certified is the classifier that rounds its input to a grid on which the images lie: of the noise
it sees the cell of every coordinate, an integer. A draw is a function of bits in exact arithmetic,

    U, V: 64 bits b, as (b + 1/2)/2^64,     Z = sqrt(-2 log U) (cos 2 pi V, sin 2 pi V),
    u:    a Gamma(shape) level by Marsaglia and Tsang (ACM TOMS 26, 2000), from Z's and U's,
    e  =  s u^(1/eta) Z/|Z|,                cell_i = the integer next to e_i/step,

computed in float64. Where rounding might have changed a cell, or which level was accepted, the draw
is *ambiguous*: it has to count against the label. `charge` bounds what else lies between these
draws and the law: that uniforms have 64 bits. docs/proof.md has the theorem.

Everything here needs JAX's 64-bit mode, and a device whose float64 is IEEE's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float64, Int32, Key, UInt64

from dsrs_jax.noise.radial import RadialLaw, excess_near

# Relative error of a level; of a coordinate it is this over min(1, eta). 16 times what is measured
# against 60 digits (benchmarks/sound.py) is less, and so is twice the worst case of all roundings
# together (the power of a shape below 1; a sum of 150,528 squares), in whatever order a compiler
# makes them.
ROUNDING = 1e-13
# A normal deviate of 64-bit uniforms is no larger: sqrt(2 * 65 log 2) = 9.493.
_LARGEST_DEVIATE = 9.5
_AT_ONCE = 512  # terms of a sum
# A deviate that makes so little of 1 + spread * deviate: at shape 1 two of 10^5 levels are such,
# at shape 4 two of 10^9.
_CANCELLED = 1.0 / 32.0
_TOP = 1 << 63


class SoundDraw(NamedTuple):
    """A draw of the noise on the grid.

    Attributes:
        level: u, within ROUNDING of itself; 0 where rounding may have decided which one it is.
        cells: of the noise's coordinates, in steps of the grid.
        ambiguous: whether some cell, or the level as a whole, may be another.
    """

    level: Float64[Array, ""]
    cells: Int32[Array, " dimension"]
    ambiguous: Bool[Array, ""]


def draw(law: RadialLaw, key: Key[Array, ""], grid: int) -> SoundDraw:
    """One draw, a function of the key alone.

    Args:
        law: its numbers in float64.
        key: of the draw.
        grid: steps in a unit of pixels (255: the step is 1/255).
    """
    found = coordinates(law, key, grid)
    cells = jnp.concatenate([jnp.rint(found.first), jnp.rint(found.second)])[: law.dimension]
    # A compiler may compute the coordinates again for each use, with other roundings: the margin
    # covers that.
    error = ROUNDING / jnp.minimum(1.0, jnp.asarray(law.eta, jnp.float64))
    farthest = jnp.max(jnp.maximum(_farther(found.first, error), _farther(found.second, error)))
    # Beyond int32 a cell is no number any more.
    ambiguous = found.undecided | (farthest >= 0.5) | ~(found.length < 2.0**30)
    level = jnp.where(found.undecided, 0.0, found.level)
    return SoundDraw(level, cells.astype(jnp.int32), ambiguous)


class Coordinates(NamedTuple):
    """What float64 makes of a draw's bits.

    Attributes:
        level, undecided: the level, and whether rounding may have decided which one it is.
        length: |e| in steps of the grid.
        first, second: of e, the same; where the dimension is odd the last one is too many.
    """

    level: Float64[Array, ""]
    undecided: Bool[Array, ""]
    length: Float64[Array, ""]
    first: Float64[Array, " pairs"]
    second: Float64[Array, " pairs"]


def coordinates(law: RadialLaw, key: Key[Array, ""], grid: int) -> Coordinates:
    """A draw before it is rounded to cells, which `draw` does; arguments as there."""
    level_key, direction_key = jax.random.split(key)
    level, undecided = _level(law, level_key)
    bits = jax.random.bits(direction_key, (2, (law.dimension + 1) // 2), jnp.uint64)
    cosine, sine = _turn(bits[1])
    square = 2.0 * _minus_log(bits[0])
    # Of an odd dimension the last pair gives one coordinate.
    counted = square if law.dimension % 2 == 0 else square.at[-1].multiply(cosine[-1] ** 2)
    eta = jnp.asarray(law.eta, jnp.float64)
    root = lax.cond(eta == 2.0, lambda: jnp.sqrt(level), lambda: level ** (1.0 / eta))
    length = law.scale * root * grid
    radii = jnp.sqrt(square) * (length / jnp.sqrt(_sum(counted)))
    return Coordinates(level, undecided, length, radii * cosine, radii * sine)


def _farther(
    exact: Float64[Array, " pairs"], error: Float64[Array, ""]
) -> Float64[Array, " pairs"]:
    """How far from its cell's middle a coordinate may be; the difference has no rounding error."""
    return jnp.abs(exact - jnp.rint(exact)) + error * jnp.abs(exact)


def charge(law: RadialLaw, grid: int) -> float:
    """Largest difference of a label's probability between these draws and the law itself.

    For the law of any event, with d' the dimension made even and R the largest length in steps,

        t = 2^-65 (R sqrt(d') (1.5 d' + 33) + 13);

    for a law that is cut off at the quantile b, whichever way its draws come by, t/(b - t), with
    the t of the whole law. docs/proof.md derives both.

    Args:
        law: what is drawn.
        grid: steps in a unit of pixels.
    """
    even = law.dimension + law.dimension % 2
    reach = _largest_length(law) * grid * math.sqrt(even)
    whole = 2.0**-65 * (reach * (1.5 * even + 33.0) + 13.0) * (1.0 + 1e-6)
    if law.quantile is None:
        return min(whole, 1.0)
    inside = float(law.quantile) * (1.0 - 1e-6) - whole
    return min(whole / inside, 1.0) if inside > 0.0 else 1.0


def _largest_length(law: RadialLaw) -> float:
    """Of a draw of the whole law, in pixels: no normal deviate is beyond _LARGEST_DEVIATE."""
    shape = float(law.shape)
    start = shape + (1.0 if shape < 1.0 else 0.0) - 1.0 / 3.0
    largest = start * (1.0 + _LARGEST_DEVIATE / math.sqrt(9.0 * start)) ** 3
    return float(law.scale) * largest ** (1.0 / float(law.eta))


def _sum(terms: Float64[Array, " terms"]) -> Float64[Array, ""]:
    """Their sum by at most 2 sqrt(terms) roundings of each, or _AT_ONCE, in whatever order."""
    if len(terms) <= _AT_ONCE:
        return jnp.sum(terms)
    width = math.isqrt(len(terms) - 1) + 1
    rows = jnp.pad(terms, (0, width * width - len(terms))).reshape(width, width)
    # Without it a compiler makes one sum of the two.
    return jnp.sum(lax.optimization_barrier(jnp.sum(rows, axis=1)))


class Attempt(NamedTuple):
    """At a level: what it gives, whether it is accepted, and whether rounding may decide that.

    Undecided too is a level of which ROUNDING does not hold.
    """

    level: Float64[Array, ""]
    accepted: Bool[Array, ""]
    undecided: Bool[Array, ""]


def _level(law: RadialLaw, key: Key[Array, ""]) -> tuple[Float64[Array, ""], Bool[Array, ""]]:
    """A level, and whether rounding may have decided which one it is."""

    def more(state: tuple[Int32[Array, ""], Attempt]) -> Bool[Array, ""]:
        return ~state[1].accepted

    def again(state: tuple[Int32[Array, ""], Attempt]) -> tuple[Int32[Array, ""], Attempt]:
        number, last = state
        bits = jax.random.bits(jax.random.fold_in(key, number), (4,), jnp.uint64)
        now = attempt(law, bits)
        return number + 1, now._replace(undecided=now.undecided | last.undecided)

    nothing = Attempt(jnp.float64(0.0), jnp.bool_(False), jnp.bool_(False))
    _, found = lax.while_loop(more, again, (jnp.int32(0), nothing))
    return found.level, found.undecided


def attempt(law: RadialLaw, bits: UInt64[Array, " four"]) -> Attempt:
    """An attempt of Marsaglia and Tsang's, from length, acceptance, angle, a power's uniform."""
    shape = jnp.asarray(law.shape, jnp.float64)
    small = shape < 1.0
    start = jnp.where(small, shape + 1.0, shape) - 1.0 / 3.0
    spread = 1.0 / jnp.sqrt(9.0 * start)
    cutoff = jnp.inf if law.cutoff is None else law.cutoff
    minus_log = _minus_log(bits[:2])
    deviate = jnp.sqrt(2.0 * minus_log[0]) * _turn(bits[2])[0]
    root = 1.0 + spread * deviate
    t = spread * deviate * (3.0 + spread * deviate * (3.0 + spread * deviate))  # v - 1
    v = jnp.maximum(root, 1e-100) ** 3
    over = jnp.where(jnp.abs(t) < 0.2, excess_near(t), t - _log(v))  # v - 1 - log v
    half_square = 0.5 * deviate * deviate
    room = half_square - start * over + minus_log[1]  # accepted where positive
    terms = 1.0 + half_square + start * over + minus_log[1]
    # Gamma(a) = Gamma(a + 1) U^(1/a), by the same authors.
    power = lax.cond(small, lambda: jnp.exp(-_minus_log(bits[3]) / shape), lambda: 1.0)
    level = start * v * power
    accepted = (root > 0.0) & (room > 0.0) & (level <= cutoff)
    undecided = (jnp.abs(room) <= ROUNDING * terms) | (jnp.abs(root) <= ROUNDING)
    # Where 1 + spread * deviate cancels, v and log v lose digits.
    undecided |= (root > 0.0) & (root < _CANCELLED) & (room > -1.0)
    undecided |= jnp.abs(level - cutoff) <= ROUNDING * level
    return Attempt(level, accepted, undecided)


def _fraction(bits: UInt64[Array, "*rows"]) -> Float64[Array, "*rows"]:
    """(b + 1/2)/2^64, within 2^-52 of itself."""
    high, low = _halves(bits)
    return high * 2.0**-32 + (low + 0.5) * 2.0**-64


def _halves(
    bits: UInt64[Array, "*rows"],
) -> tuple[Float64[Array, "*rows"], Float64[Array, "*rows"]]:
    """Their upper and lower 32 bits as whole numbers, exact: the last bits of 2^52 + each."""
    large = jnp.uint64(0x4330000000000000)
    high = lax.bitcast_convert_type((bits >> jnp.uint64(32)) | large, jnp.float64)
    low = lax.bitcast_convert_type((bits & jnp.uint64(0xFFFFFFFF)) | large, jnp.float64)
    return high - 2.0**52, low - 2.0**52


def _minus_log(bits: UInt64[Array, "*rows"]) -> Float64[Array, "*rows"]:
    """-log((b + 1/2)/2^64), to full relative precision at both ends."""
    upper = bits >= jnp.uint64(_TOP)
    x = _fraction(jnp.where(upper, ~bits, bits))  # 1 - u of an upper u, which is then log1p's
    exponent, m = _split(x)
    # -log m = 2 atanh(s); |s| is at most 1/3 on the upper side.
    s = jnp.where(upper, x, 1.0 - m) / jnp.where(upper, 2.0 - x, 1.0 + m)
    return _two_atanh(s, 35) - jnp.where(upper, 0.0, exponent * math.log(2.0))


def _log(x: Float64[Array, "*rows"]) -> Float64[Array, "*rows"]:
    """log x of a normal number, within 2^-52 of itself and of its terms; a library's is slower."""
    exponent, m = _split(x)
    return _two_atanh((m - 1.0) / (m + 1.0), 23) + exponent * math.log(2.0)


def _split(x: Float64[Array, "*rows"]) -> tuple[Float64[Array, "*rows"], Float64[Array, "*rows"]]:
    """Exponent and m of x = m 2^exponent, m between sqrt(1/2), whose first bits these are, and
    sqrt(2)."""
    pattern = lax.bitcast_convert_type(x, jnp.int64)
    exponent = (pattern - jnp.int64(0x3FE6A09E667F3BCD)) >> 52
    m = lax.bitcast_convert_type(pattern - (exponent << 52), jnp.float64)
    return exponent.astype(jnp.float64), m


def _two_atanh(s: Float64[Array, "*rows"], last: int) -> Float64[Array, "*rows"]:
    """2 atanh s by its series: to power 35 for |s| < 1/3, where (1/9)^18 is 7e-18; to power 23 for
    |s| < 0.172, where 0.172^26 is 1e-20."""
    square = s * s
    series = jnp.zeros_like(square)
    for power in range(last, 0, -2):
        series = series * square + 2.0 / power
    return series * s


def _turn(
    bits: UInt64[Array, "*rows"],
) -> tuple[Float64[Array, "*rows"], Float64[Array, "*rows"]]:
    """Cosine and sine of 2 pi (b + 1/2)/2^64, to full relative precision at their zeros."""
    octant = (bits >> jnp.uint64(61)).astype(jnp.int32)
    odd = (octant & 1) == 1
    # The angle from the next multiple of 90 degrees, in eighths of a turn: 61 bits and the half.
    rest = (bits << jnp.uint64(3)) | jnp.uint64(4)
    rest = jnp.where(odd, jnp.uint64(0) - rest, rest)
    high, low = _halves(rest)
    x = (high * 2.0**-32 + low * 2.0**-64) * (math.pi / 4.0)
    square = x * x
    cosine, sine = jnp.zeros_like(x), jnp.zeros_like(x)
    for power in range(10, -1, -1):
        sign = (-1.0) ** power
        cosine = cosine * square + sign / math.factorial(2 * power)
        sine = sine * square + sign / math.factorial(2 * power + 1)
    sine = sine * x
    swapped = ((octant + 1) & 2) == 2
    first, second = jnp.where(swapped, sine, cosine), jnp.where(swapped, cosine, sine)
    first = jnp.where(((octant + 2) & 4) == 4, -first, first)
    return first, jnp.where((octant & 4) == 4, -second, second)
