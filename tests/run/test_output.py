"""Standard output that is lost: its disk is full, its reader has gone, it was never there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.votes import VoteTable

ROOT = Path(__file__).resolve().parents[2]
FULL = Path("/dev/full")
CERTIFY = ["certify", "--n", "500", "--stop", "2", "--q-inside", "0.5"]


def _shell(
    line: str, *arguments: str, unbuffered: bool = False, module: str = "dsrs_jax"
) -> subprocess.CompletedProcess:
    """`line` in a shell, in which "$@" is the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        ["bash", "-c", line, "bash", *command], env=environment, capture_output=True, text=True
    )


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    ("words", "program"),
    [
        ([], "dsrs-jax"),
        (["--help"], "dsrs-jax"),
        (["--version"], "dsrs-jax"),
        (["prove", "--help"], "dsrs-jax prove"),
    ],
)
def test_a_full_disk_under_standard_output_is_told_in_one_line(
    words: list[str], program: str, unbuffered: bool
) -> None:
    done = _shell('"$@" > /dev/full', *words, unbuffered=unbuffered)
    assert done.returncode == 2
    assert done.stderr == (
        f"{program}: cannot write to standard output: No space left on device; "
        "make room there, or send it elsewhere\n"
    )
    # Where standard error is full, too, the exit code is all that is left.
    assert _shell('"$@" > /dev/full 2>&1', *words, unbuffered=unbuffered).returncode == 2


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_run_into_a_full_disk_is_told_in_one_line(model: str, tmp_path: Path) -> None:
    words = [*CERTIFY, "--model", model, "--out", str(tmp_path / "run")]
    done = _shell('"$@" > /dev/full', *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("dsrs-jax certify: cannot write to standard output: No space")


def test_a_run_whose_reader_goes_ends_without_a_word(model: str, tmp_path: Path) -> None:
    words = [*CERTIFY, "--model", model, "--out", str(tmp_path / "run")]
    done = _shell('"$@" | head -1; exit ${PIPESTATUS[0]}', *words)
    assert (done.returncode, done.stderr) == (141, "") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["convert", "--help"]])
def test_a_reader_that_has_gone_ends_the_program_without_a_word(words: list[str]) -> None:
    # A process substitution that is waited for has gone for certain.
    line = 'exec 3> >(exit); wait $!; "$@" >&3'
    done = _shell(line, *words)
    assert (done.returncode, done.stderr, done.stdout) == (141, "", "")


def test_a_standard_output_that_was_closed_is_no_mistake() -> None:
    done = _shell('"$@" >&-', "--help")
    assert (done.returncode, done.stderr) == (0, "")
    done = _shell('"$@" >&-', "certfy")
    assert done.returncode == 2 and done.stderr.startswith("dsrs-jax: no command 'certfy'")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_proof_without_the_command_ends_so_too(unbuffered: bool, tmp_path: Path) -> None:
    law = generalized_gaussian(64, 0.5, 28.0)
    votes = VoteTable.from_counts((law,), [[900]], [[1000]], index=[0], label=[0])
    table = certify_table(votes, Protocol(0.001))
    file = tmp_path / "certificates.csv"
    file.write_text(schema.text(schema.columns(table)))
    given = (str(file), "--processes", "1")
    for line, code, said in (
        ('"$@" > /dev/full', 2, "cannot go on: No space left on device\n"),
        ('exec 3> >(exit); wait $!; "$@" >&3', 141, ""),
        ('"$@" > /dev/null', 0, ""),
    ):
        done = _shell(line, *given, unbuffered=unbuffered, module="dsrs_jax.proof")
        assert (done.returncode, done.stderr) == (code, said)
