"""The laws: what is drawn has the density that the certifier integrates."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import lax
from scipy import stats

from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.noise.radial import log_level_density
from dsrs_jax.system.errors import UserError

DRAWS = 50_000
DIMENSION = 16
LEAST_SHAPE = 0.2384  # below it levels of float32 are lost


@jax.jit
def norms_and_first(law, keys):
    """|x| and x_1 of one draw for each key."""

    def one(key):
        _, x = law.draw(key)
        return jnp.sqrt(jnp.sum(x * x)), x[0]

    return lax.map(one, keys, batch_size=10_000)


# One program for every law of a dimension that is truncated, and one for those that are not.
sample = jax.jit(RadialLaw.sample, static_argnums=2)


def radii_and_cosines(law: RadialLaw, seed: int):
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    radius, first = np.asarray(norms_and_first(law, keys), dtype=np.float64)
    return radius, first / radius


def radial_cdf(law: RadialLaw):
    """Distribution function of |x|: u = (|x|/s)^eta follows a Gamma((d - 2k)/eta) law."""
    level = stats.gamma((law.dimension - 2 * law.k) / law.eta)

    def cdf(radius):
        whole = level.cdf((radius / law.scale) ** law.eta)
        return whole if law.cutoff is None else np.minimum(whole / level.cdf(law.cutoff), 1.0)

    return cdf


LAWS = {
    "gaussian": gaussian(DIMENSION, 0.5),
    "generalized": generalized_gaussian(DIMENSION, 0.25, 6.0),
    "exponential": generalized_gaussian(DIMENSION, 1.0, 2.0, eta=1.0),
    "heavy tail": generalized_gaussian(DIMENSION, 0.5, 4.0, eta=0.7),
    "light tail": generalized_gaussian(DIMENSION, 1.0, 0.0, eta=5.0),
    "truncated": generalized_gaussian(DIMENSION, 0.5, 6.0).truncated(0.6),
    "truncated gaussian": gaussian(DIMENSION, 2.0).truncated(0.3),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_follow_the_law(name: str) -> None:
    law = LAWS[name]
    radius, cosine = radii_and_cosines(law, seed=3)
    assert stats.kstest(radius, radial_cdf(law)).pvalue > 1e-3
    # A uniform direction: (1 + cosine)/2 has the symmetric beta law; it tells nothing of |x|.
    half = 0.5 * (DIMENSION - 1)
    assert stats.kstest(0.5 * (1 + cosine), stats.beta(half, half).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(radius, cosine * cosine)[0, 1]) < 5 / math.sqrt(DRAWS)
    assert radius.max() <= law.truncation_radius


@pytest.mark.slow
def test_no_coordinate_is_preferred_and_a_draw_is_a_function_of_its_key_alone() -> None:
    law, key = LAWS["generalized"], jax.random.key(7)
    drawn = np.asarray(sample(law, key, DRAWS))
    assert drawn.dtype == np.float32
    x = drawn.astype(np.float64) / law.sigma
    moments, error = x.T @ x / DRAWS, 1 / math.sqrt(DRAWS)
    assert np.all(np.abs(x.mean(axis=0)) < 5 * error)
    assert np.all(np.abs(moments - np.eye(DIMENSION)) < 5 * error * math.sqrt(5))
    draw = jax.jit(RadialLaw.draw)
    alone = np.stack([draw(law, one)[1] for one in jax.random.split(key, DRAWS)[:100]])
    np.testing.assert_allclose(drawn[:100], alone, rtol=1e-5)
    wider = law.with_sigma(3 * law.sigma)
    np.testing.assert_allclose(sample(wider, key, DRAWS), 3 * drawn, rtol=2e-6)
    cut = LAWS["truncated"].with_sigma(3 * LAWS["truncated"].sigma)
    assert cut.quantile == LAWS["truncated"].quantile
    radius = LAWS["truncated"].truncation_radius
    assert cut.truncation_radius == pytest.approx(3 * radius, rel=1e-12)


@given(st.integers(2, 200_000), st.floats(0.0, 0.499), st.floats(0.3, 6.0), st.floats(0.01, 3.0))
def test_scale_gives_the_declared_second_moment(
    dimension: int, share: float, eta: float, sigma: float
) -> None:
    """E|x|^2 = sigma^2 d by the ratio of two integrals over log rho."""
    assume(dimension * (1 - 2 * share) / eta > LEAST_SHAPE)
    law = generalized_gaussian(dimension, sigma, share * dimension, eta)
    power = dimension - 2 * law.k  # of rho, in the density of log rho

    def log_integral(extra: float) -> float:
        # Around the mode of rho^(power + extra) exp(-(rho/s)^eta), in log rho.
        mode = math.log((power + extra) / eta) / eta
        width = 1 / math.sqrt((power + extra) * eta)
        y = mode + np.linspace(-40 * width - 40 / (power + extra), 40 * width, 200_001)
        with np.errstate(over="ignore"):
            terms = (power + extra) * y - np.exp(eta * y)
        top = terms.max()
        return top + math.log(np.exp(terms - top).sum() * (y[1] - y[0]))

    moment = law.scale**2 * math.exp(log_integral(2.0) - log_integral(0.0))
    assert moment == pytest.approx(sigma**2 * dimension, rel=1e-6)


@given(st.floats(0.01, 1e5), st.floats(-8.0, 8.0))
def test_log_density_of_the_level_keeps_its_precision(shape: float, deviation: float) -> None:
    level = shape * math.exp(deviation / math.sqrt(shape + 1))
    with mpmath.workdps(40):
        a, u = mpmath.mpf(shape), mpmath.mpf(level)
        exact = float(a * mpmath.log(u) - u - mpmath.loggamma(a))
    with jax.enable_x64(True):
        value = float(jax.jit(log_level_density)(jnp.asarray(shape), jnp.asarray(level)))
    # One rounding of the level itself moves the logarithm by |u - a| epsilon.
    assert abs(value - exact) < 1e-14 * (1 + abs(exact)) + 4e-16 * abs(level - shape)


@given(st.integers(2, 200_000), st.floats(0.0, 0.49), st.floats(0.5, 4.0), st.floats(1e-3, 0.999))
def test_truncation_keeps_the_quantile_of_its_cutoff(
    dimension: int, share: float, eta: float, quantile: float
) -> None:
    assume(dimension * (1 - 2 * share) / eta > LEAST_SHAPE)
    whole = generalized_gaussian(dimension, 0.5, share * dimension, eta)
    law = whole.truncated(quantile)
    assert law.cutoff == np.float32(law.cutoff)
    # A float32 step is up to 1.2e-7 of the level; the density of its logarithm is at most
    # sqrt(shape / 2 pi).
    assert quantile - 1e-6 - 6e-8 * math.sqrt(law.shape) < law.quantile <= quantile + 1e-12
    assert radial_cdf(whole)(law.truncation_radius) == pytest.approx(law.quantile, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian(1, 0.5), "dimension must be a whole number of at least 2"),
        (lambda: gaussian(8, 0.0), "sigma must be positive"),
        (lambda: gaussian(8, math.nan), "sigma must be a finite number"),
        (lambda: generalized_gaussian(8, 0.5, 4.0), r"0 <= 2k < 8 \(the dimension\)"),
        (lambda: generalized_gaussian(8, 0.5, -0.5), "0 <= 2k < 8"),
        (lambda: generalized_gaussian(8, 0.5, math.inf), "k must be a finite number"),
        (lambda: generalized_gaussian(8, 0.5, 1.0, eta=0.0), "eta must be positive"),
        (lambda: gaussian(8, 0.5).truncated(1e-160), "quantile 1e-160 is too small"),
        (lambda: gaussian(8, 0.5).truncated(0.0), r"must lie in \(0, 1\)"),
        (lambda: gaussian(8, 0.5).truncated(1.0), r"must lie in \(0, 1\)"),
        (lambda: gaussian(8, 0.5).truncated(0.5).truncated(0.5), "truncated already"),
        (lambda: gaussian(8, 0.5).with_sigma(0.0), "sigma must be positive"),
        # What float32 does not hold.
        (
            lambda: generalized_gaussian(784, 0.5, 391.99),
            "k = 391.99, eta = 2 in 784 dimensions .* a k of at most 391.761",
        ),
        (lambda: generalized_gaussian(784, 0.5, 390.0, 20.0), "a k of at most 389.616"),
        (
            lambda: generalized_gaussian(150_528, 0.5, 75_263.9),
            "k = 75263.9, .* = 0.1: .* a k of at most 75263.761",
        ),
        (lambda: generalized_gaussian(2, 0.5, 0.0, 20.0), "an eta of at most 8.389"),
        (lambda: generalized_gaussian(784, 0.5, 0.0, 0.05), "0.05 is too small for 784 dimens"),
    ],
)
def test_numbers_outside_their_domain_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_numbers_that_a_refusal_gives_are_drawn_right() -> None:
    """A level that float32 takes for 0 has the probability u^a / Gamma(a + 1), below 1e-9."""
    smallest = float(np.finfo(np.float32).tiny)
    for law in (
        generalized_gaussian(784, 0.5, 391.761),
        generalized_gaussian(2, 0.5, 0.0, 8.389),
        generalized_gaussian(784, 0.5, 0.0, 0.12),
    ):
        assert stats.gamma(law.shape).cdf(smallest) < 1e-9
        levels, noise = jax.jit(jax.vmap(law.draw))(jax.random.split(jax.random.key(2), 10_000))
        assert np.all(levels >= smallest) and np.all(np.isfinite(noise))
        assert stats.kstest(np.asarray(levels), stats.gamma(law.shape).cdf).pvalue > 1e-3
    assert stats.gamma(0.238).cdf(smallest) > 1e-9  # the least shape is no larger than it must be
