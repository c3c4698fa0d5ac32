"""Bounds from votes, the dual, and the radii that it proves. Numbers in, numbers out."""

from dsrs_jax.certify.bounds import interval, lower_bound
from dsrs_jax.certify.certificate import Certificate, certify, evaluate

__all__ = ["Certificate", "certify", "evaluate", "interval", "lower_bound"]
