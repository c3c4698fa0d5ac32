"""Votes of a classifier under every law: drawn on all devices, recorded, resumable."""

from dsrs_jax.votes.collection import collect
from dsrs_jax.votes.compared import DependsOnOthersError, always_compared
from dsrs_jax.votes.counting import ClassVotes, count_classes, count_votes
from dsrs_jax.votes.kernel import can_be_sound, tile_size
from dsrs_jax.votes.plan import Kind, SamplingPlan, SecondLaw, second_laws
from dsrs_jax.votes.record import (
    confirm,
    counted,
    drawn,
    not_finite,
    problem_of,
    table_of,
    unfinished,
)
from dsrs_jax.votes.recording import recording
from dsrs_jax.votes.records import RecordFolder, looks_of
from dsrs_jax.votes.sampler import PendingVotes, Sampler, Votes, fresh_seed
from dsrs_jax.votes.table import Chosen, Counted, Intervals, LookedAt, SoundDraws, State, VoteTable

__all__ = [
    "Chosen",
    "ClassVotes",
    "Counted",
    "DependsOnOthersError",
    "Intervals",
    "Kind",
    "LookedAt",
    "PendingVotes",
    "RecordFolder",
    "Sampler",
    "SamplingPlan",
    "SecondLaw",
    "SoundDraws",
    "State",
    "VoteTable",
    "Votes",
    "always_compared",
    "can_be_sound",
    "collect",
    "confirm",
    "count_classes",
    "count_votes",
    "counted",
    "drawn",
    "fresh_seed",
    "looks_of",
    "not_finite",
    "problem_of",
    "recording",
    "second_laws",
    "table_of",
    "tile_size",
    "unfinished",
]
