"""Logs of radii, as the field writes them: which votes allow what they print."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.run.audit import Audit, audit, radii_of_votes
from dsrs_jax.run.main import main
from dsrs_jax.run.smoothing_log import LogLine, read_log, write_log
from dsrs_jax.system.errors import UserError

SIGMA, N, ALPHA = 0.5, 1000, 0.001
PROVED = radii_of_votes(SIGMA, N, ALPHA)
RADII = PROVED.radius
PROTOCOL = ["--sigma", str(SIGMA), "--n", str(N), "--alpha", str(ALPHA)]


def line(index: int, radius: str, label: int = 3, predict: int = 3, correct: int = 1) -> str:
    return f"{index}\t{label}\t{predict}\t{radius}\t{correct}\t0:00:01.5"


def written(file: Path, lines: list[str], end: str = "\n") -> Path:
    header = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    file.write_text("".join(one + end for one in [header, *lines]), newline="")
    return file


def test_the_radii_of_votes_are_cohens() -> None:
    votes = np.arange(N + 1)
    low = stats.beta.ppf(ALPHA, votes, N - votes + 1)  # as proportion_confint does it
    certain = np.nan_to_num(low) > 0.5
    expected = np.where(certain, SIGMA * stats.norm.ppf(np.where(certain, low, 0.5)), 0.0)
    np.testing.assert_allclose(RADII, expected, atol=1e-8)
    assert np.all(expected >= RADII) and np.all(expected <= RADII + PROVED.error)
    assert PROVED.error.max() < 1e-9 * SIGMA


@pytest.mark.parametrize("n", [N, 100_000])
@pytest.mark.parametrize("form", ["r", ".10f", ".12f", ".9g"])
def test_radii_with_all_their_digits_are_allowed_and_others_are_not(n: int, form: str) -> None:
    """As another program computes them, which rounds nothing down."""
    votes = np.unique(np.linspace(0.56 * n, n, 1070).astype(int))
    proved = radii_of_votes(SIGMA, n, ALPHA)
    exact = SIGMA * stats.norm.ppf(stats.beta.ppf(ALPHA, votes, n - votes + 1))

    def audited(radii: np.ndarray) -> Audit:
        texts = [repr(radius) if form == "r" else f"{radius:{form}}" for radius in radii.tolist()]
        lines = [LogLine(i, 3, 3, float(text), True, text) for i, text in enumerate(texts)]
        return audit(lines, proved)

    found = audited(exact)
    np.testing.assert_array_equal(found.least, votes)
    np.testing.assert_array_equal(found.most, votes)
    unit = {"r": 0.0, ".10f": 1e-10, ".12f": 1e-12, ".9g": 1e-8}[form]
    assert np.all(found.above <= unit + PROVED.error.max() * 2)
    if form == "r":
        assert not found.above.any() and not found.perhaps.any()
    # What is farther off than rounding explains is no radius of any number of votes.
    off = 3.0 * max(unit, PROVED.error.max())
    for other in (exact + off, exact - off):
        assert np.all(audited(other).least == -1)


@given(
    votes=st.lists(st.integers(600, N), min_size=1, max_size=10),
    digits=st.integers(2, 6),
    rounding=st.sampled_from([np.rint, np.floor, np.ceil]),
)
def test_a_radius_that_votes_give_is_allowed_however_it_was_rounded(
    votes: list[int], digits: int, rounding: np.ufunc
) -> None:
    unit = 10.0**-digits
    texts = [f"{rounding(RADII[count] / unit) * unit:.{digits}f}" for count in votes]
    lines = [
        LogLine(index, 3, 3, float(text), True, text)
        for index, text in enumerate(texts)
        if float(text) > 0.0
    ]
    found = audit(lines, PROVED)
    for i, one in enumerate(lines):
        count = votes[one.index]
        assert 0 <= found.least[i] <= count <= found.most[i]
        # What is certainly above is above the radius of the votes that were there.
        assert found.above[i] <= max(one.radius - RADII[count], 0.0) + 1e-12
        assert found.perhaps[i] >= one.radius - RADII[count] - PROVED.error[count]
        if rounding is np.floor:
            assert found.above[i] == 0.0


def test_radii_that_no_votes_give_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top, next_ = RADII[N], RADII[N - 1]
    texts = [f"{top:.4f}", f"{top + 0.01:.4f}", f"{(top + next_) / 2:.4f}", f"{next_:.4f}"]
    log = written(tmp_path / "cohen.tsv", [line(i, text) for i, text in enumerate(texts)])
    assert main(["audit", str(log), *PROTOCOL]) == 1
    said = capsys.readouterr().out
    assert [f"index {i}: no number" in said for i in range(4)] == [False, True, True, False]
    good = written(tmp_path / "good.tsv", [line(0, texts[0]), line(1, texts[3])])
    assert main(["audit", str(good), *PROTOCOL]) == 0
    # A radius rounded up by a tenth of a thousandth is above what the votes prove.
    up = np.ceil(top * 1000) / 1000
    rounded = written(tmp_path / "up.tsv", [line(0, f"{up:.3f}")])
    assert main(["audit", str(rounded), *PROTOCOL]) == 0
    [row] = [one.split() for one in capsys.readouterr().out.splitlines() if "up.tsv" in one]
    assert row[1:5] == ["1", "1", "0", "1"] and float(row[5]) == pytest.approx(up - top, rel=0.05)


def test_a_log_with_abstentions_other_line_ends_and_a_cut_line_is_read(tmp_path: Path) -> None:
    lines = [line(0, "0.5"), line(1, "0.0", predict=-1, correct=0), line(2, "0.7", 3, 5, 0)]
    file = written(tmp_path / "a.tsv", lines, end="\r\n")
    found, wrong = read_log(file)
    assert not wrong and [one.certified for one in found] == [0.5, 0.0, 0.0]
    file.write_text(file.read_text() + line(3, "0.")[:9])
    again, wrong = read_log(file)
    assert again == found and len(wrong) == 1 and "ends inside this line" in wrong[0]
    file.write_text("\n".join([file.read_text().splitlines()[0], line(0, "0.5"), line(1, "0.5")]))
    again, wrong = read_log(file)  # whole, without an end of line
    assert not wrong and len(again) == 2
    file.write_bytes(file.read_text().encode("utf-16"))
    with pytest.raises(UserError, match="is UTF-16"):
        read_log(file)
    kept, wrong = read_log(
        written(file, [line(0, "nan"), "1\t2", line(2, "-1"), line(3, "0.4"), line(3, "0.5")])
    )
    assert [(one.index, one.radius) for one in kept] == [(3, 0.4)] and len(wrong) == 4


@pytest.mark.parametrize(
    ("text", "certified", "reason"),
    [
        (line(0, "0.5", predict=5), 0.0, "correct is 1, but predict is 5 and label 3"),
        (line(0, "0.5", correct=0), 0.0, "correct is 0, but predict is 3 and label 3"),
        (line(0, "0.5", predict=-1), 0.0, "correct is 1, but predict is -1 and label 3"),
        (line(0, "0.5", predict=-1, correct=0), 0.0, "an abstention, but radius is 0.5"),
        (line(0, "0.5").replace("\t3\t3\t", "\t3\t\t"), None, "predict is '', not a number"),
        (line(0, "1\t1"), 1.0, ""),
        (line(10**20, "0.5"), None, "idx is 100000000000000000000, not a whole number below 2^53"),
        (line(0, "1e308"), None, "radius is 1e+308, outside [0, 1e+06]"),
        (line(0, "0.5").replace("\t1\t", "\tyes\t"), None, "correct is 'yes', not 0 or 1"),
        # As pandas writes them, and spaces for tabs.
        (line(0, "0.5").replace("\t1\t", "\tTrue\t"), 0.5, ""),
        (line(0, "0.5", predict=5).replace("\t1\t", "\tFalse\t"), 0.0, ""),
        ("0.0\t3.0\t3.0\t0.5\t1.0\t2.5", 0.5, ""),
        ("0 3 3 0.5 1 0:00:01", 0.5, ""),
    ],
)
def test_a_line_is_read_or_it_is_said_why_not(
    tmp_path: Path, text: str, certified: float | None, reason: str
) -> None:
    found, said = read_log(written(tmp_path / "a.tsv", [text, line(7, "0.25")]))
    assert [one.certified for one in found] == [*[certified] * (certified is not None), 0.25]
    assert len(said) == bool(reason) and all(reason in sentence for sentence in said)


def test_two_logs_in_one_file_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [line(i, f"{RADII[N - i]:.4f}") for i in range(40)]
    second = [line(i, f"{RADII[N - 40 - i]:.4f}") for i in range(40)]
    file = written(tmp_path / "a.tsv", [*first, *second])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # a byte-order mark
    assert main(["audit", str(file), *PROTOCOL]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "line 42: index 0 is that of line 2, too (two logs in one file?)" in said
    assert "and 35 more such lines" in said
    out = tmp_path / "results"
    assert main(["report", str(file), "--out", str(out), "--radii", "0.5"]) == 0
    assert "two logs in one file?" in capsys.readouterr().out
    with open(out / "tables" / "accuracy.csv") as stream:
        *_, last = csv.reader(stream)
    # The first lines count.
    assert last[0] == "mean radius"
    assert float(last[1]) == pytest.approx(np.mean(RADII[N - np.arange(40)]), abs=2e-4)


def test_one_of_many_logs_that_cannot_be_read_does_not_end_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / f"a_folder_of_a_rather_long_name_number_{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
        written(folder / "sigma_0.25", [line(0, f"{RADII[N]:.4f}")])
    empty, absent = written(folders[0] / "empty", []), tmp_path / "absent"
    logs = [str(file) for file in (folders[0] / "sigma_0.25", empty, folders[1] / "sigma_0.25")]
    logs += [str(absent), str(folders[2] / "sigma_0.25")]
    assert main(["audit", *logs, *PROTOCOL]) == 1
    printed, error = capsys.readouterr()
    # Each has the shortest path that is its own, whole.
    names = [shown.split()[0] for shown in printed.splitlines() if "sigma_0.25 " in shown]
    assert names == [f"{folder.name}/sigma_0.25" for folder in folders]
    assert error.count("\n") == 1 and "cannot read" in error
    assert "empty has no line of an image" in error
    for file in (empty, absent):
        assert main(["audit", str(file), *PROTOCOL]) == 2


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 10**5), st.integers(0, 9), st.integers(0, 9),
            st.sampled_from([0.0, 0.5, 1.25, 2.71828]) | st.floats(0.0, 4.0),
        ),
        unique_by=lambda row: row[0],
        min_size=1,
        max_size=20,
    )
)  # fmt: skip
def test_a_log_that_was_written_is_read_and_never_above(
    rows: list[tuple[int, int, int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("log") / "a.tsv"
    write_log(file, rows)
    found, wrong = read_log(file)
    assert not wrong
    for (index, label, predicted, radius), one in zip(sorted(rows), found, strict=True):
        assert (one.index, one.label) == (index, label)
        assert one.predict == (predicted if radius > 0.0 else -1)
        assert radius - 1.0001e-4 <= one.radius <= radius
        assert one.certified == (one.radius if predicted == label else 0.0)


def test_a_log_becomes_a_run_that_is_proved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = [N, N - 1, N - 30, 700]
    lines = [line(i, f"{RADII[count]:.3}") for i, count in enumerate(votes)]
    lines += [line(4, "0.4", predict=5, correct=0), line(5, "0.0", predict=-1, correct=0)]
    log, out = written(tmp_path / "log.tsv", lines), tmp_path / "run"
    as_run = ["--as-run", str(out), "--dataset", "cifar10"]
    assert main(["audit", str(log), *PROTOCOL, *as_run]) == 0
    with open(out / "certificates.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert int(rows[0]["votes"]) == N and int(rows[4]["votes"]) == 0
    for row, count in zip(rows, votes, strict=False):
        # Of several counts the smallest; the largest radius of a Gaussian is Cohen's.
        radius, smallest = float(row["radius_np"]), int(row["votes"])
        assert smallest <= count and radius <= RADII[count]
        assert radius == pytest.approx(RADII[smallest], abs=1e-6)
    assert [float(row["radius_np"]) for row in rows[4:]] == [0.0, 0.0]
    assert main(["prove", str(out), "--processes", "1"]) == 0
    capsys.readouterr()
    assert main(["report", str(out), str(log), "--out", str(tmp_path / "results")]) == 0
    assert "of other images" not in capsys.readouterr().out
