"""The declared error of g against integration in extended precision, by another formula."""

from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from dsrs_jax.certify import certify, evaluate
from dsrs_jax.noise import RadialLaw, generalized_gaussian

mpmath.mp.dps = 40
Wide = np.longdouble
Numbers = NDArray[np.longdouble]

pytestmark = pytest.mark.skipif(
    np.finfo(Wide).eps > 1e-18, reason="this machine has no float wider than float64"
)


def wide(value: mpmath.mpf) -> np.longdouble:
    return Wide(mpmath.nstr(value, 25))


def gauss_nodes(order: int) -> tuple[Numbers, Numbers]:
    """Gauss-Legendre nodes, polished from float64 by Newton's method."""
    x = np.polynomial.legendre.leggauss(order)[0].astype(Wide)
    for _ in range(3):
        before, now = np.ones_like(x), x
        for n in range(2, order + 1):
            before, now = now, ((2 * n - 1) * x * now - (n - 1) * before) / n
        slope = order * (x * now - before) / (x * x - 1)
        x = x - now / slope
    return x, 2 / ((1 - x * x) * slope * slope)


NODES, WEIGHTS = gauss_nodes(20)


def integral(
    integrand: Callable[[Numbers], Numbers], marks: Sequence[float] | Numbers
) -> np.longdouble:
    """Panels between the marks, halved until the halves agree with the whole."""

    def on_panels(a: Numbers, b: Numbers) -> Numbers:
        half = (b - a) / 2
        x = ((a + b) / 2)[:, None] + half[:, None] * NODES
        return half * (integrand(x.reshape(-1)).reshape(x.shape) * WEIGHTS).sum(axis=1)

    edges = np.unique(np.asarray(marks, dtype=Wide))
    a, b = edges[:-1], edges[1:]
    whole, total = on_panels(a, b), Wide(0)
    for _ in range(60):
        middle = (a + b) / 2
        left, right = on_panels(a, middle), on_panels(middle, b)
        size = abs(total) + np.abs(left + right).sum()
        bad = np.abs(left + right - whole) > 1e-15 * size
        total = total + (left + right)[~bad].sum()
        a, b = np.append(a[bad], middle[bad]), np.append(middle[bad], b[bad])
        whole = np.append(left[bad], right[bad])
        if not bad.any():
            return total
    raise AssertionError("the integral did not converge")


def root(
    f: Callable[[Numbers, NDArray[np.int64]], Numbers], low: Numbers, high: Numbers
) -> Numbers:
    """Where f turns from positive to negative, for each entry; f(x, rows) is of these entries.

    Chandrupatla's method (Advances in Engineering Software 28, 1997): inverse quadratic
    interpolation where it can be trusted, bisection elsewhere, so a jump is found too.
    """
    everyone = np.arange(len(low))
    a, b, found = high.copy(), low.copy(), low.copy()
    fa, fb, t = f(a, everyone), f(b, everyone), np.full_like(low, 0.5)
    rows = everyone
    for _ in range(200):
        x = a + t * (b - a)
        fx = f(x, rows)
        same = (fx > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        found[rows] = best
        least = (4 * np.finfo(Wide).eps * (np.abs(best) + Wide(1e-3))) / np.abs(b - a)
        with np.errstate(invalid="ignore", divide="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            t = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
                fc - fb
            )
            trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(t)
        t = np.clip(np.where(trusted, t, 0.5), np.minimum(least, 0.5), 1 - np.minimum(least, 0.5))
        left = (least < 0.5) & (fa != 0)
        if not left.any():
            return found
        a, b, fa, fb, t, rows = a[left], b[left], fa[left], fb[left], t[left], rows[left]
    raise AssertionError("a root was not found")


class WideLaw:
    """A law's density of y = log|x|, around its mode so that no large terms cancel."""

    def __init__(self, law: RadialLaw):
        self.scale, self.eta = Wide(law.scale), Wide(law.eta)
        self.shape = (law.dimension - 2 * Wide(law.k)) / self.eta
        self.ratio = 2 * Wide(law.k) / self.eta  # k': the density is u^-k' e^-u
        a = mpmath.mpf(law.dimension - 2 * mpmath.mpf(law.k)) / law.eta
        peak = law.eta * mpmath.exp(a * mpmath.log(a) - a - mpmath.loggamma(a))
        self.end = Wide(np.inf)
        if law.cutoff is not None:
            peak /= mpmath.gammainc(a, 0, law.cutoff, regularized=True)
            self.end = np.log(self.scale) + np.log(Wide(law.cutoff)) / self.eta
        self.log_peak = wide(mpmath.log(peak))

    def level(self, y: Numbers) -> Numbers:
        return np.exp(self.eta * (y - np.log(self.scale)))

    def log_density(self, y: Numbers) -> Numbers:
        t = self.level(y) / self.shape - 1
        value = self.log_peak - self.shape * (t - np.log1p(np.maximum(t, -1 + Wide(1e-18))))
        return np.where(y <= self.end, value, -np.inf)

    def marks(self) -> list[float]:
        a = float(self.shape)
        levels = (
            a * (1 + np.linspace(-12, 12, 25) / np.sqrt(a))
            if a > 150
            else a * 2.0 ** np.arange(-60, 8)
        )
        y = [float(np.log(self.scale)) + np.log(u) / float(self.eta) for u in levels]
        return [v for v in y if v < self.end] + ([float(self.end)] if self.end < np.inf else [])


def upper_tail(c: Numbers, dimension: int) -> Numbers:
    """P(cosine > c) by integrating the density from |c| over thirteen standard deviations."""
    constant = wide(
        mpmath.exp(
            mpmath.loggamma(mpmath.mpf(dimension) / 2)
            - mpmath.loggamma(mpmath.mpf(dimension - 1) / 2)
        )
        / mpmath.sqrt(mpmath.pi)
    )
    start = np.minimum(np.abs(c), 1)
    reach = np.minimum(1 - start, 13 / np.sqrt(Wide(dimension)))
    total = np.zeros_like(start)
    for part in range(4):
        x = start[:, None] + reach[:, None] * (part + (1 + NODES) / 2) / 4
        heights = np.exp(Wide(dimension - 3) / 2 * np.log1p(-np.minimum(x * x, 1 - Wide(1e-18))))
        total += constant * reach / 8 * (heights * WEIGHTS).sum(axis=1)
    return np.where(c >= 0, total, 1 - total)


def extended_g(
    laws: Sequence[RadialLaw], bounds: Sequence[float], multipliers: Sequence[float], radius: float
) -> np.longdouble:
    """g = sum_j lambda_j (Q_j(not S) - (1 - p_j)) + P_shifted(S), S = {p_shifted < h}.

    The shifted mass is an integral over the distance v from the shifted centre: with h falling, the
    part of that sphere in S is the part where |x| < rho_h(v), h(rho_h) = p(v).
    """
    base, all_laws = WideLaw(laws[0]), [WideLaw(law) for law in laws]
    dimension, r = laws[0].dimension, Wide(radius)
    weights = np.asarray(multipliers, dtype=Wide)
    on = [(w, law) for w, law in zip(weights, all_laws, strict=True) if w > 0]

    def log_ratio(y: Numbers) -> Numbers:
        """log(h/p) at log|x| = y."""
        own = WideLaw.log_density(base, y)
        terms = np.stack([np.log(w) + law.log_density(y) - own for w, law in on])
        top = terms.max(axis=0)
        top = np.where(np.isfinite(top), top, 0)
        with np.errstate(divide="ignore"):
            return top + np.log(np.exp(terms - top).sum(axis=0))

    def fall(y: Numbers, z: Numbers) -> Numbers:
        """log p(y) - log p(z)."""
        grown = base.level(y) * np.expm1(base.eta * (z - y))
        return base.ratio * base.eta * (z - y) + grown

    width = 12 + 30 / base.eta

    def log_distance(y: Numbers) -> Numbers:
        target = -log_ratio(y)  # = log p(y) - log p(rho*)
        return root(lambda z, rows: target[rows] - fall(y[rows], z), y - width, y + width)

    def cosine_in_shell(y: Numbers) -> Numbers:
        z = log_distance(y)
        growth = np.exp(2 * y) * np.expm1(2 * (z - y))
        return np.clip((r * r - growth) / (2 * np.exp(y) * r), -1, 1)

    def cosine_at_distance(y: Numbers) -> Numbers:
        # h(z) > p(y)
        z = root(lambda z, rows: log_ratio(z) + fall(z, y[rows]), y - width, y + width)
        growth = np.exp(2 * y) * np.expm1(2 * (z - y))
        return np.clip((growth - r * r) / (2 * np.exp(y) * r), -1, 1)

    def marks_of(cosine: Callable[[Numbers], Numbers], marks: list[float]) -> Numbers:
        grid = np.linspace(min(marks), max(marks), 300).astype(Wide)
        values = cosine(grid) * np.sqrt(Wide(dimension))
        changes = [
            grid[:-1][(values[1:] > s) != (values[:-1] > s)] for s in (-9, -5, -2, 0, 2, 5, 9)
        ]
        return np.concatenate([np.asarray(marks, dtype=Wide), *changes])

    ends = np.array([law.end for _, law in on if law.end < np.inf], dtype=Wide)
    total = Wide(0)
    for weight, bound, law in zip(weights, bounds, all_laws, strict=True):
        if weight > 0:
            marks = marks_of(cosine_in_shell, law.marks())
            outside = integral(
                lambda y, law=law: (
                    np.exp(law.log_density(y)) * upper_tail(cosine_in_shell(y), dimension)
                ),
                np.append(marks, ends[ends < law.marks()[-1]]),
            )
            total += weight * (outside - (1 - Wide(bound)))
    kinks = np.append(log_distance(ends), log_distance(ends + Wide(1e-17)))
    marks = marks_of(cosine_at_distance, base.marks())
    shifted = integral(
        lambda y: np.exp(base.log_density(y)) * upper_tail(-cosine_at_distance(y), dimension),
        np.append(marks, kinks[(kinks > marks.min()) & (kinks < marks.max())]),
    )
    return total + shifted


# d, k, how many certificates
SIZES = [
    (64, 24.0, 3),
    (784, 380.0, 10),
    (3_072, 1_530.0, 4),
    (150_528, 75_260.0, 10),
    (64, 0.0, 1),
    (784, 0.0, 4),
    (150_528, 0.0, 4),
]


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(("dimension", "k", "size"), SIZES)
def test_the_declared_error_covers_the_true_one(
    dimension: int, k: float, size: int, truncated: bool
) -> None:
    rng = np.random.default_rng([dimension, int(k), truncated])
    law = generalized_gaussian(dimension, 0.5, k)
    narrow = 0.8 if k else 1.0 - dimension**-0.5  # such a Q says something that P does not
    extra = law.truncated(rng.uniform(0.2, 0.95)) if truncated else law.with_sigma(0.5 * narrow)
    p = 1 - 10 ** rng.uniform(-6, -0.4, 90)
    certificates = certify(law, p, [extra], [1 - (1 - p) * 10 ** rng.uniform(-2, 0, 90)])
    chosen = np.flatnonzero(certificates.radius > 0)
    both = np.all(certificates.binding(), axis=1)[chosen]
    chosen = np.concatenate([chosen[both], chosen[~both]])[:size]
    assert len(chosen) == size and np.any(both)
    # At other radii too: `evaluate` promises its error bound everywhere.
    elsewhere = certificates.radius[chosen] * rng.choice([1.0, 1.0, 0.7, 1.2], size)
    multipliers = certificates.multipliers[chosen]
    values, errors = evaluate((law, extra), certificates.bounds[chosen], multipliers, elsewhere)
    for row, i in enumerate(chosen):
        radius, value, error_bound = elsewhere[row], values[row], errors[row]
        if radius == certificates.radius[i]:
            value, error_bound = certificates.value[i], certificates.error_bound[i]
        exact = extended_g((law, extra), certificates.bounds[i], multipliers[row], radius)
        assert abs(float(exact - value)) < error_bound < 1e-11
