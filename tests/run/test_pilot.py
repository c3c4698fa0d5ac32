"""--q auto: a pilot chooses the second laws once, and the run is as one that was given them."""

import csv
import json
from pathlib import Path

import commands
import pytest
from certify_runs import record_files, rows_of

from dsrs_jax.run.main import main
from dsrs_jax.run.pilot import PILOT_FILE

pytestmark = pytest.mark.slow
SMALL = ["--stop", "6", "--n", "6000", "--seed", "0", "--pilot", "300"]


@pytest.fixture(scope="module")
def chosen(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pilot") / "run"
    command = ["certify", "--model", model, *SMALL, "--q", "auto", "--prove", "--out", str(out)]
    assert main(command) == 0
    return out


def options_of(config: dict) -> list[str]:
    """The second laws of a run, as options."""
    return [
        word
        for kind in ("inside", "sigma", "threshold")
        for value in config[f"q_{kind}"]
        for word in (f"--q-{kind}", str(value))
    ]


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
    given = ["certify", "--model", model, *SMALL[:2], "--n", str(config["n"]), "--seed", "0"]
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
    commands.refused(capsys, [*command, "--pilot", "200"], "pilot")


@pytest.mark.process
def test_two_processes_draw_from_what_the_first_one_chose(model: str, tmp_path: Path) -> None:
    """With looks, after which each process decides which of its images go on."""
    alone, out = tmp_path / "alone", tmp_path / "run"
    command = ["certify", "--model", model, *SMALL, "--q", "auto", "--radii", "0.3", "0.6", "--out"]
    assert main([*command, str(alone)]) == 0
    words = [*command, str(out)]
    running = [commands.start(each) for each in commands.joined(words, words)]
    assert [code for code, _ in commands.ended(running)] == [0, 0]
    assert len(record_files(out, 0)) > 0 < len(record_files(out, 1))
    for name in ("config.json", "certificates.csv"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
