"""Models that a caller brings of JAX: they stay as they are, and have at least two classes."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from dsrs_jax import certify_images, data
from dsrs_jax.models import Ensemble, FunctionClassifier, ModelMetadata, as_pytree, input_scaling
from dsrs_jax.system.errors import UserError

DIGITS = data.in_memory(data.load("digits"))
CALL: dict[str, Any] = {"sigma": 0.1, "n": 100, "inside": [0.5], "quiet": True}


class Network(nnx.Module):
    """As it is made: in training mode."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.dense(self.dropout(self.norm(images.reshape(len(images), -1))))


def about(module: nnx.Module) -> list[Any]:
    graph, state = nnx.split(module)
    leaves = [jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
              else leaf for leaf in jax.tree.leaves(state)]  # fmt: skip
    return [graph, [np.asarray(leaf).tolist() for leaf in leaves]]


def test_the_callers_module_arrays_and_process_stay_as_they_are() -> None:
    module, images, labels = Network(), DIGITS.images[:4].copy(), DIGITS.labels[:4].copy()
    random = np.random.get_state()[1].tolist()  # noqa: NPY002 (it is others' that must not move)
    before = about(module), dict(jax.config.values), images.tobytes(), labels.tobytes(), random
    certify_images(module, images, labels, **CALL)
    with pytest.raises(UserError, match="sigma"):
        certify_images(module, images, labels, **{**CALL, "sigma": -1.0})
    random = np.random.get_state()[1].tolist()  # noqa: NPY002
    after = about(module), dict(jax.config.values), images.tobytes(), labels.tobytes(), random
    assert after == before


def of_one_class() -> FunctionClassifier:
    metadata = ModelMetadata("it", "digits", (8, 8, 1), 1)
    function = as_pytree(lambda images: images.reshape(len(images), -1)[:, :1])
    return FunctionClassifier(function, metadata, input_scaling("digits", "none"))


@pytest.mark.parametrize("labels", [None, np.zeros(4, np.int64)], ids=["predicted", "all 0"])
def test_fewer_than_two_classes_are_refused_with_the_way_out(labels: Any) -> None:
    with pytest.raises(UserError, match="has to return the two logits 0 and z"):
        certify_images(of_one_class(), DIGITS.images[:4], labels, **CALL)
    with pytest.raises(UserError, match="two logits"):
        certify_images(of_one_class().function, DIGITS.images[:4], labels, **CALL)
    with pytest.raises(UserError, match="two logits"):
        Ensemble([of_one_class(), of_one_class()])
