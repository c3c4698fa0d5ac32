"""What a person reads: the table, the figure, the file of certificates."""

from dsrs_jax.report.figure import draw_curves
from dsrs_jax.report.table import accuracy_table, certified_accuracy, csv_text

__all__ = ["accuracy_table", "certified_accuracy", "csv_text", "draw_curves"]
