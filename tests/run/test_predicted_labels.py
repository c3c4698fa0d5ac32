"""`certify --label predicted`: draws of their own choose the class; all else stays as it is."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from certify_runs import records_of, rows_of
from commands import refused
from PIL import Image

from dsrs_jax import certify_images, data, models
from dsrs_jax.bounds import lower_bound
from dsrs_jax.proof import check
from dsrs_jax.run.main import main

DIGITS = data.in_memory(data.load("digits"))
# They are files of this kind; on the digits' own grid of 1/240.
IMAGES, LABELS = np.rint(DIGITS.images[::15] * 240) / 240, DIGITS.labels[::15]
SHORT = ["--n", "2000", "--q-inside", "0.5", "--seed", "0"]
COLUMNS = ("n", "votes", "votes_inside_0.5", "radius_np", "radius_dsrs")


def words_of(folder: Path, name: str, model: str, out: Path | None = None) -> list[str]:
    words = ["--dataset", "npz", "--data-dir", str(folder / f"{name}.npz"), *SHORT]
    words += ["--label", "given" if name == "given" else "predicted"]
    return ["certify", "--model", model, *words, "--out", str(out or folder / name)]


@pytest.fixture(scope="module")
def runs(model: str, once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The same images: their labels given, given but half of them wrong, and none."""
    half = np.where(np.arange(len(LABELS)) % 2 == 0, LABELS, (LABELS + 1) % 10)

    def make(folder: Path) -> None:
        folder.mkdir()
        known = {"given": {"labels": LABELS}, "half": {"labels": half}, "none": {}}
        for name, labels in known.items():
            np.savez(folder / f"{name}.npz", images=IMAGES, **labels)
            assert main(words_of(folder, name, model)) == 0

    return once("predicted", make)


def test_certificates_are_those_of_the_label_where_the_class_is_it(runs: Path, model: str) -> None:
    given, half, none = (rows_of(runs / name) for name in ("given", "half", "none"))
    same = [row["label"] == other["label"] for row, other in zip(given, half, strict=True)]
    assert 0.9 * len(same) < sum(same)
    for row, other, third, is_same in zip(given, half, none, same, strict=True):
        assert (row["label_from"], row["n0"], row["true_label"]) == ("given", "", row["label"])
        assert (other["label_from"], other["n0"]) == ("predicted", "100")
        assert 0 < int(other["votes_n0"]) <= 100
        # The class does not know the labels.
        assert third["true_label"] == "-1"
        for column in ("label", "votes_n0", *COLUMNS):
            assert other[column] == third[column]
        if is_same:
            assert [row[column] for column in COLUMNS] == [other[column] for column in COLUMNS]
        # Below 1/2 it abstains.
        bound = float(lower_bound(int(other["votes"]), int(other["n"]), 0.001))
        assert (float(other["radius_np"]) > 0.0) == (bound > 0.5 + 1e-9)
    # Where a class is wrong, the certificate is of that class all the same.
    assert sum(row["label"] != row["true_label"] for row in half) >= len(half) / 3
    # The call in Python chooses the same classes.
    classifier = models.load_model(Path(model))
    found = certify_images(classifier, IMAGES, n=2000, inside=[0.5], seed=0, quiet=True)
    assert found.votes.label.tolist() == [int(row["label"]) for row in none]
    assert found.votes.votes[:, 0].tolist() == [int(row["votes"]) for row in none]


def test_proofs_say_whose_class_it_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, report = tmp_path / "certificates.csv", ["--out", str(tmp_path / "results")]

    def checked(rows: list[dict[str, str]]) -> int:
        with open(file, "w") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return check.main([str(file), "--processes", "1"])

    first, *rows = rows_of(runs / "half")[:4]
    assert checked([first, *rows]) == 0
    assert "is the one that draws of its own chose" in capsys.readouterr().out
    # A row of the other protocol among them is no row of this file, and says that it is not.
    own = {"true_label": first["label"], "n0": "", "votes_n0": ""}
    given = first | own | {"label_from": "given"}
    assert checked([given, *rows]) == 1
    assert "n0 is nothing, of other rows 100" in capsys.readouterr().out
    # Nor can all rows hide that their classes were predicted.
    for word in ("PREDICTED", "chosen", "", "given"):
        hidden = [row | {"label_from": word} for row in (first, *rows)]
        assert checked(hidden) == 1
        assert "0 radii proved" in capsys.readouterr().out
        refused(capsys, ["report", str(file), *report], "has no image")
    hidden = [row | {"label_from": "given", "n0": "", "votes_n0": ""} for row in (first, *rows)]
    assert checked(hidden) == 1
    assert "label_from is 'given', but label is" in capsys.readouterr().out
    # A file without these columns says nothing of it.
    assert checked([{k: row[k] for k in row if k != "label_from"} for row in rows]) == 2
    # A class that is not there is none that could be certified.
    assert checked([first | {"label": ""}, *rows]) == 1
    assert main(["report", str(file), *report]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "label is '', not a number; it is left out" in said


def test_a_run_continues_with_its_own_classes_alone(
    runs: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(runs, "half", model)
    refused(capsys, [*words, "--n0", "60"], "n0 = 100, not 60")
    refused(capsys, [*words, "--label", "given"], 'label = "predicted", not "given"')
    refused(capsys, [*words, "--n0", str(2**31)], "--n0 must lie in")
    # Of an earlier version config.json does not say whose class it is, nor P's share of alpha.
    shutil.copytree(runs / "given", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    for name in ("label", "n0", "share_p", "pilot"):
        del config[name]
    file.write_text(json.dumps(config))
    assert main(words_of(runs, "given", model, tmp_path / "run")) == 0


def table(out: Path) -> dict[str, list[str]]:
    with open(out / "tables" / "accuracy.csv") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def test_reports_count_an_image_where_its_class_is_its_label(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.tsv", tmp_path / "half"
    words = ["--radii", "0.1", "0.3", "--no-thumbnails", "--out"]
    assert main(["report", str(runs / "half"), *words, str(out), "--write-log", str(log)]) == 0
    printed = capsys.readouterr().out
    assert "100 draws of its own chose; an image counts where that is its label" in printed
    rows, found = rows_of(runs / "half"), table(out)
    right = np.array([row["label"] == row["true_label"] for row in rows])
    radius = np.array([float(row["radius_dsrs"]) for row in rows])
    for at in ("0.1", "0.3"):
        share = 100 * np.mean((radius >= float(at)) & right)
        assert float(found[at][1].split()[0]) == pytest.approx(share, abs=0.051)
    assert found["another class"][1] == str(np.sum((radius > 0) & ~right)) != "0"
    assert found["abstain"][1] == str(np.sum(radius == 0.0))
    mean = np.mean(radius * right)
    assert mean - 1e-4 < float(found["mean radius"][1]) <= mean
    # Without its certificates they are made of the votes again, of the same classes.
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs / "half", unfinished)
    (unfinished / "certificates.csv").unlink()
    assert main(["report", str(unfinished), *words, str(tmp_path / "votes")]) == 0
    assert table(tmp_path / "votes")["0.1"] == found["0.1"]
    # The log has the radius of the class, right or wrong, and is read the same again.
    assert main(["report", str(log), *words, str(tmp_path / "log")]) == 0
    again = table(tmp_path / "log")
    assert [again[at][0] for at in ("0.1", "0.3")] == [found[at][1] for at in ("0.1", "0.3")]
    for line, row in zip(csv.DictReader(log.open(), delimiter="\t"), rows, strict=True):
        certified = float(row["radius_dsrs"]) > 0.0
        assert line["predict"] == (row["label"] if certified else "-1")
        assert line["correct"] == str(int(certified and row["label"] == row["true_label"]))


@pytest.mark.slow
def test_looks_and_other_laws_have_the_chosen_class(runs: Path, model: str, tmp_path: Path) -> None:
    words = ["--skip", "3", "--radii", "0.3", "--q-sigma", "0.3", "--prove"]
    assert main([*words_of(runs, "half", model, tmp_path), *words]) == 0
    rows, records = rows_of(tmp_path), records_of(tmp_path)
    assert 0 < sum(row["label"] != row["true_label"] for row in rows) < len(rows)
    for row in rows:
        predicted = records[int(row["index"])]["predicted"]
        assert (row["label"], row["votes_n0"]) == (str(predicted["class"]), str(predicted["votes"]))
        assert int(row["votes"]) > int(row["n"]) / 4  # the class that wins


def test_a_folder_of_images_is_certified_without_labels(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    for index in range(3):
        values = np.rint(DIGITS.images[index, ..., 0] * 255).astype(np.uint8)
        Image.fromarray(values).save(pictures / f"{index}.png")
    here = ["--dataset", "folder", "--data-dir", str(pictures), "--out", str(out)]
    command = ["certify", "--model", model, *SHORT, *here]
    refused(capsys, command, "`certify --label predicted`")
    assert not out.exists()
    command += ["--label", "predicted"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "certified share" in printed
    assert "another class" not in printed and "images are right" not in printed
    rows = rows_of(out)
    assert [row["true_label"] for row in rows] == ["-1"] * 3
    assert rows[0]["label"] == str(DIGITS.labels[0])
    assert main(["report", str(out), "--radii", "0.1", "--out", str(tmp_path / "results")]) == 0
    assert "no labels are known" in capsys.readouterr().out
    share = 100 * np.mean([float(row["radius_dsrs"]) >= 0.1 for row in rows])
    found = float(table(tmp_path / "results")["0.1"][1].split()[0])
    assert found == pytest.approx(share, abs=0.051)
    page = (tmp_path / "results" / "report.html").read_text()
    assert ">Certified share</h2>" in page and "Certified accuracy" not in page
    # The image is still what a record is of.
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "1.png")
    refused(capsys, command, "index 1 is another image")
    # Training needs labels.
    train = ["train", "--arch", "digits_cnn", "--sigma", "0.5", "--epochs", "1", *here]
    refused(capsys, train, "has images and no class folders")
