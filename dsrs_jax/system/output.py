"""Standard output that can be lost: its disk fills, or the program that reads it ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")


class OutputError(Exception):
    """Standard output takes no more.

    No OSError: libraries that print (argparse, rich) swallow those, or end the program by
    themselves.

    Attributes:
        reason: the system's word for it.
        nobody_reads: whether the reader at the other end of a pipe has gone.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.reason = error.strerror or str(error)
        self.nobody_reads = isinstance(error, BrokenPipeError)


@contextlib.contextmanager
def guarded_output() -> Iterator[None]:
    """Inside, and when it ends, a failed write to standard output is an `OutputError`."""
    before = sys.stdout
    if before is None:  # it was closed before the program began
        yield
        return
    sys.stdout = _Guarded(before)  # type: ignore[assignment]
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = before


class _Guarded:
    """A stream whose failed writes are `OutputError`s."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return _guarded(lambda: self._stream.write(text))

    def flush(self) -> None:
        _guarded(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _guarded(action: Callable[[], Result]) -> Result:
    try:
        return action()
    except OSError as error:
        raise OutputError(error) from error


def complain(line: str) -> None:
    """Prints a line on standard error; where that is lost too, the exit code has to say it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
