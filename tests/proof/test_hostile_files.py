"""Cells of a valid file are replaced by hostile ones: no traceback, and no longer radius proved."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify import Status, certify_table
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import check, plan, schema
from dsrs_jax.proof.rows import law_names, rows_of
from dsrs_jax.votes import Chosen, LookedAt, SoundDraws, VoteTable

ALPHA, FAMILY = 0.001, generalized_gaussian(64, 0.5, 28.0)
Rows = list[dict[str, str]]

WORDS = [
    "", "0", "-0", "-1", "1", "2", "0.4", "0.5", "1e-5", "1e18", "1e300", "1e308", "1e-320",
    "1e999", "4294967296", "9007199254740991", "9007199254740993", "nan", "inf", "-inf",
    "None", "True", "0x10", "1_0", " 1", "1.0", "50000.0", "6.0", "\u0661", "\ufeff1",
    "given", "GIVEN", "predicted", "PREDICTED", "chosen", "sound", "float32", "two-sided",
    "one-sided", "pooled", "all-right", "none", "unreadable", "not-finite", "dsrs", "P",
    '"', "a,b", "\x00", "\x1b[2J", "\r", "\udcff", "=1+1", "9" * 400,
]  # fmt: skip
NUMBERS = st.floats().map(repr) | st.integers().map(str)
CELLS = st.sampled_from(WORDS) | NUMBERS | st.text(max_size=5)
# The record of what was drawn, which other means have to vouch for (docs/proof.md).
COUNTED = ("n", "votes", "draws_", "votes_", "ambiguous")


def rows_in(table: VoteTable) -> Rows:
    text = schema.text(schema.columns(certify_table(table, Protocol(ALPHA))))
    return list(csv.DictReader(io.StringIO(text)))


def written(file: Path, rows: Rows) -> None:
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def files() -> list[Rows]:
    """One of given labels, one of predicted classes and several looks."""
    laws, names = (FAMILY, FAMILY.truncated(0.7)), ["p", "inside_0.7"]
    looks = Looks(4000)
    drawn = [looks.draws(number) for number in (1, 2, 3)]
    one = VoteTable.from_counts(
        laws, [[990, 700], [1000, 710], [930, 650]], [[1000, 705], [1000, 710], [1000, 690]],
        names=names, label=[3, 4, 5],
    )  # fmt: skip
    two = VoteTable.from_counts(
        laws, [[drawn[0], 700], [drawn[1] - 40, 1400], [drawn[2] - 9, 2800]],
        [[drawn[0], 700], [drawn[1], 1420], [drawn[2], 2801]], names=names, label=[3, 4, 5],
    )  # fmt: skip
    two = dataclasses.replace(
        two,
        looked=LookedAt(looks, np.array([1, 2, 3])),
        chosen=Chosen(100, np.array([90, 80, 70]), np.array([3, 4, -1])),
        compared=100,
    )
    one = dataclasses.replace(one, sound=SoundDraws(240, np.array([3, 0, 1])), seed=7)
    return [rows_in(one), rows_in(two)]


def test_the_files_are_proved_as_they_are(files: list[Rows], tmp_path: Path) -> None:
    for rows in files:
        written(tmp_path / "certificates.csv", rows)
        assert check.main([str(tmp_path), "--processes", "1"]) == 0


@given(data=st.data())
def test_hostile_cells_end_in_no_traceback_and_prove_no_more(
    files: list[Rows], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    original = data.draw(st.sampled_from(files))
    rows = [dict(row) for row in original]
    names = law_names(rows[0])
    columns = st.sampled_from(list(rows[0]))
    for _ in range(data.draw(st.integers(1, 3))):
        # In one row, or in all of them: those then may be a true claim of another run.
        number = data.draw(st.integers(0, len(rows) - 1) | st.none())
        column, cell = data.draw(columns), data.draw(CELLS)
        for row in rows if number is None else [rows[number]]:
            row[column] = cell
    file = tmp_path_factory.mktemp("hostile") / "certificates.csv"
    written(file, rows)
    code = check.main([str(file), "--processes", "1"])
    assert code in (0, 1, 2)
    if code:
        return
    # All that is claimed was proved: of one plan, and of no image or radius more than before.
    found, _ = rows_of(file)
    plans = [plan.fields(row.fields, names) for row in found]
    assert plan.differences(plans) == [None] * len(rows)
    same_plan = plans[0].items() >= plan.fields(original[0], names).items()
    for row, before in zip(found, original, strict=True):
        same_counts = all(
            row.fields[name] == cell for name, cell in before.items() if name.startswith(COUNTED)
        )
        for method in schema.Method:
            claimed, proved = (
                schema.as_radius(fields[f"radius_{method}"]) for fields in (row.fields, before)
            )
            # The search leaves no more than its tolerance to be proved.
            assert not (same_plan and same_counts) or claimed <= proved * (1 + 1e-6)


def test_any_bytes_are_a_file_that_is_refused_in_one_line(
    files: list[Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "certificates.csv"
    written(file, files[0])
    whole = file.read_bytes()
    for content in (b"", b"\n", b"\xff\xfe" + whole[:50], b"\x00" * 100, b'"' * 70_000, whole[:9]):
        file.write_bytes(content)
        assert check.main([str(file)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    for content in (whole.replace(b",", b";"), whole.replace(b"\n", b"\r"), whole * 2):
        file.write_bytes(content)
        assert check.main([str(file), "--processes", "1"]) in (1, 2)


def test_the_vocabulary_of_the_status_is_that_of_certificates() -> None:
    assert set(schema.STATUSES) == {str(status) for status in Status}
