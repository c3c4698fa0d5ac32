"""The command as a user runs it: in this process or in processes of its own, and how it ends."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from dsrs_jax.run.main import main

ROOT = Path(__file__).resolve().parents[2]
HANGING = 600  # seconds, after which a process that should have ended is taken for hanging
Result = TypeVar("Result")


def assert_one_line_error(error: str, command: str, *parts: str) -> None:
    """That `error`, all of standard error, is one line of the command that holds these parts."""
    assert error.count("\n") == 1 and error.endswith("\n"), error
    assert error.startswith(f"dsrs-jax {command}: "), error
    for part in parts:
        assert part in error


def refused(capsys: pytest.CaptureFixture[str], words: Sequence[str], *parts: str) -> str:
    """The one line by which the command of these words, run here, refuses them with exit code 2."""
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert_one_line_error(error, words[0], *parts)
    return error


def documented(document: str) -> list[list[str]]:
    """The words after `dsrs-jax` of each command of a document, a path below the project."""
    text = (ROOT / document).read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    dsrs-jax (.*)$", text, re.M)]


def environment(devices: int = 1) -> dict[str, str]:
    """Of a process that imports the package from here and sees so many virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def python(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, once it has ended."""
    return subprocess.run(
        [sys.executable, *arguments], env=environment(devices), capture_output=True, text=True
    )


def start(
    words: Sequence[str], devices: int = 1, program: Sequence[str] = ("-m", "dsrs_jax")
) -> subprocess.Popen[str]:
    """The command, or another Python program, in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def joined(*commands: Sequence[str]) -> list[list[str]]:
    """The commands, the words of one process each, as those of one run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        [*words, "--coordinator", f"localhost:{port}", "--num-processes", str(len(commands)),
         "--process-id", str(number)]
        for number, words in enumerate(commands)
    ]  # fmt: skip


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """(exit code, standard error) of each process, once all have ended."""
    errors = [process.communicate(timeout=HANGING)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def wait_until(reached: Callable[[], Result], *processes: subprocess.Popen[str]) -> Result:
    """What `reached` returns as soon as it is true; none of the processes may end before it."""
    deadline = time.monotonic() + HANGING
    while not (value := reached()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "hanging"
        time.sleep(0.002)
    return value


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """(exit code, standard error) of a process of `start` that gets a signal.

    Its session gets it too, as from a terminal or a scheduler; but SIGKILL alone, of which worker
    processes must learn by themselves. None of the session's processes is left.
    """
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    [outcome] = ended([process])
    wait_until(lambda: not _session(process.pid))
    return outcome


def _session(leader: int) -> list[str]:
    """Command lines of the processes of a session that have not ended."""
    running = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                running.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended meanwhile
            continue
    return running
