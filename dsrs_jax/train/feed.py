"""Where a step's images come from: a set that lies on the devices, or one that is streamed."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Key

from dsrs_jax.data import ArrayDataset, Stream
from dsrs_jax.train.placing import on_devices, shares_on_devices
from dsrs_jax.train.recipe import Cut

_AHEAD = 2  # mini-batches on their way to the devices


@runtime_checkable
class Feed(Protocol):
    """Gives the mini-batches of a run, each a function of its number and the seed."""

    def __call__(self, first: int) -> Generator[tuple[Array, Array]]:
        """(images, labels) on the devices from mini-batch number `first` on, without end."""

    def close(self) -> None:
        """Waits until whatever reads for it has ended."""


class ResidentFeed:
    """Of a set in memory, which lies whole on every device; an epoch's order is drawn by JAX."""

    def __init__(
        self, training: ArrayDataset, cut: Cut, order_key: Key[Array, ""], mesh: Mesh
    ) -> None:
        self._images, self._labels = on_devices((training.images, training.labels), mesh)
        self._cut, self._order_key = cut, order_key
        shared = NamedSharding(mesh, PartitionSpec("images"))

        @jax.jit
        def take(images: Array, labels: Array, chosen: Int32[Array, " batch"]) -> Any:
            constrained = partial(jax.lax.with_sharding_constraint, shardings=shared)
            return constrained(images[chosen]), constrained(labels[chosen])

        self._take = take

    def close(self) -> None:
        """Nothing reads for it."""

    def __call__(self, first: int) -> Generator[tuple[Array, Array]]:
        cut, number = self._cut, first
        while True:
            epoch, within = divmod(number, cut.steps)
            if within == 0 or number == first:
                key = jax.random.fold_in(self._order_key, epoch)
                order = np.asarray(jax.random.permutation(key, len(self._images)))
            batch, part = divmod(within, cut.parts)
            start = batch * cut.batch + part * cut.size
            yield self._take(self._images, self._labels, order[start : start + cut.size])
            number += 1


class StreamFeed:
    """Of a set that worker processes read, each host its share; some mini-batches ahead."""

    def __init__(self, stream: Stream, size: int, mesh: Mesh) -> None:
        self._stream, self._size, self._mesh = stream, size, mesh
        self._readers: list[threading.Thread] = []

    def close(self) -> None:
        """Waits until its readers have ended, and with them their workers."""
        while self._readers:
            self._readers.pop().join()

    def __call__(self, first: int) -> Generator[tuple[Array, Array]]:
        ready: queue.Queue[Any] = queue.Queue(_AHEAD)
        over = threading.Event()

        def offer(item: Any) -> None:
            while not over.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                with contextlib.closing(self._stream(first)) as batches:
                    for batch in batches:
                        offer(shares_on_devices(tuple(batch), self._mesh, self._size))
                        if over.is_set():
                            return
            except BaseException as error:  # told where the images are waited for
                offer(error)

        reader = threading.Thread(target=read, name="input", daemon=True)
        reader.start()
        self._readers.append(reader)
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            over.set()  # and no more: where a signal came a state is written before `close`
