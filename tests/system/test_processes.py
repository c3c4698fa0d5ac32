"""Processes join by real sockets; what does not describe a run is refused before anything waits."""

import contextlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import ended, joined, start

from dsrs_jax.system import processes
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import Group, from_first, in_cluster, initialize, together

# What fails in process 0 alone is an error in each; it ends at once, the other one after it.
PROGRAM = """
import os, pathlib, sys, time
import numpy as np
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import from_first, initialize, together
number = int(sys.argv[-1])
initialize(sys.argv[3], int(sys.argv[5]), number, False)
print("initialized", flush=True)
import jax
assert jax.process_count() == 2 and jax.process_index() == number
first = from_first({"zero": np.array([-0.0 if number == 0 else 0.0, number])})
assert first["zero"].tolist() == [0, 0] and np.signbit(first["zero"]).tolist() == [True, False]
def action():
    if number == 0:
        raise UserError("it failed here")
assert together(lambda: number) == number
try:
    together(action)
except UserError as error:
    assert not jax.distributed.is_initialized()
    while number == 1 and not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    print(error, file=sys.stderr, flush=True)
    os._exit(2)
"""
ERRORS = ["it failed here\n", "another process of this run failed; its own line says why\n"]


@pytest.mark.process
def test_two_processes_exchange_arrays_and_part_before_the_first_one_ends(tmp_path: Path) -> None:
    gate = tmp_path / "the first one has ended"
    running = [start(words, program=["-c", PROGRAM]) for words in joined(*[[str(gate)]] * 2)]
    for process, error in zip(running, ERRORS, strict=True):
        printed = process.stdout.read()
        assert ended([process]) == [(2, error)]
        # Gloo connects at once: it gives up where another one comes to it half a minute late.
        assert "is connected" in printed.partition("initialized")[0]
        gate.touch()


@pytest.mark.parametrize("failed_there", [False, True])
def test_what_a_process_does_with_another_one(failed_there, monkeypatch) -> None:
    done: list[object] = []

    def gather(failed: np.ndarray) -> np.ndarray:
        done.append(bool(failed))
        return np.array([failed_there and "inside" in done, failed])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: done.append(given))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: done.append("parted"))
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    with processes.rendezvous("here:1", 2, 0, False) as group:
        assert group == Group(jax.process_index(), 2)
    # Gloo connects at the first exchange, and gives up where one comes to it half a minute late.
    assert done == [("here:1", 2, 0), False, "parted"]
    done[:] = ["inside"]
    another = pytest.raises(UserError, match="another process of this run failed")
    with another if failed_there else contextlib.nullcontext():
        assert together(lambda: 5) == 5
    assert done == ["inside", False] + ["parted"] * failed_there

    def fail() -> None:
        raise UserError("it failed here")

    done[:] = ["inside"]
    with pytest.raises(UserError, match="it failed here"):
        together(fail)
    assert done == ["inside", True, "parted"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1234", None, None, False), "missing: --num-processes, --process-id"),
        ((None, 2, 0, False), "missing: --coordinator"),
        (("here", 2, 0, False), "HOST:PORT"),
        (("here:1234", 0, 0, False), "must be positive"),
        (("here:1234", 2, 2, False), "0 ... 1"),
        (("here:1234", 2, 0, True), "leave out"),
    ],
)
def test_a_mistake_is_refused_at_once(given: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        initialize(*given)


def test_one_process_needs_nothing() -> None:
    initialize(None, None, None, False)
    with processes.rendezvous(None, None, None, False) as group:
        assert group == Group(process=0, processes=1)
    tree = {"weight": np.array([1.0])}
    assert from_first(tree) is tree and together(lambda: 3) == 3


@pytest.mark.parametrize(
    ("several", "environment"),
    [
        (False, {}),
        (True, {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}),
        (False, {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}),
        (False, {"SLURM_NTASKS": "2"}),  # a job, but not within `srun`
        (True, {"OMPI_COMM_WORLD_SIZE": "4"}),
        (False, {"OMPI_COMM_WORLD_SIZE": "1"}),
        (False, {"OMPI_COMM_WORLD_SIZE": "many"}),
        (True, {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}),
        (False, {"TPU_WORKER_HOSTNAMES": "localhost"}),
        (True, {"TPU_PROCESS_ADDRESSES": "10.0.0.1:8476,10.0.0.2:8476"}),
        (True, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}),
        (False, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
    ],
)
def test_a_cluster_is_known_by_its_environment(several, environment, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", environment)
        assert in_cluster() == several
