"""`dsrs-jax predict`: classes of image files, clean accuracy, and every mistake in one line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from certify_runs import record_files
from PIL import Image
from scipy import stats

from dsrs_jax import data, models
from dsrs_jax.bounds import interval
from dsrs_jax.noise import generalized_gaussian, sound
from dsrs_jax.run.main import main

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from networks import small_classifier
network = small_classifier()
"""


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file) as stream:
        return list(csv.DictReader(stream))


def save(file: Path, index: int, colour: bool = False) -> None:
    """A test image of the digits as a file of 8 bits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.rint(data.load("digits")[index][0][..., 0] * 255).astype(np.uint8)
    Image.fromarray(np.stack([values] * 3, axis=-1) if colour else values).save(file)


def test_a_data_sets_predictions_and_its_clean_accuracy(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n, alpha = 100, 0.001
    command = ["predict", "--model", model, "--skip", "5", "--n", str(n), "--draws", "sound"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(tmp_path / "predictions.csv")
    labels = data.load("digits").labels
    assert [int(row["index"]) for row in rows] == list(range(0, 360, 5))
    charge = n * sound.charge(generalized_gaussian(64, 0.4, 28.0), 240)
    for row in rows:
        first, second = int(row["votes_first"]), int(row["votes_second"])
        expected = stats.binomtest(first, first + second, 0.5).pvalue + charge
        assert float(row["p_value"]) == pytest.approx(min(expected, 1.0), rel=1e-9)
        sure = float(row["p_value"]) <= alpha
        assert row["status"] == ("predicted" if sure else "abstained")
        assert row["class"] == (row["first"] if sure else "-1")
        assert int(row["label"]) == labels[int(row["index"])]
        assert second <= first and first + second <= n
    right = sum(row["class"] == row["label"] for row in rows)
    [found] = rows_of(tmp_path / "accuracy.csv")
    assert (found["images"], found["right"]) == ("72", str(right))
    assert int(found["abstained"]) == sum(row["status"] == "abstained" for row in rows) > 0
    assert sum(int(found[name]) for name in ("right", "wrong", "abstained")) == 72
    low, high = interval(right, 72, 0.05)
    assert (float(found["low"]), float(found["high"])) == (low, high)
    assert float(found["accuracy"]) == right / 72
    most = np.mean([row["first"] == row["label"] for row in rows])
    assert float(found["accuracy_of_most_votes"]) == most
    assert f"Clean accuracy of the smoothed classifier: {100 * right / 72:.1f}%" in printed
    assert "32 images more; --out DIR has all of them." in printed
    # They are the draws that choose a class for `certify --label predicted`.
    command = ["certify", "--model", model, "--skip", "120", "--n", "200", "--label", "predicted"]
    command += ["--q-inside", "0.5", "--draws", "sound", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    by_index = {int(row["index"]): row for row in rows}
    lines = [line for file in record_files(tmp_path / "run") for line in file.open()]
    records = [json.loads(line) for line in lines]
    assert len(records) == 3
    for record in records:
        row = by_index[record["index"]]
        chosen = {"class": int(row["first"]), "votes": int(row["votes_first"])}
        assert record["predicted"] == chosen


def test_image_files_and_folders_of_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, names = tmp_path / "pictures", tmp_path / "names"
    save(pictures / "a [bold].png", 0)
    save(pictures / "deeper" / "b.png", 3, colour=True)  # whose channels are equal
    (pictures / ".hidden.png").write_bytes(b"")
    save(tmp_path / "c.png", 8)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names.write_text("\n".join(words))
    command = ["predict", str(tmp_path / "c.png"), str(pictures), "--model", model, "--n", "200"]
    out = tmp_path / "out"
    assert main([*command, "--classes", str(names), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(out / "predictions.csv")
    assert [Path(row["image"]).name for row in rows] == ["c.png", "a [bold].png", "b.png"]
    labels = [str(data.load("digits").labels[index]) for index in (8, 0, 3)]
    assert [row["class"] for row in rows] == labels
    assert [row["name"] for row in rows] == [words[int(label)] for label in labels]
    assert {row["label"] for row in rows} == {"-1"} and "accuracy" not in printed
    assert f"{labels[0]} {words[int(labels[0])]}" in printed and "[bold]" in printed
    assert not (out / "accuracy.csv").exists()
    # As a data set without class folders they have the same votes.
    flat = tmp_path / "flat"
    for number, index in enumerate((8, 0, 3)):
        save(flat / f"{number}.png", index)
    command = ["predict", "--dataset", "folder", "--data-dir", str(flat), "--model", model]
    assert main([*command, "--n", "200", "--out", str(tmp_path / "flat out")]) == 0
    for row, other in zip(rows, rows_of(tmp_path / "flat out" / "predictions.csv"), strict=True):
        assert {**row, "image": "", "name": ""} == {**other, "image": "", "name": ""}


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "1.png", 0)
    (tmp_path / "2.png").write_bytes(b"no picture")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (20, 30), dtype=np.uint8)).save(tmp_path / "3.png")
    Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "4.png")
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path), "--model", model, "--n", "60", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    for said in (
        "2.png: cannot identify",
        "3.png: it has 30 x 20 pixels; resize or crop it to 8 x 8",
        "4.png: it is in colour",
    ):
        assert said in printed.out
    assert printed.err == (
        "dsrs-jax predict: 3 of 4 images could not be read; all others are done\n"
    )
    status = [row["status"] for row in rows_of(out / "predictions.csv")]
    assert status == ["predicted", *["unreadable"] * 3]
    # A damaged image comes first: the model says the size.
    only = ["predict", *(str(tmp_path / f"{i}.png") for i in (2, 1)), "--model", model]
    assert main([*only, "--n", "60"]) == 1


def test_what_was_counted_is_kept_where_nobody_reads_on(model: str, tmp_path: Path) -> None:
    """The files come before the table."""
    save(tmp_path / "1.png", 0)
    command = ["predict", str(tmp_path / "1.png"), "--model", model, "--n", "60"]
    running = subprocess.Popen(
        [sys.executable, "-m", "dsrs_jax", *command, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline()
    running.stdout.close()
    assert running.wait(timeout=300) in (0, 141)  # 0 where all was printed by then
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == 1
    # Where nothing can be written nothing is drawn.
    assert main([*command, "--out", str(tmp_path / "1.png" / "out")]) == 2


def test_a_pytorch_module_takes_the_files_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(CODE)
    save(tmp_path / "1.png", 0)
    command = ["predict", str(tmp_path / "1.png"), "--model", f"{tmp_path / 'net.py'}:network"]
    command += ["--sigma", "0.1", "--k", "0", "--n", "100", "--out", str(tmp_path / "out")]
    assert main([*command, "--backend", "torch"]) == 0
    assert "without labels none can be tried" in capsys.readouterr().out
    [row] = rows_of(tmp_path / "out" / "predictions.csv")
    assert int(row["votes_first"]) + int(row["votes_second"]) <= 100


def test_mnists_clean_accuracy(mnist_dir: Path, tmp_path: Path) -> None:
    metadata = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10, 0.5, 380.0, 2.0)
    models.save_model(tmp_path / "model", models.build("mnist_43", seed=0), metadata)
    command = ["predict", "--dataset", "mnist", "--data-dir", str(mnist_dir), "--stop", "3"]
    command += ["--model", str(tmp_path / "model"), "--n", "60", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    [found] = rows_of(tmp_path / "out" / "accuracy.csv")
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [int(row["label"]) for row in rows] == [7, 2, 1]
    assert int(found["right"]) == sum(row["class"] == row["label"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no.png"], "no such file: no.png"),
        (["nothing"], "no images in nothing"),
        (["1.png", "--dataset", "mnist"], "two sources"),
        (["1.png", "--data-dir", "."], "two sources"),
        (["1.png", "--n", "5"], "give at least 11"),
        (["1.png", "--alpha", "1"], "--alpha must lie in"),
        (["1.png", "--classes", "two"], "names 2 classes, the model has 10"),
        (["1.png", "--model", "nowhere"], "no such checkpoint"),
        (["1.png", "--draws", "exact"], "invalid choice"),
        (["1.png", "--batch", "0"], "--batch must be positive"),
        (["1.png", "--seed", "-1"], "--seed must lie in"),
        (["1.png", "--start", "1"], "chooses nothing: the list has the indices 0 to 0"),
        (["--dataset", "folder", "--data-dir", "nothing"], "no images in nothing"),
        (["--dataset", "mnist"], "--data-dir"),
        (["1.png", "--out", "s3://bucket"], "s3://bucket"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str],
    said: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "1.png", 0)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "two").write_text("a\nb\n")
    given = [] if "--model" in arguments else ["--model", model]
    assert main(["predict", *arguments, *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dsrs-jax predict: ") and said in error


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "1.png"]) == 2
    assert "predict needs --model M" in capsys.readouterr().err
