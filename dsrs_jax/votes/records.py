"""Records on disk: what was drawn for each image, in files that are written once and whole.

A run directory holds

    config.json                 what the votes depend on, and what an index means
    votes/FIRST-LAST-COUNT.PROCESS.jsonl    a line of JSON for each image of a block
    batch.json                  the fastest batch on each kind of device
    refused.txt                 why its votes certify nothing, where they do not
    processes/PROCESS.json      who is at work (system/heartbeat.py)

Every file appears whole under its name, so processes on many hosts may write into one directory,
which may be a bucket (gs://...), and a process killed at any moment loses only what it had not
written yet. A line that was damaged later counts for nothing and is named; its image is drawn
again, and no file is written over another. Of two records of an image the one with more looks
counts.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import make_folder, write_whole
from dsrs_jax.system.folder_lock import held
from dsrs_jax.votes.kernel import INDICES
from dsrs_jax.votes.table import State

CONFIG_FILE = "config.json"
VOTES_FOLDER = "votes"
# What runs of earlier versions were, which did not say so.
_UNSAID = {"label": "given", "share_p": 0.5}
_BATCH_FILE = "batch.json"
_REFUSED_FILE = "refused.txt"
# A record with this key is no more than the word that an image could not be read.
_UNREADABLE = State.UNREADABLE.value
EARLIER = "earlier"  # counts at earlier looks, in their order
_LARGEST_BATCH = 2**15  # of all that `Sampler.tune` tries, on any device
_MOST_NAMED = 5  # damaged lines in one message
_LONGEST_SHOWN = 200  # characters of a setting


class RecordFolder:
    """The records of one run, written by one or more processes at a time (a context manager).

    Args:
        path: made if it is not there.
        settings: what the votes depend on, as JSON can hold it. A directory that was made with
            other settings is refused, with the first one that differs.
        process: number of this process among those of the run.
        problem_of: why a record that was read is none of this run, or None where it is one.
        on_damaged: called with a sentence that names the lines that are no records of this run.

    Attributes:
        records: the records by dataset index, as of entering or the last `refresh`.

    Raises:
        UserError: another run holds the directory, it was made with other settings, it cannot be
            written, or a file in it cannot be read.
    """

    def __init__(
        self,
        path: str | Path | epath.Path,
        settings: Mapping[str, Any],
        process: int = 0,
        *,
        problem_of: Callable[[dict[str, Any]], str | None] = lambda record: None,
        on_damaged: Callable[[str], None] = warnings.warn,
    ):
        self.path = epath.Path(path)
        self.process = process
        self.records: dict[int, dict[str, Any]] = {}
        self._settings = json.loads(json.dumps(settings))
        self._problem_of, self._on_damaged = problem_of, on_damaged
        self._seen: set[str] = set()
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> RecordFolder:
        make_folder(self.path / VOTES_FOLDER)
        with contextlib.ExitStack() as lock:
            lock.enter_context(held(self.path, str(self.process)))
            self._agree_on_settings()
            self._agree_to_go_on()
            self.refresh()
            self._lock = lock.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds finished records, each with its "index"; on disk when this returns."""
        fresh = [record for record in records if self._is_news(record)]
        if not fresh:
            return
        indices = [record["index"] for record in fresh]
        what, again = f"{min(indices):08d}-{max(indices):08d}-{len(indices)}", 1
        name = f"{what}.{self.process}.jsonl"
        while name in self._seen:  # and holds other records, or damaged ones: it stays
            again += 1
            name = f"{what}-{again}.{self.process}.jsonl"
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in fresh)
        write_whole(self.path / VOTES_FOLDER / name, text)
        self._seen.add(name)
        self.records.update({record["index"]: record for record in fresh})

    def has(self, index: int) -> bool:
        """Whether this image is done; one that could not be read is not."""
        return _UNREADABLE not in self.records.get(index, {_UNREADABLE: ""})

    def _is_news(self, record: Mapping[str, Any]) -> bool:
        """Whether a record says more of its image than the one that is here."""
        here = self.records.get(record["index"])
        return here is None or _UNREADABLE in here or looks_of(record) > looks_of(here)

    def refresh(self) -> None:
        """Reads the files that are new, whoever wrote them.

        Raises:
            UserError: one cannot be read at all.
        """
        damaged = []
        for file in sorted((self.path / VOTES_FOLDER).glob("*.jsonl")):
            if file.name in self._seen:
                continue
            lines = _content(file).split(b"\n")
            if lines[-1] == b"":  # after the last line's end
                lines.pop()
            for number, line in enumerate(lines, start=1):
                try:
                    record = self._record(line)
                except (ValueError, RecursionError) as error:
                    damaged.append(f"{file} line {number} ({error})")
                    continue
                if self._is_news(record):
                    self.records[record["index"]] = record
            self._seen.add(file.name)
        if damaged:
            more = len(damaged) - _MOST_NAMED
            self._on_damaged(
                f"Damaged: {', '.join(damaged[:_MOST_NAMED])}"
                + (f" and {more} lines more" if more > 0 else "")
                + ". What is recorded nowhere else is drawn again."
            )

    def _record(self, line: bytes) -> dict[str, Any]:
        """The record that a line holds.

        Raises:
            ValueError, RecursionError: it holds none; the message says why.
        """
        record = json.loads(line.decode())
        if not isinstance(record, dict):
            raise ValueError("no object")
        index = record.get("index")
        if type(index) is not int or not 0 <= index < INDICES:
            raise ValueError("no index")
        if problem := self._problem_of(record):
            raise ValueError(problem)
        return record

    def batch(self, device: str) -> int | None:
        """The batch that `remember_batch` was given for this kind of device."""
        try:
            found = json.loads((self.path / _BATCH_FILE).read_bytes().decode())[device]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # whatever it held can be measured again
        return found if type(found) is int and 0 < found <= _LARGEST_BATCH else None

    def remember_batch(self, device: str, batch: int) -> None:
        """Keeps the batch for the next run in this directory."""
        write_whole(self.path / _BATCH_FILE, json.dumps({device: batch}) + "\n")

    def refuse(self, why: str) -> None:
        """Keeps everyone from certificates of what was drawn here."""
        write_whole(self.path / _REFUSED_FILE, why + "\n")

    def _agree_to_go_on(self) -> None:
        file = self.path / _REFUSED_FILE
        if file.exists():
            why = _content(file).decode(errors="replace").strip()
            raise UserError(f"{why} (found before; give another --out to another classifier)")

    def _agree_on_settings(self) -> None:
        file = self.path / CONFIG_FILE
        if not file.exists():
            if any((self.path / VOTES_FOLDER).glob("*.jsonl")):
                raise UserError(f"{self.path} has votes but no {CONFIG_FILE}; give another --out")
            write_whole(file, json.dumps(self._settings, indent=2) + "\n")
            return
        try:
            found = json.loads(_content(file).decode())
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is damaged ({error}); give another --out") from error
        for name in [*self._settings, *found]:
            here, there = self._settings.get(name), found.get(name, _UNSAID.get(name))
            if here != there:
                raise UserError(
                    f"{self.path} was made with {name} = {_shown(there)}, not {_shown(here)}; "
                    "give the same settings or another --out"
                )


def looks_of(record: Mapping[str, Any]) -> int:
    """How often the votes of an image were looked at."""
    return 0 if _UNREADABLE in record else 1 + len(record.get(EARLIER, ()))


def earlier_settings(path: str | Path | epath.Path) -> dict[str, Any]:
    """The settings of the run that a directory holds; empty where there is none that can be read.

    `RecordFolder` refuses a damaged file of them.
    """
    try:
        found = json.loads((epath.Path(path) / CONFIG_FILE).read_bytes().decode())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(file: epath.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
