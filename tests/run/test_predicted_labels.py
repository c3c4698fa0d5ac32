"""`certify --label predicted`: draws of their own choose the class; all else stays as it is."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from certify_runs import record_files, rows_of, wait_for_more
from PIL import Image

import dsrs_jax
from dsrs_jax import data
from dsrs_jax.bounds import lower_bound
from dsrs_jax.proof import check
from dsrs_jax.run.main import main

Start = Callable[..., subprocess.Popen[str]]
DIGITS = data.in_memory(data.load("digits"))
CHOSEN = np.arange(0, 360, 15)
SHORT = ["--n", "2000", "--q-inside", "0.5", "--draws", "sound"]
COLUMNS = ("n", "votes", "votes_inside_0.5", "radius_np", "radius_dsrs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predicted")


@pytest.fixture(scope="module")
def runs(model: str, folder: Path) -> dict[str, Path]:
    """The same images: their labels given, given but half of them wrong, and none."""
    labels = DIGITS.labels[CHOSEN]
    half = np.where(np.arange(len(labels)) % 2 == 0, labels, (labels + 1) % 10)
    # They are files of this kind; on the digits' own grid of 1/240.
    images = np.rint(DIGITS.images[CHOSEN] * 240) / 240
    np.savez(folder / "given.npz", images=images, labels=labels)
    np.savez(folder / "half.npz", images=images, labels=half)
    np.savez(folder / "none.npz", images=images)
    made = {}
    for name, words in {
        "given": [],
        "half": ["--label", "predicted", "--prove"],
        "none": ["--label", "predicted", "--n0", "100"],
    }.items():
        made[name] = folder / name
        command = ["certify", "--model", model, *SHORT, *words, "--out", str(made[name])]
        command += ["--dataset", "npz", "--data-dir", str(folder / f"{name}.npz")]
        assert main(command) == 0
    return made


def test_certificates_are_those_of_the_label_where_the_class_is_it(runs: dict[str, Path]) -> None:
    given, half, none = (rows_of(runs[name]) for name in ("given", "half", "none"))
    same = [row["label"] == other["label"] for row, other in zip(given, half, strict=True)]
    assert 0.9 * len(same) < sum(same)
    for row, other, third, is_same in zip(given, half, none, same, strict=True):
        assert (row["label_from"], row["n0"], row["true_label"]) == ("given", "", row["label"])
        assert (other["label_from"], other["n0"]) == ("predicted", "100")
        assert 0 < int(other["votes_n0"]) <= 100
        # The class does not know the labels.
        for column in ("label", "votes_n0", *COLUMNS):
            assert other[column] == third[column]
        assert third["true_label"] == "-1"
        if is_same:
            assert [row[column] for column in COLUMNS] == [other[column] for column in COLUMNS]
        # Below 1/2 it abstains.
        bound = float(lower_bound(int(other["votes"]), int(other["n"]), 0.001))
        assert (float(other["radius_np"]) > 0.0) == (bound > 0.5 + 1e-9)
    # Where a class is wrong, the certificate is of that class all the same.
    assert sum(row["label"] != row["true_label"] for row in half) >= len(half) / 3
    config = json.loads((runs["half"] / "config.json").read_text())
    assert (config["label"], config["n0"]) == ("predicted", 100)
    assert json.loads((runs["given"] / "config.json").read_text())["label"] == "given"


def test_they_are_proved_and_the_proof_says_whose_class_it_is(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {row["proof_dsrs"] for row in rows_of(runs["half"])} <= {"proved", ""}
    capsys.readouterr()
    assert check.main([str(runs["half"]), "--processes", "1"]) == 0
    assert "is the one that draws of its own chose" in capsys.readouterr().out
    # A row of the other protocol among them is no row of this file.
    lines = (runs["half"] / "certificates.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",predicted,", ",given,")
    (tmp_path / "certificates.csv").write_text("\n".join([*lines, ""]))
    assert check.main([str(tmp_path), "--processes", "1"]) == 1
    assert "label_from is 'given', of other rows 'predicted'" in capsys.readouterr().out
    # A file of an earlier version says nothing, and is of given labels.
    with open(runs["given"] / "certificates.csv") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for name in ("true_label", "label_from", "n0", "votes_n0"):
            del row[name]
    with open(tmp_path / "certificates.csv", "w") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    assert check.main([str(tmp_path), "--processes", "1"]) == 0
    assert main(["report", str(tmp_path / "certificates.csv"), "--out", str(tmp_path / "r")]) == 0


def table(out: Path, name: str) -> dict[str, list[str]]:
    with open(out / "tables" / f"{name}.csv") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def test_reports_count_an_image_where_its_class_is_its_label(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.tsv", tmp_path / "half"
    command = ["report", str(runs["half"]), "--radii", "0.1", "0.3", "--out", str(out)]
    assert main([*command, "--write-log", str(log)]) == 0
    printed = capsys.readouterr().out
    assert "100 draws of its own chose; an image counts where that is its label" in printed
    rows, found = rows_of(runs["half"]), table(out, "accuracy")
    right = np.array([row["label"] == row["true_label"] for row in rows])
    radius = np.array([float(row["radius_dsrs"]) for row in rows])
    for at in (0.1, 0.3):
        share = float(found[f"{at:g}"][1].split()[0])
        assert share == pytest.approx(100 * np.mean((radius >= at) & right), abs=0.051)
    assert found["another class"][1] == str(np.sum((radius > 0) & ~right)) != "0"
    assert found["abstain"][1] == str(np.sum(radius == 0.0))
    mean = np.mean(radius * right)
    assert mean - 1e-4 < float(found["mean radius"][1]) <= mean
    assert (out / "results.md").read_text().startswith("# Certified accuracy")
    # Without its certificates they are made of the votes again, of the same classes.
    half_done = tmp_path / "half done"
    shutil.copytree(runs["half"], half_done)
    (half_done / "certificates.csv").unlink()
    command = ["report", str(half_done), "--radii", "0.1", "0.3", "--no-thumbnails"]
    assert main([*command, "--out", str(tmp_path / "votes")]) == 0
    assert table(tmp_path / "votes", "accuracy")["0.1"] == found["0.1"]
    # The log has the radius of the class, right or wrong, and is read the same again.
    assert main(["report", str(log), "--radii", "0.1", "0.3", "--out", str(tmp_path / "log")]) == 0
    again = table(tmp_path / "log", "accuracy")
    assert [again[at][0] for at in ("0.1", "0.3")] == [found[at][1] for at in ("0.1", "0.3")]
    for line, row in zip(csv.DictReader(log.open(), delimiter="\t"), rows, strict=True):
        certified = float(row["radius_dsrs"]) > 0.0
        assert line["predict"] == (row["label"] if certified else "-1")
        assert line["correct"] == str(int(certified and row["label"] == row["true_label"]))


def test_without_labels_a_report_speaks_of_shares(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", str(runs["none"]), "--radii", "0.1", "--out", str(tmp_path)]
    assert main(command) == 0
    assert "no labels are known" in capsys.readouterr().out
    radius = np.array([float(row["radius_dsrs"]) for row in rows_of(runs["none"])])
    share = float(table(tmp_path, "accuracy")["0.1"][1].split()[0])
    assert share == pytest.approx(100 * np.mean(radius >= 0.1), abs=0.051)
    page = (tmp_path / "report.html").read_text()
    assert (tmp_path / "results.md").read_text().startswith("# Certified share")
    assert ">Certified share</h2>" in page and "Certified accuracy" not in page


def test_a_run_that_is_killed_or_has_other_devices_chooses_the_same_classes(
    model: str, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--n", "20000", "--stop", "16", "--q-inside", "0.5", "--draws", "sound"]
    words = ["--model", model, *words, "--label", "predicted", "--n0", "50"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["certify", *words, "--out", str(whole)]) == 0
    process = start([*words, "--batch", "1", "--out", str(out)], 2)
    assert wait_for_more([process], out, 0)
    process.kill()
    process.communicate()
    assert not (out / "certificates.csv").exists()
    assert main(["certify", *words, "--out", str(out)]) == 0
    assert (out / "certificates.csv").read_bytes() == (whole / "certificates.csv").read_bytes()
    capsys.readouterr()
    for change, message in (
        ([*words[:-2], "--n0", "60"], "n0 = 50, not 60"),
        (words[:-4], 'label = "predicted", not "given"'),
    ):
        assert main(["certify", *change, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


def test_looks_and_other_laws_have_the_chosen_class(model: str, tmp_path: Path) -> None:
    words = ["--model", model, "--n", "3000", "--skip", "60", "--draws", "sound"]
    words += ["--label", "predicted", "--radii", "0.3", "--q-sigma", "0.3", "--prove"]
    out = tmp_path / "run"
    assert main(["certify", *words, "--out", str(out)]) == 0
    rows = rows_of(out)
    records = {r["index"]: r for f in record_files(out) for r in map(json.loads, f.open())}
    assert len(rows) == 6 and {row["label_from"] for row in rows} == {"predicted"}
    for row in rows:
        predicted = records[int(row["index"])]["predicted"]
        assert (row["label"], row["votes_n0"]) == (str(predicted["class"]), str(predicted["votes"]))
        assert int(row["votes"]) > int(row["n"]) / 4  # the class that wins


def test_a_folder_of_images_certifies_without_labels(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        values = np.rint(DIGITS.images[index, ..., 0] * 255).astype(np.uint8)
        Image.fromarray(values).save(pictures / f"{index}.png")
    out = tmp_path / "run"
    command = ["certify", "--dataset", "folder", "--data-dir", str(pictures), "--model", model]
    command += ["--n", "500", "--q-inside", "0.5", "--out", str(out)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`certify --label predicted`" in error
    assert not out.exists()
    assert main([*command, "--label", "predicted", "--prove"]) == 0
    printed = capsys.readouterr().out
    assert "certified share" in printed and "another class" not in printed
    assert "0 unproved" in printed and "images are right" not in printed
    rows = rows_of(out)
    assert [row["true_label"] for row in rows] == ["-1"] * 3
    assert rows[0]["label"] == str(DIGITS.labels[0])
    # The image is still what a record is of.
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "1.png")
    assert main([*command, "--label", "predicted"]) == 2
    assert "index 1 is another image" in capsys.readouterr().err
    # Training needs labels.
    train = ["train", "--dataset", "folder", "--data-dir", str(pictures), "--arch", "digits_cnn"]
    assert main([*train, "--sigma", "0.5", "--epochs", "1", "--out", str(tmp_path / "m")]) == 2
    assert "has images and no class folders" in capsys.readouterr().err


CODE = """
from networks import small_classifier
network = small_classifier()
"""


def test_a_pytorch_module_as_it_is_and_the_call_in_python_agree(tmp_path: Path) -> None:
    from networks import small_classifier

    (tmp_path / "net.py").write_text(CODE)
    images = DIGITS.images[:5]
    np.savez(tmp_path / "a.npz", images=images)
    command = ["certify", "--model", f"{tmp_path / 'net.py'}:network", "--input-scaling", "none"]
    command += ["--dataset", "npz", "--data-dir", str(tmp_path / "a.npz"), "--backend", "torch"]
    command += ["--sigma", "0.1", "--k", "4", "--n", "300", "--label", "predicted", "--n0", "40"]
    assert main([*command, "--draws", "sound", "--out", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    found = dsrs_jax.certify_images(
        small_classifier(), images, sigma=0.1, k=4, n=300, n0=40, input_scaling="none",
        backend="torch", quiet=True,
    )  # fmt: skip
    assert found.votes.label.tolist() == [int(row["label"]) for row in rows]
    assert found.votes.votes[:, 0].tolist() == [int(row["votes"]) for row in rows]
    np.testing.assert_allclose(
        found.radius, [float(row["radius_dsrs"]) for row in rows], rtol=0, atol=2e-6
    )
    assert np.sum(found.radius > 0.0) >= 2


def test_a_run_of_an_earlier_version_goes_on(model: str, tmp_path: Path) -> None:
    """Its config.json does not say whose class is certified, nor P's share of alpha."""
    command = ["certify", "--model", model, "--n", "300", "--stop", "1", "--q-inside", "0.5"]
    command += ["--draws", "sound", "--out", str(tmp_path)]
    assert main(command) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("label", "n0", "share_p", "pilot"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(command) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "guessed"], "invalid choice"),
        (["--n0", "50"], "--n0 goes with --label predicted"),
        (["--label", "predicted", "--n0", "0"], "--n0 must be positive"),
        (["--label", "predicted", "--n0", str(2**31)], "--n0 must lie in"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], said: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["certify", "--model", model, *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not out.exists()
