"""Files of certificates are proved; what is damaged is named, and nothing else is lost."""

import csv
import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import check, rows, schema
from dsrs_jax.votes import SoundDraws, VoteTable

N, ALPHA = 50_000, 0.001
NOTHING = ("none", "unreadable", "not-finite")
Verdict = tuple[int, list[str]]  # exit code, and the lines that are printed


@pytest.fixture(scope="module")
def table() -> str:
    """certificates.csv of four images, the last of radius 0."""
    law = generalized_gaussian(784, 0.5, 380.0)
    votes = [49_900, 49_000, 40_000, 20_000]
    inside = [34_990, 34_500, 31_000, 13_000]
    laws, names = (law, law.truncated(0.7)), ["p", "inside_0.7"]
    counts, index = np.transpose([votes, inside]), range(0, 40, 10)
    counted = VoteTable.from_counts(laws, counts, [N, 35_000], names=names, index=index)
    counted = dataclasses.replace(counted, sound=SoundDraws(255, np.array([2, 0, 1, 0])))
    return schema.text(schema.columns(certify_table(counted, Protocol(ALPHA))))


def edited(table: str, *numbers: int, **fields: str) -> str:
    rows = list(csv.DictReader(io.StringIO(table)))
    for number in numbers:
        rows[number] |= fields
    return schema.text({name: [row[name] for row in rows] for name in rows[0]})


@pytest.fixture
def verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def verdict(text: str | bytes) -> Verdict:
        file = tmp_path / "certificates.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        code = check.main([str(file), "--processes", "1"])
        return code, capsys.readouterr().out.splitlines()

    return verdict


def test_a_file_is_proved(table: str, verdict) -> None:
    longest = max(float(row["radius_dsrs"]) for row in csv.DictReader(io.StringIO(table)))
    counted = "4 rows: 6 radii proved, 0 unproved, 2 are 0 and claim nothing"
    proved = (
        f"Proved: of 3 images of dimension 784, radii up to {longest:.4g}, each wrong with "
        "probability at most alpha = 0.001, under the law P of sigma = 0.5, k = 380, eta = 2; "
        "draws of an image: 50,000 of P, 35,000 of inside_0.7; sound draws on a grid of 1/255, of "
        "an image 0 to 2 (3 values) ambiguous, by a rounding error of 1e-13, and counted as wrong, "
        "up to 1.2e-11 taken off a bound for their uniforms of 64 bits"
    )
    assert verdict(table) == (0, [counted, proved])
    # The bounds and g of the fast path are not believed, nor are they needed.
    assert verdict(edited(table, 1, lower_p="nonsense", value="0")) == (0, [counted, proved])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"radius_dsrs": "9.0"}, "above the ceiling"),
        ({"radius_dsrs": "9.0", "ceiling": "9.0"}, "of the ceiling g is"),
        ({"radius_dsrs": "1.3"}, "below 1/2"),
        ({"ceiling_multiplier": "0"}, "ceiling_multiplier is outside its domain"),
        ({"ceiling": ""}, "ceiling is 'nothing', of other rows 'a number'"),
        ({"status": "all-right"}, "all-right, but with a wrong draw"),
        ({"share_p": "0.9"}, "share_p is '0.9', of other rows '0.5'"),
        ({"planned": "50000", "look": "8"}, "planned is '50000', of other rows 'nothing'"),
        ({"look": "8"}, "a look, but no planned draws"),
        ({"radius_dsrs": "nan"}, "radius_dsrs is 'nan', not a number"),
        ({"radius_np": "-1"}, "negative"),
        ({"multiplier_inside_0.7": "-0.5"}, "multiplier is negative"),
        ({"multiplier_np": "0"}, "all multipliers are 0"),
        ({"votes": "50001"}, "impossible counts: 50001 of 50000 draws of p"),
        ({"votes_inside_0.7": "35001", "multiplier_inside_0.7": "0"}, "impossible counts"),
        ({"votes_inside_0.7": "-1"}, "not known"),
        ({"votes": "48999.5"}, "not a whole number"),
        ({"k": "400"}, "k is outside"),
        ({"sigma": "0"}, "sigma is outside"),
        ({"cutoff_inside_0.7": "-3"}, "cutoff is outside"),
        ({"alpha_dsrs": "0"}, "alpha_dsrs is outside"),
        ({"alpha_dsrs": "5e-324"}, "below 1/2"),
        ({"bounds": "none"}, "one-sided or two-sided"),
        ({"bounds": "two-sided"}, "below 1/2"),
        ({"status": "pooled"}, "pooled"),
        *(({"status": status}, f"the status '{status}' says that it is 0") for status in NOTHING),
        # An inside law is P truncated, and its draws are among P's.
        ({"sigma": "0.6"}, "inside_0.7 is not P truncated"),
        ({"sigma_inside_0.7": "0.6"}, "inside_0.7 is not P truncated"),
        ({"cutoff_inside_0.7": ""}, "a quantile and no cutoff"),
        ({"quantile_inside_0.7": ""}, "a cutoff and no quantile"),
        ({"cutoff_inside_0.7": "", "quantile_inside_0.7": ""}, "inside_0.7 is not P truncated"),
        ({"cutoff_inside_0.7": "1e300"}, "cutoff_inside_0.7 is 1e+300, the quantile 1,"),
        (
            {"cutoff_inside_0.7": "1e300", "quantile_inside_0.7": "1"},
            "inside_0.7 is truncated at the quantile 1.0",
        ),
        ({"draws_inside_0.7": "49999", "votes_inside_0.7": "49001"}, "49000 of 50000"),
        ({"draws_inside_0.7": "36000", "votes_inside_0.7": "34900"}, "49000 of 50000"),
        # Numbers are finite, ASCII, and the ones that a double names.
        *(({"sigma": text}, "not a number") for text in ("0_0.5", "\u0660.\u0665", " 0.5", "inf")),
        ({"radius_np": "1e999"}, "which no double holds"),
        ({"n": "9007199254740993"}, "not a whole number"),
        # Of sound draws: what was rounded, what was ambiguous, what is taken off.
        ({"charge_p": "1e-13"}, "a charge is 1e-13, below 8.6"),
        ({"charge_inside_0.7": "0"}, "a charge is 0.0, below 1.2"),
        ({"charge_p": ""}, "charge_p is '', not a number"),
        ({"charge_p": "0.5", "charge_inside_0.7": "0.5"}, "below 1/2"),
        ({"grid": "65280"}, "a charge is"),
        *(({"grid": grid}, "grid or ambiguous is outside") for grid in ("0", "1e9")),
        ({"rounding": "1e-14"}, "rounding is 1e-14, below the 1e-13 that holds"),
        ({"ambiguous": "1001"}, "1001 draws are ambiguous, but only 1000 are wrong"),
        ({"ambiguous": "-1"}, "grid or ambiguous is outside"),
        ({"draws": "Sound"}, "draws is 'Sound', not sound or float32"),
        ({"index": "0.0"}, "row 1 is of the same image"),
        ({"index": "\x1b[2J"}, "index is '\\x1b[2J', not a number"),
    ],
)
def test_a_damaged_row_is_named_and_nothing_else_is_lost(
    table: str, verdict, fields: dict[str, str], reason: str
) -> None:
    code, [*faults, counted, proved] = verdict(edited(table, 1, **fields))
    assert code == 1
    shown = ascii(fields["index"]) if "index" in fields else "10"
    assert faults and all(line.startswith(f"unproved: row 2 (index {shown})") for line in faults)
    assert any(reason in line for line in faults)
    found = re.match("4 rows: ([456]) radii proved, ([12]) unproved, ", counted)
    assert found and int(found[2]) == len(faults) and proved.startswith("Proved: of ")


def test_the_last_line_says_where_the_rows_are_of_several_protocols(table: str, verdict) -> None:
    # A tenth of the radius is still proved under the smaller sigma.
    radius = float(list(csv.DictReader(io.StringIO(table)))[1]["radius_np"]) / 10
    for fields, part in (
        ({"alpha_dsrs": "0.9999"}, "alpha = 0.001 to 0.9999 (2 values)"),
        ({"sigma": "0.4", "radius_dsrs": "0"}, "sigma = 0.4 to 0.5 (2 values)"),
        ({"n": "49500", "radius_dsrs": "0"}, "49,500 to 50,000 (2 values) of P"),
    ):
        assert part in verdict(edited(table, 1, **fields, radius_np=repr(radius)))[1][-1]


def test_the_last_line_says_what_is_not_covered(table: str, verdict) -> None:
    nothing = dict.fromkeys(["grid", "rounding", "ambiguous", "charge_p", "charge_inside_0.7"], "")
    code, printed = verdict(edited(table, 1, draws="float32", **nothing))
    assert code == 0 and printed[-1].endswith("; the draws of 2 other radii are not covered")
    code, printed = verdict(edited(table, 0, 1, 2, 3, draws="float32", **nothing))
    assert code == 0 and "the draws are not covered: they are floating-point" in printed[-1]
    assert "sound draws" not in printed[-1]
    header, *_, last = table.splitlines(keepends=True)
    assert verdict(header + last)[1][-1] == "Nothing was proved."


def test_lines_that_are_cut_or_garbled(table: str, verdict) -> None:
    lines = table.encode().splitlines(keepends=True)
    garbled = b"\xff\x00\xfe" + lines[3][:40] + b"\n"
    for content, place, proved in (
        ([*lines[:2], b'"' + lines[2], *lines[3:]], "row 2", 4),
        ([*lines[:4], lines[4][:-4]], "row 4", 6),
        ([*lines[:3], lines[3][:30]], "row 3", 4),
        ([*lines[:3], garbled, lines[4]], "row 3", 4),
    ):
        code, printed = verdict(b"".join(content))
        assert code == 1 and f"{proved} radii proved, 1 unproved" in printed[1]
        assert printed[0].startswith(f"unproved: {place} ")


def test_files_of_a_folder_are_proved_and_what_is_no_file_of_certificates_is_refused(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("index,radius\n0,1.0\n")
    for path, message in (
        (tmp_path, "no certificates.csv"),
        (tmp_path / "none.csv", "cannot read"),
        (other, "no column dimension"),
    ):
        assert check.main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    other.write_text("".join(f"{line},{line.split(',')[0]}\n" for line in table.splitlines()))
    with pytest.raises(rows.NoCertificates, match="two columns of one name"):
        check.check(other)
    for name, text in (("", table), ("-sigma_0.4", edited(table, 1, radius_np="x"))):
        (tmp_path / f"certificates{name}.csv").write_text(text)
    assert check.main([str(tmp_path), "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "certificates.csv: 4 rows: 6 radii proved" in printed
    assert "certificates-sigma_0.4.csv: unproved: row 2" in printed
    assert "5 radii proved, 1 unproved" in printed


@pytest.mark.process
def test_the_checker_needs_neither_jax_nor_numpy(table: str, tmp_path: Path) -> None:
    file = tmp_path / "certificates.csv"
    file.write_text(table)
    blocked = tmp_path / "blocked"
    for name in ("jax", "jaxlib", "numpy", "scipy", "flax", "rich", "jaxtyping"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('not installed here')\n")
    finished = subprocess.run(
        [sys.executable, "-m", "dsrs_jax.proof", str(file), "--processes", "2"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{blocked}:{commands.ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert "6 radii proved, 0 unproved" in finished.stdout and finished.stderr == ""
