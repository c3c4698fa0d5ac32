"""Votes of a classifier under a law: on all local devices, recorded and resumable."""

from dsrs_jax.sampling.records import RunDirectory, write_whole
from dsrs_jax.sampling.votes import Votes, count_votes, stream

__all__ = ["RunDirectory", "Votes", "count_votes", "stream", "write_whole"]
