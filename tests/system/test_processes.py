"""Processes join by real sockets; what does not describe a run is told before anything waits."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import Group, in_cluster, initialize, rendezvous

ROOT = Path(__file__).resolve().parents[2]

JOINED = """
import json, sys, time
from dsrs_jax.system.processes import initialize
initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), False)
import jax
time.sleep(35 * int(sys.argv[3]))
from jax.experimental.multihost_utils import process_allgather
print(json.dumps([jax.process_count(), process_allgather(jax.process_index()).tolist()]))
"""


# What fails in process 0 alone is said by each; then the one ends at once, the other much later.
FAILED = """
import os, sys, time
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import initialize, together
address, count, number, slow = sys.argv[1], *map(int, sys.argv[2:])
initialize(address, count, number, False)
def action():
    if number == 0:
        raise UserError("it failed here")
try:
    together(action)
except UserError as error:
    print(error, file=sys.stderr, flush=True)
    time.sleep(3 * (number == slow))
    os._exit(2)
"""


def _joined(program: str, *arguments: int) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each of two processes that a program joins."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                f"localhost:{port}",
                *map(str, [2, number, *arguments]),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, said, strict=True)]


def test_two_processes_exchange_arrays() -> None:
    """Also where one comes later than gloo, which gives up after 30 s, waits for it to connect."""
    for _, printed, _ in _joined(JOINED):
        # Gloo says on the same stream that it is connected.
        assert json.loads(printed.splitlines()[-1]) == [2, [0, 1]]


@pytest.mark.parametrize("slow", [0, 1])
def test_none_is_aborted_by_one_that_ended_before_it(slow: int) -> None:
    first, second = _joined(FAILED, slow)
    assert (first[0], first[2]) == (2, "it failed here\n")
    assert (second[0], second[2]) == (
        2, "another process of this run failed; its own line says why\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("coordinator", "count", "number", "distributed", "message"),
    [
        ("here:1234", None, None, False, "missing: --num-processes, --process-id"),
        (None, 2, 0, False, "missing: --coordinator"),
        ("here", 2, 0, False, "HOST:PORT"),
        ("here:1234", 0, 0, False, "must be positive"),
        ("here:1234", 2, 2, False, "0 ... 1"),
        ("here:1234", 2, 0, True, "leave out"),
    ],
)
def test_a_mistake_is_told_at_once(
    coordinator: str | None, count: int | None, number: int | None, distributed: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        initialize(coordinator, count, number, distributed)


def test_one_process_needs_nothing() -> None:
    initialize(None, None, None, False)
    with rendezvous(None, None, None, False) as group:
        assert group == Group(process=0, processes=1)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),  # a job, but not within `srun`
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "10.0.0.1:8476,10.0.0.2:8476"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_a_cluster_is_known_by_its_environment(
    environment: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JOB_COMPLETION_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert in_cluster() == several
