"""Reads `.pth.tar` and `.safetensors` files: untrusted input, of which nothing is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsrs_jax.convert.file_kinds import CHECKPOINT, another_kind
from dsrs_jax.convert.layouts import MEANS, parameters_from, parts
from dsrs_jax.convert.safetensor_files import read_safetensors
from dsrs_jax.models import (
    ARCHITECTURES,
    SCALED_DATASETS,
    SCALINGS,
    Classifier,
    InputScaling,
    ModelMetadata,
    architecture,
    check_scaling,
    default_scaling,
    input_scaling,
    parameters_of,
    save_model,
    with_parameters,
)
from dsrs_jax.system.errors import UserError, first_line
from dsrs_jax.system.files import cache_folder

# Where training scripts put the state dict that they save with other things.
_KEYS = (
    *("state_dict", "model_state_dict", "model", "net"),
    *("state_dict_ema", "model_ema", "ema"),  # averages over the training
)


class _Unread:
    """Stands for an object beside the tensors; whatever the file says of it is dropped."""

    def __new__(cls, *_: object) -> _Unread:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


# Plain data that training scripts save too: a best accuracy, the options, a folder. PyTorch is
# given these classes for the names, so that nothing of NumPy's or of argparse's is called.
_PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (kind, name)
    for kind, names in (
        (
            type("NumPy array", (_Unread,), {}),
            (
                "numpy.ndarray",
                "numpy._core.multiarray._reconstruct",
                "numpy.core.multiarray._reconstruct",  # of NumPy 1
            ),
        ),
        (
            type("NumPy scalar", (_Unread,), {}),
            ("numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"),
        ),
        (type("Namespace", (_Unread,), {}), ("argparse.Namespace",)),
        (
            type("Path", (_Unread,), {}),
            ("pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"),
        ),
    )
    for name in names
]


def convert(
    file: str | Path,
    *,
    arch: str | None = None,
    dataset: str | None = None,
    scaling: str | None = None,
    weights: str | None = None,
) -> Classifier:
    """The classifier in a published PyTorch checkpoint; its logits are the PyTorch model's.

    Args:
        file: `{'arch', 'state_dict', ...}` or a bare state dict, written by `torch.save`; or a
            `.safetensors` file. The state dict may also lie under `model_state_dict`, `model`,
            `net`, `state_dict_ema`, `model_ema` or `ema`, and its names may begin as those of
            DataParallel and torch.compile do. An input layer in it must be the scaling.
        arch: needed where the file does not say one of ARCHITECTURES; it must not say another.
        dataset: whose input scaling it has; None for the one that the architecture is for.
        scaling: as `models.input_scaling` takes it, which no checkpoint says; None for the default.
        weights: under which name the state dict lies, where a file holds several.

    Raises:
        UserError: in one line, for a file that cannot be read without executing it, that is no
            checkpoint, or whose tensors are not those of its architecture.
    """
    file = Path(file)
    if scaling is not None:
        check_scaling(scaling)
    said, tensors = read_tensors(file, weights)
    if arch is None and said is None:
        raise UserError(f"{file} does not say its architecture; give --arch")
    # Authors have names of their own for an architecture: those say nothing against --arch.
    if arch is not None and said in ARCHITECTURES and arch != said:
        raise UserError(f"{file} says its architecture is {said}, not {arch}")
    if arch is None and said not in ARCHITECTURES:
        raise UserError(
            f"{file}: unknown architecture {said!r}; known: {', '.join(ARCHITECTURES)}; give the "
            "one that it is as --arch"
        )
    name = arch or said or ""
    try:
        found = architecture(name)
        dataset = dataset or found.dataset
        kind = scaling or default_scaling(dataset)
        first = input_scaling(dataset, kind)
        channels = found.image_shape[-1]
        if kind in ("standardize", "center") and len(first.mean) != channels:
            raise UserError(
                f"{name} takes images of {channels} channels, {dataset} has {len(first.mean)}"
            )
        description = ModelMetadata(
            arch=name,
            dataset=dataset,
            image_shape=found.image_shape,
            classes=found.classes,
            scaling=kind,
            source=file.name,
            source_sha256=_sha256(file),
        )
        expected = parameters_of(description)
        prefix, network, input_layer = parts(tensors, name)
        arrays = parameters_from(network, prefix, name, expected)
        _check_scaling(input_layer, dataset, kind, channels)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    averages = (".mean", ".var")
    size = sum(array.size for ours, array in arrays.items() if not ours.endswith(averages))
    return with_parameters(dataclasses.replace(description, parameters=size), arrays)


def cached(
    file: str | Path,
    *,
    arch: str | None = None,
    scaling: str | None = None,
    weights: str | None = None,
) -> Path:
    """The folder of a converted checkpoint, made on the first call.

    It lies in DSRS_CACHE, or in dsrs_jax in the user's cache folder, under the file's SHA-256.
    """
    file = Path(file)
    chosen = [arch or "own", scaling or "default", *([] if weights is None else [weights])]
    folder = cache_folder() / "models" / "-".join([_sha256(file), *map(_file_name, chosen)])
    if not folder.exists():
        classifier = convert(file, arch=arch, scaling=scaling, weights=weights)
        save_model(folder, classifier, classifier.metadata)
    return folder


def _file_name(text: str) -> str:
    """The text where it can be part of a file's name, else a digest of it."""
    plain = re.fullmatch(r"\w{1,40}", text, re.ASCII)
    return text if plain else hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _check_scaling(layer: Mapping[str, np.ndarray], dataset: str, kind: str, channels: int) -> None:
    """UserError unless an input layer, if the file has one, does what the scaling in use does."""
    if not layer or _scales_as(layer, input_scaling(dataset, kind), channels):
        return
    ordered = [dataset, *(name for name in SCALED_DATASETS if name != dataset)]
    known = {(d, k): input_scaling(d, k) for d in ordered for k in SCALINGS if d in SCALED_DATASETS}
    fitting = [
        names
        for names, scaling in known.items()
        if (len(scaling.mean) == channels or names[1] == "none")
        and _scales_as(layer, scaling, channels)
    ]
    if fitting:
        advice = "convert it with --dataset {} --input-scaling {}".format(*fitting[0])
    elif text := _spelled(layer, channels):
        advice = f"convert it with --input-scaling {shlex.quote(text)}"
    else:
        advice = "no --input-scaling is that"
    values = " and ".join(
        f"{name} = {', '.join(f'{x:.6g}' for x in values.ravel()[:6])}"
        for name, values in layer.items()
    )
    raise UserError(f"its input layer has {values}, which is not {kind} of {dataset}; {advice}")


def _of_means(name: str) -> bool:
    return name.rpartition(".")[2] in MEANS


def _scales_as(layer: Mapping[str, np.ndarray], scaling: InputScaling, channels: int) -> bool:
    """Whether a layer's means and deviations are a scaling's."""
    of_means = {_of_means(name) for name in layer}
    # Without a mean nothing is subtracted, without a deviation nothing is divided.
    if (True not in of_means and set(scaling.mean) != {0}) or (
        False not in of_means and set(scaling.deviation) != {1}
    ):
        return False
    return all(
        values.size in (1, channels)
        and np.allclose(
            np.broadcast_to(values.ravel(), channels),
            np.broadcast_to(scaling.mean if _of_means(name) else scaling.deviation, channels),
            rtol=0,
            atol=1e-6,
        )
        for name, values in layer.items()
    )


def _spelled(layer: Mapping[str, np.ndarray], channels: int) -> str | None:
    """The layer as --input-scaling takes it; None where it is no scaling."""
    numbers = {
        "mean" if _of_means(name) else "std": ",".join(str(np.float32(x)) for x in values.ravel())
        for name, values in layer.items()
        if values.size <= channels
    }
    text = ";".join(f"{name}:{numbers[name]}" for name in sorted(numbers))
    try:
        fits = _scales_as(layer, input_scaling("", text), channels)
    except UserError:
        return None
    return text if fits else None


def read_tensors(
    file: Path, weights: str | None = None
) -> tuple[str | None, dict[str, np.ndarray]]:
    """(architecture if the file says it, name -> tensor); see `convert`."""
    if file.suffix.lower() == ".safetensors":
        if weights is not None:
            raise UserError(f"{file} holds one state dict; leave out --weights")
        if not file.is_file():
            raise UserError(f"no such file: {file}")
        return None, read_safetensors(file)
    try:
        import torch
    except ImportError:
        raise UserError(
            "PyTorch checkpoints need PyTorch to be read: pip install 'dsrs_jax[torch]'"
        ) from None
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
            warnings.simplefilter("ignore")  # of files that are refused in the next moment
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise UserError(
                f"{file} could only be read by executing code that it names"
                f"{f' ({named[1]})' if named else ''}; it was not executed; if you trust the file, "
                "save its state dict alone and convert that: "
                f"{_command(file, weights or 'state_dict')}"
            ) from None
        kind = another_kind(file, CHECKPOINT) or "is not a PyTorch checkpoint"
        raise UserError(f"{file} {kind}") from None
    except Exception as error:  # torch raises many kinds for damaged files
        damaged = f"is damaged, cut short or no checkpoint: {first_line(error)}"
        raise UserError(f"{file} {another_kind(file, CHECKPOINT) or damaged}") from None
    arch, state = _state_dict(file, content, torch.Tensor, weights)
    return arch, {
        name: _array(tensor, f"{file}: the tensor {name}") for name, tensor in state.items()
    }


def _state_dict(
    file: Path, content: Any, tensor: type, weights: str | None
) -> tuple[str | None, dict[str, Any]]:
    """(architecture if it says it, state dict) of what a file holds."""
    expected = f"a dictionary from names to tensors, bare or under {', '.join(_KEYS)}"
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no state dict, {expected}: it is a {type(content).__name__}")
    arch, state, where = None, content, ""
    bare = all(isinstance(value, tensor) for value in content.values())
    if weights is not None and bare:
        raise UserError(f"{file} is one bare state dict; leave out --weights")
    if not bare:
        # Settings may lie under such a name too.
        filled = [
            key
            for key, value in content.items()
            if isinstance(key, str)
            and isinstance(value, dict)
            and any(isinstance(entry, tensor) for entry in value.values())
        ]
        if weights is not None and weights not in filled:
            raise UserError(
                f"{file} has no state dict {weights!r:.80}; it has "
                f"{', '.join(f'{key!r:.40}' for key in filled[:10]) or 'none'}"
            )
        found = [weights] if weights is not None else [key for key in _KEYS if key in filled]
        found = found or [key for key in _KEYS if isinstance(content.get(key), dict)][:1]
        if len(found) > 1:
            raise UserError(
                f"{file} holds several state dicts: {', '.join(found)}; choose one with --weights, "
                f"for example --weights {found[0]}"
            )
        if not found:
            others = [shlex.quote(key) for key in filled if key.isprintable()]
            advice = f"; choose one with --weights {others[0]}" if others else ""
            raise UserError(f"{file} holds no state dict, {expected}: {_keys(content)}{advice}")
        state, where = content[found[0]], f"the {found[0]} of "
        # Another kind of `arch` is no name, and is asked for as if there were none.
        arch = content["arch"] if isinstance(content.get("arch"), str) else None
    if not state:
        raise UserError(f"{where}{file} holds no state dict, {expected}: it is empty")
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"{where}{file} is no state dict: {name!r:.80} names no tensor")
        if not isinstance(value, tensor):
            raise UserError(
                f"{where}{file} is no state dict: {name} is a {type(value).__name__}, not a tensor"
            )
    return arch, state


def _keys(content: dict[Any, Any]) -> str:
    shown = [f"{key!r:.40}" for key in content if isinstance(key, str)]
    more = "" if len(shown) <= 10 else f" and {len(shown) - 10} more"
    return f"it has {', '.join(shown[:10]) or 'no names'}{more}"


def _command(file: Path, key: str) -> str:
    """What a user can type to save the state dict alone, executing what the file names."""
    old, new, key = (
        json.dumps(str(text), ensure_ascii=False)
        for text in (file, file.with_name(f"plain-{file.name}"), key)
    )
    program = (
        f'import torch; c = torch.load({old}, map_location="cpu", weights_only=False); '
        f'a, s = (c.get("arch"), c[{key}]) if isinstance(c, dict) else (None, c.state_dict()); '
        f'torch.save({{"arch": a, "state_dict": s}}, {new})'
    )
    return f"python -c {shlex.quote(program)}"


def _array(tensor: Any, name: str) -> np.ndarray:
    try:
        # NumPy has no bfloat16; float32 holds it exactly. What it cannot hold becomes infinite.
        return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
    except (RuntimeError, TypeError) as error:  # sparse, quantized and the like
        raise UserError(f"{name} is no plain array: {first_line(error)}") from None


def _sha256(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
