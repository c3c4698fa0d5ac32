"""How a command ends: exit codes, one line for a user's mistake, and signals that are obeyed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.output import OutputError, complain, guarded_output

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# A call into the devices cannot be interrupted; after these seconds the process ends without it.
_GRACE = 5.0
_LAST_WORDS = 3.0  # seconds, where the disk hangs too
_last_words: list[Callable[[], object]] = []


class _Postponed:
    """How many callers have signals wait at the moment, and the one that waits."""

    callers = 0
    number: int | None = None


class _Ended(KeyboardInterrupt):
    """A signal that asks the program to end: Ctrl-C, or a scheduler's SIGTERM."""

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
        what is printed, 130 interrupted, 141 nobody reads any more what is printed, 143
        terminated: within seconds, wherever the action is.
    """
    try:
        with obeying_signals(program, interrupted), guarded_output():
            return action() or 0
    except UserError as error:
        complain(f"{program}: {error}")
        return 2
    except IncompleteError as error:
        complain(f"{program}: {error}")
        return 1
    except OutputError as error:
        if error.nobody_reads:
            return 128 + signal.SIGPIPE  # without a word, as other programs end then
        complain(
            f"{program}: cannot write to standard output: {error.reason}; "
            "make room there, or send it elsewhere"
        )
        return 2
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Ended) else signal.SIGINT
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
def obeying_signals(program: str, interrupted: str) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the program: by an exception, or at last by force.

    By force after seconds in which the main thread was held up in a call, or at once where the
    signal comes a second time. Only the main thread can be inside; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_(number: int, frame: FrameType | None) -> None:
        if not _Postponed.callers:
            raise _Ended(number)
        _Postponed.number = number

    # The C-level handler writes the signal's number there at once, even while a call into the
    # devices keeps Python from running handlers.
    here, there = socket.socketpair()
    there.setblocking(False)
    over = threading.Event()

    def next_signal(seconds: float | None) -> int | None:
        here.settimeout(seconds)
        try:
            while received := here.recv(1):
                if received[0] in _WORDS:
                    return received[0]
        except TimeoutError:
            pass
        return None

    def watch() -> None:
        number = next_signal(None)
        if number is None:
            return
        number = next_signal(_GRACE) or number
        if over.is_set():
            return
        words = threading.Thread(target=_speak, args=(program,), name="last words", daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        try:
            complain(f"{program}: {_WORDS[signal.Signals(number)]}; {interrupted}")
        finally:
            os._exit(128 + number)

    before = {number: signal.signal(number, raise_) for number in _WORDS}
    descriptor = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        there.close()
        watcher.join()
        here.close()
