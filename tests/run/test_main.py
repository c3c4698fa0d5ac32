"""The command itself: what it can do, how it says so, and what it does not need for it."""

import importlib.metadata
import os
import runpy
import subprocess
import sys
from pathlib import Path

import flax
import jax
import pytest

from dsrs_jax.run.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert main(["--help"]) == main(["-h"]) == 0
    assert capsys.readouterr().out == 2 * listed
    commands = (
        "certify", "attack", "predict", "published", "train", "convert",
        "report", "study", "audit", "prove",
    )  # fmt: skip
    for name in commands:
        assert f"\n  {name} " in listed
    assert all(len(line) <= 80 for line in listed.splitlines())


def test_an_unknown_command_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certfy", "--n", "3"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    known = ", ".join(COMMANDS)
    assert printed.err == f"dsrs-jax: no command 'certfy'; known: {known}\n"


def test_the_version_says_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"dsrs_jax {importlib.metadata.version('dsrs_jax')}" in lines
    assert f"jax {jax.__version__}" in lines and f"flax {flax.__version__}" in lines
    assert f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}" in lines


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_that_fits_on_two_screens(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"usage: dsrs-jax {command} ") and "most used:" in lines
    assert sum(max(1, -(-len(line) // 80)) for line in lines) <= 80  # as a terminal breaks them
    assert printed.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_script_is_its_command(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = str(ROOT / "scripts" / f"{command}.py")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.startswith(f"usage: dsrs-jax {command} ")


@pytest.fixture(scope="module")
def finished(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    out = tmp_path_factory.mktemp("finished") / "run"
    command = ["certify", "--model", model, "--n", "1000", "--stop", "2", "--q-inside", "0.5"]
    assert main([*command, "--out", str(out)]) == 0
    return out


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "program",
    [
        'from dsrs_jax.run.main import main; code = main(["prove", sys.argv[1], *one])',
        "from dsrs_jax.proof.check import main; code = main([sys.argv[1], *one])",
    ],
)
def test_a_run_is_proved_without_jax(program: str, finished: Path) -> None:
    start, end = 'import sys; one = ["--processes", "1"]', 'print(code, "jax" in sys.modules)'
    done = _python("-c", f"{start}; {program}; {end}", str(finished))
    assert done.stderr == ""
    found, what, said = done.stdout.splitlines()
    assert found.startswith("2 rows: ") and " 0 unproved, " in found
    assert what.startswith("Proved: of ") and "1,000 of P" in what
    assert said == "0 False"


def test_a_file_is_proved_as_its_run_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", str(finished), "--processes", "1"]) == 0
    of_the_run = capsys.readouterr().out
    assert main(["prove", str(finished / "certificates.csv"), "--processes", "1"]) == 0
    assert capsys.readouterr().out == of_the_run
    # Where a radius is not proved, 1; without any certificates, 2.
    longer = finished.parent / "certificates.csv"
    text = (finished / "certificates.csv").read_text().splitlines()
    place = text[0].split(",").index("radius_dsrs")
    cells = text[1].split(",")
    cells[place] = "9.0"
    longer.write_text("\n".join([text[0], ",".join(cells), *text[2:], ""]))
    assert main(["prove", str(longer), "--processes", "1"]) == 1
    assert (
        "unproved: row 1 (index 0), radius_dsrs: radius_dsrs is above the ceiling"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/run"], "cannot read no/such/run"),
        (["."], ". holds no certificates.csv; give the folder of a run that is done"),
        ([".", "--processes", "0"], "--processes must be positive, got 0"),
        ([], "the following arguments are required: RUN (see --help)"),
    ],
)
def test_what_cannot_be_proved_is_told_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prove", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"dsrs-jax prove: {message}")


@pytest.mark.parametrize("how", [["-m", "dsrs_jax", "prove"], ["scripts/prove.py"]])
def test_a_mistake_is_the_process_s_exit_code(how: list[str]) -> None:
    *options, last = how
    place = str(ROOT / last) if last.endswith(".py") else last
    done = _python(*options, place, "no/such/run")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("dsrs-jax prove: cannot read no/such/run: No such file or directory\n")
