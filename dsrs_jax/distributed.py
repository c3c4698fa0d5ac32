"""Several hosts: one process on each, joined before anything touches a device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

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


class Group(NamedTuple):
    """The processes of a run: the number of this one, and how many there are."""

    process: int
    processes: int


@contextlib.contextmanager
def rendezvous(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    distributed: bool,
) -> Iterator[Group]:
    """All processes are inside at the same time; none leaves before every one is ready to.

    After it they do not know one another any more: JAX ends all processes that are joined when
    one of them dies, and here a lost host must cost its own share only. Arguments and errors are
    those of `initialize`; without any, a cluster is looked for in the environment.
    """
    nothing_given = (coordinator, num_processes, process_id) == (None, None, None)
    initialize(
        coordinator, num_processes, process_id, distributed or (nothing_given and in_cluster())
    )
    if not jax.distributed.is_initialized():
        yield Group(0, 1)
        return
    try:
        yield Group(jax.process_index(), jax.process_count())
    finally:
        jax.distributed.shutdown()  # waits for all


def in_cluster() -> bool:
    """Whether the environment says that this is one process of several, in a way JAX knows.

    Slurm (a step of several tasks), Open MPI, TPU hosts that know their peers, and an indexed job
    of Kubernetes.
    """
    found = os.environ
    slurm = "SLURM_STEP_NODELIST" in found and _count(found.get("SLURM_NTASKS")) > 1
    open_mpi = _count(found.get("OMPI_COMM_WORLD_SIZE")) > 1
    tpu_hosts = found.get("TPU_PROCESS_ADDRESSES") or found.get("TPU_WORKER_HOSTNAMES") or ""
    kubernetes = "KUBERNETES_SERVICE_HOST" in found and "JOB_COMPLETION_INDEX" in found
    return slurm or open_mpi or "," in tpu_hosts or kubernetes


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 1
