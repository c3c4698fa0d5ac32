"""The command that a stranger types: whole runs, from images to radii that hold."""

import json
import math
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
from certify_runs import FINISHED, SIGMA, K, Once, finished, record_files, rows_of, save_png

from dsrs_jax import data, models, noise
from dsrs_jax.bounds import lower_bound, threshold
from dsrs_jax.certify import certify, evaluate
from dsrs_jax.run.main import main

SHORT = ["--n", "500", "--stop", "3", "--q-inside", "0.5"]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs are made in this process."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def less(bound: float, charge: float) -> float:
    """A bound without what is charged, rounded down."""
    return max(float(np.nextafter(bound - charge, -1.0)), 0.0)


def test_a_run_leaves_certificates_that_hold(once: Once, model: str) -> None:
    out = finished(once, model)
    rows = rows_of(out)
    assert [int(row["index"]) for row in rows] == list(range(0, 360, 20))
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
    for row in rows:
        for method in ("np", "dsrs"):
            claimed = float(row[f"radius_{method}"]) > 0
            assert row[f"proof_{method}"] == ("proved" if claimed else "")
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_left_as_it_is_and_a_killed_proof_goes_on(
    once: Once, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(once, model), out)
    command = ["certify", "--model", model, *FINISHED, "--out", str(out)]
    files = {file: file.read_bytes() for file in (out / "certificates.csv", *record_files(out))}
    proofs = out / "proofs.jsonl"
    # What was proved is kept; what a kill cut short is proved again. Nothing is drawn twice.
    lines = proofs.read_text().splitlines(keepends=True)
    assert len(lines) > 3
    proofs.write_text("".join(lines[:2]) + lines[2][:20])
    assert main(command) == 0
    assert "0 unproved" in capsys.readouterr().out
    assert sorted(proofs.read_text().splitlines(keepends=True)) == sorted(lines)
    assert set(record_files(out)) < set(files)
    # Another N is another run, and all of alpha is spent.
    commands.refused(capsys, [*command, "--n", "3000"], "n = 2000, not 3000")
    looks = ["--tolerance", "0.01", "--continue", "2"]
    commands.refused(capsys, [*command, *looks], "spent all of alpha")
    assert all(file.read_bytes() == content for file, content in files.items())


@pytest.mark.slow
def test_laws_that_are_drawn_separately(model: str, tmp_path: Path) -> None:
    n, out = 300, tmp_path / "run"
    command = ["certify", "--model", model, "--sigma", "0.02", "--n", str(n), "--stop", "6"]
    command += ["--seed", "0"]
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
    # Pooled rows, two-sided bounds and radii on a grid are proved from the same columns.
    other = [*command[:-1], str(tmp_path / "other"), "--stop", "3", "--bounds", "two-sided"]
    assert main([*other, "--search", "grid", "--prove"]) == 0
    assert any(row["status"] == "pooled" for row in rows_of(tmp_path / "other"))


def test_a_run_says_its_draws_and_goes_on_with_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["certify", "--model", model, *SHORT, "--out", str(tmp_path)]
    assert main([*command, "--draws", "float32", "--prove"]) == 0
    printed = capsys.readouterr().out
    assert "Largest radius" in printed and "mean" in printed and "abstain" in printed
    assert "500 float32 draws under each law" in printed and "The draws, floating-point" in printed
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["draws"], settings["grid"]) == ("float32", None)
    assert {row["draws"] for row in rows_of(tmp_path)} == {"float32"}
    table = (tmp_path / "certificates.csv").read_bytes()
    # As it began, with the seed that nobody gave.
    assert main([*command, "--draws", "float32", "--prove"]) == 0
    assert (tmp_path / "certificates.csv").read_bytes() == table
    commands.refused(capsys, command, 'made with draws = "float32", not "sound"')


@pytest.mark.slow
def test_images_on_no_grid_have_no_sound_draws(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, file, out = data.load("digits"), tmp_path / "images.npz", tmp_path / "run"
    dim = digits.images[:3] * np.float32(0.7123)
    np.savez(file, images=dim, labels=digits.labels[:3])
    command = ["certify", "--dataset", "npz", "--data-dir", str(file), "--model", model, *SHORT]
    command += ["--out", str(out)]
    commands.refused(capsys, command, "lie on no grid", "--draws float32")
    assert not (out / "votes").exists()
    assert main([*command, "--draws", "float32"]) == 0
    capsys.readouterr()
    assert json.loads((out / "config.json").read_text())["draws"] == "float32"
    # The same images on a grid finer than 1/255 have them.
    np.savez(file, images=np.rint(dim * 1020) / 1020, labels=digits.labels[:3])
    assert main([*command, "--out", str(tmp_path / "fine")]) == 0
    assert "500 sound draws under each law" in capsys.readouterr().out
    assert {row["grid"] for row in rows_of(tmp_path / "fine")} == {"1020"}


@pytest.mark.slow
def test_a_model_is_given_as_the_run_that_trained_it(trained: Path, tmp_path: Path) -> None:
    assert main(["certify", *SHORT, "--model", str(trained), "--out", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model"] == models.load_model(trained / "model").fingerprint()
    assert (settings["sigma"], settings["k"]) == (SIGMA, K)  # of the training


@pytest.mark.slow
def test_mnist_is_certified_from_its_files(
    model: str, mnist_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mnist_43 that nobody trained: its votes are real, and so are the counts."""
    metadata = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10, 0.5, 380.0, 2.0)
    models.save_model(tmp_path / "model", models.build("mnist_43", seed=0), metadata)
    command = ["certify", *SHORT, "--n", "60", "--out", str(tmp_path / "run")]
    command += ["--dataset", "mnist", "--data-dir", str(mnist_dir), "--model"]
    commands.refused(capsys, [*command, model], "digits_cnn takes images (8, 8, 1)")
    assert not (tmp_path / "run").exists()
    assert main([*command, str(tmp_path / "model")]) == 0
    rows = rows_of(tmp_path / "run")
    assert [row["label"] for row in rows] == ["7", "2", "1"]
    assert all(0 <= int(row["votes_inside_0.5"]) <= int(row["votes"]) for row in rows)
    assert all(math.isfinite(float(row["radius_dsrs"])) for row in rows)


@pytest.mark.slow
def test_folders_that_are_not_just_the_models_classes_have_their_labels_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder, names = data.load("digits"), tmp_path / "images", tmp_path / "names"
    for word, label in (("seven", 7), ("two", 2)):
        save_png(folder / word / "0.png", next(one for one, own in digits if own == label))
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    command += ["--n", "60", "--q-inside", "0.5", "--classes", str(names), "--out"]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names.write_text("\n".join(words) + "\n")
    assert main([*command, str(tmp_path / "run")]) == 0
    assert (
        "2 of the model's 10 classes are here; labels: seven 7, two 2.\n" in capsys.readouterr().out
    )
    assert [row["label"] for row in rows_of(tmp_path / "run")] == ["7", "2"]
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["class_labels"] == {"seven": 7, "two": 2}
    names.write_text("\n".join(words[:8]) + "\n")
    short = [*command, str(tmp_path / "short")]
    commands.refused(capsys, short, "names 8 classes, the model has 10")
