"""Bounds from votes, the dual, and the radii that it proves. Numbers in, numbers out."""

from dsrs_jax.certify.bounds import interval, lower_bound, recover_votes
from dsrs_jax.certify.certificate import (
    Certificate,
    certify,
    certify_votes,
    evaluate,
    worst_case,
)
from dsrs_jax.certify.grid import last_on_grid

__all__ = [
    "Certificate",
    "certify",
    "certify_votes",
    "evaluate",
    "interval",
    "last_on_grid",
    "lower_bound",
    "recover_votes",
    "worst_case",
]
