"""Records on disk: what was drawn for each image, in files that are written once and whole.

A run directory holds

    config.json                 what the votes depend on, and what an index means
    votes/FIRST-LAST-COUNT.PROCESS.jsonl    a line of JSON for each image of a block
    batch.json                  the fastest batch on each kind of device
    processes/PROCESS.json      who is at work (system/heartbeat.py)

Every file appears whole under its name, so processes on many hosts may write into one directory,
which may be a bucket (gs://...), and a process killed at any moment loses only what it had not
written yet.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import is_remote, make_folder, write_whole
from dsrs_jax.votes.table import State

CONFIG_FILE = "config.json"
VOTES_FOLDER = "votes"
_BATCH_FILE = "batch.json"
_LOCK_FILE = ".lock"
# A record with this key is no more than the word that an image could not be read.
_UNREADABLE = State.UNREADABLE.value


class RecordFolder:
    """The records of one run, written by one or more processes at a time (a context manager).

    Args:
        path: made if it is not there.
        settings: what the votes depend on, as JSON can hold it. A directory that was made with
            other settings is refused, with the first one that differs.
        process: number of this process among those of the run.

    Attributes:
        records: the records by dataset index, as of entering or the last `refresh`.

    Raises:
        UserError: another run holds the directory, it was made with other settings, it cannot be
            written, or a file of records is damaged.
    """

    def __init__(
        self, path: str | Path | epath.Path, settings: Mapping[str, Any], process: int = 0
    ):
        self.path = epath.Path(path)
        self.process = process
        self.records: dict[int, dict[str, Any]] = {}
        self._settings = json.loads(json.dumps(settings))
        self._seen: set[str] = set()
        self._lock: IO[str] | None = None

    def __enter__(self) -> RecordFolder:
        make_folder(self.path / VOTES_FOLDER)
        try:
            if not is_remote(self.path):
                self._lock = open(self.path / f"{_LOCK_FILE}-{self.process}", "w")
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror or error}") from error
        try:
            if self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._close()
            raise UserError(
                f"another run is writing in {self.path}; wait for it, or give another --out"
            ) from error
        try:
            self._agree_on_settings()
            self.refresh()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds finished records, each with its "index"; on disk when this returns."""
        fresh = [record for record in records if not self.has(record["index"])]
        if not fresh:
            return
        indices = [record["index"] for record in fresh]
        name = f"{min(indices):08d}-{max(indices):08d}-{len(indices)}.{self.process}.jsonl"
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in fresh)
        write_whole(self.path / VOTES_FOLDER / name, text)
        self._seen.add(name)
        self.records.update({record["index"]: record for record in fresh})

    def has(self, index: int) -> bool:
        """Whether this image is done; one that could not be read is not."""
        return _UNREADABLE not in self.records.get(index, {_UNREADABLE: ""})

    def refresh(self) -> None:
        """Reads the files that are new, whoever wrote them."""
        for file in sorted((self.path / VOTES_FOLDER).glob("*.jsonl")):
            if file.name in self._seen:
                continue
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                try:
                    record = json.loads(line)
                    index = int(record["index"])
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{file}: line {number} is damaged; delete the file and run again"
                    ) from error
                if not self.has(index):
                    self.records[index] = record
            self._seen.add(file.name)

    def batch(self, device: str) -> int | None:
        """The batch that `remember_batch` was given for this kind of device."""
        try:
            return int(json.loads((self.path / _BATCH_FILE).read_text())[device])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # whatever it held can be measured again

    def remember_batch(self, device: str, batch: int) -> None:
        """Keeps the batch for the next run in this directory."""
        write_whole(self.path / _BATCH_FILE, json.dumps({device: batch}) + "\n")

    def _agree_on_settings(self) -> None:
        file = self.path / CONFIG_FILE
        if not file.exists():
            if any((self.path / VOTES_FOLDER).glob("*.jsonl")):
                raise UserError(f"{self.path} has votes but no {CONFIG_FILE}; give another --out")
            write_whole(file, json.dumps(self._settings, indent=2) + "\n")
            return
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); give another --out") from error
        for name in [*self._settings, *found]:
            here, there = self._settings.get(name), found.get(name)
            if here != there:
                raise UserError(
                    f"{self.path} was made with {name} = {_shown(there)}, not {_shown(here)}; "
                    "give the same settings or another --out"
                )

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.close()


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
