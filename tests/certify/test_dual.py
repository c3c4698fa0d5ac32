"""The integrals of the dual against plain Monte Carlo, the slow reference and differences."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_reference as reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from dsrs_jax.certify import dual
from dsrs_jax.certify.laws import LawArrays, law_arrays
from dsrs_jax.certify.mesh import Resolution
from dsrs_jax.noise import RadialLaw, generalized_gaussian

DRAWS = 200_000
WHOLE_DRAWS = 50_000  # of whole vectors, which take longer
Numbers = NDArray[np.float64]
Points = tuple[Numbers, Numbers]  # |x|^2 and the coordinate along the move

SMALL = generalized_gaussian(64, 0.5, 24.0)
LARGE = generalized_gaussian(150_528, 0.25, 75_260.0)
GAUSSIAN = generalized_gaussian(64, 0.5, 0.0)
# Three laws each: one compiled program serves all.
FAMILIES = {
    "scaled": (SMALL, SMALL.with_sigma(0.4), SMALL.with_sigma(0.4).truncated(0.9)),
    "truncated": (SMALL, SMALL.truncated(0.3), SMALL.truncated(0.8)),
    # The second is another law that ends at the same radius.
    "ending together": (
        SMALL,
        generalized_gaussian(64, 0.5, 10.0).truncated(0.5),
        generalized_gaussian(64, 0.5, 10.0).truncated(0.5),
    ),
    "gaussian": (GAUSSIAN, GAUSSIAN.with_sigma(0.6), GAUSSIAN.truncated(0.9)),
    "large": (LARGE, LARGE.with_sigma(0.2), LARGE.truncated(0.7)),
}


@jax.jit
def _evaluate_rows(laws: LawArrays, theta: jax.Array, radius: jax.Array) -> dual.Evaluation:
    one = partial(
        dual.evaluate, resolution=Resolution(panels=16, order=16, rounds=3, corners=2, grading=0.0)
    )
    return jax.vmap(one, in_axes=(None, 0, 0))(laws, theta, radius)


def evaluate(laws: Sequence[RadialLaw], multipliers: Numbers, radius: Numbers) -> dual.Evaluation:
    """Rows of `dual.evaluate`; radii in pixels, as everywhere in this file."""
    with jax.enable_x64(True), np.errstate(divide="ignore"):
        theta, unit = jnp.asarray(np.log(multipliers)), jnp.asarray(radius / laws[0].scale)
        return jax.tree.map(np.asarray, _evaluate_rows(law_arrays(tuple(laws)), theta, unit))


def log_density(law: RadialLaw, square: Numbers) -> Numbers:
    """log of the normalised density at |x|^2, up to the area of the unit sphere."""
    shape = (law.dimension - 2 * law.k) / law.eta
    constant = -law.dimension * np.log(law.scale) - special.gammaln(shape) + np.log(law.eta)
    log_radius = 0.5 * np.log(square) - np.log(law.scale)
    value = constant - 2 * law.k * log_radius - np.exp(law.eta * log_radius)
    if law.cutoff is None:
        return value
    inside = np.exp(law.eta * log_radius) <= law.cutoff
    return np.where(inside, value - np.log(special.gammainc(shape, law.cutoff)), -np.inf)


sample = jax.jit(RadialLaw.sample, static_argnums=2)


@cache
def points_of(law: RadialLaw, seed: int) -> Points:
    """Draws of the law: whole vectors in a small dimension, else radius and cosine."""
    if law.dimension <= 64:
        x = np.asarray(sample(law, jax.random.key(seed), WHOLE_DRAWS), dtype=np.float64)
        return np.sum(x * x, axis=1), x[:, 0]
    rng = np.random.default_rng(seed)
    whole = stats.gamma((law.dimension - 2 * law.k) / law.eta)
    level = whole.ppf(rng.uniform(0, law.quantile or 1.0, DRAWS))
    radius = law.scale * level ** (1 / law.eta)
    half = 0.5 * (law.dimension - 1)
    return radius**2, radius * (2 * rng.beta(half, half, DRAWS) - 1)


def in_s(laws: Sequence[RadialLaw], multipliers: Numbers, radius: float, points: Points) -> Numbers:
    """Whether p(x - delta) < sum_j lambda_j q_j(x)."""
    square, along = points
    shifted = log_density(laws[0], square - 2 * radius * along + radius**2)
    with np.errstate(divide="ignore"):
        terms = [np.log(w) + log_density(q, square) for w, q in zip(multipliers, laws, strict=True)]
    return shifted < np.logaddexp.reduce(terms, axis=0)


IN_FULL = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "large"]


@pytest.mark.parametrize("name", ["large", *IN_FULL])
def test_integrals_agree_with_monte_carlo(name: str) -> None:
    laws = FAMILIES[name]
    rng = np.random.default_rng(len(name))
    rows = 8
    multipliers = np.exp(rng.uniform(-1.5, 2.0, (rows, len(laws))))
    multipliers[0, 1:] = multipliers[1, 0] = multipliers[2, 2] = 0.0
    radius = laws[0].sigma * rng.uniform(0.2, 2.5, rows)
    result = evaluate(laws, multipliers, radius)
    draws = [points_of(law, seed) for seed, law in enumerate(laws)]
    square, along = draws[0]
    for i in range(rows):
        shares = [1 - in_s(laws, multipliers[i], radius[i], points).mean() for points in draws]
        shifted = (square + 2 * radius[i] * along + radius[i] ** 2, along + radius[i])
        shares.append(in_s(laws, multipliers[i], radius[i], shifted).mean())
        exact = np.append(result.outside[i], result.shifted[i])
        error = np.sqrt(exact * (1 - exact) / len(square)) + 1e-6
        assert np.all(np.abs(shares - exact) < 5 * error), (multipliers[i], radius[i])


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.floats(-6.0, 12.0), min_size=3, max_size=3),
    st.floats(0.05, 4.0),
)
def test_integrals_agree_with_the_reference(
    name: str, theta: list[float], deviations: float
) -> None:
    laws = FAMILIES[name]
    multipliers = np.exp(np.array(theta))
    radius = deviations * laws[0].sigma
    result = evaluate(laws, np.tile(multipliers, (8, 1)), np.full(8, radius))
    outside, shifted = reference.integrals(laws, multipliers, radius)
    np.testing.assert_allclose(result.outside[0], outside, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.shifted[0], shifted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives_agree_with_differences(name: str) -> None:
    laws = FAMILIES[name]
    rng = np.random.default_rng(5)
    theta = rng.uniform(-1.0, 2.0, (8, len(laws)))
    unit = laws[0].sigma * rng.uniform(0.3, 2.0, 8)
    result = evaluate(laws, np.exp(theta), unit)

    def central(change: Callable[[float], dual.Evaluation], step: float) -> dual.Evaluation:
        above, below = change(step), change(-step)
        return jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)

    ratio = laws[0].sigma / laws[0].scale  # the derivatives' unit of length is s_0
    by_radius = central(
        lambda h: evaluate(laws, np.exp(theta), unit + h * laws[0].scale), 1e-4 * ratio
    )
    weights = np.exp(theta)
    by_g = np.sum(weights * by_radius.outside, axis=1) + by_radius.shifted
    np.testing.assert_allclose(result.slope, by_g, rtol=1e-5, atol=1e-6 / ratio)
    np.testing.assert_allclose(result.drift, -by_radius.outside, rtol=1e-5, atol=1e-6 / ratio)
    for j in range(len(laws)):
        shift = np.eye(len(laws))[j]
        by_theta = central(lambda h, s=shift: evaluate(laws, np.exp(theta + h * s), unit), 1e-4)
        expected = -weights * by_theta.outside
        np.testing.assert_allclose(result.curvature[:, :, j], expected, rtol=1e-5, atol=1e-6)
    symmetric = np.swapaxes(result.curvature, 1, 2)
    np.testing.assert_allclose(result.curvature, symmetric, rtol=1e-9, atol=1e-12)
    assert np.all(np.linalg.eigvalsh(result.curvature) > -1e-10)
