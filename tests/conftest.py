"""Settings under which every test runs, and the fixtures that several rooms share."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes and types in annotations are checked here and nowhere else; must precede every import
# of the package.
install_import_hook("dsrs_jax", "typechecking.typechecker")

# A silent broadcast or a silent change of precision fails a test at once.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a test pays for compilation: a deadline would measure that.
settings.register_profile("dsrs_jax", deadline=None)
settings.load_profile("dsrs_jax")


# Files that take long come first: no worker is left alone with one at the end.
_LONG = (
    "test_runs.py", "test_kills.py", "test_faults.py", "test_search.py", "test_published.py",
    "test_forward.py", "test_convert.py", "test_sampler.py", "test_certify.py", "test_trainer.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file nothing changes its place."""
    items.sort(key=lambda item: _LONG.index(n) if (n := item.path.name) in _LONG else len(_LONG))


def pytest_configure() -> None:
    """Compilation takes most of the tests' time: what one worker compiled, or a command that a
    test started, all others read, today and tomorrow.
    """
    from dsrs_jax.system.compilation import keep_compiled

    os.environ["DSRS_CACHE"] = str(Path(__file__).resolve().parents[1] / ".cache")
    keep_compiled()


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with MNIST's four IDX files: DSRS_MNIST, or shared/mnist beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "mnist"
    folder = Path(os.environ.get("DSRS_MNIST") or beside)
    if not folder.is_dir():
        pytest.skip(f"no MNIST files in {folder}; set DSRS_MNIST to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def published_dir() -> Path:
    """The authors' published results: DSRS_PUBLISHED, or shared/published beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "published"
    folder = Path(os.environ.get("DSRS_PUBLISHED") or beside)
    if not folder.is_dir():
        pytest.skip(f"no published results in {folder}; set DSRS_PUBLISHED to their folder")
    return folder
