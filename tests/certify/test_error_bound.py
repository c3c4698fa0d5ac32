"""The declared error of g against ball arithmetic, which the proof trusts, and against mpmath."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import thirty_digits
from flint import arb

from dsrs_jax.certify import certify, evaluate
from dsrs_jax.certify.blocks import Float64s
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.proof.enclosure import Family, LawNumbers, enclose


def enclosed(
    laws: Sequence[RadialLaw | list[RadialLaw]],
    bounds: Float64s,
    multipliers: Float64s,
    radius: Float64s,
    most: float,
) -> int:
    """How many rows have a finite ball; each of them holds g within its declared error.

    The ball's own radius is infinite where it could not be found, in a few cases of dimension 2.
    """
    values, errors = evaluate(laws, bounds, multipliers, radius)
    assert np.all(errors < most)
    found = 0
    for i, (value, error) in enumerate(zip(values, errors, strict=True)):
        own = [law if isinstance(law, RadialLaw) else law[i] for law in laws]
        numbers = tuple(LawNumbers(float(law.sigma), law.cutoff) for law in own)
        family = Family(own[0].dimension, float(own[0].k), float(own[0].eta), numbers)
        weights = multipliers[i].tolist()
        ball = enclose(family, [arb(p) for p in bounds[i].tolist()], weights, float(radius[i]))
        if np.isfinite(rest := float(ball.rad())):
            case = (own, weights, radius[i], value - float(ball.mid()), error)
            assert abs(value - float(ball.mid())) <= error + rest, case
            found += 1
    return found


WIDE = generalized_gaussian(784, 1.0, 0.0)
FLAT = generalized_gaussian(2, 0.5, 0.0, 1.0)
STEEP = generalized_gaussian(64, 0.5, 30.7778, 3.0)


@pytest.mark.parametrize(
    ("laws", "multipliers", "radius"),
    [
        # A layer beside the end of a law.
        (
            [WIDE, WIDE.truncated(0.002890132358), WIDE.with_sigma(1.0172105882149927)],
            [0.3696238195791565, 1.4110391260354067, 1.1074751865951131],
            2.725e-4,
        ),
        # A layer of width 1e-3 began in the last hundredth of a panel, unseen by its halves too.
        (
            [STEEP, STEEP.with_sigma(0.37959), STEEP.with_sigma(0.49668)],
            [0.26583, 2.09035, 0.31038],
            7.87e-5,
        ),
        # A radius beyond the end of a law: the jump of P_shifted(S) has corners at r - T, r + T.
        pytest.param(
            [FLAT, FLAT.truncated(0.2054), FLAT.with_sigma(0.505965)],
            [0.278, 0.408, 0.749],
            0.31878,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_layer_or_a_corner_is_within_the_declared_error(
    laws: list[RadialLaw], multipliers: list[float], radius: float
) -> None:
    each = np.full((1, 3), 0.9), np.array([multipliers]), np.array([radius])
    assert enclosed(laws, *each, most=1e-10) == 1


SIZES = [(64, 24.0), (3_072, 1_530.0), (150_528, 75_260.0), (64, 0.0), (784, 0.0), (150_528, 0.0)]


@cache
def certified(dimension: int, k: float) -> tuple[list[Any], Float64s, Float64s, Float64s]:
    """Laws, bounds, multipliers and radii: half of them certificates', a third shorter or longer.

    `evaluate` promises its error bound everywhere.
    """
    rng = np.random.default_rng([dimension, int(k)])
    law = generalized_gaussian(dimension, 0.5, k)
    narrow = 0.8 if k else 1.0 - dimension**-0.5  # such a Q says something that P does not
    ends = rng.uniform(0.2, 0.95, 12).tolist()
    each = [law.with_sigma(0.5 * narrow)] * 12 + [law.truncated(end) for end in ends]
    p = 1 - 10 ** rng.uniform(-6, -0.4, 24)
    made = certify(law, p, [each], [1 - (1 - p) * 10 ** rng.uniform(-2, 0, 24)])
    binds = np.all(made.binding(), axis=1)
    assert np.any(binds[:12]) and np.any(binds[12:])
    rows = np.flatnonzero(made.radius > 0)
    radius = made.radius[rows] * rng.choice([1.0, 1.0, 0.7, 1.2], len(rows))
    return [law, [each[i] for i in rows]], made.bounds[rows], made.multipliers[rows], radius


@pytest.mark.slow
@pytest.mark.parametrize(("dimension", "k"), [(784, 380.0), *SIZES])
def test_certificates_are_within_the_declared_error(dimension: int, k: float) -> None:
    laws, *rows = certified(dimension, k)
    assert enclosed(laws, *rows, most=1e-11) == len(rows[0]) > 16


# In turns with a Q of another sigma (the first row) and a truncated one (the last).
IN_TURNS = [(*size, -(number % 2)) for number, size in enumerate([(784, 380.0), *SIZES])]


@pytest.mark.slow
@pytest.mark.parametrize(("dimension", "k", "row"), IN_TURNS)
def test_the_declared_error_covers_that_against_thirty_digits(
    dimension: int, k: float, row: int
) -> None:
    [law, each], bounds, multipliers, radius = certified(dimension, k)
    laws = [law, each[row]]
    [value], [error] = evaluate(laws, bounds[[row]], multipliers[[row]], radius[[row]])
    exact = thirty_digits.g(laws, bounds[row].tolist(), multipliers[row].tolist(), radius[row])
    assert abs(float(exact - value)) < error < 1e-11


# A dimension under 48 has slow programs of its own for each number of laws, and slow balls.
IN_FULL = [(2, 4), (3, 4), (8, 4), (784, 8), (3_072, 4), (150_528, 4), (1_000_000, 4)]


@pytest.mark.parametrize(
    ("dimension", "smoothing_laws"),
    [(64, 2), *(pytest.param(*numbers, marks=pytest.mark.slow) for numbers in IN_FULL)],
)
def test_random_multipliers_are_within_the_declared_error(
    dimension: int, smoothing_laws: int
) -> None:
    """Random laws, multipliers and radii, tiny and large: also where nothing is certified."""
    rng, found, small = np.random.default_rng(dimension), 0, dimension < 48
    rows = 6 if small else 10
    for number in range(smoothing_laws):
        eta = [0.3, 1.0, 2.0, 3.0][number % 4]
        singular = max(0.5 * dimension - rng.uniform(1, 12), 0.0)
        k = float(rng.choice([0.0, rng.uniform(0.0, 0.45 * dimension), singular]))
        law = generalized_gaussian(dimension, 0.5, k, eta)
        count = 2 if small else 1 + number % 2
        others = [[another_law(law, rng) for _ in range(rows)] for _ in range(count)]
        bounds = rng.uniform(0.5, 0.999, (rows, count + 1))
        multipliers = np.exp(rng.normal(-0.3, 0.7, (rows, count + 1)))
        radius = 0.5 * 10 ** rng.uniform(-4, 0.6, rows)
        found += enclosed([law, *others], bounds, multipliers, radius, most=np.inf)
    assert found > 0.75 * smoothing_laws * rows


def another_law(law: RadialLaw, rng: np.random.Generator) -> RadialLaw:
    """The law with an end, or of another sigma, or both."""
    scaled = law.with_sigma(0.5 * float(np.exp(rng.choice([0.01, 0.05, 0.2]) * rng.normal())))
    end = float(rng.uniform(0.02, 0.98))
    return [law.truncated(end), scaled, scaled.truncated(end)][rng.integers(3)]
