"""Records on their way to a run's folder: a file now and then, and whatever is left at the end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dsrs_jax.system.signals import last_words
from dsrs_jax.votes.records import RecordFolder

# A file of records is written after a hundredth of the time that the run has taken so far, within
# these seconds: a killed run loses about so much, and a long one leaves hundreds of files.
_SECONDS_A_FILE = (0.5, 60.0)


@contextlib.contextmanager
def recording(folder: RecordFolder) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Gives what takes records of images that are done; whatever ends this, all are written."""
    waiting: list[dict[str, Any]] = []
    lock = threading.Lock()
    begun = written = time.monotonic()
    shortest, longest = _SECONDS_A_FILE

    def write() -> None:
        nonlocal waiting
        with lock:
            folder.append(waiting)
            waiting = []

    def add(records: Sequence[dict[str, Any]]) -> None:
        nonlocal waiting, written
        with lock:
            waiting += records
        now = time.monotonic()
        if now - written > min(max((now - begun) / 100, shortest), longest):
            write()
            written = now

    with last_words(write):
        try:
            yield add
        finally:
            write()
