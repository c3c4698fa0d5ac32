"""Reading ahead by worker processes or threads, with Grain."""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.signals import ENDING

Element = TypeVar("Element")
_PATIENCE = 2.0  # seconds in which a worker that is well ends
_SMALL = 1 << 16  # bytes of an array that is sent through a pipe
_STARTING = threading.Lock()  # whose process a new one is, only the time of its start says


def read_in_order(
    read: Callable[[Any, int], Element], data: Any, *, workers: int, ahead: int, size: int
) -> Generator[Element]:
    """read(data, 0), read(data, 1), ... without end, some of them read ahead.

    Workers are new Python processes that import the program's main module, so a script that
    has workers needs the usual `if __name__ == "__main__":`. They end when the iterator is closed
    (`contextlib.closing`), when it is garbage, and when this process ends, however it does.

    Args:
        read: a function of a module, or a partial of one. What it returns may have no reference
            to `data`.
        data: can be pickled; its NumPy arrays are in memory once for all workers.
        workers: processes that read; 0: threads of this process, as many as it has cores.
        ahead: elements that are read before they are asked for, at least.
        size: bytes of an element.

    Raises:
        UserError: a worker process ended, or a file cannot be written.
    """
    elements = _by_workers if workers else _by_threads
    with contextlib.closing(elements(read, data, workers, ahead, size)) as found:
        while True:
            try:
                yield next(found)  # no name here keeps it in shared memory
            except RuntimeError as error:
                ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
                if ended is None:
                    raise
                raise UserError(
                    f"a worker process that reads images ended with exit code {ended[1]}; -9 and "
                    "-7 mean that memory or /dev/shm was full: give fewer --workers"
                ) from error


def _by_threads(
    read: Callable[[Any, int], Element], data: Any, workers: int, ahead: int, size: int
) -> Generator[Element]:
    import grain

    del workers, size
    threads = os.cpu_count() or 1
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    source = grain.MapDataset.source(_Source(read, functools.partial(_itself, data), 0, 1))
    with contextlib.closing(iter(source.to_iter_dataset(reading))) as elements:
        yield from elements


def _by_workers(
    read: Callable[[Any, int], Element], data: Any, workers: int, ahead: int, size: int
) -> Generator[Element]:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks for its own, of which there are none
        flags.FLAGS.mark_as_parsed()
    # So many in a worker's queue, and as many again in a thread of this process.
    buffer = -(-ahead // (2 * workers))
    shared = _least_shared(workers * (2 * buffer + 3) * size)
    options = grain.experimental.DatasetOptions(min_shm_size=shared)
    # A worker reads in its main thread: without these numbers it would start 16 more.
    alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    one = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=buffer)

    def begin(worker: int) -> Any:
        source = grain.MapDataset.source(_Source(read, load, worker, workers))
        elements = grain.experimental.WithOptionsIterDataset(source.to_iter_dataset(alone), options)
        iterator = iter(elements.mp_prefetch(one, _begin_worker))
        iterator.get_state()  # makes what the next line starts, instead of a thread later
        with _without_signals():
            iterator.start_prefetch()
        return iterator

    with contextlib.ExitStack() as opened:
        load = _in_file(data, opened)
        # Each has an iterator of its own: Grain would end the workers of one after another.
        iterators: list[Any] = []
        processes: list[BaseProcess] = []
        try:
            with _STARTING:
                others = set(_grain_processes())
                with _without_signals():  # Python's own helper, which heeds them but for two
                    multiprocessing.resource_tracker.ensure_running()
                iterators += map(begin, range(workers))
                # Threads of Grain's start them, in no time.
                deadline = time.monotonic() + _PATIENCE
                while len(processes) < workers and time.monotonic() < deadline:
                    time.sleep(0.01)
                    processes = [one for one in _grain_processes() if one not in others]
            yield from (next(iterator) for iterator in iterators)
            opened.close()  # each worker has read one element: it has the file open
            yield from (next(iterator) for iterator in itertools.cycle(iterators))
        finally:
            _close(iterators, processes)


def _grain_processes() -> list[BaseProcess]:
    children = multiprocessing.active_children()
    return [child for child in children if child.name.startswith("grain-process-prefetch")]


def _close(iterators: list[Any], processes: list[BaseProcess]) -> None:
    """Ends all workers at the same time: each when it has read its element, or soon by force.

    Grain waits for the element, and so for a worker that still imports or whose disk hangs.
    """
    threads = [threading.Thread(target=iterator.close, daemon=True) for iterator in iterators]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
    for thread in threads:
        thread.join(_PATIENCE)


class _Source(Generic[Element]):
    """What Grain reads: every `step`th element from number `first` on."""

    def __init__(
        self, read: Callable[[Any, int], Element], load: Callable[[], Any], first: int, step: int
    ) -> None:
        self._read, self._load, self._first, self._step = read, load, first, step

    @functools.cached_property
    def _data(self) -> Any:
        return self._load()

    def __len__(self) -> int:
        return sys.maxsize // self._step

    def __getitem__(self, number: int) -> Element:
        return self._read(self._data, self._first + self._step * number)


def _least_shared(most: int) -> int:
    """Bytes from which on an array goes through shared memory, where there is room for `most`.

    Else none does. A container has 64 MB of it unless it is told otherwise, and a process that
    writes more is killed.
    """
    place = Path("/dev/shm")
    return _SMALL if not place.is_dir() or shutil.disk_usage(place).free > most else sys.maxsize


def _itself(data: Any) -> Any:
    return data


def _in_file(data: Any, opened: contextlib.ExitStack) -> Callable[[], Any]:
    """Writes `data` into a temporary file; what is returned reads it, in any process.

    Arrays are not copied there, but mapped from the file: a million names are in memory once.
    """
    buffers: list[pickle.PickleBuffer] = []
    pieces: list[Any] = [pickle.dumps(data, 5, buffer_callback=buffers.append)]
    pieces += [buffer.raw() for buffer in buffers]
    try:
        temporary = tempfile.NamedTemporaryFile(prefix="dsrs-jax-")  # noqa: SIM115
        file = opened.enter_context(temporary)
        file.writelines(pieces)
        file.flush()
    except OSError as error:
        raise UserError(f"cannot write in {tempfile.gettempdir()}: {error.strerror}") from error
    return functools.partial(_from_file, file.name, [len(piece) for piece in pieces])


def _from_file(file: str, lengths: list[int]) -> Any:
    with open(file, "rb") as opened:
        whole = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    ends = list(itertools.accumulate(lengths))
    pieces = [whole[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return pickle.loads(pieces[0], buffers=pieces[1:])


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Inside, threads and processes are started that signals which end a command do not reach.

    A terminal sends Ctrl-C to all processes, and a scheduler SIGTERM: a worker is ended by the
    process that started it, which has heard of it too.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(worker: int, workers: int) -> None:
    """In a worker process, before it reads anything."""
    del worker, workers
    warnings.simplefilter("ignore")  # Pillow's about metadata, again in each process
    import jax

    # Grain imports JAX. Nothing here needs a device, and none may be taken.
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent is killed nobody else ends this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
