"""The end of a run of several processes: the first one waits for what the others record."""

from __future__ import annotations

from collections.abc import Callable

from dsrs_jax.run import ending
from dsrs_jax.system.errors import IncompleteError
from dsrs_jax.system.heartbeat import wait_for_others
from dsrs_jax.system.processes import Group
from dsrs_jax.votes import RecordFolder


def gather(
    missing: Callable[[], list[int]],
    folder: RecordFolder,
    processes: Group,
    patience: float,
    again: str,
    tell: Callable[[str], None],
) -> None:
    """Waits for the records of the other processes.

    Args:
        missing: the images that have no record yet, by what the folder has read.
        folder: of the run; it is read again while others are at work.
        processes: of the run.
        patience: seconds until a silent process is lost.
        again: the command that completes the run.
        tell: prints a line.

    Raises:
        IncompleteError: records are missing, of a process that was lost.
    """

    def absent() -> list[int]:
        folder.refresh()
        return missing()

    lost: list[int] = []
    if processes.processes > 1 and absent():
        others = range(1, processes.processes)
        tell(f"This process's share is done; waiting for {len(others)} others.")
        lost = wait_for_others(folder.path, others, patience, lambda: not absent())
    if left := absent():
        who = ", ".join(str(process) for process in lost) or "none that is known of"
        raise IncompleteError(
            f"{ending.some(left)} missing (lost processes: {who}); all else "
            f"is kept. This completes them, with any number of processes: {again}"
        )
