"""An exported PyTorch program as a base classifier."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from dsrs_jax.convert.exported import Graph, read_program
from dsrs_jax.convert.program import Program, program
from dsrs_jax.models import BaseClassifier, InputScaling, ModelMetadata, digest_of
from dsrs_jax.system.errors import UserError

PROBABILITIES = "probabilities"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProgramClassifier(BaseClassifier):
    """A `Program` behind an input scaling, a pytree whose leaves are the weights.

    Attributes:
        program: takes scaled images (N, C, H, W).
        metadata: what is known of it.
        scaling: what is done to images in [0, 1] first.
        output: which of its results are the logits.
        probabilities: whether these are probabilities.
    """

    program: Program
    metadata: ModelMetadata = dataclasses.field(metadata={"static": True})
    scaling: InputScaling = dataclasses.field(metadata={"static": True})
    output: int = dataclasses.field(default=0, metadata={"static": True})
    probabilities: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "..."]:
        """Logits (N, classes) of images (N, H, W, C) in [0, 1], noise included."""
        results = self.program(jnp.moveaxis(self.scaling(images), -1, 1))
        answer = jnp.asarray(results[self.output]).astype(jnp.float32)
        if self.probabilities:
            answer = jnp.log(jnp.maximum(answer, jnp.finfo(jnp.float32).tiny))
        return answer

    def fingerprint(self) -> str:
        """SHA-256 of the operators, the weights, the scaling and what is taken as logits."""
        arrays = {name: np.asarray(array) for name, array in self.program.weights.items()}
        about = f"{self.scaling} {self.output} {self.probabilities} {self.program.dtype}"
        return digest_of(arrays, self.program.graph.digest, about)


def image_shape_of(graph: Graph, name: str) -> tuple[int, int, int]:
    """(H, W, C) of the images that a program takes.

    Raises:
        UserError: it takes no images (N, C, H, W), or those of any size.
    """
    sizes = graph.shape
    if len(sizes) != 4 or any(size is None for size in sizes[1:]):
        raise UserError(
            f"{name} takes a tensor of sizes {tuple('any' if s is None else s for s in sizes)}; "
            "export it for images (N, C, H, W) of which N alone may vary"
        )
    _, channels, height, width = (size or 0 for size in sizes)
    return height, width, channels


def result_of(output: str | None, graph: Graph, name: str) -> tuple[int, bool]:
    """(which result, whether it is of probabilities) that --output means for a program.

    Raises:
        UserError: there is no such result, or nothing says which of several.
    """
    several = len(graph.outputs)
    if output is None or output == PROBABILITIES:
        if several != 1:
            raise UserError(
                f"{name} returns {several} tensors; say which one holds the logits: --output 0 ... "
                f"{several - 1}"
            )
        return 0, output is not None
    if not output.isdecimal() or int(output) >= several:
        raise UserError(f"{name} has no result {output!r}; --output is 0 ... {several - 1}")
    return int(output), False


def from_file(
    file: str | Path,
    metadata: ModelMetadata,
    scaling: InputScaling,
    output: str | None = None,
    dtype: str = "float32",
) -> ProgramClassifier:
    """The classifier in a file that `torch.export.save` wrote; PyTorch is not needed.

    The metadata's image shape is compared with the program's.

    Raises:
        UserError: as `read_program`, `program` and `result_of`, or for another image shape.
    """
    graph, weights = read_program(file)
    shape = image_shape_of(graph, str(file))
    if shape != metadata.image_shape:
        raise UserError(
            f"{file} takes images {shape} (height, width, channels), the data set has "
            f"{metadata.image_shape}; export it for these, with a resize in front"
        )
    which, probabilities = result_of(output, graph, str(file))
    made = program(graph, weights, dtype)
    return ProgramClassifier(made, metadata, scaling, which, probabilities)
