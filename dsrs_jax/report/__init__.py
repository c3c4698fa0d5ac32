"""What a person reads: the table, the figure, the files of certificates and of published radii."""

from dsrs_jax.report.figure import curves
from dsrs_jax.report.progress import progress
from dsrs_jax.report.table import (
    Evidence,
    accuracy_table,
    certificate_columns,
    certified_accuracy,
    csv_text,
    rounded_down,
)

__all__ = [
    "Evidence",
    "accuracy_table",
    "certificate_columns",
    "certified_accuracy",
    "csv_text",
    "curves",
    "progress",
    "rounded_down",
]
