"""How a command ends: its exit code, one line, and what is done before a signal ends it."""

import signal

import pytest
from commands import ended, start

from dsrs_jax.system import signals
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.signals import exit_code, postponed

SIGNALS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "terminated"),
    (signal.SIGHUP, 129, "ended, as the terminal closed"),
    (signal.SIGUSR1, 138, "ended by SIGUSR1"),
    (signal.SIGUSR2, 140, "ended by SIGUSR2"),
    (signal.SIGXCPU, 152, "ended by SIGXCPU, a limit of CPU time"),
]

# The main thread waits in C for a condition that never comes: neither Python nor a signal can end
# the wait, as with a call into a device. It gives the lock back when it has begun to wait.
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
    library.pthread_mutex_lock(lock)
    threading.Thread(target=report, daemon=True).start()
    library.pthread_cond_wait(condition, lock)

def last_words():
    Path(sys.argv[1]).write_text("said")
    exec(sys.argv[2])

def action():
    with signals.last_words(last_words):
        held_up()

signals._GRACE, signals._LAST_WORDS = map(float, sys.argv[3:])
sys.exit(signals.exit_code("program", action, interrupted="go on"))
"""
DAY, SOON = "86400", "0.01"  # seconds


@pytest.mark.process
@pytest.mark.parametrize(
    ("numbers", "trouble", "grace", "patience", "lines"),
    [
        ([signal.SIGINT], "", SOON, DAY, []),
        ([signal.SIGTERM], "raise UserError('a full disk')", SOON, DAY, ["a full disk"]),
        ([signal.SIGINT], f"time.sleep({DAY})", SOON, SOON, []),
        ([signal.SIGUSR1], "", SOON, DAY, []),
        # Whichever the kernel handed over last names the end; only the second can have ended it.
        ([signal.SIGINT, signal.SIGTERM], "", DAY, DAY, []),
    ],
)
def test_a_call_that_cannot_be_interrupted_does_not_hold_up_the_end(
    numbers, trouble, grace, patience, lines, tmp_path
) -> None:
    words = tmp_path / "words"
    process = start([str(words), trouble, grace, patience], program=["-c", HELD_UP])
    assert process.stdout.readline() == "in\n" and not words.exists()
    for number in numbers:
        process.send_signal(number)
    [(found, error)] = ended([process])
    assert (found, error.splitlines()) in [
        (code, [f"program: {line}" for line in (*lines, f"{word}; go on")])
        for number, code, word in SIGNALS
        if number in numbers
    ]
    assert patience == SOON or words.read_text() == "said"


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_program_at_work_in_python_ends_by_an_exception(
    number, code, word, capsys, monkeypatch
) -> None:
    """What it was about is undone or finished, as after any exception."""
    monkeypatch.setattr(signals, "_GRACE", float(DAY))
    before = [signal.getsignal(number) for number, *_ in SIGNALS]
    done: list[str] = []

    def action() -> None:
        try:
            with postponed():
                with postponed():
                    signal.raise_signal(number)
                signal.raise_signal(signal.SIGHUP)  # once more, as a terminal sends it
                done.append("what must be done whole")
            done.append("what comes after it")
        finally:
            signal.raise_signal(signal.SIGHUP)
            done.append("put in order")

    assert exit_code("program", action, interrupted="go on") == code
    assert done == ["what must be done whole", "put in order"]
    assert capsys.readouterr().err == f"program: {word}; go on\n"
    assert [signal.getsignal(number) for number, *_ in SIGNALS] == before


def test_what_is_ignored_from_the_beginning_ends_nothing(capsys) -> None:
    """As under nohup. SIGINT does: a shell has its background jobs ignore it."""
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    done: list[str] = []

    def action() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
        done.append("what comes after them")
        signal.raise_signal(signal.SIGINT)

    try:
        assert exit_code("program", action, interrupted="go on") == 130
        assert done == ["what comes after them"]
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == "program: interrupted; go on\n"


def _raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("action", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: _raises(UserError("--n must be positive")), 2, "program: --n must be positive\n"),
        (lambda: _raises(IncompleteError("1 is missing")), 1, "program: 1 is missing\n"),
        (lambda: _raises(KeyboardInterrupt()), 130, "program: interrupted; go on\n"),
    ],
)
def test_each_end_has_its_exit_code_and_its_line(action, code, line, capsys) -> None:
    assert exit_code("program", action, interrupted="go on") == code
    assert capsys.readouterr().err == line


def test_an_error_that_is_no_mistake_of_the_users_has_its_traceback() -> None:
    with pytest.raises(ValueError, match="a bug"):
        exit_code("program", lambda: _raises(ValueError("a bug")), interrupted="")
