"""Several hosts: one process on each, joined before anything touches a device."""

from __future__ import annotations

import jax

from dsrs_jax.errors import UserError


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    distributed: bool,
) -> None:
    """Joins this process to the others of its run; does nothing for a run of one process.

    Must be called before the first JAX computation, by every process of the run. It returns when
    all of them have called it. On CPUs the processes exchange arrays by gloo, which JAX chooses.

    Args:
        coordinator: HOST:PORT of process 0, reachable from all others (`--coordinator`).
        num_processes: how many processes there are (`--num-processes`).
        process_id: the number of this one, from 0 (`--process-id`).
        distributed: find the three above from the cluster's environment, as JAX does on TPU pods
            and under Slurm and Open MPI (`--distributed`).

    Raises:
        UserError: three values that do not describe a run, or the others cannot be reached.
    """
    given = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if distributed:
        if len(missing) < len(given):
            raise UserError(
                "--distributed finds the processes by itself: leave out " + ", ".join(given)
            )
    elif len(missing) == len(given):
        return
    elif missing:
        raise UserError(f"several processes need {', '.join(given)}; missing: {', '.join(missing)}")
    else:
        _check(str(coordinator), int(num_processes or 0), int(process_id or 0))
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if distributed:
            raise UserError(
                f"no cluster was found ({reason}); name the processes by {', '.join(given)}"
            ) from error
        raise UserError(f"cannot join the processes at {coordinator}: {reason}") from error


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1:
        raise UserError(f"--num-processes must be positive, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id must lie in 0 ... {num_processes - 1}, one for each process, "
            f"got {process_id}"
        )
