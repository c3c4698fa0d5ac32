"""The cosine law against integration at 40 digits."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from dsrs_jax.certify import cosine

DIMENSIONS = (2, 3, 4, 5, 8, 16, 47, 48, 49, 64, 100, 784, 3072, 150_528)

upper_tail = jax.jit(cosine.upper_tail)


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


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_upper_tail_keeps_its_relative_precision(dimension: int) -> None:
    c = cosines(dimension)
    exact = np.array([float(exact_tail(float(one), dimension)) for one in c])
    law = cosine.cosine_law(dimension)
    with jax.enable_x64(True):
        values = upper_tail(jnp.asarray(np.concatenate([c, -c, [-1.0, 0.0, 1.0]])), law)
    tail, mirrored, ends = np.split(np.asarray(values), [len(c), 2 * len(c)])
    deep = exact < 1e-6  # there the rounding of c itself costs about (c^2 d) epsilon
    np.testing.assert_allclose(tail[~deep], exact[~deep], rtol=1e-13)
    np.testing.assert_allclose(tail[deep], exact[deep], rtol=1e-12)
    np.testing.assert_allclose(mirrored, 1 - exact, rtol=1e-14)
    np.testing.assert_allclose(ends, [1.0, 0.5, 0.0], atol=1e-14)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_density_is_the_slope_of_the_tail(dimension: int) -> None:
    c = cosines(dimension)
    with mpmath.workdps(40):
        power = mpmath.mpf(dimension - 3) / 2
        constant = exact_constant(dimension)
        exact = [float(constant * (1 - mpmath.mpf(one) ** 2) ** power) for one in c.tolist()]
    step = 1e-4 / math.sqrt(dimension)
    law = cosine.cosine_law(dimension)
    with jax.enable_x64(True):
        heights = cosine.density(jnp.asarray(np.concatenate([c, [-1.0, 1.0, 2.0]])), law)
        # The third part makes the shape, and so the program, that of the test above.
        sides = upper_tail(jnp.asarray(np.concatenate([c + step, c - step, np.zeros(3)])), law)
    density, outside = np.split(np.asarray(heights), [len(c)])
    above, below, _ = np.split(np.asarray(sides), [len(c), 2 * len(c)])
    np.testing.assert_allclose(density, exact, rtol=1e-12)
    middle = c < 0.95
    np.testing.assert_allclose(
        ((below - above) / (2 * step))[middle], density[middle], rtol=1e-5, atol=1e-10 / step
    )
    assert np.all(outside == 0.0)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_normalisation(dimension: int) -> None:
    exact = float(exact_constant(dimension))
    assert cosine.normalisation(dimension) == pytest.approx(exact, rel=1e-14)


def test_one_program_serves_all_dimensions_that_are_not_small() -> None:
    upper_tail.clear_cache()
    with jax.enable_x64(True):
        for dimension in DIMENSIONS[-7:]:
            upper_tail(jnp.asarray([0.01]), cosine.cosine_law(dimension))
    assert DIMENSIONS[-7] == cosine.SMALLEST_SERIES_DIMENSION
    assert upper_tail._cache_size() == 1
