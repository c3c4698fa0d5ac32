"""Several hosts: one process on each, joined before anything touches a device."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dsrs_jax.system.devices import require_devices
from dsrs_jax.system.errors import UserError, first_line

_PATIENCE = 300.0  # seconds until process 0 must have begun; JAX's own limit
Result = TypeVar("Result")


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    distributed: bool,
) -> None:
    """Joins this process to the others of its run, if there are any, and finds its devices.

    Must be called before the first JAX computation, by every process of the run. It returns when
    all of them have called it. On CPUs the processes exchange arrays by gloo, which JAX chooses.

    Args:
        coordinator: HOST:PORT of process 0, reachable from all others (`--coordinator`).
        num_processes: how many processes there are (`--num-processes`).
        process_id: the number of this one, from 0 (`--process-id`).
        distributed: find the three above from the cluster's environment, as JAX does on TPU pods
            and under Slurm and Open MPI (`--distributed`).

    Raises:
        UserError: three values that do not describe a run, the others cannot be reached, or JAX
            has no devices here.
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
        require_devices()
        return
    elif missing:
        raise UserError(f"several processes need {', '.join(given)}; missing: {', '.join(missing)}")
    else:
        _check(str(coordinator), int(num_processes or 0), int(process_id or 0))
        if process_id:
            _wait_for(str(coordinator))
    # It would take SIGTERM for itself, and nobody would end at it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        if distributed:
            raise UserError(
                f"no cluster was found ({reason}); name the processes by {', '.join(given)}"
            ) from error
        raise UserError(f"cannot join the processes at {coordinator}: {reason}") from error
    require_devices()
    # Gloo connects at the first exchange, and gives up where one comes to it half a minute late,
    # as a host may that measures or compiles first. Here all come at once; later it waits.
    _any_failed(False)


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1:
        raise UserError(f"--num-processes must be positive, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id must lie in 0 ... {num_processes - 1}, one for each process, "
            f"got {process_id}"
        )


def _wait_for(coordinator: str) -> None:
    """Until process 0 listens: JAX would abort the program where it does not."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
            return
        except socket.gaierror as error:
            raise UserError(f"--coordinator {coordinator}: {error.strerror}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no process 0 listens at --coordinator {coordinator} ({error.strerror}); "
                    "start it first, or fix the address"
                ) from error
        time.sleep(0.2)


def together(action: Callable[[], Result]) -> Result:
    """What `action` returns here, once it has succeeded in every process of the run.

    All processes must come to each call: it may stand under no condition that differs among them.

    Raises:
        UserError: it failed here, or in another process: none is left waiting for one that ended.
            The processes do not know one another any more.
    """
    try:
        result = action()
    except UserError:
        _any_failed(True)
        _part()
        raise
    if _any_failed(False):
        _part()
        raise UserError("another process of this run failed; its own line says why")
    return result


def from_first(tree: Any) -> Any:
    """The arrays of process 0, bit for bit, in every process; their shapes must be the same."""
    if jax.process_count() == 1:
        return tree
    # As bytes: JAX adds up what the processes hold, which would lose the sign of a zero.
    sent = jax.tree.map(lambda leaf: np.frombuffer(np.asarray(leaf).tobytes(), np.uint8), tree)
    received = multihost_utils.broadcast_one_to_all(sent)
    return jax.tree.map(
        lambda leaf, got: np.frombuffer(got.tobytes(), leaf.dtype).reshape(leaf.shape),
        tree,
        received,
    )


def _any_failed(failed: bool) -> bool:
    if jax.process_count() == 1:
        return failed
    return bool(np.any(multihost_utils.process_allgather(np.array(failed))))


def _part() -> None:
    """Waits for all, after which each may end alone: JAX aborts those that process 0 leaves."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


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
        _part()


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
