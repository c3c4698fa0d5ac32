"""What a person reads: tables, figures, pages, the progress bar."""

from dsrs_jax.report.accuracy import (
    AUTHORS_SLACK,
    Radii,
    best_of,
    by_radius,
    certified_accuracy,
    one_by_one,
    rounded_down,
    share_or_accuracy,
    steps,
    with_intervals,
)
from dsrs_jax.report.attacked import Attacked, attacked_table
from dsrs_jax.report.figure import Curve, best_curve, curve, curves, drawn
from dsrs_jax.report.page import PageRun, page, thumbnail
from dsrs_jax.report.paper import PaperTable
from dsrs_jax.report.predictions import Predictions
from dsrs_jax.report.progress import progress
from dsrs_jax.report.table import accuracy_table

__all__ = [
    "AUTHORS_SLACK",
    "Attacked",
    "Curve",
    "PageRun",
    "PaperTable",
    "Predictions",
    "Radii",
    "accuracy_table",
    "attacked_table",
    "best_curve",
    "best_of",
    "by_radius",
    "certified_accuracy",
    "curve",
    "curves",
    "drawn",
    "one_by_one",
    "page",
    "progress",
    "rounded_down",
    "share_or_accuracy",
    "steps",
    "thumbnail",
    "with_intervals",
]
