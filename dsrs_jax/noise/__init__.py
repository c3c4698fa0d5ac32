"""Smoothing laws: sampling, density along the radius, truncation."""

from dsrs_jax.noise.radial import RadialLaw, describe, gaussian, generalized_gaussian

__all__ = ["RadialLaw", "describe", "gaussian", "generalized_gaussian"]
