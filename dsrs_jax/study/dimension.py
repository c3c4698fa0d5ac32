"""Radius against dimension for the concentrated classifier, and for less ideal ones.

Li et al. (ICML 2022), Theorem 2: with d - 2k fixed DSRS certifies a radius that grows with
sqrt(d) where Neyman-Pearson's stays. The theorem takes the probability under Q as known to be 1;
what votes can prove of it bounds the radius again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import certify
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.study import picture
from dsrs_jax.study.ball import true_radius
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result

DIMENSIONS = (100, 200, 400, 784, 1500, 3072, 6000, 12_000, 25_000, 50_000, 100_000, 150_528)
SIGMA = 1.0
INSIDE = 0.6  # of P is in the ball
LEFT = (10, 30)  # d - 2k; the paper's simulations have 10
DRAWS = (1000, 100_000, 10_000_000)
# Right with the first probability inside the ball, with the second outside.
SOFTER = ((0.99, 0.1), (0.9999, 0.1))
POWER = 0.25  # wrong inside with probability exp(-d^POWER), never right outside
_LARGE = 784  # slopes are of dimensions from here on

COLUMNS = (
    "dimension", "k", "case", "p_a", "q_a", "draws", "radius_in_sigma",
)  # fmt: skip


class Case(NamedTuple):
    """A radius: what is known, and what it gives."""

    dimension: int
    k: float
    case: str
    p: float
    q: float  # 0: not used
    draws: int  # 0: the probabilities are known
    radius: float


class Bounds(NamedTuple):
    """Lower bounds under P and Q; 0 says nothing."""

    case: str
    p: float
    q: float
    draws: int = 0


def dimension(given: Given) -> Result:
    """The study."""
    return of_dimensions(DIMENSIONS, given.alpha)


def of_dimensions(dimensions: Sequence[int], alpha: float) -> Result:
    """The study for some dimensions, the failure probability of its sampled cases being alpha."""
    cases = [case for d in dimensions for case in _cases(d, alpha)]
    names = dict.fromkeys(case.case for case in cases)
    curves = {
        name: np.array([(c.dimension, c.radius) for c in cases if c.case == name]) for name in names
    }
    slopes = {name: slope(curve) for name, curve in curves.items()}
    first, baseline = _known(LEFT[0]), _neyman_pearson(f"d − 2k = {LEFT[0]}")
    finding = (
        f"slope of log radius against log d from {_LARGE} on: DSRS {slopes[first]:.3f}, "
        f"Neyman-Pearson {slopes[baseline]:.3f}; from {DRAWS[1]:,} draws "
        f"{slopes[_drawn(DRAWS[1])]:.3f}"
    )
    return Result(COLUMNS, cases, _picture(curves, slopes), finding)


def slope(curve: NDArray[np.float64]) -> float:
    """Of log radius against log d, by least squares; nan for fewer than two dimensions."""
    large = np.log(curve[curve[:, 0] >= _LARGE])
    if len(large) < 2:
        return math.nan
    return float(np.polyfit(large[:, 0], large[:, 1], 1)[0])


def _known(left: int) -> str:
    return f"DSRS, d − 2k = {left}"


def _drawn(n: int) -> str:
    return f"DSRS, {n:,} draws"


def _neyman_pearson(law: str) -> str:
    return f"Neyman-Pearson, {law}"


def _cases(d: int, alpha: float) -> Iterator[Case]:
    law = generalized_gaussian(d, SIGMA, (d - LEFT[0]) / 2)
    yield from _of_law(law, f"d − 2k = {LEFT[0]}", [*_softer(law), *_sampled(law, alpha)])
    for left in LEFT[1:]:
        yield from _of_law(generalized_gaussian(d, SIGMA, (d - left) / 2), f"d − 2k = {left}")
    yield from _of_law(gaussian(d, SIGMA), "Gaussian")


def _of_law(law: RadialLaw, name: str, more: Sequence[Bounds] = ()) -> Iterator[Case]:
    """The ideal classifier by both methods, and other bounds."""
    d, k, ball = law.dimension, float(law.k), law.truncated(INSIDE)
    inside = float(ball.quantile or 1.0)
    yield Case(d, k, f"DSRS, {name}", inside, 1.0, 0, true_radius(ball))
    rows = [Bounds(_neyman_pearson(name), inside, 0.0), *more]
    p, q = (np.array([getattr(row, one) for row in rows]) for one in ("p", "q"))
    found = certify(law, p, [ball], [q]) if more else certify(law, p)
    for row, radius in zip(rows, found.radius.tolist(), strict=True):
        yield Case(d, k, row.case, row.p, row.q, row.draws, radius)


def _softer(law: RadialLaw) -> list[Bounds]:
    """Probabilities of classifiers that are sometimes wrong inside the ball, or right outside."""
    inside = float(law.truncated(INSIDE).quantile or 1.0)
    kinds = [(f"right {q:.4g} inside, {out:g} outside", q, out) for q, out in SOFTER]
    kinds.append((f"wrong exp(−d^{POWER:g}) inside", 1.0 - math.exp(-(law.dimension**POWER)), 0.0))
    return [Bounds(name, inside * q + (1.0 - inside) * out, q) for name, q, out in kinds]


def _sampled(law: RadialLaw, alpha: float) -> list[Bounds]:
    """What N draws prove: as many inside the ball as are to be expected, and just these right."""
    protocol, inside = Protocol(alpha), float(law.truncated(INSIDE).quantile or 1.0)
    own, second = (alpha * protocol.shares(2)).tolist()
    found = []
    for n in DRAWS:
        right = int(inside * n)
        p, q = protocol.lower(right, n, own), protocol.lower(right, right, second)
        found.append(Bounds(_drawn(n), float(p), float(q), n))
    return found


def _picture(curves: dict[str, NDArray[np.float64]], slopes: dict[str, float]) -> bytes:
    figure, [exact, real] = picture.panels(2, 9.6)
    colours = {axes: itertools.cycle(picture.COLOURS) for axes in (exact, real)}
    for name, curve in curves.items():
        if name.startswith("Neyman-Pearson"):
            plain = {"color": picture.BASELINE_COLOUR, "linewidth": 1.3, "label": None}
            if "=" in name:
                style = "-" if str(LEFT[0]) in name else "--"
                exact.plot(*curve.T, style, **plain | {"label": name})
            else:
                exact.plot(*curve.T, ":", **plain | {"label": name})
            if name == _neyman_pearson(f"d − 2k = {LEFT[0]}"):
                real.plot(*curve.T, "-", **plain | {"label": name})
            continue
        known = name in {_known(left) for left in LEFT} | {"DSRS, Gaussian"}
        axes = exact if known else real
        label = f"{name}: d^{slopes[name]:.2f}" if known else name
        axes.plot(
            *curve.T, "o-", color=next(colours[axes]), markersize=2.5, linewidth=1.4, label=label
        )
        if name == _known(LEFT[0]):
            real.plot(*curve.T, "-", color="#b9bec6", linewidth=1.0, label="DSRS, Q_A = 1")
    d = next(iter(curves.values()))[:, 0]
    exact.plot(d, 0.02 * SIGMA * np.sqrt(d), "-.", color="#b9bec6", label="Theorem 2: 0.02 σ √d")
    for axes in (exact, real):
        axes.set_xscale("log")
        axes.set_yscale("log")
    ball = f"the ball that holds {INSIDE:g} of P"
    x, y = "input dimension d", "ℓ2 radius (units of σ)"
    title = f"right in {ball}, wrong outside: P_A = {INSIDE:g}, Q_A = 1,\nprobabilities known"
    picture.said(exact, title, x, y)
    real.set_ylim(0.08, 30.0)
    title = f"d − 2k = {LEFT[0]}: draws, all right in {ball};\nand less ideal classifiers"
    picture.said(real, title, x, y)
    return picture.png(figure)
