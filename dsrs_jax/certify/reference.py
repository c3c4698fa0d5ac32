"""The dual and its radii the slow way: SciPy's adaptive quadrature, bracketing and L-BFGS.

Nothing is shared with the fast path but the laws. The moved mass, too, is computed from another
formula: as an integral over the distance v from the moved centre,

    P_moved(S) = int f_0(v) P(|x| < rho_h(v)) dv,    h(rho_h(v)) = p(v),

with rho_h found by bisection, where the fast path changes variables. It serves the tests, and
`certify` for an instance on which the fast search does not converge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special

from dsrs_jax.noise.radial import RadialLaw

Numbers = NDArray[np.float64]

_TAIL = 1e-25
_OFF = -60.0
_SMALLEST = 1e-3  # of sigma


def integrals(
    laws: Sequence[RadialLaw], multipliers: Sequence[float], radius: float
) -> tuple[Numbers, float]:
    """(Q_j(not S) for each law, P_moved(S)), S = {p_moved < sum_j multiplier_j q_j}.

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
        # The ball |x| < rho_h cuts the sphere of radius v around the moved centre.
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

    def moved(v: Numbers) -> Numbers:
        return (np.exp(_log_radial(base, v)) * _upper_tail(-cosine_at_distance(v), dimension))[
            :, None
        ]

    jumps = [
        float(_distance_of(base, log_h(np.array([edge * side])))[0])
        for edge in edges
        for side in (1 - 1e-14, 1 + 1e-14)
    ]
    total = _integrate(moved, cosine_at_distance, *reaches[0], jumps, dimension)
    return outside, float(total[0])


def solve(laws: Sequence[RadialLaw], bounds: Sequence[float]) -> tuple[Numbers, float] | None:
    """Multipliers and the largest radius at which the maximum of g is 1/2; None if there is none.

    Args:
        laws: (P, Q_1, ..., Q_J).
        bounds: J + 1 lower bounds in [0, 1).
    """
    lower = np.asarray(bounds, dtype=np.float64)
    base = laws[0]
    best: list[Numbers] = [_start(laws, 0.5 * base.sigma)]

    def excess(radius: float) -> float:
        theta, value = _maximise(laws, lower, radius, best[0])
        best[0] = theta
        return value - 0.5

    low = _SMALLEST * base.sigma
    if lower[0] > 0.5:
        low = min(low, 0.1 * base.sigma * float(special.ndtri(lower[0])))
    if excess(low) <= 0.0:
        return None
    high = max(2.0 * low, 0.5 * base.sigma)
    while excess(high) > 0.0:
        low, high = high, 1.5 * high
    radius = float(optimize.brentq(excess, low, high, xtol=1e-10, rtol=1e-12))
    theta, value = _maximise(laws, lower, radius, best[0])
    if value <= 0.5:  # the certified side of the bracket
        radius -= 4e-10
        theta, _ = _maximise(laws, lower, radius, theta)
    return np.where(theta > _OFF, np.exp(theta), 0.0), radius


def _maximise(laws, lower, radius, start) -> tuple[Numbers, float]:
    """The maximum of the concave g over multipliers, searched in their logarithms."""
    on = lower > 0.0

    def negative(theta: Numbers) -> tuple[float, Numbers]:
        weights = np.where(on, np.exp(theta), 0.0)
        outside, moved = integrals(laws, weights, radius)
        gradient = weights * (outside - (1.0 - lower))
        return -(gradient.sum() + moved), -gradient

    theta = np.clip(start, -30.0, 60.0)
    for _ in range(3):
        found = optimize.minimize(
            negative,
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-70.0, 70.0)] * len(laws),
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 200},
        )
        theta = found.x
        # A law that was driven to nothing too eagerly asks to come back: its bound is not met.
        weights = np.where(on, np.exp(theta), 0.0)
        outside, _ = integrals(laws, weights, radius)
        starved = on & (theta < -20.0) & (outside - (1.0 - lower) > 1e-9)
        if not np.any(starved):
            break
        theta = np.where(starved, theta.max() - 4.0, theta)
    return np.where(on, theta, -np.inf if not on.all() else theta), -float(found.fun)


def _start(laws: Sequence[RadialLaw], radius: float) -> Numbers:
    base = laws[0]
    theta = []
    for law in laws:
        mode = np.array([min(law.scale * law.shape ** (1.0 / law.eta), law.truncation_radius)])
        theta.append(float((_log_density(base, mode) - _log_density(law, mode))[0]))
    return np.array(theta) + 0.5 * (radius / base.sigma) ** 2 - math.log(len(laws))


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
    """sup {rho: h(rho) > density} for falling h: a table brackets it, bisection and secants end it."""

    def __init__(self, log_h: Callable, laws: Sequence[RadialLaw], edges: Sequence[float]):
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
            for turn in range(12):
                secant = a + (b - a) * above / (above - below)
                inside = (secant > a) & (secant < b) & (turn % 3 != 2)
                middle = np.where(inside, secant, 0.5 * (a + b))
                error = self._log_h(np.exp(middle)) - log_density
                high = error > 0
                a, above = np.where(high, middle, a), np.where(high, error, above)
                b, below = np.where(high, b, middle), np.where(high, below, error)
            secant = a + (b - a) * above / (above - below)
        return np.exp(np.where((secant >= a) & (secant <= b), secant, 0.5 * (a + b)))


def _cosine(rho: Numbers, distance: Numbers, radius: float) -> Numbers:
    """Cosine above which a point of the sphere |x| = rho is nearer than `distance` to the centre."""
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


def _integrate(integrand, cosine, low, high, breaks, dimension) -> Numbers:
    """Adaptive quadrature of a vector of integrands in log rho, cut where they change."""
    grid = np.linspace(math.log(low), math.log(high), 400)
    values = cosine(np.exp(grid))
    marks: list[float] = list(grid[:: len(grid) // 12])
    for level in np.array([-8.0, -3.0, 0.0, 3.0, 8.0]) / math.sqrt(dimension):
        side = values > level
        marks.extend(grid[np.flatnonzero(side[1:] != side[:-1])])
    marks.extend(math.log(edge) for edge in breaks if low < edge < high)
    result = integrate.cubature(
        lambda y: integrand(np.exp(y[:, 0])) * np.exp(y),
        [grid[0]],
        [grid[-1]],
        rule="gk21",
        rtol=1e-11,
        atol=1e-15,
        points=[np.array([mark]) for mark in sorted(set(marks)) if grid[0] < mark < grid[-1]],
        max_subdivisions=2000,
    )
    return np.asarray(result.estimate)
