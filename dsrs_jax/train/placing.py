"""Arrays of the host on the devices of all processes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


def on_devices(tree: Any, mesh: Mesh, *axes: str | None) -> Any:
    """Arrays that every process holds whole, put on all devices: split along `axes`, or whole."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def put(leaf: Any) -> Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def shares_on_devices(tree: Any, mesh: Mesh, whole: int) -> Any:
    """Arrays of which each process holds its rows, put on all devices as one of `whole` rows.

    Rows that the devices cannot share evenly lie on each of them whole.
    """
    even = whole % mesh.size == 0
    sharding = NamedSharding(mesh, PartitionSpec("images" if even else None))

    def put(leaf: Any) -> Array:
        host = np.asarray(leaf)
        shape = (whole, *host.shape[1:])
        return jax.make_array_from_process_local_data(sharding, host, shape)

    return jax.tree.map(put, tree)
