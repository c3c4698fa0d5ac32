"""Standard output that is lost: its disk is full, its reader has gone, it was never there."""

import io
import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from certify_runs import Once, finished

from dsrs_jax.run.main import main


def _shell(
    line: str, *words: str, module: str = "dsrs_jax", unbuffered: bool = False
) -> subprocess.CompletedProcess[str]:
    """`line` in a shell, in which "$@" is the command."""
    environment = {**commands.environment(), "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    program = ["bash", "-c", line, "bash", sys.executable, "-m", module, *words]
    return subprocess.run(program, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "program"), [([], "dsrs-jax"), (["prove", "--help"], "dsrs-jax prove")]
)
def test_output_that_cannot_be_written_is_told_or_ends_the_command_in_silence(
    words: list[str],
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def code(words: list[str], stdout: io.TextIOWrapper | None) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            return main(words)

    with open("/dev/full", "wb", buffering=0) as full:
        assert code(words, io.TextIOWrapper(full, write_through=True)) == 2
    assert capsys.readouterr().err == (
        f"{program}: cannot write to standard output: No space left on device; "
        "make room there, or send it elsewhere\n"
    )
    here, there = os.pipe()
    os.close(here)
    with os.fdopen(there, "wb", buffering=0) as unread:
        assert code(words, io.TextIOWrapper(unread, write_through=True)) == 141
    assert code(["--help"], None) == 0  # it was closed before the program began
    assert capsys.readouterr().err == ""


@pytest.mark.process
def test_a_full_disk_under_standard_output_is_told_in_one_line() -> None:
    done = _shell('"$@" > /dev/full', "prove", "--help")
    assert done.returncode == 2
    error = "cannot write to standard output: No space left on device"
    commands.assert_one_line_error(done.stderr, "prove", error)
    # Where standard error is full, too, the exit code is all that is left.
    assert _shell('"$@" > /dev/full 2>&1', "--version", unbuffered=True).returncode == 2


@pytest.mark.process
def test_a_program_whose_reader_has_gone_ends_without_a_word(
    once: Once, model: str, tmp_path: Path
) -> None:
    gone = 'exec 3> >(exit); wait $!; "$@" >&3'
    words = ["certify", "--n", "500", "--stop", "2", "--model", model, "--out", str(tmp_path)]
    proof = [str(finished(once, model)), "--processes", "1"]
    for done in (_shell(gone, *words), _shell(gone, *proof, module="dsrs_jax.proof")):
        assert (done.returncode, done.stderr) == (141, "")
    done = _shell('"$@" > /dev/full', *proof, module="dsrs_jax.proof")
    assert (done.returncode, done.stderr) == (2, "cannot go on: No space left on device\n")
