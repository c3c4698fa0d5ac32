"""One run at a time writes in a folder, on whichever host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import is_remote

LOCK_FILE = ".lock-"  # and the name of the lock
_BEAT = 5.0  # seconds between a holder's signs of life
_PATIENCE = 3 * _BEAT  # seconds without one after which a holder on another host has ended


@contextlib.contextmanager
def held(folder: Path | epath.Path, name: str = "0") -> Iterator[None]:
    """Inside, no other run holds the lock of this name in the folder.

    The lock is the system's (flock): it ends with the process, however that ends. Where a network
    file system keeps such locks to one host, or has none, the holder's signs of life decide.

    Args:
        folder: it is there already. A bucket has no locks: nothing is done.
        name: what writes other files has another one: each process of a run that shares the
            folder, a report.

    Raises:
        UserError: another run holds it, or the folder cannot be written.
    """
    if is_remote(folder):
        yield
        return
    file = Path(folder) / f"{LOCK_FILE}{name}"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
    with os.fdopen(descriptor, "a+b", buffering=0) as stream:
        locked = _lock(stream)
        stream.seek(0)
        holder = stream.read().decode(errors="replace").strip()
        # Of a process that was killed the name is left, but no lock that this host knows.
        unsure = bool(holder) and not (locked and holder.endswith(f" {socket.gethostname()}"))
        if locked is False or (unsure and _is_alive(file)):
            raise UserError(
                f"another run is writing in {folder}: {holder or 'its name is not known'}; wait "
                "for it, or give another --out"
            )
        stream.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: whatever is written next tells of it
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        over = threading.Event()
        beat = threading.Thread(target=_beat, args=(stream, over), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()
            stream.truncate(0)


def _lock(stream: IO[bytes]) -> bool | None:
    """Whether the lock is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _beat(stream: IO[bytes], over: threading.Event) -> None:
    while not over.wait(_BEAT):
        with contextlib.suppress(OSError):  # a lost mount is told by whatever writes there
            os.utime(stream.fileno())


def _is_alive(file: Path) -> bool:
    """Whether the file's time changes: clocks of two hosts are not compared."""
    begun, deadline = _changed(file), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if _changed(file) != begun:
            return True
        time.sleep(_BEAT / 5)
    return False


def _changed(file: Path) -> int:
    # Opened anew: the time that a network file system remembers may be old.
    with open(file) as stream:
        return os.fstat(stream.fileno()).st_mtime_ns
