"""A folder's lock: one holder, whoever it is and wherever, and none that has ended."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest

from dsrs_jax.system import folder_lock
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.folder_lock import held

ELSEWHERE = "process 7 on a-host-that-is-not-this-one\n"
HOLDER = """
import signal, sys
from pathlib import Path
from dsrs_jax.system.folder_lock import held
with held(Path(sys.argv[1])):
    print("in", flush=True)
    signal.pause()
"""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_BEAT", 0.02)
    monkeypatch.setattr(folder_lock, "_PATIENCE", 1.0)


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[None]:
    """A holder on another host, whose lock this one does not know of."""
    file, over = tmp_path / ".lock-0", threading.Event()
    file.write_text(ELSEWHERE)

    def beat() -> None:
        while not over.wait(0.02):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    over.set()
    thread.join()


def _refused(folder: Path, holder: str) -> None:
    message = f"another run is writing in {folder}: {holder}; wait for it, or give another --out"
    with pytest.raises(UserError) as error, held(folder):
        pass
    assert str(error.value) == message


def test_one_at_a_time_holds_a_lock_and_others_learn_who(tmp_path: Path) -> None:
    with held(tmp_path), held(tmp_path, "report"):
        _refused(tmp_path, f"process {os.getpid()} on {os.uname().nodename}")
    with pytest.raises(ValueError), held(tmp_path):
        raise ValueError
    with held(tmp_path):
        pass


@pytest.mark.process
def test_a_killed_holder_does_not_block_the_next(tmp_path: Path) -> None:
    process = commands.start([str(tmp_path)], program=["-c", HOLDER])
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    _refused(tmp_path, f"process {process.pid} on {os.uname().nodename}")
    commands.end(process, signal.SIGKILL)
    with held(tmp_path):
        pass


def test_a_holder_on_another_host_is_known_by_its_signs_of_life(
    tmp_path: Path, fast: None, alive: None
) -> None:
    _refused(tmp_path, ELSEWHERE.strip())
    assert (tmp_path / ".lock-0").read_text() == ELSEWHERE


def test_a_holder_on_another_host_that_was_killed_is_waited_for_once(
    tmp_path: Path, fast: None
) -> None:
    (tmp_path / ".lock-0").write_text(ELSEWHERE)
    with held(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock-0").read_text()
    assert (tmp_path / ".lock-0").read_text() == ""


def test_signs_of_life_decide_where_a_file_system_has_no_locks(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(tmp_path):
        _refused(tmp_path, f"process {os.getpid()} on {os.uname().nodename}")
    with held(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write in .*nowhere: No such file"):
        held(tmp_path / "nowhere").__enter__()
