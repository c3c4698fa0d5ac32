"""Bounds from votes, the dual, and the radii that it proves. Numbers in, numbers out."""

from dsrs_jax.certify.bounds import interval, lower_bound
from dsrs_jax.certify.certificate import Certificate, certify, certify_votes, evaluate

__all__ = ["Certificate", "certify", "certify_votes", "evaluate", "interval", "lower_bound"]
