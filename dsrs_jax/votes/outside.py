"""The count where JAX cannot trace the classifier: tile by tile, with the logits from elsewhere.

Noise and counting are `votes.kernel`'s, compiled by themselves, so the draws are the same ones.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key
from numpy.typing import NDArray

from dsrs_jax.models import Replica
from dsrs_jax.votes.kernel import Block, Columns, Seen, count_tile, drawn, precision


def count_outside(
    replicas: Sequence[Replica],
    block: Block,
    columns: Columns,
    key: Key[Array, ""],
    span: NDArray[np.int32],
    *,
    grid: int | None,
    tile: int,
) -> Int32[np.ndarray, "rows four columns"]:
    """Counts of each row, as `kernel.count_block` returns them; one share of rows a replica."""
    share = len(block.labels) // len(replicas)
    jobs = [
        _Share(replica, block, range(i * share, (i + 1) * share), columns, key, span, grid, tile)
        for i, replica in enumerate(replicas)
    ]
    # A tile of each in turn: a device goes on while the next ones are given theirs.
    for _ in itertools.zip_longest(*(job.run() for job in jobs)):
        pass
    return np.concatenate([np.stack([np.asarray(one) for one in job.counts]) for job in jobs])


class _Share:
    """The rows of one replica."""

    def __init__(
        self,
        replica: Replica,
        block: Block,
        rows: range,
        columns: Columns,
        key: Key[Array, ""],
        span: NDArray[np.int32],
        grid: int | None,
        tile: int,
    ) -> None:
        self._replica, self._grid, self._tile = replica, grid, tile
        with precision(grid):
            self._rows = jax.device_put(
                [jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), block) for row in rows],
                replica.device,
            )
            self._common = jax.device_put((key, columns, span), replica.device)
            zeros = jnp.zeros((4, len(columns)), jnp.int32)
            self.counts = [jax.device_put(zeros, replica.device) for _ in rows]
        self._tiles = [
            (place, int(number))
            for place, row in enumerate(rows)
            for number in range(block.begin[row], block.end[row])
        ]

    def run(self) -> Iterator[None]:
        """Counts one tile at each step; the noise of the next one is drawn meanwhile."""
        waiting: deque[Seen] = deque()
        for place, tile in enumerate(self._tiles):
            # The first time two: one to be classified, one to be drawn meanwhile.
            waiting.extend(
                self._draw(*each) for each in self._tiles[place + len(waiting) : place + 2]
            )
            seen = waiting.popleft()
            self._add(*tile, seen, self._replica.logits(seen.images))
            yield

    def _draw(self, row: int, number: int) -> Seen:
        with jax.threefry_partitionable(True), precision(self._grid):
            return drawn(
                self._rows[row], self._common[0], np.int32(number), grid=self._grid, tile=self._tile
            )

    def _add(self, row: int, number: int, seen: Seen, logits: Array) -> None:
        _, columns, span = self._common
        with precision(self._grid):
            self.counts[row] = _added(
                self.counts[row], self._rows[row], seen, np.int32(number), logits, columns, span
            )


@jax.jit
def _added(
    counts: Int32[Array, "four columns"],
    one: Block,
    seen: Seen,
    number: Int32[Array, ""],
    logits: Float[Array, "tile classes"],
    columns: Columns,
    span: Int32[Array, " two"],
) -> Int32[Array, "four columns"]:
    return counts + count_tile(one, seen, number, logits, columns, span)
