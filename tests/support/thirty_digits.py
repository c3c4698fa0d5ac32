"""g of a certificate to about twenty digits in mpmath, by formulas that the package does not use.

    g = sum_j lambda_j (p_j - Q_j(S)) + P_shifted(S),  S = {p_shifted < h},  h = sum_j lambda_j q_j

with P_shifted(S) as an integral over the distance v from the shifted centre, rho_h(v) found by
root search, everything in the logarithm of a length; the cosine's distribution by its alternating
binomial series. Accurate for dimensions of 64 and more, where nothing ends at |cosine| = 1.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import mpmath
from mpmath import mpf
from mpmath.calculus.quadrature import GaussLegendre

from dsrs_jax.noise import RadialLaw

mpmath.mp.dps = 45
_AGREE = mpf(10) ** -18

_NODES = GaussLegendre(mpmath.mp).get_nodes(-1, 1, 4, mpmath.mp.prec)  # 24 of them

Vector = list[mpf]


def _integral(integrand: Callable[[mpf], Vector], marks: Vector) -> Vector:
    """Of several functions at once; panels between the marks, halved until the halves agree."""

    def on(a: mpf, b: mpf) -> Vector:
        half, middle = (b - a) / 2, (a + b) / 2
        columns = [
            [weight * value for value in integrand(middle + half * x)] for x, weight in _NODES
        ]
        return [half * mpmath.fsum(values) for values in zip(*columns, strict=True)]

    edges = sorted(set(marks))
    total: Vector = []
    open_ = [(a, b, on(a, b), 0) for a, b in itertools.pairwise(edges)]
    while open_:
        a, b, whole, depth = open_.pop()
        middle = (a + b) / 2
        left, right = on(a, middle), on(middle, b)
        both = [p + q for p, q in zip(left, right, strict=True)]
        if depth < 40 and any(abs(p - q) > _AGREE for p, q in zip(both, whole, strict=True)):
            open_ += [(a, middle, left, depth + 1), (middle, b, right, depth + 1)]
        else:
            total = [s + p for s, p in zip(total or [mpf(0)] * len(both), both, strict=True)]
    return total


class _Law:
    """Log densities as functions of z = log|x|."""

    def __init__(self, law: RadialLaw):
        self.dimension, self.k, self.eta = law.dimension, mpf(law.k), mpf(law.eta)
        a = self.shape = (self.dimension - 2 * self.k) / self.eta
        moment = mpmath.exp(mpmath.loggamma(a + 2 / self.eta) - mpmath.loggamma(a))
        self.log_scale = mpmath.log(mpf(law.sigma) * mpmath.sqrt(self.dimension / moment))
        self.end, mass = mpmath.inf, mpf(0)
        if law.cutoff is not None:
            self.end = self.log_scale + mpmath.log(mpf(law.cutoff)) / self.eta
            mass = mpmath.log(mpmath.gammainc(a, 0, mpf(law.cutoff), regularized=True))
        # of the density along the radius, per unit of z; the sphere's area is left out of `log`
        self.constant = (
            mpmath.log(self.eta) - mpmath.loggamma(a) - mass - a * self.eta * (self.log_scale)
        )

    def log(self, z: mpf) -> mpf:
        """log of the density in space, up to a constant that all laws share."""
        return self.constant - 2 * self.k * z - mpmath.exp(self.eta * (z - self.log_scale))

    def slope(self, z: mpf) -> mpf:
        return -2 * self.k - self.eta * mpmath.exp(self.eta * (z - self.log_scale))

    def radial(self, z: mpf) -> mpf:
        """The density of z."""
        return mpmath.exp(self.log(z) + self.dimension * z) if z <= self.end else mpf(0)

    def marks(self) -> Vector:
        a, shift, eta = float(self.shape), float(self.log_scale), float(self.eta)
        logs = [s * 0.75 / math.sqrt(a) for s in range(-200, 40)]
        logs = [x for x in logs if a * (math.expm1(x) - x) < 60]
        z = [shift + (math.log(a) + x) / eta for x in logs]
        return [mpf(x) for x in z if x < self.end] + ([self.end] if self.end < mpmath.inf else [])


def _root(f: Callable[[mpf], tuple[mpf, mpf]], low: float, high: float) -> mpf:
    """Where a falling function of z is 0; f gives value and slope. The nearer end if nowhere."""
    a, b = mpf(low), mpf(high)
    if f(a)[0] <= 0:
        return a
    if f(b)[0] >= 0:
        return b
    z = (a + b) / 2
    for _ in range(300):
        value, slope = f(z)
        a, b = (z, b) if value > 0 else (a, z)
        step = -value / slope
        if abs(step) < mpf(10) ** -38:
            return z + step
        z = z + step if a < z + step < b else (a + b) / 2
    return z


def g(
    laws: Sequence[RadialLaw],
    bounds: Sequence[float | mpf],
    multipliers: Sequence[float],
    radius: float,
) -> mpf:
    """g(multipliers; radius) for lower bounds of the probability under each law."""
    chosen = [j for j, weight in enumerate(multipliers) if weight > 0]
    base, on = _Law(laws[0]), [_Law(laws[j]) for j in chosen]
    weights, r = [mpf(float(multipliers[j])) for j in chosen], mpf(radius)
    dimension = base.dimension
    half = mpf(dimension) / 2
    constant = mpmath.exp(mpmath.loggamma(half) - mpmath.loggamma(half - mpf(1) / 2))
    constant /= mpmath.sqrt(mpmath.pi)

    def below(c: mpf) -> mpf:
        """P(cosine < c)."""
        if c >= 1 or c <= -1:
            return mpf(1 if c > 0 else 0)
        square, power = c * c, (mpf(dimension) - 1) / 2
        if (1 - square) ** power * constant < mpf(10) ** -22 * abs(c) * (dimension - 1):
            return mpf(1 if c > 0 else 0)
        # sum_n (-1)^n binomial((d-3)/2, n) c^(2n+1)/(2n+1), in units of 2^-bits.
        bits = 200
        term, factor = int(c * mpf(2) ** bits), int(square * mpf(2) ** bits)
        total, n = term, 0
        while abs(term) > 1 << (bits - 100):
            term = -(term * factor >> bits) * (dimension - 3 - 2 * n) // (2 * n + 2)
            n += 1
            total += term // (2 * n + 1)
        return constant * total * mpf(2) ** -bits + mpf(1) / 2

    def log_h(z: mpf, ended: mpf) -> tuple[mpf, mpf]:
        """log h and its slope, of the laws that have not ended at `ended`."""
        terms = [(w, law) for w, law in zip(weights, on, strict=True) if ended <= law.end]
        if not terms:
            return -mpmath.inf, mpf(0)
        logs = [mpmath.log(w) + law.log(z) for w, law in terms]
        top = max(logs)
        shares = [mpmath.exp(value - top) for value in logs]
        total = mpmath.fsum(shares)
        slopes = [s * law.slope(z) for s, (_, law) in zip(shares, terms, strict=True)]
        return top + mpmath.log(total), mpmath.fsum(slopes) / total

    marks = sorted({m for law in [base, *on] for m in law.marks()})
    far, near = max(marks) + 40, min(marks) - 40

    def distance(z: mpf, ended: mpf) -> mpf:
        """log rho*: where p is what h is at z."""
        level = log_h(z, ended)[0]
        if level == -mpmath.inf:
            return mpf(far)
        guess = [float(z) - 3, float(z) + 3]

        def miss(t: mpf) -> tuple[mpf, mpf]:
            return base.log(t) - level, base.slope(t)

        value = _root(miss, *guess)
        return _root(miss, near, far) if value in guess else value

    ends = sorted({law.end for law in on if law.end < mpmath.inf})
    after = [end + mpf(10) ** -35 for end in ends]
    jumps = [(distance(e, e), distance(e, t), e) for e, t in zip(ends, after, strict=True)]

    def cosine(z: mpf) -> mpf:
        away = distance(z, z)
        return (mpmath.exp(2 * z) + r * r - mpmath.exp(2 * away)) / (2 * mpmath.exp(z) * r)

    def shifted_cosine(z: mpf) -> mpf:
        """The cosine below which |x| < rho_h, at the distance e^z from the shifted centre."""
        level, piece, found = base.log(z), -mpmath.inf, None
        for first, last, end in jumps:
            if first <= z <= last:
                found = end
            elif last < z:
                piece = end + mpf(10) ** -35
        if found is None:

            def miss(t: mpf) -> tuple[mpf, mpf]:
                value, slope = log_h(t, piece)
                return value - level, slope

            found = _root(miss, float(z) - 3, float(z) + 3)
        return (mpmath.exp(2 * found) - mpmath.exp(2 * z) - r * r) / (2 * mpmath.exp(z) * r)

    def with_layers(points: Vector, c: Callable[[mpf], mpf]) -> Vector:
        """Marks also where the cosine passes multiples of its standard deviation."""
        grid = [p + (q - p) * i / 12 for p, q in itertools.pairwise(points) for i in range(12)]
        values = [float(c(mpf(p))) * math.sqrt(dimension) for p in grid]
        found = list(points)
        for level in (-10, -6, -3, -1, 1, 3, 6, 10):
            for p, q, u, v in zip(grid, grid[1:], values, values[1:], strict=False):
                if (u > level) != (v > level):
                    found.append(p + (q - p) * (level - u) / (v - u))
        return found

    def own(z: mpf) -> Vector:
        tail = below(cosine(z))
        return [law.radial(z) * tail for law in on]

    inside = _integral(own, with_layers(marks, cosine))
    kinks = [v for jump in jumps for v in jump[:2]]
    points = base.marks()
    points = sorted([*points, *(v for v in kinks if points[0] < v < points[-1])])
    shifted = _integral(
        lambda z: [base.radial(z) * below(shifted_cosine(z))], with_layers(points, shifted_cosine)
    )[0]
    gain = [w * (mpf(bounds[j]) - q) for w, j, q in zip(weights, chosen, inside, strict=True)]
    return mpmath.fsum(gain) + shifted
