"""--q auto: a pilot chooses the second laws once, and the run is as one that was given them."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certify_runs import joined, record_files, rows_of

from dsrs_jax.run.main import main
from dsrs_jax.run.pilot import PILOT_FILE

SMALL = ["--stop", "6", "--n", "6000", "--draws", "sound", "--pilot", "300"]


@pytest.fixture(scope="module")
def chosen(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pilot") / "run"
    command = ["certify", "--model", model, *SMALL, "--q", "auto", "--prove", "--out", str(out)]
    assert main(command) == 0
    return out


def options_of(config: dict) -> list[str]:
    """The second laws of a run, as options."""
    kinds = ("inside", "sigma", "threshold")
    return [word for kind in kinds for one in config[f"q_{kind}"] for word in
            (f"--q-{kind}", str(one))]  # fmt: skip


def test_the_run_is_as_one_that_was_given_the_same_laws(
    chosen: Path, model: str, tmp_path: Path
) -> None:
    config = json.loads((chosen / "config.json").read_text())
    with open(chosen / PILOT_FILE) as stream:
        tried = list(csv.DictReader(stream))
    [taken] = [row for row in tried if row["chosen"]]
    assert taken["second_laws"].startswith(" ".join(options_of(config)) or "P alone")
    assert f"α {config['share_p']:g}" in taken["second_laws"] or not options_of(config)
    assert config["pilot"] == {"draws": 300, "of": 6000}
    means = [float(row["expected_mean"]) for row in tried]
    assert means == sorted(means, reverse=True) and len(tried) > 50
    given = ["certify", "--model", model, *SMALL[:2], "--n", str(config["n"]), "--draws", "sound"]
    assert main([*given, *options_of(config), "--out", str(tmp_path)]) == 0
    for own, other in zip(rows_of(chosen), rows_of(tmp_path), strict=True):
        assert own["proof_dsrs"] in ("proved", "")
        votes = [name for name in own if name.startswith(("votes", "draws", "cutoff", "sigma"))]
        assert len(votes) > 3 and [own[name] for name in votes] == [other[name] for name in votes]


def test_it_goes_on_with_what_was_chosen(
    chosen: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (chosen / "certificates.csv").read_bytes()
    config = (chosen / "config.json").read_bytes()
    for file in record_files(chosen):
        file.unlink()
    (chosen / PILOT_FILE).unlink()
    command = ["certify", "--model", model, "--q", "auto", "--prove", "--out", str(chosen), *SMALL]
    assert main(command) == 0
    assert (chosen / "certificates.csv").read_bytes() == whole
    assert (chosen / "config.json").read_bytes() == config and not (chosen / PILOT_FILE).exists()
    capsys.readouterr()
    assert main([*command, "--pilot", "200"]) == 2
    assert "pilot" in capsys.readouterr().err
    # Half of it is certified as it was meant to be.
    (chosen / "certificates.csv").unlink()
    [first, *_] = files = record_files(chosen)
    for file in files[1:]:
        file.unlink()
    first.write_text(first.read_text().splitlines(keepends=True)[0])
    assert main(["report", str(chosen), "--no-thumbnails", "--out", str(chosen / "shown")]) == 0
    assert "1 of 6 images" in capsys.readouterr().out


def test_what_contradicts_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--q", "auto", "--q-sigma", "0.3"], "leave out the other --q options"),
        (["--q", "auto", "--pilot", "0"], "--pilot must be positive"),
        (["--q", "best"], "auto"),
    ):
        assert main(["certify", *words]) == 2
        assert said in capsys.readouterr().err


def test_two_processes_draw_from_what_the_first_one_chose(
    start: Callable[..., subprocess.Popen[str]], chosen: Path, model: str, tmp_path: Path
) -> None:
    command = ["--model", model, *SMALL, "--q", "auto", "--out", str(tmp_path)]
    running = [start(words) for words in joined(command, 2)]
    for process in running:
        assert process.wait(timeout=600) == 0, process.stderr and process.stderr.read()
    alone, together = (json.loads((one / "config.json").read_text()) for one in (chosen, tmp_path))
    assert alone == together
    names = ("index", "votes", "draws_p", "radius_np")
    shown = [[{name: row.get(name) for name in names} for row in rows_of(one)]
             for one in (chosen, tmp_path) if (one / "certificates.csv").exists()]  # fmt: skip
    assert all(one == shown[0] for one in shown)
