"""The cosine law against integration at 40 digits."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from dsrs_jax.certify import cosine

upper_tail = jax.jit(cosine.upper_tail)
density = jax.jit(cosine.density)


def exact_tail(c: float, dimension: int) -> mpmath.mpf:
    """P(cosine > c) = C int cos(phi)^(d - 2) dphi over (arcsin c, pi/2)."""
    with mpmath.workdps(40):
        start = mpmath.asin(mpmath.mpf(c))
        steps = [start + j / mpmath.sqrt(dimension) for j in (0, 1, 3, 6, 10, 16)]
        points = [step for step in steps if step < mpmath.pi / 2] + [mpmath.pi / 2]
        integral = mpmath.quad(lambda phi: mpmath.cos(phi) ** (dimension - 2), points)
        return exact_constant(dimension) * integral


def exact_constant(dimension: int) -> mpmath.mpf:
    with mpmath.workdps(40):
        d = mpmath.mpf(dimension)
        ratio = mpmath.exp(mpmath.loggamma(d / 2) - mpmath.loggamma((d - 1) / 2))
        return ratio / mpmath.sqrt(mpmath.pi)


def cosines(dimension: int) -> np.ndarray:
    deviations = np.array([1e-9, 1e-3, 0.1, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0])
    values = deviations / math.sqrt(dimension)
    return values[values < 1] if dimension > 8 else np.array([1e-9, 0.01, 0.2, 0.5, 0.9, 0.999])


@pytest.mark.parametrize(
    "dimension",
    [3, 8, 48, 784, 150_528]
    + [pytest.param(d, marks=pytest.mark.slow) for d in (2, 4, 5, 16, 47, 49, 64, 100, 3_072)],
)
def test_tail_density_and_constant_keep_their_relative_precision(dimension: int) -> None:
    c = cosines(dimension)
    exact = np.array([float(exact_tail(float(one), dimension)) for one in c])
    with mpmath.workdps(40):
        constant, power = exact_constant(dimension), mpmath.mpf(dimension - 3) / 2
        heights = [float(constant * (1 - mpmath.mpf(one) ** 2) ** power) for one in c.tolist()]
    law = cosine.cosine_law(dimension)
    with jax.enable_x64(True):
        values = upper_tail(jnp.asarray(np.concatenate([c, -c, [-1.0, 0.0, 1.0]])), law)
        densities = density(jnp.asarray(np.concatenate([c, -c, [-1.0, 1.0, 2.0]])), law)
    tail, mirrored, ends = np.split(np.asarray(values), [len(c), 2 * len(c)])
    deep = exact < 1e-6  # there the rounding of c itself costs about (c^2 d) epsilon
    np.testing.assert_allclose(tail[~deep], exact[~deep], rtol=1e-13)
    np.testing.assert_allclose(tail[deep], exact[deep], rtol=1e-12)
    np.testing.assert_allclose(mirrored, 1 - exact, rtol=1e-14)
    np.testing.assert_allclose(ends, [1.0, 0.5, 0.0], atol=1e-14)
    np.testing.assert_allclose(densities[:-3], heights * 2, rtol=1e-12)
    np.testing.assert_array_equal(densities[-3:], 0.0)
    assert cosine.normalisation(dimension) == pytest.approx(float(constant), rel=1e-14)


def test_one_program_serves_all_dimensions_that_are_not_small() -> None:
    smallest = cosine.SMALLEST_SERIES_DIMENSION
    tail = jax.jit(lambda c, law: cosine.upper_tail(c, law))
    with jax.enable_x64(True):
        for dimension in (smallest, smallest + 1, 150_528):
            tail(jnp.asarray([0.01]), cosine.cosine_law(dimension))
        assert tail._cache_size() == 1
        tail(jnp.asarray([0.01]), cosine.cosine_law(smallest - 1))
        assert tail._cache_size() == 2
