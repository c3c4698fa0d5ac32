"""What the tests of the command share: a trained model, a whole run, a way to start processes."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from certify_runs import SIGMA, WORK, K

from dsrs_jax.run.main import main

ROOT = Path(__file__).resolve().parents[2]
Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A folder that the first test to ask for it fills, and that all workers of a session share."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own within the session's

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / f"once-{name}", shared / f"once-{name}.done"
        with open(shared / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def trained(once: Once) -> Path:
    """The folder of a run of `train`, of a small digits model."""

    def make(folder: Path) -> None:
        command = ["train", "--sigma", str(SIGMA), "--k", str(K), "--epochs", "20"]
        command += ["--batch", "128", "--lr", "0.1", "--lr-step-size", "8"]
        assert main([*command, "--out", str(folder)]) == 0

    return once("trained", make)


@pytest.fixture(scope="session")
def model(trained: Path) -> str:
    """A checkpoint folder of a digits model."""
    return str(trained / "model")


@pytest.fixture(scope="session")
def whole(once: Once, model: str) -> bytes:
    """The certificates of a run of WORK that nothing happened to."""

    def make(folder: Path) -> None:
        assert main(["certify", "--model", model, *WORK, "--out", str(folder)]) == 0

    return (once("whole", make) / "certificates.csv").read_bytes()


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts `dsrs-jax certify` with these arguments, on so many virtual devices."""

    def start(command: list[str], devices: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dsrs_jax", "certify", *command],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
