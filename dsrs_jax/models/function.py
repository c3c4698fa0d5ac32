"""A user's own JAX function or Flax module as a base classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.checkpoint import inference_view
from dsrs_jax.models.interface import BaseClassifier, ModelMetadata, digest_of
from dsrs_jax.models.scaling import InputScaling
from dsrs_jax.system.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FunctionClassifier(BaseClassifier):
    """A function that JAX can trace, from scaled images to logits, as a pytree.

    Attributes:
        function: a callable pytree (`as_pytree`).
        metadata: what its author says of it.
        scaling: what is done to images in [0, 1] first.
    """

    function: Callable[[Array], Array]
    metadata: ModelMetadata = dataclasses.field(metadata={"static": True})
    scaling: InputScaling = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "..."]:
        """Logits (N, classes) of images (N, H, W, C) in [0, 1], noise included."""
        pixels = self.scaling(images)
        # It was written for the process's own rules, or for none.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(self.function(pixels)).astype(jnp.float32)

    def fingerprint(self) -> str:
        """SHA-256 of the program that JAX makes of it and of its arrays.

        Another version of JAX may make another program.
        """
        image = jax.ShapeDtypeStruct((1, *self.metadata.image_shape), jnp.float32)
        traced = jax.jit(FunctionClassifier.__call__).trace(self, image)
        # For one kind of device, whatever there is here. Constants are part of the text.
        program = traced.lower(lowering_platforms=("cpu",)).as_text()
        arrays = {str(i): _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(self))}
        return digest_of(arrays, program)


def _plain(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # of a dropout that is off
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def as_pytree(function: Any) -> Callable[[Array], Array]:
    """A callable whose arrays are leaves: of a Flax module in inference mode, or of any pytree.

    Raises:
        UserError: it cannot be called.
    """
    if isinstance(function, nnx.Module):
        graphdef, state = nnx.split(inference_view(function))
        return _Merged(jax.tree.map(jnp.copy, state), graphdef)
    if not callable(function):
        raise UserError(
            f"{type(function).__name__} cannot be called with images; a model is a PyTorch module, "
            "a Flax module or a function of JAX"
        )
    leaves = jax.tree.leaves(function)
    arrays = all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves)
    is_tree = len(leaves) != 1 or leaves[0] is not function
    return function if is_tree and arrays else jax.tree_util.Partial(function)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Merged:
    """A Flax module, taken apart."""

    state: Any
    graphdef: nnx.GraphDef = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array) -> Array:
        return nnx.merge(self.graphdef, self.state)(images)
