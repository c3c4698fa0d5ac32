"""The command that a stranger types: whole runs, and every mistake in one line."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from certify_runs import SIGMA, K, record_files, rows_of
from PIL import Image

from dsrs_jax import data, models, noise
from dsrs_jax.bounds import lower_bound, threshold
from dsrs_jax.certify import certify, evaluate
from dsrs_jax.run.main import main


def less(bound: float, charge: float) -> float:
    """A bound without what is charged, rounded down."""
    return max(float(np.nextafter(bound - charge, -1.0)), 0.0)


def test_a_run_leaves_certificates_that_hold(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["certify", "--model", model, "--n", "2000", "--skip", "10", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Largest radius" in printed and "mean" in printed and "abstain" in printed

    rows = rows_of(out)
    assert [int(row["index"]) for row in rows] == list(range(0, 360, 10))
    law = noise.generalized_gaussian(64, SIGMA, K)
    quantiles = json.loads((out / "config.json").read_text())["q_inside"]
    inside = [law.truncated(quantile) for quantile in quantiles]
    names = [f"inside_{quantile:.4g}" for quantile in quantiles]
    share = 0.0005 / len(inside)
    certified = [row for row in rows if float(row["radius_dsrs"]) > 0]
    assert len(certified) > len(rows) / 2
    columns = ["p", *names]
    bounds = np.array([[float(row[f"lower_{name}"]) for name in columns] for row in certified])
    multipliers = np.array(
        [[float(row[f"multiplier_{name}"]) for name in columns] for row in certified]
    )
    radius = np.array([float(row["radius_dsrs"]) for row in certified])
    # The bounds follow from the counts in the file, the radii from the bounds and multipliers.
    # They are sound draws: what lies between them and the law is taken off.
    charges = [noise.sound.charge(each, 240) for each in (law, *inside)]
    for i, row in enumerate(certified):
        assert row["draws"] == "sound" and row["grid"] == "240" and row["ambiguous"] == "0"
        own = 0.001 if row["status"] == "all-right" else 0.0005
        assert bounds[i, 0] == less(lower_bound(int(row["votes"]), 2000, own), charges[0])
        for j, name in enumerate(names, start=1):
            count, drawn = int(row[f"votes_{name}"]), int(row[f"draws_{name}"])
            assert bounds[i, j] == less(lower_bound(count, drawn, share), charges[j])
            assert float(row[f"charge_{name}"]) == charges[j]
    value, error_bound = evaluate([law, *inside], bounds, multipliers, radius)
    assert np.all(value - error_bound > 0.5)
    alone = lower_bound([int(row["votes"]) for row in rows], 2000, 0.001)
    plain = certify(law, [less(bound, charges[0]) for bound in alone])
    np.testing.assert_array_equal([float(row["radius_np"]) for row in rows], plain.radius)

    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")

    # The same command again: everything is there, nothing is drawn or written twice.
    votes = {file: file.read_bytes() for file in record_files(out)}
    table = (out / "certificates.csv").read_bytes()
    assert main(command) == 0
    assert {file: file.read_bytes() for file in record_files(out)} == votes
    assert (out / "certificates.csv").read_bytes() == table

    capsys.readouterr()
    assert main([*command, "--n", "3000"]) == 2
    assert capsys.readouterr().err.count("n = 2000, not 3000") == 1
    assert {file: file.read_bytes() for file in record_files(out)} == votes


def test_every_radius_is_proved_and_a_killed_proof_goes_on(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["certify", "--model", model, "--n", "2000", "--stop", "8", "--out", str(out)]
    assert main([*command, "--prove"]) == 0
    assert "0 unproved" in capsys.readouterr().out
    table, proofs = (out / "certificates.csv").read_bytes(), out / "proofs.jsonl"
    for row in rows_of(out):
        for method in ("np", "dsrs"):
            claimed = float(row[f"radius_{method}"]) > 0
            assert row[f"proof_{method}"] == ("proved" if claimed else "")
    assert main(["prove", str(out), "--processes", "1"]) == 0
    # What was proved is kept; what a kill cut short is proved again.
    lines = proofs.read_text().splitlines(keepends=True)
    assert len(lines) > 3
    proofs.write_text("".join(lines[:2]) + lines[2][:20])
    assert main([*command, "--prove"]) == 0
    assert sorted(proofs.read_text().splitlines(keepends=True)) == sorted(lines)
    assert (out / "certificates.csv").read_bytes() == table
    # Pooled rows, two-sided bounds and radii on a grid are proved from the same columns.
    other = ["certify", "--model", model, "--sigma", "0.02", "--n", "300", "--stop", "3"]
    other += ["--q-threshold", "x+", "--bounds", "two-sided", "--search", "grid", "--prove"]
    assert main([*other, "--out", str(tmp_path / "other")]) == 0
    assert any(row["status"] == "pooled" for row in rows_of(tmp_path / "other"))


def test_laws_that_are_drawn_separately(model: str, tmp_path: Path) -> None:
    n, out = 300, tmp_path / "run"
    command = ["certify", "--model", model, "--sigma", "0.02", "--n", str(n), "--stop", "6"]
    command += ["--q-threshold", "x+", "--out", str(out)]
    assert main(command) == 0
    rows = rows_of(out)
    law = noise.generalized_gaussian(64, 0.02, K)
    pooled = [row for row in rows if int(row["votes"]) == n]
    assert pooled  # with next to no noise some image is always right
    for row in rows:
        lower = float(lower_bound(int(row["votes"]), n, 0.0005))  # by which the rule goes
        if int(row["votes"]) == n:
            # Neyman-Pearson from 2N draws of P, at P's own share of alpha.
            bound = lower_bound(n + int(row["votes_threshold_x+"]), 2 * n, 0.0005)
            bound = less(bound, noise.sound.charge(law, 240))
            assert float(row["lower_p"]) == bound
            assert float(row["radius_dsrs"]) == certify(law, [bound]).radius[0]
        elif lower > 0.5:
            q = law.truncated(threshold("x+", lower))
            bounds = [float(row["lower_p"])], [float(row["lower_threshold_x+"])]
            assert bounds[0] == [less(lower, noise.sound.charge(law, 240))]
            again = certify(law, bounds[0], [q], [bounds[1]])
            assert float(row["radius_dsrs"]) == again.radius[0]
    # Two rules that pool have the same second sample: it counts once.
    both = [*command[:-1], str(tmp_path / "both"), "--q-threshold", "x2+"]
    assert main(both) == 0
    for row, alone in zip(rows_of(tmp_path / "both"), rows, strict=True):
        if int(row["votes"]) == n:
            assert row["votes_threshold_x2+"] == alone["votes_threshold_x+"]
            bound = lower_bound(n + int(row["votes_threshold_x+"]), 2 * n, 0.0005)
            bound = less(bound, noise.sound.charge(law, 240))
            assert float(row["lower_p"]) == bound


def npz_of(path: Path, images: np.ndarray, labels: np.ndarray) -> list[str]:
    np.savez(path, images=images, labels=labels)
    return ["--dataset", "npz", "--data-dir", str(path)]


def test_a_run_says_its_draws_and_goes_on_with_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--model", model, "--n", "500", "--stop", "3", "--q-inside", "0.5"]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--draws", "float32", "--prove"]) == 0
    printed = capsys.readouterr().out
    assert "Draws: sound" not in printed and "The draws, floating-point" in printed
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["draws"], settings["grid"]) == ("float32", None)
    assert {row["draws"] for row in rows_of(tmp_path / "run")} == {"float32"}
    table = (tmp_path / "run" / "certificates.csv").read_bytes()
    assert main([*command, "--prove"]) == 0  # as it began
    assert (tmp_path / "run" / "certificates.csv").read_bytes() == table
    capsys.readouterr()
    assert main([*command, "--draws", "sound"]) == 2
    assert 'made with draws = "float32", not "sound"' in capsys.readouterr().err


def test_images_on_no_grid_have_no_sound_draws(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = data.load("digits")
    dim = digits.images[:3] * np.float32(0.7123)
    command = ["certify", "--model", model, "--n", "500", "--q-inside", "0.5"]
    command += npz_of(tmp_path / "dim.npz", dim, digits.labels[:3])
    assert main([*command, "--draws", "sound", "--out", str(tmp_path / "sound")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "lie on no grid" in error and "--draws float32" in error
    assert not (tmp_path / "sound" / "votes").exists()
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "Draws: float32, which no proof covers (the images lie on no grid" in printed
    assert json.loads((tmp_path / "run" / "config.json").read_text())["draws"] == "float32"
    # The same images on a grid finer than 1/255 have them.
    fine = np.rint(dim * 1020) / 1020
    command = [*command[:-1], str(tmp_path / "fine.npz")]
    np.savez(tmp_path / "fine.npz", images=fine, labels=digits.labels[:3])
    assert main([*command, "--out", str(tmp_path / "fine")]) == 0
    assert "Draws: sound, on a grid of 1/1020." in capsys.readouterr().out
    assert {row["grid"] for row in rows_of(tmp_path / "fine")} == {"1020"}


def test_the_kind_of_draws_of_a_long_run_is_measured(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--model", model, "--n", "1000000", "--stop", "1", "--q-inside", "0.5"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    kind = json.loads((tmp_path / "config.json").read_text())["draws"]
    found = re.search(rf"Draws: {kind}.*?([0-9.]+)% more time than float32", printed)
    assert found and (float(found[1]) < 10.0) == (kind == "sound")


def test_the_grid_keeps_the_last_multiple_that_certifies(model: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["certify", "--model", model, "--n", "500", "--stop", "12", "--out", str(out)]
    assert main(command) == 0
    precise = np.array([float(row["radius_dsrs"]) for row in rows_of(out)])
    # The votes are kept: only the search changes.
    assert main([*command, "--search", "grid", "--grid-unit", "0.05"]) == 0
    rows = rows_of(out)
    grid = np.array([float(row["radius_dsrs"]) for row in rows])
    law = noise.generalized_gaussian(64, SIGMA, K)
    start = certify(law, [float(row["lower_p"]) for row in rows]).radius
    assert np.all(grid <= precise) and np.all(grid > precise - 0.05)
    on_grid = np.abs(grid / 0.05 - np.round(grid / 0.05)) < 1e-9
    assert np.all(on_grid | (grid == np.minimum(start, precise)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "32"], "2k < 64"),
        (["--sigma", "0"], "sigma must be positive"),
        (["--sigma", "nan"], "sigma must be a finite number"),
        (["--n", "0"], "--n must be positive"),
        (["--n", "3"], "can certify nothing"),
        (["--alpha", "0"], "--alpha must lie in"),
        (["--alpha", "1"], "--alpha must lie in"),
        (["--model", "no/such/model"], "no such checkpoint"),
        (["--dataset", "mnist"], "--data-dir"),
        (["--dataset", "mnist", "--data-dir", "no/such/folder"], "no/such/folder"),
        (["--dataset", "fashion"], "invalid choice"),
        (["--start", "400"], "chooses nothing"),
        (["--skip", "0"], "--skip"),
        (["--batch", "0"], "--batch"),
        (["--patience", "0"], "--patience"),
        (["--coordinator", "here:1"], "--num-processes"),
        (["--distributed", "--process-id", "0"], "leave out"),
        (["--q-inside", "1.5"], "quantile"),
        (["--q-inside", "0.5", "--q-inside", "0.5"], "twice"),
        (["--q-sigma", "-1"], "sigma must be positive"),
        (["--q-sigma", str(SIGMA)], "is P itself"),
        (["--q-threshold", "x3"], "x2"),
        (["--noise", "gaussian", "--k", "3"], "k = 0"),
        (["--n", "many"], "invalid int"),
        (["--draws", "exact"], "invalid choice"),
        (["--radii", "0.5", "0.5"], "--radii must be positive and increase, got 0.5 0.5"),
        (["--radii", "0"], "--radii must be positive"),
        (["--radii", "nan"], "--radii must be positive"),
        (["--radii"], "expected at least one argument"),
        (["--radii", "0.5", "--tolerance", "0.1"], "two goals"),
        (["--tolerance", "1"], "--tolerance must lie in [0, 1)"),
        (["--tolerance", "-0.1"], "--tolerance must lie in [0, 1)"),
        (["--tolerance", "nan"], "--tolerance must lie in [0, 1)"),
        (["--radii", "0.5", "--continue", "3"], "--continue must be a power of two"),
        (["--budget", "0"], "--budget must be positive"),
        (["--budget", "10000"], "--budget 10000 is too small: one look at each of 360 images"),
        (["--budget", "9", "--tolerance", "0.1"], "two goals"),
        (["--continue", "2"], "all of alpha is spent at N draws"),
        (["--radii", "0.5", "--q-threshold", "x+"], "--q-threshold x+ waits for all votes"),
        (["--colour", "red"], "unrecognized"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--model" in arguments else ["--model", model, *arguments]
    assert main(["certify", *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dsrs-jax certify: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["the run", "its model"])
def test_a_model_is_given_as_its_folder_or_as_the_run_that_trained_it(
    place: str, trained: Path, tmp_path: Path
) -> None:
    path = trained if place == "the run" else trained / "model"
    command = ["certify", "--n", "500", "--stop", "2", "--q-inside", "0.5"]
    assert main([*command, "--model", str(path), "--out", str(tmp_path / "run")]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    kept = models.load_model(trained / "model")
    assert settings["model"] == kept.fingerprint()
    assert (settings["sigma"], settings["k"]) == (SIGMA, K)  # of the training


def test_a_model_of_another_data_set_is_refused(
    model: str, mnist_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--dataset", "mnist", "--data-dir", str(mnist_dir), "--model", model]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "digits_cnn takes images (8, 8, 1)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_mnist_is_certified_from_its_files(mnist_dir: Path, tmp_path: Path) -> None:
    """A mnist_43 that nobody trained: its votes are real, and so are the counts."""
    metadata = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10, 0.5, 380.0, 2.0)
    models.save_model(tmp_path / "model", models.build("mnist_43", seed=0), metadata)
    command = ["certify", "--dataset", "mnist", "--data-dir", str(mnist_dir)]
    command += ["--model", str(tmp_path / "model"), "--n", "60", "--stop", "2", "--q-inside", "0.5"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    assert [int(row["label"]) for row in rows] == data.load("mnist", "test", mnist_dir).labels[
        :2
    ].tolist()
    assert all(0 <= int(row["votes_inside_0.5"]) <= int(row["votes"]) for row in rows)
    assert all(math.isfinite(float(row["radius_dsrs"])) for row in rows)


def test_folders_that_are_not_just_the_models_classes_have_their_labels_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder, names = data.load("digits"), tmp_path / "images", tmp_path / "names"
    for word, label in (("seven", 7), ("two", 2)):
        (folder / word).mkdir(parents=True)
        index = next(i for i in range(len(digits)) if digits[i][1] == label)
        values = np.rint(digits[index][0][..., 0] * 255).astype(np.uint8)
        Image.fromarray(values).save(folder / word / "0.png")
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += ["--n", "60", "--q-inside", "0.5"]
    assert main([*command, "--out", str(tmp_path / "places")]) == 0
    told = "2 of the model's 10 classes are here; labels: seven 0, two 1.\n"
    assert told in capsys.readouterr().out
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names.write_text("\n".join(words) + "\n")
    out = tmp_path / "names given"
    assert main([*command, "--classes", str(names), "--out", str(out)]) == 0
    assert "labels: seven 7, two 2.\n" in capsys.readouterr().out
    assert [int(row["label"]) for row in rows_of(out)] == [7, 2]
    settings = json.loads((out / "config.json").read_text())
    assert settings["class_labels"] == {"seven": 7, "two": 2}
    names.write_text("\n".join(words[:8]) + "\n")
    assert main([*command, "--classes", str(names), "--out", str(tmp_path / "short")]) == 2
    assert "names 8 classes, the model has 10" in capsys.readouterr().err
