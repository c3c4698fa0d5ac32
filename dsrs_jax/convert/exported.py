"""Reads `.pt2` files (`torch.export.save`): untrusted input, of which nothing is ever executed.

The archive is a zip of JSON (the graph) and raw bytes (the weights). Both are read here, without
PyTorch, whose own reader evaluates expressions that the file holds. What comes out is a `Graph`, a
list of operators by name, which `convert.program` gives a meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dsrs_jax.convert.file_kinds import PROGRAM, another_kind
from dsrs_jax.system.errors import UserError, first_line

# The numbers that torch.export writes for types (torch/_export/serde/schema.py).
_DTYPES: dict[int, Any] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float16, 7: np.float32,
    8: np.float64, 12: np.bool_, 13: ml_dtypes.bfloat16,
}  # fmt: skip
_MAJOR = 8  # of that schema: PyTorch 2.8 to 2.13 write it, and read no other
_WEIGHTS, _CONSTANTS = "data/weights", "data/constants"
_SIZE = 2**40  # a tensor of more bytes is none
# A tensor may show its numbers several times (an expanded one), but not without end.
_REPEATED, _SMALL = 64, 2**16


@dataclasses.dataclass(frozen=True)
class Ref:
    """A value that an operator takes: the input, a weight, or what an earlier operator made."""

    name: str


class Node(NamedTuple):
    """One operator: "aten.relu.default", its arguments by name, the names of what it makes.

    `module` is where it stands, "layer1.0.conv1 (Conv2d)", and empty where the file does not say;
    `shapes` are those of the tensors that it takes, as they were exported, for messages.
    """

    target: str
    arguments: tuple[tuple[str, Any], ...]
    results: tuple[str, ...]
    module: str
    shapes: str


@dataclasses.dataclass(frozen=True)
class Graph:
    """A program's operators in their order; equal graphs have equal digests.

    Attributes:
        nodes: the operators.
        image: name of the one input, (N, C, H, W).
        shape: its sizes as they were exported, None where any number will do.
        outputs: names of the results.
        digest: SHA-256, in hex, of all this.
    """

    nodes: tuple[Node, ...] = dataclasses.field(compare=False, repr=False)
    image: str = dataclasses.field(compare=False)
    shape: tuple[int | None, ...] = dataclasses.field(compare=False)
    outputs: tuple[str, ...] = dataclasses.field(compare=False)
    digest: str = ""


def read_program(file: str | Path | io.BytesIO) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph of an exported program and its weights by the graph's names.

    Raises:
        UserError: in one line, for what is no such file, is damaged, or is no function of one
            batch of images.
    """
    name = "the exported program" if isinstance(file, io.BytesIO) else str(file)
    try:
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            content = _Archive(archive)
            program = content.json("models/model.json")
            _check_version(program, content)
            return _read(program, content)
    except UserError as error:
        raise UserError(_refusal(file, f"{name}: {error}")) from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,  # of the zip: another compression
        RuntimeError,  # of the zip: encrypted
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        MemoryError,
        OverflowError,
        AssertionError,
        EOFError,
    ) as error:
        damaged = (
            f"{name} is damaged or no program that torch.export.save of PyTorch 2.8 or newer "
            f"wrote ({type(error).__name__}: {first_line(error)})"
        )
        raise UserError(_refusal(file, damaged)) from None


def _refusal(file: str | Path | io.BytesIO, otherwise: str) -> str:
    """That the file is of another kind, if it is one that is known."""
    kind = None if isinstance(file, io.BytesIO) else another_kind(Path(file), PROGRAM)
    return f"{file} {kind}" if kind else otherwise


class _Archive:
    """The files of a zip, whatever its one folder is called."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = {name.partition("/")[2]: name for name in archive.namelist()}

    def open(self, name: str) -> zipfile.ZipExtFile:
        if name not in self._names:
            raise UserError(
                f"it has no {name}; save it with torch.export.save of PyTorch 2.8 or newer"
            )
        return self._archive.open(self._names[name])  # type: ignore[return-value]

    def has(self, name: str) -> bool:
        return name in self._names

    def text(self, name: str) -> str:
        with self.open(name) as stream:
            return stream.read().decode()

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))

    def tensors(self, folder: str, kind: str) -> dict[str, np.ndarray]:
        """The tensors that a folder's list names."""
        listed = f"{folder}/{kind}_config.json"
        if not self.has(listed):
            return {}
        found, stored = {}, dict[str, bytes]()
        for name, entry in self.json(listed)["config"].items():
            path = f"{folder}/{entry['path_name']}"
            if entry["use_pickle"]:
                raise UserError(f"its tensor {name} is pickled, and is not read")
            if path not in stored:  # tensors may share one
                with self.open(path) as stream:
                    stored[path] = stream.read()
            found[name] = _tensor(name, stored[path], entry["tensor_meta"])
        return found


def _tensor(name: str, stored: bytes, meta: dict[str, Any]) -> np.ndarray:
    dtype = _dtype(meta["dtype"])
    sizes, strides = (
        tuple(_number(one["as_int"]) for one in meta[what]) for what in ("sizes", "strides")
    )
    offset = _number(meta["storage_offset"]["as_int"])
    last = offset + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    flat = np.frombuffer(stored, np.dtype(dtype).newbyteorder("<"), len(stored) // dtype.itemsize)
    if 0 in sizes:
        return np.zeros(sizes, dtype)
    if last >= flat.size:
        raise UserError(f"its tensor {name} is cut short")
    if math.prod(sizes) > _REPEATED * max(flat.size, _SMALL):  # strides of 0 cost a file nothing
        raise UserError(f"its tensor {name} repeats its numbers too often")
    steps = tuple(step * dtype.itemsize for step in strides)
    # Copied: a view of strides would tie the array to the whole storage.
    view = np.lib.stride_tricks.as_strided(flat[offset:], sizes, steps, writeable=False)
    return np.array(view, dtype)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _SIZE:
        raise UserError(f"{value!r:.40} is no size of a tensor")
    return value


def _dtype(number: int) -> np.dtype[Any]:
    if number not in _DTYPES:
        raise UserError(f"it holds a type of number that is not known here ({number})")
    return np.dtype(_DTYPES[number])


def _check_version(program: dict[str, Any], archive: _Archive) -> None:
    """UserError for a file of another schema, whose words may mean something else."""
    major, writer = program["schema_version"]["major"], program.get("torch_version")
    if major != _MAJOR:
        by = f" (PyTorch {writer})" if isinstance(writer, str) and writer.isprintable() else ""
        raise UserError(
            f"it has version {major!r:.20} of the schema of torch.export{by:.60}, and {_MAJOR} is "
            "known here: save it again with PyTorch 2.8 to 2.13"
        )
    order = archive.text("byteorder") if archive.has("byteorder") else "little"
    if order != "little":
        raise UserError(f"its bytes are in the order {order!r:.20}; save it on another machine")


def _read(program: dict[str, Any], archive: _Archive) -> tuple[Graph, dict[str, np.ndarray]]:
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    stored = archive.tensors(_WEIGHTS, "model_weights")
    stored |= archive.tensors(_CONSTANTS, "model_constants")
    weights: dict[str, np.ndarray] = {}
    images: list[str] = []
    for spec in signature["input_specs"]:
        [(kind, entry)] = spec.items()
        if kind == "user_input":
            [(what, value)] = entry["arg"].items()
            if what == "as_tensor":
                images.append(value["name"])
            elif what != "as_none":
                raise UserError("it takes more than a batch of images; wrap it in a module of one")
        elif kind in ("parameter", "buffer", "tensor_constant"):
            stored_as = next((entry[key] for key in _STORED_AS if key in entry), None)
            if stored_as not in stored:
                raise UserError(f"its tensor {stored_as} is missing")
            weights[entry["arg"]["name"]] = stored[stored_as]
        else:
            raise UserError(f"its input {kind} is not known here")
    if len(images) != 1:
        raise UserError(f"it takes {len(images)} tensors; a classifier takes one batch of images")
    outputs = []
    for spec in signature["output_specs"]:
        [(kind, entry)] = spec.items()
        if kind == "user_output":
            [(what, value)] = entry["arg"].items()
            outputs.append(value["name"] if what == "as_tensor" else "")
        elif kind in ("buffer_mutation", "parameter_mutation"):
            kept = entry.get("buffer_name") or entry.get("parameter_name")
            raise UserError(
                f"it writes into its tensor {kept!r:.80} at each call; export it after .eval(), "
                "and without operations in place on what it keeps"
            )
        elif kind not in _OF_NO_RESULT:
            raise UserError(f"it returns a {kind}; export the classifier alone, in evaluation mode")
    meta = graph["tensor_values"][images[0]]
    shape = tuple(_number(one["as_int"]) if "as_int" in one else None for one in meta["sizes"])
    nodes = tuple(_node(one, graph["tensor_values"]) for one in graph["nodes"])
    names = [images[0], *weights, *outputs, *(n for node in nodes for n in _texts(node))]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{wrong[0]!r:.40} is no name")
    text = repr([nodes, images, shape, outputs])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Graph(nodes, images[0], shape, tuple(outputs), digest), weights


# An order of effects; images written in place, which nothing reads after the program.
_OF_NO_RESULT = ("token", "user_input_mutation")
_STORED_AS = ("parameter_name", "buffer_name", "tensor_constant_name")


def _node(node: dict[str, Any], values: dict[str, Any]) -> Node:
    arguments = tuple((one["name"], _value(one["arg"])) for one in node["inputs"])
    results: list[str] = []
    for one in node["outputs"]:
        [(kind, value)] = one.items()
        if kind == "as_tensor":
            results.append(value["name"])
        elif kind in ("as_tensors", "as_optional_tensors"):
            results += [_name(each) for each in value]
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            results.append(value["as_name"])
        else:
            results.append("")
    target = node["target"].removeprefix("torch.ops.")
    shapes = [
        "(" + ", ".join(str(one.get("as_int", "any")) for one in values[given.name]["sizes"]) + ")"
        for _, given in arguments
        if isinstance(given, Ref) and given.name in values
    ]
    where = _module(node.get("metadata") or {})
    if target == "aten.as_strided.default" and not _contiguous(values[arguments[0][1].name]):
        target += " of a tensor that is not contiguous"  # which the table does not have
    return Node(target, arguments, tuple(results), where, ", ".join(shapes))


def _contiguous(meta: dict[str, Any]) -> bool:
    """Whether a tensor's numbers lie in memory in their order: strides are of what lies there."""
    sizes = [one.get("as_int") for one in meta["sizes"]]
    strides = [one.get("as_int") for one in meta["strides"]]
    expected = 1
    for axis in reversed(range(len(sizes))):
        size, stride = sizes[axis], strides[axis]
        if size != 1 and stride != expected:
            return False
        if size is None:  # any number: of images, or it is not known
            return axis == 0
        expected *= size
    return True


def _texts(node: Node) -> list[Any]:
    """All of an operator that must be text."""
    refs = [
        one.name
        for _, given in node.arguments
        for one in (given if isinstance(given, tuple) else (given,))
        if isinstance(one, Ref)
    ]
    return [node.target, *node.results, *(name for name, _ in node.arguments), *refs]


def _name(value: dict[str, Any]) -> str:
    """Of an entry of a list of results."""
    inner = value.get("as_tensor", value)
    return inner.get("name", "") if isinstance(inner, dict) else ""


def _module(metadata: dict[str, Any]) -> str:
    """The innermost module of the record, "layer1.0.conv1 (Conv2d)"."""
    last = metadata.get("nn_module_stack", "").split(";")[-1]
    parts = last.split(",")
    if len(parts) < 3 or not parts[1] or parts[1].startswith("_"):  # made by a transformation
        return ""
    return f"{parts[1]} ({parts[2].rpartition('.')[2]})"


def _value(argument: dict[str, Any]) -> Any:
    """An argument as Python has it: numbers, tuples, types, and `Ref`s to other values."""
    [(kind, value)] = argument.items()
    match kind:
        case "as_tensor":
            return Ref(value["name"])
        case "as_tensors":
            return tuple(Ref(one["name"]) for one in value)
        case "as_optional_tensors" | "as_optional_tensor":
            many = value if isinstance(value, list) else [value]
            found = tuple(Ref(_name(one)) if _name(one) else None for one in many)
            return found if isinstance(value, list) else found[0]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _symbol(value)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return tuple(_symbol(one) for one in value)
        case "as_scalar_type":
            # One that is not known here is of an operator that is not known either.
            return _dtype(value) if value in _DTYPES else f"type {value!r:.20}"
        case "as_none":
            return None
        case "as_int" | "as_float" | "as_bool" | "as_string":
            return _float(value) if kind == "as_float" else value
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return tuple(_float(one) for one in value) if kind == "as_floats" else tuple(value)
        case "as_device" | "as_layout" | "as_memory_format":
            return None  # says how, not what
    raise UserError(f"it has an argument of a kind that is not known here: {kind}")


def _float(value: Any) -> float:
    return float(value)  # "Infinity" and "NaN" are written as text


def _symbol(value: dict[str, Any]) -> Any:
    [(kind, inner)] = value.items()
    return Ref(inner) if kind == "as_name" else inner
