"""Attacks on the smoothed classifier: what a certified radius is held against."""

from dsrs_jax.attack.attacker import Attacker
from dsrs_jax.attack.balls import NORMS, distance, exactly_within
from dsrs_jax.attack.gradient import LOSSES
from dsrs_jax.attack.outcome import Outcome, Target, Try, Votes
from dsrs_jax.attack.program import Attack
from dsrs_jax.attack.record import as_record, problem_of, rows_of

__all__ = [
    "LOSSES",
    "NORMS",
    "Attack",
    "Attacker",
    "Outcome",
    "Target",
    "Try",
    "Votes",
    "as_record",
    "distance",
    "exactly_within",
    "problem_of",
    "rows_of",
]
