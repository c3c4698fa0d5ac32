"""An exported PyTorch program as a JAX function: `convert.exported`'s graph, operator by operator.

The table of operators is `convert.operators`, `convert.shapes`, `convert.layers` and
`convert.resampling`. What it lacks is named when the program is read, before anything runs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from dsrs_jax.convert import layers, resampling, shapes
from dsrs_jax.convert.exported import Graph, Node, Ref
from dsrs_jax.convert.operators import IN_PLACE, OPERATORS, VIEWS
from dsrs_jax.system.errors import UserError, first_line

assert layers and resampling and shapes  # they fill the table


class MissingOperatorError(UserError):
    """A program holds an operator that has no meaning here; PyTorch itself can still run it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Program:
    """A JAX function of images (N, C, H, W), a pytree whose leaves are the weights.

    Attributes:
        weights: arrays by the graph's names; whole numbers are int32, others of type `dtype`.
        graph: what is done with them.
        dtype: of the arithmetic, "float32" or "bfloat16".
    """

    weights: dict[str, Any]
    graph: Graph = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Float32[Array, "images channels height width"]) -> tuple[Any, ...]:
        """What the program returns, a tuple of arrays."""
        fixed = self.graph.shape[0]
        # PyTorch's promotion and broadcasting, whatever the process has set.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            pixels = images.astype(self.dtype)
            if fixed is None or fixed == len(images):
                return self._run(pixels)
            # Exported for batches of one size: so many at a time, the last one filled up.
            groups = -(-len(images) // fixed)
            filled = jnp.pad(pixels, [(0, groups * fixed - len(images))] + [(0, 0)] * 3)
            results = jax.vmap(self._run)(filled.reshape(groups, fixed, *images.shape[1:]))
            return tuple(
                one.reshape(groups * fixed, *one.shape[2:])[: len(images)] for one in results
            )

    def _run(self, pixels: Array) -> tuple[Any, ...]:
        real = jnp.dtype(self.dtype)
        values: dict[str, Any] = {**self.weights, self.graph.image: pixels}
        for node in self.graph.nodes:
            try:
                arguments = {name: _value(given, values, real) for name, given in node.arguments}
                made = OPERATORS[node.target](**arguments)
                if len(node.results) == 1 and not isinstance(made, (tuple, list)):
                    values[node.results[0]] = made
                else:
                    values.update(zip(node.results, made or (), strict=False))
            except UserError:
                raise
            except Exception as error:  # of JAX: shapes that do not fit, arguments not known
                raise UserError(f"{_describe(node)} cannot be done: {first_line(error)}") from error
        if missing := [name for name in self.graph.outputs if name not in values]:
            raise UserError(f"the program is damaged: nothing makes its result {missing[0]!r:.40}")
        return tuple(values[name] for name in self.graph.outputs)


def program(graph: Graph, weights: dict[str, np.ndarray], dtype: str = "float32") -> Program:
    """The JAX function that a graph with these weights is.

    Raises:
        MissingOperatorError: names the operators that have no meaning here, how often and where.
        UserError: it changes a tensor in place that something else looks at, or has weights that
            are NaN or whole numbers beyond 32 bits.
    """
    missing = Counter(node.target for node in graph.nodes if node.target not in OPERATORS)
    if missing:
        first = next(node for node in graph.nodes if node.target in missing)
        names = ", ".join(f"{name} ({count} times)" for name, count in missing.most_common(5))
        raise MissingOperatorError(f"no JAX for {names}; the first is {_describe(first)}")
    _check_in_place(graph)
    arrays = {name: jnp.asarray(_narrowed(name, one, dtype)) for name, one in weights.items()}
    return Program(arrays, graph, dtype)


def _narrowed(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype == np.int64:
        narrow = array.astype(np.int32)
        if (narrow != array).any():
            raise UserError(f"its tensor {name} holds whole numbers beyond 32 bits")
        return narrow
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if unsound := np.count_nonzero(np.isnan(array)):
        raise UserError(f"its tensor {name} has {unsound:,} of {array.size:,} values that are NaN")
    return array.astype(dtype)


def _check_in_place(graph: Graph) -> None:
    """UserError where a change in place could be seen from elsewhere: here nothing is changed."""
    users = Counter(name for node in graph.nodes for name in _names(node))
    users.update(graph.outputs)
    makers = {name: node.target for node in graph.nodes for name in node.results}
    for node in graph.nodes:
        if node.target in IN_PLACE:
            changed = next(iter(_names(node)))
            if users[changed] > 1 or makers.get(changed) in VIEWS | {None}:
                raise UserError(
                    f"{_describe(node)} changes a tensor in place that is used again; save the "
                    "program after run_decompositions()"
                )


def _names(node: Node) -> list[str]:
    found = []
    for _, given in node.arguments:
        for one in given if isinstance(given, tuple) else (given,):
            if isinstance(one, Ref):
                found.append(one.name)
    return found


def _value(given: Any, values: dict[str, Any], real: Any) -> Any:
    if isinstance(given, Ref):
        return values[given.name]
    if isinstance(given, tuple):
        return tuple(_value(one, values, real) for one in given)
    if isinstance(given, np.dtype):
        if jnp.issubdtype(given, jnp.floating):
            return real
        return np.dtype(np.int32) if given == np.int64 else given
    return given


def _describe(node: Node) -> str:
    """An operator, the shapes that it is given, and where it stands."""
    of = f" of {node.shapes}" if node.shapes else ""
    where = f" in {node.module}" if node.module else ""
    return f"{node.target}{of}{where}"
