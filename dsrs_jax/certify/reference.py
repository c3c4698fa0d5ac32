"""The dual and its radii the slow way: adaptive quadrature, bracketing and SciPy's root finder.

Nothing is shared with the fast path but the laws. The shifted mass, too, is computed from another
formula: as an integral over the distance v from the shifted centre,

    P_shifted(S) = int f_0(v) P(|x| < rho_h(v)) dv,    h(rho_h(v)) = p(v),

with rho_h found by bisection, where the fast path changes variables. It serves the tests, and
`certify` for an instance on which the fast search does not converge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from dsrs_jax.noise.radial import RadialLaw

Numbers = NDArray[np.float64]

_TAIL = 1e-25
# A panel is halved while its halves change it by more than this share of the integral; the halves
# themselves are then far more accurate.
_TOLERANCE = 1e-10
_MOST_HALVINGS = 40
_LAYER = np.array([-8.0, -3.0, 0.0, 3.0, 8.0])  # standard deviations of the cosine law
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def integrals(
    laws: Sequence[RadialLaw], multipliers: Sequence[float] | Numbers, radius: float
) -> tuple[Numbers, float]:
    """(Q_j(not S) for each law, P_shifted(S)), S = {p_shifted < sum_j multiplier_j q_j}.

    Args:
        laws: (P, Q_1, ..., Q_J); P is not truncated.
        multipliers: J + 1 numbers >= 0, not all 0.
        radius: length of the move, > 0.
    """
    base = laws[0]
    dimension = base.dimension
    with np.errstate(divide="ignore"):
        theta = np.log(np.asarray(multipliers, dtype=np.float64))

    def log_h(rho: Numbers) -> Numbers:
        terms = [t + _log_density(law, rho) for t, law in zip(theta, laws, strict=True)]
        return np.logaddexp.reduce(np.stack(terms), axis=0)

    def cosine_in_shell(rho: Numbers) -> Numbers:
        return _cosine(rho, _distance_of(base, log_h(rho)), radius)

    edges = [law.truncation_radius for law in laws if law.cutoff is not None]
    inverse = _Inverse(log_h, laws, edges)

    def cosine_at_distance(v: Numbers) -> Numbers:
        # The ball |x| < rho_h cuts the sphere of radius v around the shifted centre.
        inside = inverse(_log_density(base, v))
        c = ((inside - v) * (inside + v) - radius * radius) / (2.0 * v * radius)
        return np.clip(c, -1.0, 1.0)

    def masses(rho: Numbers) -> Numbers:
        tail = _upper_tail(cosine_in_shell(rho), dimension)
        return np.stack([np.exp(_log_radial(law, rho)) * tail for law in laws], axis=-1)

    reaches = [_reach(law) for law in laws]
    low = min(reach[0] for reach in reaches)
    high = max(reach[1] for reach in reaches)
    ends = [end for reach in reaches for end in reach]
    outside = _integrate(masses, cosine_in_shell, low, high, edges + ends, dimension)

    def shifted(v: Numbers) -> Numbers:
        return (np.exp(_log_radial(base, v)) * _upper_tail(-cosine_at_distance(v), dimension))[
            :, None
        ]

    jumps = [
        float(_distance_of(base, log_h(np.array([edge * side])))[0])
        for edge in edges
        for side in (1 - 1e-14, 1 + 1e-14)
    ]
    # Where h ends at T the integrand falls to 0 within about r/sqrt(d) around v = T: too steep for
    # the halving of panels to find.
    for edge in edges:
        for c in _LAYER / math.sqrt(dimension):
            jumps.append(-radius * c + math.sqrt(max(edge**2 - radius**2 * (1.0 - c * c), 0.0)))
    total = _integrate(shifted, cosine_at_distance, *reaches[0], jumps, dimension)
    return outside, float(total[0])


def solve(
    laws: Sequence[RadialLaw], bounds: Sequence[float] | Numbers
) -> tuple[Numbers, float] | None:
    """Multipliers and the largest radius at which the maximum of g is 1/2; None if there is none.

    At the maximum some laws have positive multipliers and met bounds, Q_j(S) = p_j, and the
    others are slack, Q_j(S) >= p_j. So for one set of laws after the other the equations
    Q_j(S) = p_j, P_shifted(S) = 1/2 are solved; g is concave, so the first solution that leaves the
    others slack is the maximum.

    Args:
        laws: (P, Q_1, ..., Q_J).
        bounds: J + 1 lower bounds in [0, 1).
    """
    lower = np.asarray(bounds, dtype=np.float64)
    useful = np.flatnonzero(lower > 0.0).tolist()
    subsets = [list(s) for n in range(len(useful)) for s in itertools.combinations(useful, n + 1)]
    subsets.sort(key=lambda subset: 0 not in subset)  # P's own multiplier is rarely 0
    best: tuple[Numbers, float] | None = None
    for subset in subsets:
        for theta, radius in _starts(laws, lower, subset, best):
            found = _stationary(laws, lower, subset, theta, radius)
            if found is None:
                continue
            weights, length, outside = found
            if best is None or length > best[1]:
                best = weights, length
            if np.all(outside - (1.0 - lower) <= 1e-7 * (1.0 - lower) + 1e-12):
                return best
            break
    return best


def _stationary(
    laws: Sequence[RadialLaw], lower: Numbers, subset: list[int], theta: Numbers, radius: float
) -> tuple[Numbers, float, Numbers] | None:
    """(multipliers, radius, Q_j(not S)) where each law of `subset` meets its bound and g = 1/2.

    Normal deviates of the probabilities respond almost linearly to log multipliers and radius.
    """
    unit = laws[0].sigma
    wanted = special.ndtri(1.0 - lower[subset])
    last: list[Numbers] = []

    def weights_of(unknown: Numbers) -> Numbers:
        weights = np.zeros(len(laws))
        weights[subset] = np.exp(np.clip(unknown[:-1], -600.0, 600.0))
        return weights

    def equations(unknown: Numbers) -> Numbers:
        length = unit * math.exp(min(max(float(unknown[-1]), -25.0), 5.0))
        outside, shifted = integrals(laws, weights_of(unknown), length)
        last[:] = [outside]
        shares = np.clip(np.append(outside[subset], shifted), 1e-300, 1.0 - 1e-16)
        return special.ndtri(shares) - np.append(wanted, 0.0)

    start = np.append(theta, math.log(radius / unit))
    found = optimize.root(equations, start, method="hybr", options={"xtol": 1e-11, "maxfev": 40})
    if np.max(np.abs(equations(found.x))) > 1e-8:
        return None
    length = unit * math.exp(float(found.x[-1]))
    return weights_of(found.x), length, last[0]


def _starts(
    laws: Sequence[RadialLaw],
    lower: Numbers,
    subset: list[int],
    best: tuple[Numbers, float] | None,
) -> Iterator[tuple[Numbers, float]]:
    """Log multipliers that give the laws equal parts in h at their modes, and radii."""
    base = laws[0]
    modes = np.array([min(_mode(law), law.truncation_radius) for law in laws])[subset]
    own = np.array([_log_density(laws[j], modes)[i] for i, j in enumerate(subset)])
    if best is not None:
        with np.errstate(divide="ignore"):
            known = np.log(best[0])
        terms = [t + _log_density(law, modes) for t, law in zip(known, laws, strict=True)]
        theta = np.logaddexp.reduce(np.stack(terms), axis=0) - own - math.log(len(subset))
        if np.all(np.isfinite(theta)):
            yield theta, best[1]
    gaussian = [float(special.ndtri(lower[0]))] if lower[0] > 0.5 else []
    for radius in [*gaussian, 0.5, 2.0, 0.1]:
        theta = _log_density(base, modes) - own + 0.5 * radius**2 - math.log(len(subset))
        yield theta, radius * base.sigma


def _mode(law: RadialLaw) -> float:
    return law.scale * law.shape ** (1.0 / law.eta)


def _log_density(law: RadialLaw, rho: Numbers) -> Numbers:
    """log of the density at |x| = rho, without the area of the unit sphere (common to all)."""
    level = (rho / law.scale) ** law.eta
    constant = (
        math.log(law.eta)
        - law.dimension * math.log(law.scale)
        - float(special.gammaln(law.shape))
        - math.log(law.quantile or 1.0)
    )
    density = constant - 2.0 * law.k * np.log(rho / law.scale) - level
    return np.where(rho <= law.truncation_radius, density, -np.inf)


def _log_radial(law: RadialLaw, rho: Numbers) -> Numbers:
    """log of the density f of the radius."""
    return _log_density(law, rho) + (law.dimension - 1) * np.log(rho)


def _distance_of(law: RadialLaw, log_density: Numbers) -> Numbers:
    """The radius at which law's density has the given logarithm: the inverse profile.

    k' log u + u = y has the solution u = k' omega(y/k' - log k'), omega the Wright function.
    """
    constant = (
        math.log(law.eta) - law.dimension * math.log(law.scale) - float(special.gammaln(law.shape))
    )
    with np.errstate(invalid="ignore"):
        target = constant - log_density
        if law.k == 0.0:
            level = np.maximum(target, 0.0)
        else:
            ratio = 2.0 * law.k / law.eta
            level = ratio * special.wrightomega(target / ratio - math.log(ratio))
    return np.where(np.isneginf(log_density), np.inf, law.scale * level ** (1.0 / law.eta))


class _Inverse:
    """sup {rho: h(rho) > density} for falling h, from a table, then bisection and secants."""

    def __init__(
        self,
        log_h: Callable[[Numbers], Numbers],
        laws: Sequence[RadialLaw],
        edges: Sequence[float],
    ):
        self._log_h = log_h
        scales = [law.scale for law in laws]
        low, high = math.log(min(scales)) - 60.0, math.log(max(scales)) + 8.0
        centre = [math.log(end) for law in laws for end in _reach(law)]
        table = np.concatenate(
            [
                np.linspace(low, high, 200),
                np.linspace(min(centre), max(centre), 1000),
                [math.log(edge) + side for edge in edges for side in (-1e-14, 1e-14)],
            ]
        )
        self._table = np.unique(table)
        self._values = log_h(np.exp(self._table))

    def __call__(self, log_density: Numbers) -> Numbers:
        # The values fall along the table; searchsorted wants them to rise.
        place = len(self._table) - np.searchsorted(self._values[::-1], log_density, side="left")
        left = np.clip(place - 1, 0, len(self._table) - 2)
        a, b = self._table[left], self._table[left + 1]
        above, below = self._values[left] - log_density, self._values[left + 1] - log_density
        with np.errstate(invalid="ignore", divide="ignore"):
            for iteration in range(12):
                secant = a + (b - a) * above / (above - below)
                inside = (secant > a) & (secant < b) & (iteration % 3 != 2)
                middle = np.where(inside, secant, 0.5 * (a + b))
                error = self._log_h(np.exp(middle)) - log_density
                high = error > 0
                a, above = np.where(high, middle, a), np.where(high, error, above)
                b, below = np.where(high, b, middle), np.where(high, below, error)
            secant = a + (b - a) * above / (above - below)
        return np.exp(np.where((secant >= a) & (secant <= b), secant, 0.5 * (a + b)))


def _cosine(rho: Numbers, distance: Numbers, radius: float) -> Numbers:
    """Cosine above which a point at |x| = rho is nearer than `distance` to the shifted centre."""
    with np.errstate(over="ignore"):
        c = ((rho - distance) * (rho + distance) + radius * radius) / (2.0 * rho * radius)
    return np.clip(c, -1.0, 1.0)


def _upper_tail(cosine: Numbers, dimension: int) -> Numbers:
    tail = 0.5 * special.betainc(0.5 * (dimension - 1), 0.5, 1.0 - cosine * cosine)
    centre = 0.5 - 0.5 * special.betainc(0.5, 0.5 * (dimension - 1), cosine * cosine)
    tail = np.where(cosine * cosine < 0.5 / dimension, centre, tail)
    return np.where(cosine >= 0.0, tail, 1.0 - tail)


def _reach(law: RadialLaw) -> tuple[float, float]:
    low = max(float(special.gammaincinv(law.shape, _TAIL)), 1e-250)
    high = law.cutoff or float(special.gammainccinv(law.shape, _TAIL))
    return law.scale * low ** (1.0 / law.eta), law.scale * high ** (1.0 / law.eta)


def _integrate(
    integrand: Callable[[Numbers], Numbers],
    cosine: Callable[[Numbers], Numbers],
    low: float,
    high: float,
    breaks: Sequence[float],
    dimension: int,
) -> Numbers:
    """Adaptive Gauss quadrature of a vector of integrands in log rho, cut where they change.

    Panels are halved, all open ones at once, until the halves agree with the whole.
    """
    grid = np.linspace(math.log(low), math.log(high), 400)
    values = cosine(np.exp(grid))
    marks = [grid[:: len(grid) // 12], grid[[0, -1]]]
    for level in _LAYER / math.sqrt(dimension):
        side = values > level
        marks.append(grid[:-1][side[1:] != side[:-1]])
    marks.append(np.log([edge for edge in breaks if low < edge < high]))
    edges = np.unique(np.concatenate(marks))

    def on_panels(a: Numbers, b: Numbers) -> Numbers:
        half = 0.5 * (b - a)
        y = 0.5 * (a + b)[:, None] + half[:, None] * _NODES[None, :]
        rho = np.exp(y)
        heights = (integrand(rho.reshape(-1)) * rho.reshape(-1)[:, None]).reshape(*y.shape, -1)
        return np.einsum("n,pnl->pl", _WEIGHTS, heights) * half[:, None]

    a, b = edges[:-1], edges[1:]
    whole = on_panels(a, b)
    total = np.zeros(whole.shape[1])
    for _ in range(_MOST_HALVINGS):
        middle = 0.5 * (a + b)
        left, right = np.split(on_panels(np.append(a, middle), np.append(middle, b)), 2)
        size = np.abs(total) + np.abs(left + right).sum(axis=0)
        bad = np.any(np.abs(left + right - whole) > _TOLERANCE * size + 1e-300, axis=1)
        total = total + (left + right)[~bad].sum(axis=0)
        if not np.any(bad):
            break
        a, b = np.append(a[bad], middle[bad]), np.append(middle[bad], b[bad])
        whole = np.concatenate([left[bad], right[bad]])
    else:
        total = total + whole.sum(axis=0)
    return total
