"""How a command ends: exit codes, one line for a user's mistake, and signals that are obeyed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.output import OutputError, complain, guarded_output

# By Ctrl-C; by a scheduler, or its warning; by a terminal that closes; by a limit of CPU time.
_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "ended, as the terminal closed",
    signal.SIGUSR1: "ended by SIGUSR1",
    signal.SIGUSR2: "ended by SIGUSR2",
    signal.SIGXCPU: "ended by SIGXCPU, a limit of CPU time",
}
ENDING = frozenset(_WORDS)
# Of these a second one means: at once. A terminal that closes sends SIGHUP twice by itself.
_IMPATIENT = {signal.SIGINT, signal.SIGTERM}
# A call into the devices cannot be interrupted; after these seconds the process ends without it.
_GRACE = 5.0
_LAST_WORDS = 3.0  # seconds, where the disk hangs too
_last_words: list[Callable[[], object]] = []


class _Postponed:
    """How many callers have signals wait at the moment, and the one that waits."""

    callers = 0
    number: int | None = None


class _Ended(KeyboardInterrupt):
    """A signal that asks the program to end, one of ENDING."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def exit_code(program: str, action: Callable[[], int | None], *, interrupted: str) -> int:
    """Runs a command's action.

    Args:
        program: name before a message.
        action: may return an exit code of its own.
        interrupted: what a user can do after a signal.

    Returns:
        0 done, 1 all done but for what one line names, 2 a mistake of the user's or no room for
        what is printed, 141 nobody reads any more what is printed, 128 + the number of a signal
        that ended it (130 interrupted, 143 terminated): within seconds, wherever the action is.
    """
    received: list[int] = []
    try:
        with obeying_signals(program, interrupted) as received, guarded_output():
            return action() or 0
    except UserError as error:
        complain(f"{program}: {error}")
        return 2
    except IncompleteError as error:
        complain(f"{program}: {error}")
        return 1
    except OutputError as error:
        if received:  # the terminal closed, which takes the output away too
            return _ended(program, received[0], interrupted)
        if error.nobody_reads:
            return 128 + signal.SIGPIPE  # without a word, as other programs end then
        complain(
            f"{program}: cannot write to standard output: {error.reason}; "
            "make room there, or send it elsewhere"
        )
        return 2
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Ended) else signal.SIGINT
        return _ended(program, number, interrupted)


def _ended(program: str, number: int, interrupted: str) -> int:
    """Names the signal that ended the program; the exit code."""
    complain(f"{program}: {_WORDS[signal.Signals(number)]}; {interrupted}")
    return 128 + number


@contextlib.contextmanager
def last_words(action: Callable[[], object]) -> Iterator[None]:
    """Inside, `action` is done before a program is ended by force: it writes what is not lost yet.

    It runs in another thread while the main one is held up in a call, and must be quick.
    """
    _last_words.append(action)
    try:
        yield
    finally:
        _last_words.remove(action)


def _speak(program: str) -> None:
    for action in list(_last_words):
        try:
            action()
        except UserError as error:
            complain(f"{program}: {error}")


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Inside, a signal that `obeying_signals` obeys waits: its exception is raised at the end.

    For what must be done whole, and is short. By force the program ends all the same.
    """
    _Postponed.callers += 1
    try:
        yield
    finally:
        _Postponed.callers -= 1
        if not _Postponed.callers:
            number, _Postponed.number = _Postponed.number, None
            if number is not None:
                raise _Ended(number)


@contextlib.contextmanager
def obeying_signals(program: str, interrupted: str) -> Iterator[list[int]]:
    """Inside, the signals of ENDING end the program: by an exception, or at last by force.

    By force after seconds in which the main thread was held up in a call, or at once where SIGINT
    or SIGTERM comes second. What is ignored from the beginning, as SIGHUP is under nohup, stays so;
    but SIGINT, which a shell has its background jobs ignore, and SIGTERM. Only the main thread can
    be inside; elsewhere this does nothing. Gives a list to which the signals that come are added.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def raise_(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:  # a terminal's second one must not end what writes the state
            return
        if not _Postponed.callers:
            raise _Ended(number)
        _Postponed.number = number

    # The C-level handler writes the signal's number there at once, even while a call into the
    # devices keeps Python from running handlers.
    here, there = socket.socketpair()
    there.setblocking(False)
    over = threading.Event()

    def next_signal(numbers: Collection[int], seconds: float | None) -> int | None:
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            while True:
                if deadline is not None:
                    here.settimeout(max(deadline - time.monotonic(), 1e-3))
                byte = here.recv(1)
                if not byte or byte[0] in numbers:
                    return byte[0] if byte else None
        except TimeoutError:
            return None

    def watch() -> None:
        number = next_signal(ENDING, None)
        if number is None:
            return
        number = next_signal(_IMPATIENT, _GRACE) or number
        if over.is_set():
            return
        words = threading.Thread(target=_speak, args=(program,), name="last words", daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        try:
            _ended(program, number, interrupted)
        finally:
            os._exit(128 + number)

    before = {
        number: signal.signal(number, raise_)
        for number in ENDING
        if number in _IMPATIENT or signal.getsignal(number) is not signal.SIG_IGN
    }
    descriptor = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield received
    finally:
        over.set()
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        there.close()
        watcher.join()
        here.close()
