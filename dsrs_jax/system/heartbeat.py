"""Who is still at work: each process of a run writes a heartbeat into the run directory.

Nothing here needs a network between the processes, so the one that gathers the records learns of
a lost host as of a finished one, and a lost host costs only its own share.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import make_folder, write_whole

_FOLDER = "processes"
_BEATS = 6  # in the time after which a silent process is given up


class Heartbeat:
    """Says that this process is at work while the context lasts, and that it ended well after.

    Args:
        path: the run directory.
        process: this process's number.
        patience: seconds of silence after which the others give a process up.
    """

    def __init__(self, path: epath.Path, process: int, patience: float) -> None:
        self._file = path / _FOLDER / f"{process}.json"
        self._patience = patience
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        make_folder(self._file.parent)
        self._say("at work", 0)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None or kind is UserError:
            self._say("done", 0)

    def _beat(self) -> None:
        number = 0
        while not self._over.wait(self._patience / _BEATS):
            number += 1
            try:
                self._say("at work", number)
            except UserError:
                # A full disk or a lost mount: the records cannot be written either, and the
                # thread that writes those tells the user.
                return

    def _say(self, state: str, number: int) -> None:
        write_whole(self._file, json.dumps({"state": state, "beat": number}) + "\n")


def wait_for_others(
    path: epath.Path,
    others: Iterable[int],
    patience: float,
    complete: Callable[[], bool],
) -> list[int]:
    """Waits until `complete()`, or until each other process has ended or fallen silent.

    Returns:
        The processes that fell silent: nothing was heard of them for `patience` seconds.
    """
    heard = {process: ("", time.monotonic()) for process in others}
    while not complete():
        silent, ended = [], []
        for process, (last, when) in heard.items():
            said = _read(path / _FOLDER / f"{process}.json")
            if said != last:
                heard[process] = (said, time.monotonic())
            elif time.monotonic() - when > patience:
                silent.append(process)
            if '"done"' in said:
                ended.append(process)
        if len({*silent, *ended}) == len(heard):
            complete()  # reads what came since
            return [process for process in silent if process not in ended]
        time.sleep(min(1.0, patience / (2 * _BEATS)))
    return []


def _read(file: epath.Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not there yet, or being replaced
        return ""
