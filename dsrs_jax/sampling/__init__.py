"""Votes of a classifier under a law: on all local devices, recorded and resumable."""

from dsrs_jax.sampling.presence import Presence, wait_for_others
from dsrs_jax.sampling.records import UNREADABLE, RunDirectory, is_remote, write_whole
from dsrs_jax.sampling.votes import PendingVotes, Sampler, Votes, count_votes, stream

__all__ = [
    "UNREADABLE",
    "PendingVotes",
    "Presence",
    "RunDirectory",
    "Sampler",
    "Votes",
    "count_votes",
    "is_remote",
    "stream",
    "wait_for_others",
    "write_whole",
]
