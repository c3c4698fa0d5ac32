"""Votes of a classifier under every law: drawn on all devices, recorded, resumable."""

from dsrs_jax.votes.collection import collect, confirm, drawn, not_finite, problem_of, table_of
from dsrs_jax.votes.plan import Kind, SamplingPlan, SecondLaw, second_laws
from dsrs_jax.votes.records import RecordFolder
from dsrs_jax.votes.sampler import PendingVotes, Sampler, Votes, count_votes
from dsrs_jax.votes.table import Intervals, State, VoteTable

__all__ = [
    "Intervals",
    "Kind",
    "PendingVotes",
    "RecordFolder",
    "Sampler",
    "SamplingPlan",
    "SecondLaw",
    "State",
    "VoteTable",
    "Votes",
    "collect",
    "confirm",
    "count_votes",
    "drawn",
    "not_finite",
    "problem_of",
    "second_laws",
    "table_of",
]
