"""Who is at work: the silent are given up, the finished are not waited for, the living are."""

import json
import time
from pathlib import Path

import pytest
from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.heartbeat import Heartbeat, wait_for_others


def said_by(path: Path, process: int) -> dict:
    return json.loads((path / "processes" / f"{process}.json").read_text())


def test_a_process_says_that_it_is_at_work_and_that_it_ended_well(tmp_path: Path) -> None:
    with Heartbeat(epath.Path(tmp_path), 1, patience=0.06):
        first = said_by(tmp_path, 1)
        assert first["state"] == "at work"
        while said_by(tmp_path, 1) == first:  # it beats
            pass
        assert said_by(tmp_path, 1)["state"] == "at work"
    assert said_by(tmp_path, 1)["state"] == "done"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (UserError("a full disk"), "done"),  # it told its user, and nothing more will come of it
        (RuntimeError("a bug"), "at work"),
        (KeyboardInterrupt(), "at work"),
    ],
)
def test_a_process_that_did_not_end_well_falls_silent(
    error: BaseException, state: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), Heartbeat(epath.Path(tmp_path), 0, patience=60.0):
        raise error
    assert said_by(tmp_path, 0)["state"] == state


def test_those_that_fell_silent_are_named(tmp_path: Path) -> None:
    path = epath.Path(tmp_path)
    with Heartbeat(path, 1, patience=60.0):
        pass
    Heartbeat(path, 2, patience=60.0)  # a process that was lost at once
    # Process 3 never came.
    assert wait_for_others(path, [1, 2, 3], 0.1, lambda: False) == [2, 3]
    assert wait_for_others(path, [1], 0.1, lambda: False) == []


def test_nobody_is_waited_for_when_all_is_there(tmp_path: Path) -> None:
    path, asked = epath.Path(tmp_path), []
    Heartbeat(path, 1, patience=60.0)

    def complete() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    assert wait_for_others(path, [1], 6.0, complete) == []


def test_a_living_process_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    path, patience, begun = epath.Path(tmp_path), 1.5, time.monotonic()
    with Heartbeat(path, 1, patience / 5):
        assert (
            wait_for_others(path, [1], patience, lambda: time.monotonic() - begun > 2 * patience)
            == []
        )
        assert time.monotonic() - begun > 2 * patience


@pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"\0" * 30, b"[" * 100_000])
def test_a_damaged_word_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = epath.Path(tmp_path)
    for process in (1, 2):
        with Heartbeat(path, process, patience=60.0):
            pass
    (tmp_path / "processes" / "1.json").write_bytes(content)
    assert wait_for_others(path, [1, 2], 0.1, lambda: False) == [1]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "processes").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*processes: File exists"):
        Heartbeat(epath.Path(tmp_path), 0, patience=60.0)
