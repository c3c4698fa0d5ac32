"""g(multipliers; radius) in ball arithmetic: the trusted mathematics.

Only python-flint (Arb) and the standard library are imported. Every `arb` is an interval that
holds the number it stands for; floats choose ranges, starts and branches, never a bound.

**What is enclosed.** P has the density p(x) ∝ |x|^(-2k) exp(-(|x|/s)^eta), its level
u = (|x|/s)^eta the law Gamma(a), a = (d - 2k)/eta, density gamma_a. Lengths are in units of s. A
law Q_j of another sigma has level b_j u, b_j = (sigma_0/sigma_j)^eta > 0, one cut off at level t_j
ends at u = t_j/b_j. With lambda_j >= 0, not all 0, h = sum_j lambda_j q_j and
p_d the density of P shifted by delta, |delta| = r,

    g = sum_j lambda_j p_j - int (h - p_d)_+ = int min(h, p_d) - sum_j lambda_j (1 - p_j).

Between two ends h = H p, H(u) = sum_j w_j exp((1 - b_j) u), w_j > 0; let l = log H, k' = 2k/eta
and phi(u) = k' log u + u, so that log p = -phi + const. p_d < h where the distance from the
shifted centre exceeds rho* = u*^(1/eta), phi(u*) = phi(u) - l(u) (call that set S).

**u* grows with u**, which is where lambda >= 0 is needed: the shares w_j e^((1-b_j)u)/H are then
a convex combination, so l' = 1 - b < 1 with b > 0 the mean of b_j under them, and
(phi - l)' = k'/u + b > 0; where a law ends, l falls and u* jumps up; phi itself increases. If
k' = 0 and l(u) >= u, the same holds of every smaller u and these spheres lie in S. So on the
sphere of radius v about the shifted centre S is {|x| < rho_h(v)}, rho_h the inverse of rho*, and
with B the distribution function of the cosine of a uniform direction, u* = u (1 - e), x = sqrt(u),

    int min(h, p_d) = int f_h(x) [B(-c) + (1 - e)^(d/eta) (k' + u b)/(k' + u (1 - e)) B(c~)] dx
                          + for each end T: int_(u*(T-))^(u*(T+)) gamma_a(w) B(c(T, w)) dw,
    f_h(x) = 2 x gamma_a(x^2) H,  u e - k' log(1 - e) = l(u),  A = rho^2 (1 - (1 - e)^(2/eta)),
    c = (A + r^2)/(2 rho r),  c~ = (A - r^2)/(2 rho* r),  c(T, w) = (T^2 - v^2 - r^2)/(2 v r)

(rho and T as radii, v = w^(1/eta)). The second term is gamma_a(u*) du* written with f_h. All terms
are >= 0, so a part left out lowers the sum, by at most its own bound: below a level u_0 both terms
are at most P(level < u*(u_0)) (the first because min(h, p_d) <= p_d on the ball |x - delta|
<= rho*); above u_1 the first is at most sum_j lambda_j Q_j(level > u_1), the second
P(level > u*(u_1)). The tails of Gamma(a) are bounded by Chernoff's (v/a)^a e^(a - v).

**The analytic branch.** Arb's integrator asks for enclosures on rectangles X around a stretch of
the real line; it needs to know that the integrand continues analytically to all of X. X is convex
and contains its real midpoint x_0 (or NaN is returned), so a function enclosed by value at x_0 plus
(derivative on X)(X - x_0) is enclosed on X, if that derivative is finite and analytic there.
`_Piece.at` encloses so: the log densities (X in Re x > 0); l, by l' = H'/H (H has no zero in X, or
the quotient is not finite); F(e_0; x) = u e_0 - k' log(1 - e_0) - l. e is the root of F in a
box E = conj(E) in Re(1 - e) > 0 around a real e_0, by the interval Newton step
N = e_0 - F(e_0)/F'(E): if N is inside E, T(e) = e_0 - F(e_0)/(mean of F' from e_0 to e) maps E
to N (E and the rectangle of F' are convex), so a root exists (Brouwer); two roots would have a
mean of F' of 0 between them; and F' = u + k'/(1 - e) is not 0, so the root is analytic in x. At
real x the conjugate of the root is a root in E, so it is real, and F increases along the real
line, so it is the one meant. B(c) = 1/2 + C c (1 - c^2)^((d-1)/2) 2F1(1, d/2; 3/2; c^2),
C = Gamma(d/2)/(sqrt(pi) Gamma((d-1)/2)), is analytic for |Re c| < 1 and constant for |Re c| > 1.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

from flint import acb, arb, ctx

from dsrs_jax.proof import guesses

PRECISION = 80  # bits
_CONSTANTS_PRECISION = 128
_TOLERANCE = 2.0**-54
_EVALUATIONS = 60_000  # of an integrand; an integral that needs more comes out wide
_DEPTH = 44.0  # tails below e^-44 are left out
_NAN = acb(arb.nan(), arb.nan())  # of infinite radius: a NaN of radius 0 would pass as converged


@dataclasses.dataclass(frozen=True)
class LawNumbers:
    """P or a Q_j: its sigma, and the level at which it is cut off (None: nowhere)."""

    sigma: float
    cutoff: float | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """d, k, eta, and the laws (P, Q_1, ..., Q_J) that share them; P is not cut off.

    Raises:
        ValueError: a number outside its domain.
    """

    dimension: int
    k: float
    eta: float
    laws: tuple[LawNumbers, ...]

    def __post_init__(self) -> None:
        cutoffs = [law.cutoff for law in self.laws if law.cutoff is not None]
        for name, values, good in (
            ("dimension", [self.dimension], self.dimension >= 2),
            ("k", [self.k], 0.0 <= 2.0 * self.k < self.dimension),
            ("eta", [self.eta], self.eta > 0.0),
            ("sigma", [law.sigma for law in self.laws], all(q.sigma > 0.0 for q in self.laws)),
            ("cutoff", cutoffs, all(t > 0.0 for t in cutoffs) and self.laws[0].cutoff is None),
        ):
            if not (good and all(math.isfinite(value) for value in values)):
                raise ValueError(f"{name} is outside its domain: {values}")


def enclose(
    family: Family, bounds: Sequence[arb], multipliers: Sequence[float], radius: float
) -> arb:
    """A ball that holds g(multipliers; radius); one that is not finite where none was found.

    Args:
        family: the laws.
        bounds: J + 1 lower bounds of the probability under each law.
        multipliers: J + 1 numbers, finite and >= 0, at least one positive.
        radius: in pixels, finite and > 0.

    Raises:
        ValueError: multipliers or radius outside their domain.
    """
    if not (all(0.0 <= w < math.inf for w in multipliers) and max(multipliers) > 0.0):
        raise ValueError("multipliers must be finite, not negative and not all 0")
    if not 0.0 < radius < math.inf:
        raise ValueError("the radius must be finite and positive")
    with ctx.workprec(PRECISION):
        cost = sum((w * (1 - p) for w, p in zip(multipliers, bounds, strict=True)), arb(0))
        try:
            return _Dual(family, multipliers, radius).minimum() - cost
        except (ArithmeticError, ValueError):  # a guess in floats had no answer
            return arb.nan()


class _Constants:
    """What a family alone decides: a, k', s, C, and for each law b_j, its end and its mass."""

    def __init__(self, family: Family):
        d, eta = family.dimension, arb(family.eta)
        self.dimension, self.eta, self.quadratic = d, eta, family.eta == 2.0
        self.k = 2 * arb(family.k) / eta
        self.shape = (d - 2 * arb(family.k)) / eta
        a, half = self.shape, arb(d) / 2
        # E u^(2/eta); for eta = 2 it is a itself.
        moment = a if self.quadratic else ((a + 2 / eta).lgamma() - a.lgamma()).exp()
        base = family.laws[0].sigma
        self.scale = arb(base) * (d / moment).sqrt()
        self.log_gamma = a.lgamma()
        self.cosine = (half.lgamma() - (half - arb(0.5)).lgamma()).exp() / arb.pi().sqrt()
        ratios = {law.sigma: (arb(base) / law.sigma) ** eta for law in family.laws}
        self.ratios = [arb(1) if law.sigma == base else ratios[law.sigma] for law in family.laws]
        self.ends, self.masses = [], []
        for law, b in zip(family.laws, self.ratios, strict=True):
            cutoff = arb.pos_inf() if law.cutoff is None else arb(law.cutoff)
            self.ends.append(cutoff / b)
            self.masses.append(arb(1) if law.cutoff is None else 1 - cutoff.gamma_upper(a, 1))

    def tail(self, level: arb, side: int) -> arb:
        """At least P(side * (U - level) > 0) for a Gamma(a) level U: Chernoff's bound."""
        if side < 0 and level <= 0:
            return arb(0)
        if side * (level - self.shape) > 0:
            return (self.shape - level + self.shape * (level / self.shape).log()).exp().upper()
        return arb(1)

    def distance(self, x: acb) -> acb:
        """|x| of the level x^2."""
        return x if self.quadratic else (2 / self.eta * x.log()).exp()

    def density(self, x: acb, log_w: arb, b: arb, centre: arb) -> acb:
        """2 x w gamma_a(b x^2) b on the box x, given log(w b^a) and the root of a/b."""
        middle = x.real.mid()
        exponent = log_w + 2 * self.shape * middle.log() - b * middle * middle - self.log_gamma
        slope = 2 * b * (centre - x) * (centre + x) / x
        return 2 / x * (exponent + slope * (x - middle)).exp()

    def below(self, c: acb, analytic: bool) -> acb:
        """B on the box c; wide on a wide box."""
        d, x = self.dimension, c.real
        if x >= 1 or x <= -1:
            return acb(1 if x >= 1 else 0)
        inside = x > -1 and x < 1
        if analytic and not inside:
            return _NAN
        beyond = self._beyond(x.abs_lower())
        low, high = (1 - beyond if x > 0 else arb(0)), (beyond if x < 0 else arb(1))
        if c.imag == 0:
            if not inside or beyond < 2.0**-70 or x.rad() * d > 2.0**-10:
                return acb(low.union(high))
            z, half = x * x, arb(d - 1) / 2
            density = self.cosine * (1 - z) ** half
            if not z > 0.5:
                return acb(density * x * z.hypgeom_2f1(1, arb(d) / 2, arb(1.5)) + 0.5)
            outer = density / (d - 1) * (1 - z).hypgeom_2f1(half, 0.5, half + 1)
            return acb(1 - outer if x > 0 else outer)
        # B(x + iy) - B(x) is an integral of B' = C (1 - c^2)^((d-3)/2) over a length of |y|.
        y = c.imag.abs_upper()
        power = 1 - acb(x, arb(0).union(y)) ** 2
        largest = power.abs_upper() if d >= 3 else power.abs_lower()
        size = arb(0, self.cosine * y * largest ** (arb(d - 3) / 2))
        return acb(low.union(high) + size, size)

    def _beyond(self, c: arb) -> arb:
        """At least 1 - B(c), at most 1, for an exact 0 <= c < 1.

        C int_c^1 (1 - z^2)^((d-3)/2) dz <= C/c int_c^1 z (1 - z^2)^((d-3)/2) dz.
        """
        d = self.dimension
        if not c > 0:
            return arb(1)
        bound = self.cosine * (1 - c * c) ** (arb(d - 1) / 2) / ((d - 1) * c)
        return bound.upper().min(arb(1))


@functools.lru_cache(maxsize=1_000)
def _constants(family: Family) -> _Constants:
    with ctx.workprec(_CONSTANTS_PRECISION):
        return _Constants(family)


class _Piece:
    """h between two ends: the laws that have not ended, those of one scale taken together.

    Args:
        one: the constants.
        laws: numbers of these laws.
        terms: (w, b) for each scale, w the sum of lambda_j/mass_j.
    """

    def __init__(self, one: _Constants, laws: list[int], terms: list[tuple[arb, arb]]):
        self.one, self.laws = one, laws
        # (log(w b^a), b, the root of a/b)
        self.terms = [(w.log() + one.shape * b.log(), b, (one.shape / b).sqrt()) for w, b in terms]
        floats = [(float(log_w), float(b)) for log_w, b, _ in self.terms]
        self.guess = guesses.PieceGuess(float(one.k), floats)

    def at(self, x: acb) -> tuple[acb, acb, acb]:
        """(e, the mean b, f_h) on the box x, all of them analytic there; NaN where not shown."""
        if not (x.real > 0 and x.imag.contains(0)):
            return _NAN, _NAN, _NAN
        middle = x.real.mid()
        u, u0 = x * x, middle * middle
        log_top, b_top, _ = self.terms[self.guess.largest(float(u0))]
        total, moment, density, total0 = acb(0), acb(0), acb(0), arb(0)
        for log_w, b, centre in self.terms:
            same = b is b_top
            share = acb(1) if same else (log_w - log_top + (b_top - b) * u).exp()
            total, moment = total + share, moment + share * b
            total0 += 1 if same else (log_w - log_top + (b_top - b) * u0).exp()
            density += self.one.density(x, log_w, b, centre)
        mean = moment / total
        log_ratio = log_top + (1 - b_top) * u0 + total0.log()
        return self._root(x, log_ratio, 2 * x * (1 - mean)), mean, density

    def _root(self, x: acb, log_ratio: arb, slope: acb) -> acb:
        """e on the box x, from l at its middle and dl/dx on it: an interval Newton step."""
        middle, k = x.real.mid(), self.one.k
        u, u0 = x * x, middle * middle
        if k == 0:
            return (log_ratio + slope * (x - middle)) / u
        e0 = arb(self.guess.root(float(u0), float(log_ratio)))
        miss = u0 * e0 - k * (-e0).log1p() - log_ratio + (2 * x * e0 - slope) * (x - middle)
        new = e0 - miss / (u + k / (1 - e0))
        for _ in range(4):
            size = arb(0, 2 * (new - e0).abs_upper() + abs(e0) * 2.0**-60)
            box = acb(e0 + size, arb(0) if x.imag == 0 else size)
            new = e0 - miss / (u + k / (1 - box))
            if (1 - box).real > 0 and box.contains(new):
                return new
        return _NAN

    def shifted_level(self, x: arb) -> arb:
        """u* at a real x; at most 0 (k' = 0) where the whole sphere lies in S."""
        return (x * x * (1 - self.at(acb(x))[0])).real


class _Dual:
    """int min(h, p_d) for given multipliers and radius."""

    def __init__(self, family: Family, multipliers: Sequence[float], radius: float):
        self.one = one = _constants(family)
        self.radius = arb(radius) / one.scale
        on = [j for j, weight in enumerate(multipliers) if weight > 0.0]
        self.weights = {j: arb(multipliers[j]) / one.masses[j] for j in on}
        # Where h ends for a law; equal laws end together.
        ends = {family.laws[j]: one.ends[j] for j in on if family.laws[j].cutoff is not None}
        self.starts = [arb(0), *sorted(ends.values(), key=float)]
        if any(not low < high for low, high in itertools.pairwise(self.starts)):
            raise ArithmeticError("two ends that cannot be told apart")
        self.pieces = [self._piece(family, start) for start in self.starts]
        depth = _DEPTH + math.log1p(float(sum(self.weights.values(), arb(0))))
        shape, k = float(one.shape), float(one.k)
        self.lowest, self.highest = guesses.level_at(shape, -depth), guesses.level_at(shape, depth)
        known = [
            (float(start), None if piece is None else piece.guess)
            for start, piece in zip(self.starts, self.pieces, strict=True)
        ]
        first, last = (guesses.place(level, k, known) for level in (self.lowest, self.highest))
        tops = [min(self.highest / float(one.ratios[j]), float(one.ends[j])) for j in on]
        self.first = max(first, min(self.lowest / float(one.ratios[j]) for j in on))
        self.last = max(last, *tops)

    def _piece(self, family: Family, start: arb) -> _Piece | None:
        laws = [j for j in self.weights if self.one.ends[j] > start]
        terms: dict[float, tuple[arb, arb]] = {}
        for j in laws:
            sigma = family.laws[j].sigma
            weight = terms[sigma][0] if sigma in terms else arb(0)
            terms[sigma] = (weight + self.weights[j], self.one.ratios[j])
        return _Piece(self.one, laws, list(terms.values())) if laws else None

    def minimum(self) -> arb:
        """A ball for the integral: pieces, jumps at their ends, and what was left out."""
        total, left_out = arb(0), arb(0)
        places = [float(start) for start in self.starts] + [math.inf]
        before: _Piece | None = None
        for i, piece in enumerate(self.pieces):
            before, previous = piece, before
            if places[i + 1] <= self.first or places[i] > self.last:
                continue
            root = self.starts[i].sqrt()
            x = root.upper()
            if previous is not None and places[i] >= self.first:
                low = previous.shifted_level(root.lower())
                high = arb.pos_inf() if piece is None else piece.shifted_level(x)
                if places[i] == self.first:
                    left_out += self._below(self.starts[i], low)
                left_out += previous.at(acb(root))[2].abs_upper() * 2 * root.rad()
                taken, missed = self._jump(root, low, high)
                total, left_out = total + taken, left_out + missed
            elif piece is not None:
                x = x.max(arb(math.sqrt(self.first)))
                left_out += self._below(x * x, piece.shifted_level(x))
            if piece is None:
                break
            end = arb.pos_inf() if i + 1 == len(self.pieces) else self.starts[i + 1].sqrt().lower()
            goes_on = places[i + 1] <= self.last
            to = end if goes_on else end.min(arb(math.sqrt(self.last)))
            if x < to:
                total += _integral(self._integrand(piece), x, to)
            if not goes_on:
                x = x.max(to)
                left_out += self.one.tail(piece.shifted_level(x), 1)
                for j in piece.laws:
                    left_out += self.weights[j] * self.one.tail(self.one.ratios[j] * x * x, 1)
        return total + arb(0).union(left_out)

    def _below(self, level: arb, shifted_level: arb) -> arb:
        """At least what the levels below one, where u* is `shifted_level`, add to the integral."""
        tail, ratios = self.one.tail, self.one.ratios
        own = sum((w * tail(ratios[j] * level, -1) for j, w in self.weights.items()), arb(0))
        return own.upper().min(tail(shifted_level, -1))

    def _integrand(self, piece: _Piece) -> Callable[[acb, bool], acb]:
        one, r, d = self.one, self.radius, self.one.dimension

        def integrand(x: acb, analytic: bool) -> acb:
            e, mean, density = piece.at(x)
            if not (1 - e).real > 0:
                return _NAN
            u, log = x * x, (-e).log1p()
            rho, gain = one.distance(x), e if one.quadratic else -(2 / one.eta * log).expm1()
            area = rho * rho * gain
            shifted = rho * (log / one.eta).exp()
            c, shifted_c = (area + r * r) / (2 * rho * r), (area - r * r) / (2 * shifted * r)
            share = (d / one.eta * log).exp() * (one.k + u * mean) / (one.k + u * (1 - e))
            return density * (one.below(-c, analytic) + share * one.below(shifted_c, analytic))

        return integrand

    def _jump(self, root: arb, low: arb, high: arb) -> tuple[arb, arb]:
        """The integral over w from u* = low to high at an end of h, and what it leaves out."""
        one, r, edge = self.one, self.radius, self.one.distance(acb(root))
        term = (arb(0), arb(1), one.shape.sqrt())

        def integrand(y: acb, analytic: bool) -> acb:
            if not (y.real > 0 and y.imag.contains(0)):
                return _NAN
            v = one.distance(y)
            c = ((edge - v) * (edge + v) - r * r) / (2 * v * r)
            return one.density(y, *term) * one.below(c, analytic)

        bottom, top = arb(self.lowest), arb(self.highest)
        missed = one.tail(bottom, -1) + one.tail(top, 1)
        a, b = low.max(bottom).sqrt(), high.min(top).sqrt()
        together = not a.upper() < b.lower()
        for y in [a.union(b)] if together else [a, b]:
            missed += one.density(acb(y), *term).abs_upper() * 2 * y.rad()
        return arb(0) if together else _integral(integrand, a.upper(), b.lower()), missed


def _integral(integrand: Callable[[acb, bool], acb], start: arb, end: arb) -> arb:
    return acb.integral(
        integrand, start, end, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE, eval_limit=_EVALUATIONS
    ).real
