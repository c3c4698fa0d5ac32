"""Models on disk: the parameters by Orbax, and a metadata.json that a person can read.

Layout of a checkpoint folder:

    metadata.json   {"format", "fingerprint", "model": ModelMetadata, "parameters": {name: shape}}
    parameters/     Orbax, one flat dictionary {name: float array}

Nothing about devices is stored: a checkpoint loads on any kind and any number of them. This is
the only file that knows Orbax, whose interface still moves.
"""

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.interface import BaseClassifier, ModelMetadata, digest_of
from dsrs_jax.models.registry import architecture, build
from dsrs_jax.system.errors import UserError, first_line

FORMAT = 1
METADATA_FILE = "metadata.json"
PARAMETERS_FOLDER = "parameters"
DTYPES = ("float32", "bfloat16")
_ROOM = 2**18  # bytes for what stands beside the arrays on disk


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier(BaseClassifier):
    """A Flax model in inference mode, a JAX pytree.

    Its parameters are leaves; two classifiers of one architecture and equal metadata share a
    compiled function.
    """

    state: Any  # nnx.State, or what a JAX transformation puts in its place
    graphdef: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    metadata: ModelMetadata = dataclasses.field(metadata={"static": True})

    @classmethod
    def from_model(cls, model: nnx.Module, metadata: ModelMetadata) -> "Classifier":
        """The classifier that computes what `model` computes now, whatever becomes of `model`."""
        graphdef, state = nnx.split(inference_view(model))
        # Copies: a trainer may donate or overwrite the arrays of its model.
        return cls(jax.tree.map(jax.numpy.copy, state), graphdef, metadata)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, classes) of images (N, H, W, C) in [0, 1], noise included."""
        return nnx.merge(self.graphdef, self.state)(images)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the names, types, shapes and values of the parameters.

        The same for every save of the same model, and on every device.
        """
        return digest_of(_named_arrays(self.state))


def save_model(path: str | Path, model: nnx.Module | Classifier, metadata: ModelMetadata) -> None:
    """Writes a checkpoint folder at `path`; an earlier checkpoint there is replaced.

    The folder appears whole or not at all. Raises UserError when `path` holds something that is
    not a checkpoint, or cannot be written, and for parameters that are not sound (`fault_of`).
    """
    path = Path(path).absolute()
    if path.exists() and not (path / METADATA_FILE).is_file():
        raise UserError(f"{path} exists and is not a checkpoint; name another path")
    state = model.state if isinstance(model, Classifier) else nnx.split(inference_view(model))[1]
    arrays = _named_arrays(state)
    for name, array in arrays.items():
        if fault := fault_of(name, array):
            raise UserError(f"{path} was not written: the parameter {name} {fault}")
    content = {
        "format": FORMAT,
        "fingerprint": digest_of(arrays),
        "model": dataclasses.asdict(metadata),
        "parameters": {name: list(array.shape) for name, array in arrays.items()},
    }
    being_written = path.with_name(f".{path.name}.{os.getpid()}.new")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        being_written.mkdir(parents=True)
        write_arrays(being_written / PARAMETERS_FOLDER, arrays)
        (being_written / METADATA_FILE).write_text(json.dumps(content, indent=2) + "\n")
        if path.exists():
            path.rename(replaced)  # a folder cannot be renamed onto one that has content
        being_written.rename(path)
    except OSError as error:
        raise UserError(f"cannot write the checkpoint {path}: {first_line(error)}") from error
    finally:
        shutil.rmtree(being_written, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def load_model(path: str | Path, dtype: str = "float32") -> Classifier:
    """The classifier in the checkpoint folder `path`, on the default device of this process.

    Its arithmetic is done in `dtype`, float32 or bfloat16.

    Raises UserError, in one line, when there is no checkpoint, when it is damaged, or when its
    parameters are not those of its architecture or not sound (`fault_of`). No other process has to
    take part.
    """
    path = Path(path).absolute()
    content = _read_metadata(path)
    metadata = _parse_metadata(content.get("model"), path)
    arch = architecture(metadata.arch)
    if (metadata.image_shape, metadata.classes) != (arch.image_shape, arch.classes):
        raise UserError(
            f"{path}: {metadata.arch} takes images {arch.image_shape} and has {arch.classes} "
            f"classes, its metadata says {metadata.image_shape} and {metadata.classes}"
        )
    expected = parameters_of(metadata)
    _check_parameters(expected, content.get("parameters"), metadata.arch, path)
    arrays = read_arrays(path / PARAMETERS_FOLDER, expected)
    if digest_of(arrays) != content.get("fingerprint"):
        raise UserError(f"{path} is damaged: its parameters do not have the recorded fingerprint")
    for name, array in arrays.items():
        if fault := fault_of(name, array):
            raise UserError(
                f"{path}: the parameter {name} {fault}; convert or train the model again"
            )
    return with_parameters(metadata, arrays, dtype)


def metadata_of(path: str | Path) -> ModelMetadata:
    """What the checkpoint folder `path` says of its model. Raises as `load_model`."""
    path = Path(path).absolute()
    return _parse_metadata(_read_metadata(path).get("model"), path)


def fault_of(name: str, array: np.ndarray) -> str | None:
    """What no parameter called `name` may have, in words that follow its name; None if it is sound.

    A sound one is finite, and a stored variance is not negative.
    """
    unsound = array.size - np.count_nonzero(np.isfinite(array))
    if unsound:
        return f"has {unsound:,} of {array.size:,} values that are not finite in float32"
    negative = np.count_nonzero(array < 0) if name.endswith(".var") else 0
    return f"is a variance and has {negative:,} negative values" if negative else None


def parameters_of(metadata: ModelMetadata) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> shape and type of every parameter and stored average of the described model."""
    return _names(_abstract(metadata.arch, metadata.dataset, metadata.scaling, "float32")[1])


def with_parameters(
    metadata: ModelMetadata, arrays: dict[str, np.ndarray], dtype: str = "float32"
) -> Classifier:
    """The described model with these parameters, by the names of `parameters_of`."""
    graphdef, abstract = _abstract(metadata.arch, metadata.dataset, metadata.scaling, dtype)
    leaves = [jax.numpy.asarray(arrays[name]) for name in _names(abstract)]
    state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    return Classifier(state, graphdef, metadata)


@functools.cache  # each load asks twice, and tracing a deep network takes seconds
def _abstract(arch: str, dataset: str, scaling: str | None, dtype: str) -> tuple[nnx.GraphDef, Any]:
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")

    def make() -> nnx.Module:
        return build(
            arch,
            0,
            dataset=dataset,
            scaling=scaling,
            dtype=jax.numpy.dtype(dtype),
        )

    return nnx.split(inference_view(nnx.eval_shape(make)))


def inference_view(model: nnx.Module) -> nnx.Module:
    """The model with batch statistics and dropout, where it has any, in inference mode."""
    return nnx.view(model, raise_if_not_found=False, use_running_average=True, deterministic=True)


def _names(state: Any) -> dict[str, Any]:
    """Leaves by name, "conv1.kernel", in the order in which JAX flattens them."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_variable)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): jax.tree.leaves(leaf)[0]
        for path, leaf in leaves
    }


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _named_arrays(state: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in _names(state).items()}


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"no such checkpoint: {path}")
    if not (path / METADATA_FILE).is_file():
        raise UserError(f"{path} is not a checkpoint of dsrs_jax: it has no {METADATA_FILE}")
    try:
        content = json.loads((path / METADATA_FILE).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path / METADATA_FILE}: {first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path / METADATA_FILE} does not say format {FORMAT}, the one known here")
    return content


def _parse_metadata(fields: Any, path: Path) -> ModelMetadata:
    try:
        metadata = ModelMetadata(**{**fields, "image_shape": tuple(fields["image_shape"])})
    except KeyError as error:
        raise UserError(f"{path / METADATA_FILE}: the model lacks the field {error}") from error
    except TypeError as error:
        raise UserError(f"{path / METADATA_FILE}: {first_line(error)}") from error
    for name, kind in get_type_hints(ModelMetadata).items():
        value = getattr(metadata, name)
        whole = type(value) is int and isinstance(0.0, kind)  # JSON of others may say 1 for 1.0
        # The shape is compared with the architecture's.
        if name != "image_shape" and not isinstance(value, kind) and not whole:
            words = kind.__name__ if isinstance(kind, type) else str(kind)
            raise UserError(f"{path / METADATA_FILE}: {name} must be {words}, got {value!r:.80}")
    return metadata


def _check_parameters(expected: dict[str, Any], stored: Any, arch: str, path: Path) -> None:
    found = stored if isinstance(stored, dict) else {}
    wanted = {name: list(leaf.shape) for name, leaf in expected.items()}
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        raise UserError(
            f"{path} does not hold a {arch}: missing {', '.join(missing) or 'nothing'}; "
            f"not known {', '.join(extra) or 'nothing'}"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f"{path}: {name} has shape {found[name]}, {arch} needs {shape}")


def _checkpointer() -> ocp.Checkpointer:
    # This process alone reads and writes: a host that is late or lost must not hold up others.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"host{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays into the new folder `path`, by this process alone.

    Raises UserError when they cannot be written, before the attempt if the disk has no room.
    """
    check_space(path.parent, sum(array.nbytes for array in arrays.values()))
    checkpointer = _checkpointer()  # outside the try: a broken device is no full disk
    try:
        with checkpointer:
            checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise UserError(f"cannot write {path}: {first_line(error)}") from error


def check_space(folder: Path, size: int) -> None:
    """UserError unless the disk of the existing `folder` has room for `size` bytes of arrays."""
    needed, free = size + _ROOM, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the disk of {folder} is full: {needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} "
            "MB are free"
        )


def read_arrays(path: Path, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote, of the names and types of `expected`.

    Raises UserError when they are damaged.
    """
    # As NumPy arrays: no shardings are looked up, so the devices of the writer do not matter.
    restore = ocp.args.PyTreeRestore(
        item={name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in expected.items()},
        restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in expected},
    )
    checkpointer = _checkpointer()  # outside the try: a broken device is no damaged checkpoint
    try:
        with checkpointer:
            arrays = checkpointer.restore(path.absolute(), args=restore)
        return {name: np.asarray(array) for name, array in arrays.items()}
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise UserError(f"{path} is damaged or cut short: {first_line(error)}") from error
