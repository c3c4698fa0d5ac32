"""The radial family: the Gaussian, the generalized Gaussian and the exponential families.

The density of a law in d dimensions is

    p(x)  proportional to  |x|^(-2k) exp(-(|x|/s)^eta),

so k = 0, eta = 2 is the Gaussian, k > 0, eta = 2 the generalized Gaussian of
Li et al. (ICML 2022, section 4), and other eta the exponential families of
Shu et al. (ICML 2024). The *level* u = (|x|/s)^eta of a draw follows a Gamma law with
shape (d - 2k)/eta, and its direction is uniform: that is all a sampler needs.

A law may be truncated: conditioned on a level of at most `cutoff`. The cutoff is a number
that float32 represents, and its quantile is computed from it, so that the sampler's test
"level <= cutoff" and the certifier's integrals speak of the same ball.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Key
from scipy import special

from dsrs_jax.system.errors import UserError

# A level below float32's smallest normal number is drawn as 0 (as it is, or a device takes it for
# 0), so n draws are those of the law but for a probability of n times that of such a level. With
# this one 100,000 draws add 1e-4 to a failure probability, a tenth of the usual alpha of 1e-3.
_MOST_LOST = 1e-9
_FLOAT32 = np.finfo(np.float32)
# P(level < u) = u^a / Gamma(a + 1) for a Gamma(a) level and so small a u: _MOST_LOST at this a.
_LEAST_SHAPE = 0.2384

if TYPE_CHECKING:
    _Number = float
else:
    # An array inside a compiled function; with an axis where many laws travel as one.
    _Number = float | Float[Array, "..."] | Float[np.ndarray, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RadialLaw:
    """A radial smoothing law in `dimension` dimensions.

    Make one with `gaussian` or `generalized_gaussian`, which check their arguments. The numbers
    are pytree leaves, so one compiled function serves every law of a dimension.

    Attributes:
        sigma: root mean square of one coordinate before truncation: E|x|^2 = sigma^2 d.
        k: exponent of the singularity at 0; 0 <= 2k < dimension.
        eta: exponent of the tail; > 0.
        scale: the radius s at level 1, from sigma.
        cutoff: largest level that is kept, or None for a law that is not truncated.
        quantile: probability that the untruncated law gives to levels up to `cutoff`, or None.
        dimension: number of coordinates d (static).
    """

    sigma: _Number
    k: _Number
    eta: _Number
    scale: _Number
    cutoff: _Number | None
    quantile: _Number | None
    dimension: int = dataclasses.field(metadata={"static": True})

    @property
    def norm(self) -> str:
        """Radial laws certify l2 balls."""
        return "l2"

    def parameters(self) -> dict[str, int | float | None]:
        """The numbers that define the law (see `Law`)."""
        return {
            "dimension": self.dimension,
            "sigma": self.sigma,
            "k": self.k,
            "eta": self.eta,
            "cutoff": self.cutoff,
        }

    @property
    def shape(self) -> _Number:
        """Shape (d - 2k)/eta of the Gamma law of the level."""
        return (self.dimension - 2.0 * self.k) / self.eta

    @property
    def truncation_radius(self) -> _Number:
        """Largest |x| of a draw; infinite for a law that is not truncated."""
        if self.cutoff is None:
            return math.inf
        return self.scale * self.cutoff ** (1.0 / self.eta)

    def with_sigma(self, sigma: float) -> RadialLaw:
        """The same law at another sigma; a truncation keeps its quantile, not its radius.

        Raises:
            UserError: sigma is not positive and finite.
        """
        sigma = _positive("sigma", sigma)
        return dataclasses.replace(self, sigma=sigma, scale=self.scale * (sigma / self.sigma))

    def truncated(self, quantile: float, *, float32: bool = True) -> RadialLaw:
        """The law conditioned on |x| up to the given quantile of the radius.

        The quantile that is kept is the one of a cutoff that float32 represents: below the one that
        was asked for by at most 6e-8 sqrt(shape) (2e-5 for ImageNet's Gaussian). `float32=False`
        keeps float64's cutoff, for votes that another sampler drew at exactly this quantile.

        Raises:
            UserError: quantile outside (0, 1) or too small, or the law is truncated already.
        """
        quantile = _number("the truncation quantile", quantile)
        if not 0.0 < quantile < 1.0:
            raise UserError(f"the truncation quantile must lie in (0, 1), got {quantile:g}")
        if self.cutoff is not None:
            raise UserError("the law is truncated already; truncate the whole law instead")
        exact = special.gammaincinv(self.shape, quantile)
        if not float32:
            return dataclasses.replace(self, cutoff=float(exact), quantile=quantile)
        cutoff = np.float32(exact)
        if cutoff > exact:
            cutoff = np.nextafter(cutoff, np.float32(0.0))
        if cutoff < _FLOAT32.tiny:
            raise UserError(
                f"the truncation quantile {quantile:g} is too small: float32 does not hold the "
                "levels below it; give a larger one"
            )
        kept = float(special.gammainc(self.shape, float(cutoff)))
        return dataclasses.replace(self, cutoff=float(cutoff), quantile=kept)

    def as_truncated(self) -> RadialLaw:
        """The same law with a cutoff, if need be one that truncates nothing.

        Its draws are the same, and it shares a compiled program with truncated laws.
        """
        if self.cutoff is not None:
            return self
        return dataclasses.replace(self, cutoff=np.inf, quantile=1.0)

    def draw(self, key: Key[Array, ""]) -> tuple[Float32[Array, ""], Float32[Array, " dimension"]]:
        """One draw: its level u and the noise vector, both float32, a function of `key` alone."""
        level_key, direction_key = jax.random.split(key)
        level = self._draw_level(level_key)
        direction = jax.random.normal(direction_key, (self.dimension,), jnp.float32)
        radius = jnp.asarray(self.scale, jnp.float32) * level ** jnp.asarray(
            1.0 / self.eta, jnp.float32
        )
        if self.cutoff is not None:
            # Rounding must not carry a draw that lies on the sphere of truncation across it.
            edge = jnp.asarray(self.cutoff, jnp.float32) ** jnp.asarray(1.0 / self.eta, jnp.float32)
            largest = jnp.asarray(self.scale, jnp.float32) * edge * jnp.float32(1.0 - 2.0**-20)
            radius = jnp.minimum(radius, largest)
        return level, direction * (radius * lax.rsqrt(jnp.sum(direction * direction)))

    def sample(self, key: Key[Array, ""], n: int) -> Float32[Array, "n dimension"]:
        """`n` independent draws of the noise, float32, on the device that holds the key."""
        return jax.vmap(lambda one: self.draw(one)[1])(jax.random.split(key, n))

    def _draw_level(self, key: Key[Array, ""]) -> Float32[Array, ""]:
        shape = jnp.asarray(self.shape, jnp.float32)
        if self.cutoff is None:
            return jax.random.gamma(key, shape, dtype=jnp.float32)
        cutoff = jnp.asarray(self.cutoff, jnp.float32)

        def rejected(state: tuple[Array, Array]) -> Array:
            return state[1] > cutoff

        def redraw(state: tuple[Array, Array]) -> tuple[Array, Array]:
            attempt, _ = state
            return attempt + 1, jax.random.gamma(
                jax.random.fold_in(key, attempt), shape, dtype=jnp.float32
            )

        # The first attempt is the whole law's draw: a cutoff at infinity changes nothing.
        first = (jnp.int32(0), jax.random.gamma(key, shape, dtype=jnp.float32))
        return lax.while_loop(rejected, redraw, first)[1]


def gaussian(dimension: int, sigma: float) -> RadialLaw:
    """The Gaussian N(0, sigma^2 I) in `dimension` dimensions (k = 0, eta = 2).

    Raises:
        UserError: an argument is outside its domain.
    """
    return generalized_gaussian(dimension, sigma, 0.0)


def generalized_gaussian(dimension: int, sigma: float, k: float, eta: float = 2.0) -> RadialLaw:
    """The law with density proportional to |x|^(-2k) exp(-(|x|/s)^eta), E|x|^2 = sigma^2 d.

    For eta = 2 this is Definition 2 of Li et al. (ICML 2022): s^2 = 2 sigma^2 d/(d - 2k).

    Args:
        dimension: number of coordinates, at least 2.
        sigma: root mean square of a coordinate, in units of a pixel's range [0, 1]; > 0.
        k: 0 <= 2k < dimension.
        eta: > 0.

    Raises:
        UserError: an argument is outside its domain, or float32 does not hold what is drawn: the
            shape (dimension - 2k)/eta is too small, or eta is.
    """
    if int(dimension) != dimension or dimension < 2:
        raise UserError(f"the dimension must be a whole number of at least 2, got {dimension}")
    sigma = _positive("sigma", sigma)
    eta = _positive("eta", eta)
    k = _number("k", k)
    if not 0.0 <= 2.0 * k < dimension:
        raise UserError(f"k must satisfy 0 <= 2k < {dimension} (the dimension), got k = {k:g}")
    a = (dimension - 2.0 * k) / eta
    if a < _LEAST_SHAPE:
        raise UserError(_too_singular(int(dimension), k, eta, a))
    # The largest log u^(1/eta) of a draw, but for one of that probability; float32 must hold its
    # inverse, too, the order of the scale.
    if math.log(special.gammainccinv(a, _MOST_LOST)) / eta > -math.log(_FLOAT32.tiny):
        raise UserError(
            f"eta = {eta:g} is too small for {dimension} dimensions: float32 does not hold what is "
            "drawn; give a larger one"
        )
    # E u^(2/eta); for eta = 2 it is a itself and needs no Gamma function.
    moment = a if eta == 2.0 else math.exp(_log_gamma_ratio(a, 2.0 / eta))
    scale = sigma * math.sqrt(dimension / moment)
    return RadialLaw(sigma, k, eta, scale, None, None, int(dimension))


def _too_singular(dimension: int, k: float, eta: float, shape: float) -> str:
    most = (dimension - _LEAST_SHAPE * eta) / 2.0
    advice = f"give a k of at most {math.floor(1e3 * most) / 1e3:.10g}"
    if most < 0.0:
        advice = f"give an eta of at most {math.floor(1e3 * dimension / _LEAST_SHAPE) / 1e3:.10g}"
    return (
        f"k = {k:.10g}, eta = {eta:g} in {dimension} dimensions is a law of shape "
        f"(d - 2k)/eta = {shape:.3g}: below {_LEAST_SHAPE} its draws are too small for float32; "
        + advice
    )


def _log_gamma_ratio(a: float, b: float) -> float:
    """log Gamma(a + b) - log Gamma(a) to about 1e-15 max(1, b log a), also where both are 1e7.

    By Stirling's formula from 16 on, so that nothing large cancels.
    """
    up = 0.0  # Gamma(a + 1) = a Gamma(a)
    while a < 16.0:
        up += math.log(a) - math.log(a + b)
        a += 1.0
    stirling = (a - 0.5) * math.log1p(b / a) + b * (math.log(a + b) - 1.0)
    return up + stirling + _stirling_series(a + b) - _stirling_series(a)


def log_level_density(
    shape: Float[Array, "..."], level: Float[Array, "..."]
) -> Float[Array, "..."]:
    """log(u^a e^-u / Gamma(a)): the log density of log u, for a Gamma(a) level u > 0.

    Written around the mode u = a as -a (t - log(1 + t)) with u = a (1 + t), so that no large
    terms cancel: the relative error of the density stays near 1e-15 also for shapes of 1e5
    (the form that Loader, 2000, uses for the Poisson law). Shapes of `shape` and `level` agree.
    """
    normaliser = 0.5 * jnp.log(shape / (2.0 * math.pi)) - _stirling_error(shape)
    return normaliser - shape * excess(shape, level)


def excess(shape: Float[Array, "..."], level: Float[Array, "..."]) -> Float[Array, "..."]:
    """t - log(1 + t) with 1 + t = level/shape, to full relative precision also near t = 0."""
    t = (level - shape) / shape
    return jnp.where(jnp.abs(t) < 0.2, excess_near(t), t - jnp.log(level / shape))


def excess_near(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """t - log(1 + t) to full relative precision for |t| < 0.2."""
    half = t / (2.0 + t)
    square = half * half
    # log(1 + t) = 2 (v + v^3/3 + v^5/5 + ...) with v = t/(2 + t).
    series = jnp.zeros_like(t)
    for power in range(19, 2, -2):
        series = (series + 1.0 / power) * square
    return half * (t - 2.0 * series)


def _stirling_error(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """log Gamma(a) - [(a - 1/2) log a - a + log(2 pi)/2]."""
    near = jax.scipy.special.gammaln(a) - ((a - 0.5) * jnp.log(a) - a + 0.5 * math.log(2 * math.pi))
    return jnp.where(a > 16.0, _stirling_series(a), near)


def _stirling_series(a: Any) -> Any:
    inverse = 1.0 / a
    square = inverse * inverse
    terms = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    far = 0.0 * a
    for term in reversed(terms):
        far = far * square + term
    return far * inverse


def _number(name: str, value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}")
    return value


def _positive(name: str, value: float) -> float:
    value = _number(name, value)
    if value <= 0.0:
        raise UserError(f"{name} must be positive, got {value:g}")
    return value


def describe(law: RadialLaw) -> str:
    """A law as a person reads it, without its truncation."""
    if law.k == 0.0 and law.eta == 2.0:
        return f"Gaussian σ = {law.sigma:g}"
    tail = "" if law.eta == 2.0 else f", η = {law.eta:g}"
    return f"generalized Gaussian σ = {law.sigma:g}, k = {law.k:g}{tail}"
