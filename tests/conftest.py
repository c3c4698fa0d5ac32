"""Which tests run and how, and the fixtures that several packages share.

`pytest` runs the fast suite: the tests without a marker. `pytest --full` runs all, with run-time
checks of types and shapes and with long property tests (docs/testing.md).
"""

import collections
import fcntl
import multiprocessing.process
import os
import re
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import settings

MARKERS = {
    "process": "starts processes of its own",
    "torch": "needs PyTorch",
    "others": "needs other people's networks or data: timm, torchvision, transformers, diffusers, "
    "TensorFlow Datasets",
    "browser": "needs a browser",
    "slow": "takes many seconds of computation or compilation",
}
# In one test of the fast suite, its function's fixtures included. Programs that are read from the
# cache or compiled by JAX for an operation outside `jit` count, too.
MOST_COMPILATIONS = 60

ROOT = Path(__file__).resolve().parents[1]
Once = Callable[[str, Callable[[Path], None]], Path]
_counts: collections.Counter[str] = collections.Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the marked tests, too")


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    # The first example of a test pays for compilation: a deadline would measure that.
    settings.register_profile("fast", deadline=None, max_examples=15, derandomize=True)
    settings.register_profile("full", deadline=None)
    settings.load_profile("full" if config.getoption("full") else "fast")
    if config.getoption("full"):
        from jaxtyping import install_import_hook

        assert "dsrs_jax" not in sys.modules  # what is imported already would not be checked
        install_import_hook("dsrs_jax", "typechecking.typechecker")

    # Under nohup it is ignored, here and in what a test starts, and some tests wait for it.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # A silent broadcast or a silent change of precision fails a test at once.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    # Compilation takes most of the tests' time: what one worker compiled, or a command that a test
    # started, all others read, today and tomorrow.
    os.environ["DSRS_CACHE"] = str(ROOT / ".cache")
    from dsrs_jax.system.compilation import keep_compiled

    keep_compiled()
    jax.monitoring.register_event_duration_secs_listener(_count_compilation)
    sys.addaudithook(_count_process)
    _count_multiprocessing()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files whose tests are all marked are not imported: what they need may not be installed."""
    if config.getoption("full") or collection_path.suffix != ".py":
        return None
    marked = re.search(r"^pytestmark = pytest\.mark\.", collection_path.read_text(), re.M)
    return True if marked else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("full"):
        return
    config.hook.pytest_deselected(items=[item for item in items if _marked(item)])
    items[:] = [item for item in items if not _marked(item)]


def _marked(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in MARKERS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fails a test of the fast suite that compiles more than its share or starts a process."""
    _counts.clear()
    result = yield
    if not item.config.getoption("full"):
        assert not _counts["processes"], "it starts a process: mark it `process`"
        compilations = _counts["compilations"]
        assert compilations <= MOST_COMPILATIONS, f"{compilations} compilations: mark it `slow`"
    return result


def _count_compilation(event: str, _: float, **__: Any) -> None:
    _counts["compilations"] += event == "/jax/core/compile/backend_compile_duration"


def _count_process(event: str, _: tuple[Any, ...]) -> None:
    _counts["processes"] += event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")


def _count_multiprocessing() -> None:
    """Its processes by `spawn`, too, which Python's audit hooks do not see."""
    original = multiprocessing.process.BaseProcess.start

    def start(self: multiprocessing.process.BaseProcess) -> None:
        _counts["processes"] += 1
        original(self)

    multiprocessing.process.BaseProcess.start = start  # type: ignore[method-assign]


def _real_data(variable: str, folder: Path) -> Path:
    folder = Path(os.environ.get(variable) or folder)
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set {variable} to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with MNIST's four IDX files: DSRS_MNIST, or shared/mnist beside the project."""
    return _real_data("DSRS_MNIST", ROOT.parent / "shared" / "mnist")


@pytest.fixture(scope="session")
def published_dir() -> Path:
    """The authors' published results: DSRS_PUBLISHED, or shared/published beside the project."""
    return _real_data("DSRS_PUBLISHED", ROOT.parent / "shared" / "published")


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
    from certify_runs import SIGMA, K

    from dsrs_jax.run.main import main

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
    """The certificates of a run of `certify_runs.WORK` that nothing happened to."""
    from certify_runs import WORK

    from dsrs_jax.run.main import main

    def make(folder: Path) -> None:
        assert main(["certify", "--model", model, *WORK, "--out", str(folder)]) == 0

    return (once("whole", make) / "certificates.csv").read_bytes()
