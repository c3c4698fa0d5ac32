"""What the tests of the command share: a model, and a way to start real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from certify_runs import SIGMA, K

from dsrs_jax import data, models, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint folder of a digits model."""
    recipe = train.Recipe(
        "digits_cnn", sigma=SIGMA, k=K, epochs=40, batch=128, learning_rate=0.1,
        learning_rate_step=15,
    )  # fmt: skip
    network = train.train(data.in_memory(data.load("digits", "train")), recipe)
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, SIGMA, K, 2.0)
    path = tmp_path_factory.mktemp("model") / "digits"
    models.save_model(path, network, metadata)
    return str(path)


@pytest.fixture(scope="session")
def start(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.Popen[str]]:
    """Starts scripts/certify.py with these arguments, on so many virtual devices."""
    cache = tmp_path_factory.mktemp("compiled")  # a second start need not compile again

    def start(command: list[str], devices: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "certify.py"), *command],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
