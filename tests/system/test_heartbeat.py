"""The silent are given up, the finished are not waited for, the living are."""

import json
import threading
import types

import pytest
from commands import wait_until
from etils import epath

from dsrs_jax.system import heartbeat
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.heartbeat import Heartbeat, wait_for_others

PATIENCE = 60.0


def last_of(path, process: int) -> dict:
    return json.loads((path / "processes" / f"{process}.json").read_text())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The time for `wait_for_others`: a sleep takes none, and does what the test wants."""
    clock = types.SimpleNamespace(now=0.0, meanwhile=lambda: None, monotonic=lambda: clock.now)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.meanwhile()

    clock.sleep = sleep
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


def test_a_process_beats_often_while_it_is_at_work_and_says_that_it_ended_well(
    tmp_path, monkeypatch
) -> None:
    pauses = []

    class Over(threading.Event):
        def wait(self, timeout: float) -> bool:
            pauses.append(timeout)
            return super().wait(0.001)

    replaced = types.SimpleNamespace(Event=Over, Thread=threading.Thread)
    monkeypatch.setattr(heartbeat, "threading", replaced)
    with Heartbeat(epath.Path(tmp_path), 1, PATIENCE):
        wait_until(lambda: len(pauses) > 3)
        assert last_of(tmp_path, 1)["state"] == "at work" and last_of(tmp_path, 1)["beat"] > 0
    assert last_of(tmp_path, 1)["state"] == "done"
    assert max(pauses) < PATIENCE / 3  # one late beat is no silence


@pytest.mark.parametrize("error", [UserError, RuntimeError, KeyboardInterrupt])
def test_a_process_that_did_not_end_well_falls_silent(error, tmp_path) -> None:
    with pytest.raises(error), Heartbeat(epath.Path(tmp_path), 0, PATIENCE):
        raise error
    # After a mistake of the user's, who knows of it, nothing more will come.
    assert last_of(tmp_path, 0)["state"] == ("done" if error is UserError else "at work")


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"null", b"\0" * 30, b"[" * 100_000])
def test_those_that_fell_silent_are_named(content, tmp_path, clock) -> None:
    path = epath.Path(tmp_path)
    for process in (1, 4):
        with Heartbeat(path, process, PATIENCE):
            pass
    Heartbeat(path, 2, PATIENCE)  # a process that was lost at once
    if content is not None:  # damaged
        (tmp_path / "processes" / "4.json").write_bytes(content)
    # Process 3 never came.
    silent = wait_for_others(path, [1, 2, 3, 4], PATIENCE, lambda: False)
    assert silent == ([2, 3] if content is None else [2, 3, 4])
    assert PATIENCE < clock.now < 1.1 * PATIENCE
    clock.now = 0.0
    assert wait_for_others(path, [1], PATIENCE, lambda: False) == [] and clock.now == 0


def test_a_living_process_is_waited_for_until_all_is_there(tmp_path, clock) -> None:
    living = Heartbeat(epath.Path(tmp_path), 1, PATIENCE)
    clock.meanwhile = lambda: living._say("at work", int(clock.now) // 50)  # seldom, but in time
    found = wait_for_others(epath.Path(tmp_path), [1], PATIENCE, lambda: clock.now > 300)
    assert found == [] and clock.now > 300


def test_a_place_that_cannot_be_written_is_an_error(tmp_path) -> None:
    (tmp_path / "processes").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*processes: File exists"):
        Heartbeat(epath.Path(tmp_path), 0, PATIENCE)
