"""From counts of votes to probability bounds, and how alpha is shared between them."""

from dsrs_jax.bounds.clopper_pearson import interval, lower_bound, recover_votes, rounding
from dsrs_jax.bounds.looks import Looks
from dsrs_jax.bounds.prediction import Prediction, fewest_draws, predict
from dsrs_jax.bounds.protocol import Bound, Protocol, Search
from dsrs_jax.bounds.thresholds import pools, threshold

__all__ = [
    "Bound",
    "Looks",
    "Prediction",
    "Protocol",
    "Search",
    "fewest_draws",
    "interval",
    "lower_bound",
    "pools",
    "predict",
    "recover_votes",
    "rounding",
    "threshold",
]
