"""Files that are damaged or hostile: one line, and nothing is run.

Tensors of another network or with bad values are refused in test_layouts.py.
"""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import SAFETENSORS, saved, state_of, written
from commands import refused

pytestmark = pytest.mark.torch


class Runs:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("executed"),))


def _edited(**tensors: Any) -> dict[str, Any]:
    return {"arch": "lenet", "net": state_of("lenet") | tensors}


ONES, LARGE = torch.ones(500), torch.full((10,), 1e39, dtype=torch.float64)
# What a file holds: its bytes, those of a good file changed, or what PyTorch saves.
BAD: dict[str, tuple[Any, str]] = {
    "truncated": (lambda good: good[: len(good) // 2], "damaged"),
    "empty": (b"", "damaged"),
    "text": (b"not a checkpoint\n", "not a PyTorch checkpoint"),
    "pickle": (pickle.dumps(["some", "list"]), "checkpoint"),
    "code in a plain pickle": (pickle.dumps(Runs()), "checkpoint"),
    "code": ({"arch": "lenet", "x": Runs()}, "code that it names (getattr); it was not executed"),
    "list": ([1, 2], "it is a list"),
    "no known key": ({"epoch": 3, "weights": {"w": ONES}, "a\nb": 1},
                     "ema: it has 'epoch', 'weights', 'a\\nb'; choose one with --weights"),
    "an array": ({"model": {"w": ONES, "b": np.ones(3)}}, "b is a NumPy array, not a tensor"),
    "a name of two lines": ({"net": {"a\nb": ONES}}, "'a\\nb' names no tensor"),
    "no tensors": ({"arch": "lenet", "net": {}}, "it is empty"),
    "another network": ({"arch": "lenet", "net": {"features.1.w": ONES}},
                        "is missing; the first of the file is features.1.w"),
    "sparse": (lambda _: _edited(**{"fc1.bias": ONES.to_sparse()}),
               "the tensor fc1.bias is no plain array"),
    "too large for float32": (lambda _: _edited(**{"fc2.bias": LARGE}), "the tensor fc2.bias has "
                              "10 of 10 values that are not finite in float32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = BAD[kind]
    file = saved(tmp_path, "lenet")
    if callable(content):
        content = content(file.read_bytes())
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    before = set(tmp_path.iterdir())
    refused(capsys, ["convert", str(file), "out"], message)
    assert set(tmp_path.iterdir()) == before  # nothing written, nothing executed


DAMAGED = "is damaged, cut short or no .safetensors file"
# The bytes of a good file, or its header, changed.
OF_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "a pickle": lambda good: b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR.",
    "a header without end": lambda good: struct.pack("<Q", 2**62) + good[8:],
}
OF_HEADERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "overlapping": (lambda header: header["fc2.bias"].update(data_offsets=[0, 40]), DAMAGED),
    "a huge size": (lambda header: header["fc2.bias"].update(shape=[2**40, 2**40]), DAMAGED),
    "eight bits": (
        lambda header: header["fc2.bias"].update(dtype="F8_E5M2", shape=[40]),
        "the tensor fc2.bias holds F8_E5M2, not floating-point numbers",
    ),
    "integers": (
        lambda header: header["fc2.bias"].update(dtype="I32"), "the tensor fc2.bias holds int32"
    ),
    "a name of two lines": (
        lambda header: header.update({"a\nb": header.pop("fc2.bias")}), "'a\\nb' names no tensor"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*OF_BYTES, *OF_HEADERS])
def test_bad_safetensors_are_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, state_of("lenet"), SAFETENSORS)
    good = file.read_bytes()
    if kind in OF_BYTES:
        content, message = OF_BYTES[kind](good), DAMAGED
    else:
        edit, message = OF_HEADERS[kind]
        size = struct.unpack("<Q", good[:8])[0]
        header = json.loads(good[8 : 8 + size])
        edit(header)
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + good[8 + size :]
    file.write_bytes(content)
    refused(capsys, ["convert", str(file), "out", "--arch", "lenet"], message)
    file.write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(capsys, ["convert", str(file), "out", "--arch", "lenet"], "holds no tensors")
    assert list(tmp_path.iterdir()) == [file]
