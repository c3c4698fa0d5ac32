"""What a person reads is true of the radii: never rounded up."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dsrs_jax import report

RADII = st.lists(st.floats(0, 5), min_size=1, max_size=30).map(np.array)


@given(radii=RADII, radius=st.floats(0, 5))
def test_certified_accuracy_counts_images_whose_radius_reaches(
    radii: np.ndarray, radius: float
) -> None:
    naive = sum(1 for r in radii if r > 0 and r >= radius) / len(radii)
    assert report.certified_accuracy(radii, radius) == naive


def test_the_mean_is_shown_rounded_down() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.accuracy_table({"DSRS": np.array([0.0, 1.99999])}))
    text = console.export_text()
    assert "0.9999" in text and "1.0000" not in text
    assert "50.0%" in text  # one of two abstains


def test_a_figure_is_drawn_even_when_nothing_is_certified() -> None:
    content = report.curves({"Neyman-Pearson": np.zeros(4), "DSRS": np.array([0, 0, 0, 0.5])}, "t")
    assert content.startswith(b"\x89PNG")


def test_a_table_of_wanted_radii_has_these_alone() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    radii = {"DSRS": np.array([0.0, 0.25, 0.5, 0.7])}
    console.print(report.accuracy_table(radii, (0.25, 0.7)))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert [line for line in lines if line[-1:] and line[-1].endswith("%")] == [
        ["0.25", "75.0%"], ["0.7", "25.0%"],
    ]  # fmt: skip
    assert report.curves(radii, "title", (0.25, 0.7)).startswith(b"\x89PNG")
