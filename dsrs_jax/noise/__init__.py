"""Smoothing laws: sampling, density along the radius, truncation."""

from dsrs_jax.noise.law import Law
from dsrs_jax.noise.radial import RadialLaw, describe, gaussian, generalized_gaussian

__all__ = ["Law", "RadialLaw", "describe", "gaussian", "generalized_gaussian"]
