"""`dsrs-jax report`: tables that are true of the runs, of half a run, and of published files."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from certify_runs import record_files, rows_of
from commands import refused

from dsrs_jax import Protocol, VoteTable, certify_table, generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.run.main import main

SHORT = ["--n", "2000", "--skip", "12", "--seed", "0", "--q-inside", "0.5"]
IMAGES = 30


@pytest.fixture(scope="module")
def runs(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three runs: two of the same images at two sigmas, one of others."""
    folder = tmp_path_factory.mktemp("runs")
    more = {"narrow": "--sigma 0.3", "wide": "--sigma 0.4", "others": "--start 1"}
    for name, words in more.items():
        command = ["certify", "--model", model, *SHORT, *words.split()]
        assert main([*command, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in more}


def table(out: Path, name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    with open(out / "tables" / f"{name}.csv") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def radii(run: Path, method: str) -> np.ndarray:
    return np.array([float(row[f"radius_{method}"]) for row in rows_of(run)])


def test_the_tables_of_a_run_are_counts_of_its_file(runs: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "run.tsv"
    words = ["--radii", "0.1", "0.2", "0.4", "--out", str(tmp_path), "--write-log", str(log)]
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
    lines = [line.split("\t") for line in log.read_text().splitlines()][1:]
    for line, row in zip(lines, rows_of(runs["wide"]), strict=True):
        assert line[:2] == [row["index"], row["label"]]
        assert 0 <= float(row["radius_dsrs"]) - float(line[3]) < 1.0001e-4
        assert (line[2], line[4]) == ((row["label"], "1") if float(line[3]) else ("-1", "0"))


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
    share = 100 * np.mean([float(expected[one]["radius_dsrs"]) >= 0.1 for one in here])
    shown = float(table(out, "accuracy")["0.1"][1].split()[0])
    assert shown == pytest.approx(share, abs=0.06)
    # The run itself is untouched, and goes on.
    assert not (half / "certificates.csv").exists() and record_files(half) == files[:1]


def test_what_cannot_be_shown_is_left_out_or_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, header, out = tmp_path / "begun", tmp_path / "header.csv", tmp_path / "results"
    begun.mkdir()
    shutil.copy(runs["wide"] / "config.json", begun)
    header.write_text((runs["wide"] / "certificates.csv").read_text().split("\n")[0] + "\n")
    for run, message in ((begun, "no votes yet"), (header, "no image")):
        refused(capsys, ["report", str(run), "--out", str(out)], message)
        assert not out.exists()
    # Beside one that can be shown they are left out.
    several = [str(begun), str(header), str(runs["wide"]), str(tmp_path / "nowhere")]
    assert main(["report", *several, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in ("no votes yet", "no image", "nowhere; give"))
    assert (out / "results.md").exists()


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


def test_logs_have_their_own_names_and_radii_of_any_size_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["sigma_0.25", "sigma_0.50"]
    for name, radius in zip(names, ("0.5", "900000.0"), strict=True):
        lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime", f"0\t3\t3\t{radius}\t1\t1.0", ""]
        (tmp_path / name).write_text("\n".join(lines))
    out = tmp_path / "results"
    assert main(["report", *(str(tmp_path / name) for name in names), "--out", str(out)]) == 0
    found = table(out, "accuracy")
    assert found["radius"] == [f"{name}, as logged" for name in names]
    assert len(found) <= 105 and max(float(one) for one in list(found)[1:-3]) > 450_000
    # A number that is none is named; it ends in no traceback.
    law = generalized_gaussian(64, 0.5, 28.0)
    counted = VoteTable.from_counts([law], [1900, 1800], 2000)
    counted = dataclasses.replace(counted, seed=12345, compared=1000)
    columns = schema.columns(certify_table(counted, Protocol(0.001)))
    file = tmp_path / "certificates.csv"
    file.write_text(schema.text(columns))
    capsys.readouterr()
    assert main(["report", str(file), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "float32 draws, seed 12345, the network's answers to 1,000 of them" in said
    file.write_text(schema.text(columns | {"radius_np": ["1e308", "0.25"]}))
    assert main(["report", str(file), "--out", str(out)]) == 0
    assert "radius_np is 1e+308, outside [0, 1e+06]; it is left out" in capsys.readouterr().out
    file.write_text(schema.text(columns | {"lower_np": ["much", "0.9"]}))
    refused(capsys, ["report", str(file), "--out", str(out)], "lower_np is 'much', not a number")


def test_published_radii_stand_beside_a_run_of_the_same_law(
    published_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, law = tmp_path / "ours", generalized_gaussian(784, 0.5, 380.0)
    run.mkdir()
    votes = [[49_000, 39_900], [50_000, 40_000], [10_000, 9_000]]
    laws, draws = [law, law.truncated(0.8)], [50_000, 40_000]
    certificates = certify_table(VoteTable.from_counts(laws, votes, draws), Protocol(0.001))
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


def by_the_authors_rule(file: Path, begun: Path | None, at: list[float]) -> tuple[list[str], float]:
    """Accuracies and the mean as their script counts them, from the files as they lie there."""
    found: dict[int, float] = {}
    for one in filter(None, (begun, file)):
        lines = [line.split() for line in one.read_text().splitlines()]
        for index, radius in {int(words[0]): float(words[1]) for words in lines}.items():
            found[index] = max(found.get(index, 0.0), radius)
    radii = np.array(list(found.values()))
    return [f"{100 * np.mean(radii >= r - 1e-5):.1f}" for r in at], float(radii.mean())


def test_the_tables_of_published_files_are_the_authors(
    published_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two models and every tenth of their images: all of them take minutes."""
    part, out = tmp_path / "part", tmp_path / "results"
    for file in published_dir.glob("*/cohen-mnist-380-0.[25]*.pth/*.txt"):
        lines = file.read_text().splitlines()
        kept = [line for line in lines if re.match(r"(o )?(\d*00|0) |x ", line)]
        copied = part / file.relative_to(published_dir)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text("\n".join(kept))
    assert main(["report", "--published", str(part), "--out", str(out)]) == 0
    assert "MNIST, Consistency, σ = 0.5: no radii." in capsys.readouterr().out
    (header, *rows), (_, *best) = (
        list(csv.reader((out / "tables" / f"{name}.csv").read_text().splitlines()))
        for name in ("certified-mnist", "best-over-sigma")
    )
    at = [float(one) for one in header[4:-1]]
    shown = {(row[0], row[2]): row for row in rows}
    for sigma, q in (("0.5", "0.4"), ("0.25", "0.2")):
        model = f"cohen-mnist-380-{float(sigma):.2f}.pth"
        begin = f"orig-radius/{model}/orig-rad-general-gaussian-380-{sigma}"
        new = f"new-radius/{model}/new-rad-general-gaussian-380-{sigma}-{q}-50000-0.0005.txt"
        for method, file, begun in (
            ("Neyman-Pearson, published", part / f"{begin}-100000-0.001.txt", None),
            ("DSRS, published", part / new, part / f"{begin}-50000-0.0005.txt"),
        ):
            shares, mean = by_the_authors_rule(file, begun, at)
            row = shown[sigma, method]
            assert row[4:-1] == shares and mean - 1e-4 < float(row[-1]) <= mean
    # Ours of the same samples, and of another Q where Q's sample was not published.
    theirs, again, ours = (
        float(shown["0.5", f"DSRS, {by}"][-1]) for by in ("published", "their rule", "ours")
    )
    assert ours > theirs and again == pytest.approx(theirs, abs=2e-3)
    assert ("0.25", "DSRS, ours†") in shown and ("0.25", "DSRS, ours") not in shown
    for row in best:
        if "published" in row[2]:
            both = [map(float, shown[sigma, row[2]][4:-1]) for sigma in ("0.25", "0.5")]
            assert [float(cell) for cell in row[4:]] == list(map(max, *both))
