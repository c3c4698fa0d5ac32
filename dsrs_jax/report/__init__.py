"""What a person reads: the table, the figure, the progress bar."""

from dsrs_jax.report.figure import curves
from dsrs_jax.report.progress import progress
from dsrs_jax.report.table import accuracy_table, certified_accuracy, rounded_down

__all__ = ["accuracy_table", "certified_accuracy", "curves", "progress", "rounded_down"]
