"""`dsrs-jax predict`: classes of image files, clean accuracy, and what cannot be read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from certify_runs import records_of
from commands import refused
from PIL import Image
from scipy import stats

from dsrs_jax import data, report
from dsrs_jax.bounds import interval
from dsrs_jax.noise import generalized_gaussian, sound
from dsrs_jax.run.main import main


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
    command = ["predict", "--model", model, "--skip", "5", "--n", str(n), "--seed", "0"]
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
    assert (float(found["low"]), float(found["high"])) == interval(right, 72, 0.05)
    assert float(found["accuracy"]) == right / 72
    most = np.mean([row["first"] == row["label"] for row in rows])
    assert float(found["accuracy_of_most_votes"]) == most
    assert f"Clean accuracy of the smoothed classifier: {100 * right / 72:.1f}%" in printed
    assert "32 images more; --out DIR has all of them." in printed
    # They are the draws that choose a class for `certify --label predicted`.
    command = ["certify", "--model", model, "--skip", "120", "--n", "200", "--label", "predicted"]
    command += ["--q-inside", "0.5", "--seed", "0", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    records = records_of(tmp_path / "run")
    assert len(records) == 3
    for row in rows[::24]:
        chosen = {"class": int(row["first"]), "votes": int(row["votes_first"])}
        assert records[int(row["index"])]["predicted"] == chosen


def test_image_files_and_folders_of_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, names, out = tmp_path / "pictures", tmp_path / "names", tmp_path / "out"
    save(pictures / "a [bold].png", 0)
    save(pictures / "deeper" / "b.png", 3, colour=True)  # whose channels are equal
    (pictures / ".hidden.png").write_bytes(b"")
    save(tmp_path / "c.png", 8)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names.write_text("\n".join(words))
    command = ["predict", str(tmp_path / "c.png"), str(pictures), "--model", model, "--n", "200"]
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


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "1.png", 0)
    (tmp_path / "2.png").write_bytes(b"no picture")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (20, 30), dtype=np.uint8)).save(tmp_path / "3.png")
    Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "4.png")
    rest = ["--model", model, "--n", "60", "--out", str(tmp_path / "out")]
    assert main(["predict", "--dataset", "folder", "--data-dir", str(tmp_path), *rest]) == 1
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
    first, *others = rows_of(tmp_path / "out" / "predictions.csv")
    assert (first["status"], first["class"]) == ("predicted", str(data.load("digits").labels[0]))
    assert {row["status"] for row in others} == {"unreadable"}
    # A damaged image comes first: the model says the size.
    assert main(["predict", *(str(tmp_path / f"{i}.png") for i in (2, 1)), *rest]) == 1


def test_what_was_counted_is_kept_where_it_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code as the model takes the file's size."""

    def nobody_reads(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(report.Predictions, "table", nobody_reads)
    (tmp_path / "net.py").write_text("def first(images): return images.reshape(-1, 64)[:, :10]")
    save(tmp_path / "1.png", 0)
    command = ["predict", str(tmp_path / "1.png"), "--model", f"{tmp_path / 'net.py'}:first"]
    command += ["--sigma", "0.1", "--k", "0", "--n", "60", "--out", str(tmp_path / "out")]
    with pytest.raises(BrokenPipeError):
        main(command)
    assert "without labels none can be tried" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == 1


def test_what_does_not_fit_the_model_or_the_files_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "1.png", 0)
    (tmp_path / "two").write_text("a\nb\n")
    for option, value, said in (
        ("--classes", tmp_path / "two", "names 2 classes, the model has 10"),
        ("--start", 1, "chooses nothing: the list has the indices 0 to 0"),
        ("--out", tmp_path / "1.png" / "out", "1.png"),  # before anything is drawn
    ):
        command = ["predict", str(tmp_path / "1.png"), "--model", model, option, str(value)]
        refused(capsys, command, said)
