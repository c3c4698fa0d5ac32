"""How a command ends: its exit code, one line, and what is done before a signal ends it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.signals import exit_code

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]

# The main thread waits in C for a condition that nobody will signal: neither Python nor a signal
# can end the wait, as with a call into a device. It gives the lock back when it has begun to wait.
HELD_UP = """
import ctypes, sys, threading, time
from pathlib import Path
from dsrs_jax.system import signals
from dsrs_jax.system.errors import UserError

library = ctypes.CDLL(None)
lock, condition = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)

def report():
    library.pthread_mutex_lock(lock)
    print("in", flush=True)

def held_up():
    library.pthread_mutex_init(lock, None)
    library.pthread_cond_init(condition, None)
    library.pthread_mutex_lock(lock)
    threading.Thread(target=report, daemon=True).start()
    library.pthread_cond_wait(condition, lock)

def last_words():
    Path(sys.argv[1]).write_text("said")
    LAST_WORDS

def action():
    with signals.last_words(last_words):
        held_up()

signals._GRACE = float(sys.argv[2])
sys.exit(signals.exit_code("program", action, interrupted="go on"))
"""
GRACE, DAY = "0.5", "86400"  # seconds


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """The program, once its action has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_call_that_cannot_be_interrupted_does_not_hold_up_the_end(
    number: signal.Signals, code: int, word: str, tmp_path: Path
) -> None:
    process = start(HELD_UP.replace("LAST_WORDS", ""), str(tmp_path / "words"), GRACE)
    assert not (tmp_path / "words").exists()
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert error == f"program: {word}; go on\n"
    assert (tmp_path / "words").read_text() == "said"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """With a day's grace only the second one can have ended it."""
    process = start(HELD_UP.replace("LAST_WORDS", ""), str(tmp_path / "words"), DAY)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) in [
        (143, "program: terminated; go on\n"),
        (130, "program: interrupted; go on\n"),  # whichever the kernel handed over last
    ]
    assert (tmp_path / "words").read_text() == "said"


@pytest.mark.parametrize(
    ("trouble", "lines"),
    [
        ('raise UserError("the disk is full")', ["program: the disk is full"]),
        (f"time.sleep({DAY})", []),
    ],
)
def test_last_words_that_fail_or_hang_do_not_hold_up_the_end(
    trouble: str, lines: list[str], tmp_path: Path
) -> None:
    process = start(HELD_UP.replace("LAST_WORDS", trouble), str(tmp_path / "words"), GRACE)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert error.splitlines() == [*lines, "program: interrupted; go on"]
    assert (tmp_path / "words").read_text() == "said"


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_program_at_work_in_python_ends_by_an_exception(
    number: signal.Signals, code: int, word: str, tmp_path: Path
) -> None:
    """What it was about is undone or finished, as after any exception."""
    program = """
import sys, time
from pathlib import Path
from dsrs_jax.system import signals
signals._GRACE = 86400.0
def action():
    try:
        print("in", flush=True)
        while True:
            time.sleep(0.01)
    finally:
        Path(sys.argv[1]).write_text("put in order")
sys.exit(signals.exit_code("program", action, interrupted="go on"))
"""
    process = start(program, str(tmp_path / "file"))
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert error == f"program: {word}; go on\n"
    assert (tmp_path / "file").read_text() == "put in order"


def _raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--n must be positive"), 2, "program: --n must be positive\n"),
        (IncompleteError("1 image is missing"), 1, "program: 1 image is missing\n"),
        (KeyboardInterrupt(), 130, "program: interrupted; go on\n"),
    ],
)
def test_each_end_has_its_exit_code_and_its_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("program", lambda: _raises(error), interrupted="go on") == code
    assert capsys.readouterr().err == line


def test_an_action_may_have_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("program", lambda: None, interrupted="") == 0
    assert exit_code("program", lambda: 1, interrupted="") == 1
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="a bug"):  # nobody's mistake but ours: its traceback
        exit_code("program", lambda: _raises(ValueError("a bug")), interrupted="")


def test_the_handlers_of_before_are_back_after_it() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    inside: list[object] = []
    exit_code("program", lambda: inside.append(signal.getsignal(signal.SIGINT)), interrupted="")
    assert inside[0] is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
