"""What every script shares: exit codes, and one line for a user's mistake."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from dsrs_jax.errors import IncompleteError, UserError

TERMINATED = 128 + signal.SIGTERM
# A call into the devices cannot be interrupted; after these seconds the process ends without it.
_GRACE = 5.0


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it takes a machine away."""


def exit_code(program: str, action: Callable[[], None], *, interrupted: str) -> int:
    """Runs a script's action.

    Returns:
        0 done, 1 all done but for what one line names, 2 a mistake of the user's, 130 interrupted,
        143 terminated (SIGTERM): within seconds, wherever the action is.
    """
    try:
        with terminable(program, interrupted):
            action()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except IncompleteError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        terminated = isinstance(error, _Terminated)
        word = "terminated" if terminated else "interrupted"
        print(f"{program}: {word}; {interrupted}", file=sys.stderr)
        return TERMINATED if terminated else 130
    return 0


@contextlib.contextmanager
def terminable(program: str, interrupted: str) -> Iterator[None]:
    """Inside, SIGTERM ends the program: by an exception, or at last by force.

    Files are written whole or not at all, so nothing is lost but what was not written yet. Only
    the main thread can be inside; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    # The C-level handler writes the signal's number there at once, even while a call into the
    # devices keeps Python from running handlers.
    here, there = socket.socketpair()
    there.setblocking(False)
    over = threading.Event()

    def watch() -> None:
        while (received := here.recv(1)) not in (b"", bytes([signal.SIGTERM])):
            pass
        if received and not over.wait(_GRACE):
            print(f"{program}: terminated; {interrupted}", file=sys.stderr, flush=True)
            os._exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, raise_)
    descriptor = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="termination", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        there.close()
        watcher.join()
        here.close()
