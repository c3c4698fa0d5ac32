"""Files of torch.export are untrusted: nothing in them is run, and damage is told in one line."""

import copy
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_classifier

from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import Program, program
from dsrs_jax.convert.pytorch import exported
from dsrs_jax.system.errors import UserError

MODEL, WEIGHTS = "models/model.json", "data/weights/"


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    """The files of a small program's archive."""
    with zipfile.ZipFile(exported(small_classifier(), "it", (8, 8, 1))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(parts: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def changed(parts: dict[str, bytes], end: str, edit: Callable[[Any], Any]) -> io.BytesIO:
    """The archive after a change of the JSON in the file whose name ends so."""
    [name] = [one for one in parts if one.endswith(end)]
    content = json.loads(parts[name])
    content = edit(content) or content
    return written(parts | {name: json.dumps(content).encode()})


def message_of(stream: io.BytesIO) -> str:
    with pytest.raises(UserError) as raised:
        read_program(stream)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_no_program_is_told(tmp_path: Path, parts: dict[str, bytes]) -> None:
    file = tmp_path / "m.pt2"
    with pytest.raises(UserError, match="cannot read"):
        read_program(file)
    whole = written(parts).getvalue()
    for content in (b"", b"text", whole[:1000], whole[:-50]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"m\.pt2"):
            read_program(file)
    assert "models/model.json" in message_of(written({"x/other": b""}))


def test_weights_that_are_pickled_missing_cut_or_endless_are_refused(
    parts: dict[str, bytes],
) -> None:
    listed = f"{WEIGHTS}model_weights_config.json"

    def first(content: Any) -> Any:
        return next(iter(content["config"].values()))

    assert "pickled" in message_of(
        changed(parts, listed, lambda content: first(content).update(use_pickle=True))
    )
    assert "is missing" in message_of(
        changed(parts, listed, lambda content: content["config"].popitem() and None)
    )

    def endless(content: Any) -> None:
        meta = first(content)["tensor_meta"]
        meta["sizes"] = [{"as_int": 10**6}, {"as_int": 10**6}]
        meta["strides"] = [{"as_int": 0}, {"as_int": 0}]

    assert "repeats" in message_of(changed(parts, listed, endless))
    [name] = [one for one in parts if one.endswith(f"{WEIGHTS}weight_0")]
    assert "cut short" in message_of(written(parts | {name: parts[name][:4]}))


def test_nothing_in_a_file_is_run(tmp_path: Path, parts: dict[str, bytes]) -> None:
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    attack = pickle.dumps(Attack())
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"

    def poison(value: Any) -> Any:
        """Code wherever a file has text that PyTorch's own reader evaluates."""
        if isinstance(value, dict):
            return {
                key: code if key in ("expr_str", "guard") else poison(one)
                for key, one in value.items()
            }
        return [poison(one) for one in value] if isinstance(value, list) else value

    read_program(changed(parts, MODEL, poison))
    for name in parts:
        if not name.endswith(".json"):
            try:
                read_program(written(parts | {name: attack}))
            except UserError as error:
                assert "\n" not in str(error)
    assert not canary.exists()
    pickle.loads(attack)
    assert canary.exists()  # it would have been


def test_a_program_is_read_and_run_where_pytorch_is_not(
    tmp_path: Path, parts: dict[str, bytes]
) -> None:
    file = tmp_path / "m.pt2"
    file.write_bytes(written(parts).getvalue())
    code = f"""
import sys
sys.modules["torch"] = None
import jax.numpy as jnp
from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import program
(logits,) = program(*read_program({str(file)!r}))(jnp.zeros((3, 1, 8, 8)))
assert logits.shape == (3, 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that a JSON value holds."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += places(inner, (*path, key))
    return found


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_graph_is_a_program_or_refused(data: st.DataObject) -> None:
    with zipfile.ZipFile(_ARCHIVE.get()) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    [name] = [one for one in found if one.endswith(MODEL)]
    content = copy.deepcopy(json.loads(found[name]))
    graph = content["graph_module"]
    path = data.draw(st.sampled_from(places(graph)))
    value: Any = data.draw(
        st.one_of(
            st.none(), st.integers(-3, 70), st.sampled_from(["", "x", "p_0_weight", "relu", "NaN"]),
            st.sampled_from([[], {}, [1], {"as_int": 7}, {"as_tensor": {"name": "nothing"}}]),
        )
    )  # fmt: skip
    inner = graph
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        read = program(*read_program(written(found | {name: json.dumps(content).encode()})))
        jax.eval_shape(Program.__call__, read, jax.ShapeDtypeStruct((2, 1, 8, 8), jnp.float32))
    except UserError as error:
        assert "\n" not in str(error)


class _Archive:
    """One program for all examples: an export takes longer than reading it."""

    def __init__(self) -> None:
        self._bytes = b""

    def get(self) -> io.BytesIO:
        if not self._bytes:
            self._bytes = exported(small_classifier(), "it", (8, 8, 1)).getvalue()
        return io.BytesIO(self._bytes)


_ARCHIVE = _Archive()
