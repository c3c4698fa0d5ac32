"""The declared error of g against ball arithmetic, which the proof trusts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from flint import arb
from scipy import special

from dsrs_jax.certify import evaluate
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.proof.enclosure import Family, LawNumbers, enclose


def ball(
    laws: Sequence[RadialLaw], bounds: Sequence[float], multipliers: Sequence[float], radius: float
) -> tuple[float, float]:
    """Middle and radius of a ball that holds g."""
    base = laws[0]
    numbers = tuple(LawNumbers(float(law.sigma), law.cutoff) for law in laws)
    family = Family(base.dimension, float(base.k), float(base.eta), numbers)
    found = enclose(family, [arb(p) for p in bounds], multipliers, radius)
    return float(found.mid()), float(found.rad())


@pytest.mark.parametrize(
    ("cutoff", "sigma", "bounds", "multipliers", "radius"),
    [
        (353.24456787109375, 1.0387090890713617, [0.8] * 3, [0.5] * 3, 0.00174),
        (
            339.5577087402344,
            1.0172105882149927,
            [0.8470128523705907] * 3,
            [0.3696238195791565, 1.4110391260354067, 1.1074751865951131],
            2.725e-4,
        ),
    ],
)
def test_a_layer_beside_the_end_of_a_law_is_within_the_declared_error(
    cutoff: float, sigma: float, bounds: list[float], multipliers: list[float], radius: float
) -> None:
    law = generalized_gaussian(784, 1.0, 0.0)
    kept = float(special.gammainc(law.shape, cutoff))
    laws = [law, dataclasses.replace(law, cutoff=cutoff, quantile=kept), law.with_sigma(sigma)]
    value, error_bound = evaluate(laws, [bounds], [multipliers], [radius])
    middle, rest = ball(laws, bounds, multipliers, radius)
    assert abs(value[0] - middle) <= error_bound[0] + rest
    assert error_bound[0] < 1e-11


def test_a_radius_beyond_the_end_of_a_law_is_within_the_declared_error() -> None:
    """Where r > T the jump of P_shifted(S) has corners at r - T and r + T."""
    law = generalized_gaussian(2, 0.5, 0.0, 1.0)
    check([law, law.truncated(0.2054), law.with_sigma(0.505965)], [0.278, 0.408, 0.749], 0.31878)


def test_a_panel_that_holds_the_foot_of_a_layer_is_within_the_declared_error() -> None:
    """A layer of width 1e-3 began in the last hundredth of a panel, unseen by its halves too."""
    law = generalized_gaussian(64, 0.5, 30.7778, 3.0)
    laws = [law, law.with_sigma(0.37959), law.with_sigma(0.49668)]
    check(laws, [0.26583, 2.09035, 0.31038], 7.87e-5)


def check(laws: Sequence[RadialLaw], multipliers: list[float], radius: float) -> None:
    """g within its declared error, which is small, at bounds of 0.9."""
    bounds = [0.9] * len(laws)
    value, error_bound = evaluate(laws, [bounds], [multipliers], [radius])
    middle, rest = ball(laws, bounds, multipliers, radius)
    assert abs(value[0] - middle) <= error_bound[0] + rest
    assert error_bound[0] < 1e-10


DIMENSIONS = [2, 3, 8, 64, 784, 3_072, 150_528, 1_000_000]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_random_certificates_are_within_the_declared_error(dimension: int) -> None:
    """Random laws, multipliers and radii, tiny and large: no certificate is special to `evaluate`.

    The ball's own radius is infinite where it could not be found, in a few cases of dimension 2.
    """
    rng, enclosed = np.random.default_rng(dimension), 0
    small = dimension < 48  # a slow program of its own for each number of laws, and slow balls
    smoothing_laws, rows = (4, 8) if small else (8, 11)
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
        value, error_bound = evaluate([law, *others], bounds, multipliers, radius)
        for row in range(rows):
            laws = [law, *(other[row] for other in others)]
            weights = multipliers[row].tolist()
            middle, rest = ball(laws, bounds[row].tolist(), weights, float(radius[row]))
            if np.isfinite(rest):
                enclosed += 1
                case = (laws, weights, radius[row], value[row] - middle, error_bound[row])
                assert abs(value[row] - middle) <= error_bound[row] + rest, case
    assert enclosed > 0.75 * smoothing_laws * rows


def another_law(law: RadialLaw, rng: np.random.Generator) -> RadialLaw:
    """The law with an end, or of another sigma."""
    if rng.random() < 0.5:
        return law.truncated(float(rng.uniform(0.02, 0.98)))
    return law.with_sigma(0.5 * float(np.exp(rng.choice([0.01, 0.05, 0.2]) * rng.normal())))
