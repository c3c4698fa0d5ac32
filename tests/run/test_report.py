"""`dsrs-jax report`: tables that are true of the runs, of half a run, and of published files."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from certify_runs import record_files, rows_of

from dsrs_jax import Protocol, VoteTable, certify_table, generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.run.main import main

SHORT = ["--n", "2000", "--skip", "12", "--draws", "sound"]
IMAGES = 30


@pytest.fixture(scope="module")
def runs(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three runs: two of the same images at two sigmas, one of others."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {
        "narrow": ["--sigma", "0.3"],
        "wide": ["--sigma", "0.4"],
        "others": ["--start", "1"],
    }.items():
        command = ["certify", "--model", model, *SHORT, *words, "--out", str(folder / name)]
        assert main(command) == 0
    return {name: folder / name for name in ("narrow", "wide", "others")}


def table(out: Path, name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    with open(out / "tables" / f"{name}.csv") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def radii(run: Path, method: str) -> np.ndarray:
    return np.array([float(row[f"radius_{method}"]) for row in rows_of(run)])


def test_the_tables_of_a_run_are_counts_of_its_file(runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["--radii", "0.1", "0.2", "0.4", "--out", str(tmp_path)]
    assert main(["report", str(runs["wide"]), *words]) == 0
    found = table(tmp_path, "accuracy")
    assert found["radius"] == ["Neyman-Pearson", "DSRS"]
    for at in ("0.1", "0.2", "0.4"):
        for cell, method in zip(found[at], ("np", "dsrs"), strict=True):
            share = float(cell.split()[0])
            low, high = map(float, re.findall(r"[\d.]+", cell)[1:])
            count = sum(one >= float(at) for one in radii(runs["wide"], method))
            assert share == pytest.approx(100 * count / IMAGES, abs=0.051)
            assert low < share < high
    for cell, method in zip(found["mean radius"], ("np", "dsrs"), strict=True):
        mean = radii(runs["wide"], method).mean()
        assert mean - 1e-4 < float(cell) <= mean
    gain = radii(runs["wide"], "dsrs") - radii(runs["wide"], "np")
    assert table(tmp_path, "gains")["wide"][:2] == [str(sum(gain > 0)), str(sum(gain < 0))]
    page = (tmp_path / "results.md").read_text()
    command = json.loads((runs["wide"] / "command.json").read_text())["command"]
    assert command in page and "0.1 |" in page
    for name in re.findall(r"\]\((figures/[\w.-]+)\)", page):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).with_suffix(".pdf").exists()
    assert r"\toprule" in (tmp_path / "tables" / "accuracy.tex").read_text()


def test_runs_of_the_same_images_stand_side_by_side_and_others_apart(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [str(runs[name]) for name in ("narrow", "others", "wide")]
    assert main(["report", *every, "--radii", "0.1", "0.3", "--out", str(tmp_path)]) == 0
    assert "of other images" in capsys.readouterr().out
    both, other = table(tmp_path, "accuracy-1"), table(tmp_path, "accuracy-2")
    assert len(both["radius"]) == 4 and len(other["radius"]) == 2
    with open(tmp_path / "tables" / "best-over-sigma-1.csv") as stream:
        _, *best = csv.reader(stream)
    for method, row in zip(("np", "dsrs"), best, strict=True):
        for at, cell in zip((0.1, 0.3), row[4:], strict=True):
            shares = [np.mean(radii(runs[one], method) >= at) for one in ("narrow", "wide")]
            assert float(cell) == pytest.approx(100 * max(shares), abs=0.051)
    gains = table(tmp_path, "gains-1")["wide beside narrow"]
    assert gains[0] == str(sum(radii(runs["wide"], "dsrs") > radii(runs["narrow"], "dsrs")))


def test_half_a_run_is_shown_with_what_is_there(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    shutil.copytree(runs["wide"], half)
    # A run writes as many files as it has time for: one, where it is quick.
    files = record_files(half)
    for file in files[1:]:
        file.unlink()
    lines = files[0].read_text().splitlines(keepends=True)
    lines = lines[: (len(lines) + 1) // 2]
    files[0].write_text("".join(lines))
    expected = {row["index"]: row for row in rows_of(half)}
    (half / "certificates.csv").unlink()
    out = tmp_path / "results"
    assert main(["report", str(half), "--out", str(out), "--radii", "0.1"]) == 0
    assert f"Half finished: {len(lines)} of {IMAGES} images" in capsys.readouterr().out
    here = [str(json.loads(line)["index"]) for line in lines]
    share = np.mean([float(expected[one]["radius_dsrs"]) >= 0.1 for one in here])
    assert float(table(out, "accuracy")["0.1"][1].split()[0]) == pytest.approx(
        100 * share, abs=0.06
    )
    # The run itself is untouched, and goes on.
    assert not (half / "certificates.csv").exists() and record_files(half) == files[:1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("nothing", "no "),
        ("empty", "no run"),
        ("begun", "no votes yet"),
        ("text", "no file of certificates"),
        ("header", "no image"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    make: str,
    said: str,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    if make in ("empty", "begun"):
        run.mkdir()
    if make == "begun":
        shutil.copy(runs["wide"] / "config.json", run)
    if make == "text":
        run.write_text("no certificates\n")
    if make == "header":
        run.write_text((runs["wide"] / "certificates.csv").read_text().split("\n")[0] + "\n")
    out = tmp_path / "results"
    assert main(["report", str(run), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error and not out.exists()
    # Beside one that can be shown it is left out, and said so.
    assert main(["report", str(run), str(runs["wide"]), "--out", str(out)]) == 1
    assert said in capsys.readouterr().err and (out / "results.md").exists()


def test_damaged_rows_and_unreadable_images_are_told(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (runs["wide"] / "certificates.csv").read_text().splitlines()
    status = rows[0].split(",").index("status")
    cells = rows[2].split(",")
    cells[status] = "unreadable"
    for name in ("radius_np", "radius_dsrs"):
        cells[rows[0].split(",").index(name)] = "0.0"
    file = tmp_path / "certificates.csv"
    file.write_text("\n".join([*rows[:2], ",".join(cells), *rows[3:-1], rows[-1][:40]]))
    assert main(["report", str(file), "--out", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "1 images could not be read" in said and "it is left out" in said


def test_published_radii_stand_beside_a_run_of_the_same_law(
    published_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "ours"
    run.mkdir()
    law = generalized_gaussian(784, 0.5, 380.0)
    laws, votes = [law, law.truncated(0.8)], [[49_000, 39_900], [50_000, 40_000], [10_000, 9_000]]
    table = VoteTable.from_counts(laws, votes, [50_000, 40_000], index=[0, 10, 20])
    certificates = certify_table(table, Protocol(0.001))
    (run / "certificates.csv").write_text(schema.text(schema.columns(certificates)))
    (run / "config.json").write_text('{"dataset": "mnist", "split": "test"}')
    words = ["report", str(run), "--published", str(published_dir), "--radii", "0.5", "1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    with open(tmp_path / "a" / "tables" / "accuracy.csv") as stream:
        header, *rows = csv.reader(stream)
    assert header[1:3] == ["Neyman-Pearson", "DSRS"]
    assert "cohen-mnist-380-0.50, DSRS, published" in header
    assert not any("cifar" in name or "1.00" in name for name in header)
    place = header.index("cohen-mnist-380-0.50, Neyman-Pearson, published")
    assert rows[0][place].startswith("96.9 ") and rows[2][place] == "1000"
    (run / "config.json").write_text('{"dataset": "cifar10", "split": "test"}')
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    assert "No published model has this data set" in capsys.readouterr().out


def test_a_run_is_written_as_a_log(runs: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "run.tsv"
    words = ["--out", str(tmp_path / "results"), "--write-log", str(log)]
    assert main(["report", str(runs["wide"]), *words]) == 0
    lines = [line.split("\t") for line in log.read_text().splitlines()][1:]
    for line, row in zip(lines, rows_of(runs["wide"]), strict=True):
        assert line[:2] == [row["index"], row["label"]]
        assert 0 <= float(row["radius_dsrs"]) - float(line[3]) < 1.0001e-4
        assert (line[2], line[4]) == ((row["label"], "1") if float(line[3]) else ("-1", "0"))


def by_the_authors_rule(file: Path, begun: Path | None, at: list[float]) -> tuple[list[str], float]:
    """Accuracies as their script counts them, from the files as they lie there."""
    found: dict[int, float] = {}
    for one in filter(None, (begun, file)):
        own = {}
        for line in one.read_text().splitlines():
            words = line.split()
            own[int(words[0])] = float(words[1])
        found = {i: max(found.get(i, 0.0), radius) for i, radius in own.items()} | {
            i: radius for i, radius in found.items() if i not in own
        }
    radius = np.array(list(found.values()))
    return [f"{100 * np.mean(radius >= r - 1e-5):.1f}" for r in at], float(radius.mean())


def test_the_tables_of_published_files_are_the_authors(
    published_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two models: all of them take minutes."""
    part = tmp_path / "part"
    for folder in ("sampling", "orig-radius", "new-radius"):
        for model in ("cohen-mnist-380-0.50.pth", "cohen-mnist-380-0.25.pth"):
            (part / folder).mkdir(parents=True, exist_ok=True)
            (part / folder / model).symlink_to((published_dir / folder / model).resolve())
    out = tmp_path / "results"
    assert main(["report", "--published", str(part), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "MNIST, Consistency, σ = 0.5: no radii." in said
    with open(out / "tables" / "certified-mnist.csv") as stream:
        header, *rows = csv.reader(stream)
    at = [float(one) for one in header[4:-1]]
    shown = {(row[0], row[2]): row for row in rows}
    for sigma, name in (("0.5", "cohen-mnist-380-0.50.pth"), ("0.25", "cohen-mnist-380-0.25.pth")):
        begun = (
            part / "orig-radius" / name / f"orig-rad-general-gaussian-380-{sigma}-50000-0.0005.txt"
        )
        twice = begun.with_name(f"orig-rad-general-gaussian-380-{sigma}-100000-0.001.txt")
        q = 0.8 * float(sigma)
        new = part / "new-radius" / name
        new = new / f"new-rad-general-gaussian-380-{sigma}-{q:g}-50000-0.0005.txt"
        for method, own, before in (
            ("Neyman-Pearson, published", twice, None),
            ("DSRS, published", new, begun),
        ):
            shares, mean = by_the_authors_rule(own, before, at)
            row = shown[sigma, method]
            assert row[4:-1] == shares and mean - 1e-4 < float(row[-1]) <= mean
    # Ours of the same samples, and of another Q where Q's sample was not published.
    assert float(shown["0.5", "DSRS, ours"][-1]) > float(shown["0.5", "DSRS, published"][-1])
    theirs, again = (
        float(shown["0.5", one][-1]) for one in ("DSRS, published", "DSRS, their rule")
    )
    assert again == pytest.approx(theirs, abs=2e-3)
    assert ("0.25", "DSRS, ours†") in shown and ("0.25", "DSRS, ours") not in shown
    with open(out / "tables" / "best-over-sigma.csv") as stream:
        best = {row[2]: row for row in csv.reader(stream)}
    for method in ("Neyman-Pearson, published", "DSRS, published"):
        for i in range(len(at)):
            both = [float(shown[sigma, method][4 + i]) for sigma in ("0.25", "0.5")]
            assert float(best[method][4 + i]) == max(both)
