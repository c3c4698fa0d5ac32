"""Records on disk: one line of JSON for each image, appended when all its votes are there.

A run directory holds `config.json`, written once and whole, and `votes.jsonl`. A process killed
at any moment leaves at most a half line at the end, which the next run cuts off and redoes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dsrs_jax.errors import UserError

CONFIG_FILE = "config.json"
VOTES_FILE = "votes.jsonl"
_LOCK_FILE = ".lock"


class RunDirectory:
    """The records of one run, held by one process at a time (a context manager).

    Args:
        path: made if it is not there.
        settings: what the votes depend on, as JSON can hold it. A directory that was made with
            other settings is refused, with the first one that differs.

    Attributes:
        records: the finished records by dataset index.

    Raises:
        UserError: another process holds the directory, it was made with other settings, it
            cannot be written, or a line inside `votes.jsonl` is damaged.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))
        self.records: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> RunDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / _LOCK_FILE, "w")
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UserError(
                f"another run is writing in {self.path}; wait for it, or give another --out"
            ) from error
        try:
            self._agree_on_settings()
            self._file = open(self.path / VOTES_FILE, "ab")
            self._read()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._lock.close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds finished records, each with its "index"; on disk when this returns."""
        fresh = [record for record in records if record["index"] not in self.records]
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in fresh)
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path / VOTES_FILE}: {error.strerror}; "
                "the same command continues this run"
            ) from error
        self.records.update({record["index"]: record for record in fresh})

    def _agree_on_settings(self) -> None:
        file = self.path / CONFIG_FILE
        if not file.exists():
            if (self.path / VOTES_FILE).exists():
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

    def _read(self) -> None:
        file = self.path / VOTES_FILE
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                self.records.setdefault(int(record["index"]), record)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{file}: line {number} is damaged; delete that line and run again"
                ) from error
        if whole < len(content):
            os.truncate(file, whole)


def write_whole(file: Path, text: str) -> None:
    """Writes `text` to `file` so that a reader finds the old content or the new, never a part."""
    being_written = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(being_written, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(being_written, file)
    except OSError as error:
        being_written.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
