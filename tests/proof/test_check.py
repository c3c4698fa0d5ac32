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
    """certificates.csv of four images, the third without a wrong draw, the last of radius 0."""
    law = generalized_gaussian(784, 0.5, 380.0)
    votes = [49_900, 49_000, 50_000, 20_000]
    inside = [34_990, 34_500, 35_000, 13_000]
    laws, names = (law, law.truncated(0.7)), ["p", "inside_0.7"]
    counts, index = np.transpose([votes, inside]), range(0, 40, 10)
    counted = VoteTable.from_counts(laws, counts, [N, 35_000], names=names, index=index)
    sound = SoundDraws(255, np.array([2, 0, 0, 0]))
    counted = dataclasses.replace(counted, sound=sound, seed=12345, compared=4096)
    return schema.text(schema.columns(certify_table(counted, Protocol(ALPHA))))


def edited(table: str, *numbers: int, **fields: str) -> str:
    rows = list(csv.DictReader(io.StringIO(table)))
    for number in numbers:
        rows[number] |= fields
    return schema.text({name: [row[name] for row in rows] for name in rows[0]})


def edited_everywhere(table: str, **fields: str) -> str:
    return edited(table, 0, 1, 2, 3, **fields)


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
        "draws of an image: 50,000 of P, 35,000 of inside_0.7; seed 12345; the network's answers "
        "to 4,096 draws were the same in a mixed batch; sound draws on a grid of 1/255, of "
        "an image 0 to 2 (2 values) ambiguous, by a rounding error of 1e-13, and counted as wrong, "
        "up to 1.2e-11 taken off a bound for their uniforms of 64 bits"
    )
    assert verdict(table) == (0, [counted, proved])
    # The bounds and g of the fast path are not believed, nor are they needed.
    assert verdict(edited(table, 1, lower_p="nonsense", value="0")) == (0, [counted, proved])
    # As a spreadsheet writes it: with a byte-order mark, and numbers in other words.
    written = edited_everywhere(table, dimension="784.0", seed="1.2345e4", alpha_np="1e-3")
    assert verdict("\ufeff" + written) == (0, [counted, proved])


def test_the_last_line_says_what_is_not_recorded(table: str, verdict) -> None:
    for compared in ("", "0"):
        code, printed = verdict(edited_everywhere(table, seed="", compared=compared))
        assert code == 0 and "seed" not in printed[-1]
        assert "that it is a function of one image is taken on trust" in printed[-1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"radius_dsrs": "9.0"}, "above the ceiling"),
        ({"radius_dsrs": "9.0", "ceiling": "9.0"}, "of the ceiling g is"),
        ({"radius_dsrs": "1.3"}, "below 1/2"),
        ({"ceiling_multiplier": "0"}, "ceiling_multiplier is outside its domain"),
        ({"status": "all-right"}, "all-right, but with a wrong draw"),
        ({"status": "pooled"}, "pooled, and a ceiling"),
        ({"look": "8"}, "a look, but no planned draws"),
        ({"radius_dsrs": "nan"}, "radius_dsrs is 'nan', not a number"),
        ({"radius_np": "-1"}, "radius_np is -1.0, outside [0, 1e+06]"),
        ({"radius_np": "1e308"}, "radius_np is 1e+308, outside [0, 1e+06]"),
        ({"radius_np": "1e999"}, "which no double holds"),
        ({"multiplier_inside_0.7": "-0.5"}, "multiplier is negative"),
        ({"multiplier_np": "0"}, "all multipliers are 0"),
        ({"votes": "50001"}, "impossible counts: 50001 of 50000 draws of p"),
        ({"votes": "-2"}, "votes is -2, no count"),
        ({"votes_inside_0.7": "35001", "multiplier_inside_0.7": "0"}, "impossible counts"),
        ({"votes_inside_0.7": "-1"}, "not known"),
        ({"votes": "48999.5"}, "not a whole number"),
        ({"n": "9007199254740993"}, "not a whole number"),
        # A row of no plan of looks, of other draws than the rest: each would claim all of alpha.
        ({"n": "49500"}, "n is 49500, of other rows 50000"),
        *(({"status": status}, f"the status '{status}' says that it is 0") for status in NOTHING),
        ({"status": "DSRS"}, "status is 'DSRS', none of dsrs, all-right,"),
        ({"status": "not-finite", "radius_dsrs": "0"}, "radius_np is positive, the status"),
        # An inside law's draws are among P's.
        ({"draws_inside_0.7": "49999", "votes_inside_0.7": "49001"}, "49000 of 50000"),
        ({"draws_inside_0.7": "36000", "votes_inside_0.7": "34900"}, "49000 of 50000"),
        ({"ambiguous": "1001"}, "1001 draws are ambiguous, but only 1000 are wrong"),
        ({"ambiguous": "-1"}, "grid or ambiguous is outside"),
        ({"index": "0.0"}, "row 1 is of the same image"),
        ({"index": "-10"}, "index is -10, below 0"),
        ({"index": "\x1b[2J"}, "index is '\\x1b[2J', not a number"),
        # Whose class it is.
        ({"label": ""}, "label is '', not a number"),
        ({"label": "3"}, "label_from is 'given', but label is 3 and true_label -1"),
        ({"n0": "100", "votes_n0": "90"}, "label_from is 'given', but n0 draws chose the label"),
        *(
            ({"label_from": word}, f"label_from is '{word}', not given or predicted")
            for word in ("PREDICTED", "chosen", "")
        ),
        # What belongs to the run is the same in all rows.
        ({"share_p": "0.9"}, "share_p is 0.9, of other rows 0.5"),
        ({"planned": "50000", "look": "8"}, "planned is 50000, of other rows nothing"),
        ({"ceiling": ""}, "ceiling is nothing, of other rows 'a number'"),
        ({"sigma": "0.4"}, "sigma is 0.4, of other rows 0.5"),
        ({"alpha_dsrs": "0.9999"}, "alpha_dsrs is 0.9999, of other rows 0.001"),
        ({"bounds": "two-sided"}, "bounds is 'two-sided', of other rows 'one-sided'"),
        ({"cutoff_inside_0.7": "13.4"}, "cutoff_inside_0.7 is 13.4, of other rows"),
        ({"rounding": "2e-13"}, "rounding is 2e-13, of other rows 1e-13"),
        ({"seed": ""}, "seed is nothing, of other rows 12345"),
        ({"compared": "5000"}, "compared is 5000, of other rows 4096"),
        (
            {"label_from": "predicted", "label": "3", "n0": "100", "votes_n0": "90"},
            "n0 is 100, of other rows nothing",
        ),
        (
            dict.fromkeys(["grid", "rounding", "ambiguous", "charge_p", "charge_inside_0.7"], "")
            | {"draws": "float32"},
            "of other rows",
        ),
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


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"k": "400"}, "k is outside"),
        ({"sigma": "0"}, "sigma is outside"),
        ({"cutoff_inside_0.7": "-3"}, "cutoff is outside"),
        ({"alpha_dsrs": "0"}, "alpha_dsrs is outside"),
        ({"alpha_dsrs": "5e-324"}, "below 1/2"),
        ({"bounds": "none"}, "one-sided or two-sided"),
        ({"bounds": "two-sided"}, "below 1/2"),
        # An inside law is P truncated.
        ({"sigma": "0.6"}, "inside_0.7 is not P truncated"),
        ({"sigma_inside_0.7": "0.6"}, "inside_0.7 is not P truncated"),
        ({"cutoff_inside_0.7": ""}, "a quantile and no cutoff"),
        ({"quantile_inside_0.7": ""}, "a cutoff and no quantile"),
        ({"cutoff_inside_0.7": "", "quantile_inside_0.7": ""}, "inside_0.7 is not P truncated"),
        ({"cutoff_inside_0.7": "1e300"}, "cutoff_inside_0.7 is 1e+300, the quantile 1,"),
        ({"quantile_inside_0.7": "1.5"}, "quantile_inside_0.7 is outside its domain"),
        (
            {"cutoff_inside_0.7": "1e300", "quantile_inside_0.7": "1"},
            "inside_0.7 is truncated at the quantile 1.0",
        ),
        # Numbers are finite, ASCII, and the ones that a double names.
        *(({"sigma": text}, "not a number") for text in ("0_0.5", "\u0660.\u0665", " 0.5", "inf")),
        # Of sound draws: what was rounded, what is taken off.
        ({"charge_p": "1e-13"}, "a charge is 1e-13, below 8.6"),
        ({"charge_inside_0.7": "0"}, "a charge is 0.0, below 1.2"),
        ({"charge_p": ""}, "charge_p is '', not a number"),
        ({"charge_p": "0.5", "charge_inside_0.7": "0.5"}, "below 1/2"),
        ({"charge_p": "2"}, "charge_p is outside its domain"),
        ({"grid": "65280"}, "a charge is"),
        *(({"grid": grid}, "grid or ambiguous is outside") for grid in ("0", "1e9")),
        ({"rounding": "1e-14"}, "rounding is 1e-14, below the 1e-13 that holds"),
        *(({"rounding": text}, "that holds, or above 2^-24") for text in ("0.4", "1e18")),
        ({"draws": "Sound"}, "draws is 'Sound', not sound or float32"),
        ({"draws": "float32"}, "draws is float32, and grid is of sound ones"),
        *(({"seed": seed}, f"seed is {seed}, outside [0, 2^32)") for seed in ("-1", "4294967296")),
        ({"compared": "-1"}, "compared is -1, below 0"),
        ({"seed": "today"}, "seed is 'today', not a number"),
        ({"compared": "0.5"}, "compared is 0.5, not a whole number"),
        ({"label_from": "chosen"}, "not given or predicted"),
        (
            {"label_from": "predicted", "n0": "100", "votes_n0": "101", "label": "3"},
            "n0 or votes_n0 is outside its domain",
        ),
        (
            {"label_from": "predicted", "n0": "100", "votes_n0": "90"},
            "a radius, but no class that draws chose",
        ),
        ({"planned": "50000", "look": "41"}, "planned or look is outside its domain"),
    ],
)
def test_a_run_of_a_wrong_plan_is_refused(
    table: str, verdict, fields: dict[str, str], reason: str
) -> None:
    code, [*faults, _, _] = verdict(edited_everywhere(table, **fields))
    assert code == 1 and any(reason in line for line in faults), faults


def test_a_ceiling_is_proved_of_an_image_without_a_wrong_draw_too(table: str, verdict) -> None:
    code, [fault, counted, _] = verdict(edited(table, 2, ceiling="1e300"))
    assert code == 1 and "5 radii proved, 1 unproved" in counted
    assert fault.startswith("unproved: row 3 (index 20), radius_dsrs")
    assert "of the ceiling g is" in fault or "of the ceiling g could not be enclosed" in fault


def test_a_plan_of_looks_is_read_as_numbers(table: str, verdict) -> None:
    # The seven tenths of alpha that the plan's own look has prove a little less.
    shorter = {"radius_dsrs": "0.5", "radius_np": "0.5", "ceiling": "1"}
    looks = {"planned": "50000.0", "look": "7.0"}
    plan = edited(edited_everywhere(table, **looks), 0, 1, 2, **shorter)
    code, printed = verdict(edited(plan, 2, status="dsrs"))
    assert code == 0, printed
    assert "each at one look, 7, of a schedule of looks with 50,000 planned draws" in printed[-1]


def test_the_last_line_says_what_is_not_covered(table: str, verdict) -> None:
    nothing = dict.fromkeys(["grid", "rounding", "ambiguous", "charge_p", "charge_inside_0.7"], "")
    code, printed = verdict(edited_everywhere(table, draws="float32", **nothing))
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
        (other, "no column label"),
    ):
        assert check.main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    other.write_text("".join(f"{line},{line.split(',')[0]}\n" for line in table.splitlines()))
    with pytest.raises(rows.NoCertificates, match="two columns of one name"):
        check.check(other)
    for name, text in (("", table), ("-sigma_0.4", edited(table, 1, radius_np="9"))):
        (tmp_path / f"certificates{name}.csv").write_text(text)
    assert check.main([str(tmp_path), "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "certificates.csv: 4 rows: 6 radii proved" in printed
    assert "certificates-sigma_0.4.csv: unproved: row 2" in printed
    assert "5 radii proved, 1 unproved" in printed
    # Of several files one that is none does not end the others.
    (tmp_path / "certificates.csv").write_text("index,radius\n")
    (tmp_path / "certificates-sigma_0.4.csv").write_text(table)
    assert check.main([str(tmp_path), "--processes", "1"]) == 1
    *_, proved, refused = capsys.readouterr().out.splitlines()
    assert proved.startswith("certificates-sigma_0.4.csv: Proved: of 3 images")
    assert refused.startswith("unproved: ") and "has no column label" in refused


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
