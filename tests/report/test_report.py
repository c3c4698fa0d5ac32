"""What a person reads is true of the radii: counts, the same in each format, never rounded up."""

import csv
import io
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from dsrs_jax import report
from dsrs_jax.report import PaperTable, Radii

CELLS = st.text(st.sampled_from('ab19 .%&_#$^~{}|\\σα≥–,"'), min_size=1, max_size=8).map(str.strip)
RADII = st.lists(st.floats(0, 3), min_size=1, max_size=30).map(np.array)


@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_cells_of_a_table_survive_each_format(rows: list[list[str]]) -> None:
    table = PaperTable("name", "A title", ["a", "b", "c"], rows, note="10% & more.")
    assert list(csv.reader(io.StringIO(table.csv()))) == [["a", "b", "c"], *rows]
    lines = table.markdown().split("\n\n")[-1].splitlines()
    for line, row in zip(lines[2:], rows, strict=True):
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert [cell.strip().replace(r"\|", "|") for cell in cells] == row
    body = table.latex()
    assert r"10\% \& more." in body and r"\toprule" in body and r"\bottomrule" in body
    for line in body.split(r"\midrule")[1].splitlines()[1 : 1 + len(rows)]:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 2  # between three columns, and nowhere else
        assert not re.search(r"(?<!\\)[%#_]|[σα≥–|]", line.replace("|", ""))


def radii_of(radius: np.ndarray, slack: float = 0.0, sigma: float = 0.5) -> Radii:
    index = np.arange(len(radius))
    return Radii("DSRS", "net", "mnist", "cohen", sigma, 380.0, index, radius, slack)


@given(radius=RADII, at=st.floats(0, 3), slack=st.sampled_from([0.0, 1e-5]))
def test_a_share_is_a_count_and_its_interval_is_clopper_and_pearsons(
    radius: np.ndarray, at: float, slack: float
) -> None:
    found = radii_of(radius, slack)
    count = sum(1 for one in radius.tolist() if one > 0 and one >= at - slack)
    assert found.share(at) == count / len(radius)
    expected = stats.binomtest(count, len(radius)).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(found.interval(at), (expected.low, expected.high), atol=1e-8)


@given(several=st.lists(RADII, min_size=1, max_size=3))
def test_the_best_curve_is_the_best_share_at_each_radius(several: list[np.ndarray]) -> None:
    places, shares = report.best_curve(several)
    assert sorted(set(np.concatenate(several)[np.concatenate(several) > 0])) == places.tolist()
    for place, share in zip(places.tolist(), shares.tolist(), strict=True):
        best = max(radii_of(one).share(place) for one in several)
        assert abs(share - 100 * best) < 1e-9


def test_figures_are_drawn_even_when_nothing_is_certified() -> None:
    radii = {"Neyman-Pearson": np.zeros(4), "DSRS": np.array([0, 0, 0, 0.5])}
    assert report.curves(radii, "t", (0.25, 0.7)).startswith(b"\x89PNG")
    assert report.drawn({"DSRS": report.curve(np.zeros(4))}, "t", "pdf").startswith(b"%PDF")


def test_tables_of_radii_have_what_was_counted_and_means_rounded_down() -> None:
    small, large = radii_of(np.array([0.0, 0.3, 0.6, 0.99999])), radii_of(np.full(4, 0.25), sigma=1)
    table = report.by_radius("t", "T", {"a": small, "b": large}, [0.25, 0.5])
    assert table.rows[0][1].startswith("75.0 (19.4–99.4)") and table.rows[1][2].startswith("0.0 (")
    assert [row[0] for row in table.rows[2:]] == ["images", "abstain", "mean radius"]
    assert table.rows[-1][1:] == ["0.4749", "0.2500"]  # of 0.4749975
    best = report.best_of("t", "T", [[small, large]], [0.25, 0.5], "")
    assert best.rows == [["mnist", "cohen", "DSRS", "0.5 1", "100.0", "50.0"]]
    assert report.steps([small, large], 0.25) == [0.25, 0.5, 0.75]


def test_tables_of_the_terminal_have_round_or_wanted_radii_and_means_rounded_down() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.accuracy_table({"DSRS": np.array([0.0, 1.99999])}))
    text = console.export_text()
    assert "0.9999" in text and "1.0000" not in text
    assert "50.0%" in text  # one of two abstains
    console.print(report.accuracy_table({"DSRS": np.array([0.0, 0.25, 0.5, 0.7])}, (0.25, 0.7)))
    lines = [line.split() for line in console.export_text().splitlines()]
    shares = [line for line in lines if line[-1:] and line[-1].endswith("%")]
    assert shares == [["0.25", "75.0%"], ["0.7", "25.0%"]]
