"""The fast suite keeps itself fast: what conftest.py fails, and what it leaves out."""

import shutil
from pathlib import Path

import commands
import pytest

TESTS = """
import subprocess, sys
import jax
import pytest

def test_compiles_much():
    for size in range(70):
        jax.jit(lambda x: x + 1)(jax.numpy.zeros(size))

def test_starts_a_process():
    subprocess.run([sys.executable, "--version"])

@pytest.mark.process
def test_starts_a_process_and_says_so():
    subprocess.run([sys.executable, "--version"])

def test_does_neither():
    pass
"""


@pytest.mark.process
def test_a_fast_test_that_compiles_much_or_starts_a_process_fails(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    shutil.copy(commands.ROOT / "tests" / "conftest.py", folder)
    (folder / "test_some.py").write_text(TESTS)
    (folder / "test_torch.py").write_text(
        "import no_such_package\npytestmark = pytest.mark.torch\n"
    )
    ended = commands.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder))
    assert ended.returncode == 1
    assert "compilations: mark it `slow`" in ended.stdout
    assert "it starts a process: mark it `process`" in ended.stdout
    assert "2 failed, 1 passed, 1 deselected" in ended.stdout
