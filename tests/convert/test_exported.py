"""Files of torch.export are read without PyTorch, and are untrusted: nothing in them is run.

`small.pt2` is what PyTorch wrote of `networks.pooled_classifier`, which test_program.py compares.
"""

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import python
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax import certify_images
from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import Program, program
from dsrs_jax.convert.program_classifier import from_file
from dsrs_jax.models import InputScaling, ModelMetadata, forward
from dsrs_jax.system.errors import UserError

SMALL = Path(__file__).with_name("small.pt2")
MODEL, WEIGHTS = "archive/models/model.json", "archive/data/weights/"
GRAPH = "graph_module/graph"
LISTED = f"{WEIGHTS}model_weights_config.json"
with zipfile.ZipFile(SMALL) as _archive:
    PARTS = {name: _archive.read(name) for name in _archive.namelist()}
IMAGES = np.random.default_rng(1).normal(0.5, 1, (5, 2, 4, 6)).astype(np.float32)


def written(parts: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def changed(*changes: tuple[str, Any], name: str = MODEL) -> io.BytesIO:
    """The archive with other values at these places of one of its JSON files."""
    content = json.loads(PARTS[name])
    for place, value in changes:
        *outer, last = place.split("/")
        inner = content
        for key in outer:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[int(last) if isinstance(inner, list) else last] = value
    return written(PARTS | {name: json.dumps(content).encode()})


def message_of(stream: io.BytesIO) -> str:
    with pytest.raises(UserError) as raised:
        program(*read_program(stream))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def logits_by_numpy() -> np.ndarray:
    """The network in float64, from the raw numbers in the file."""
    w: list[Any] = [np.frombuffer(PARTS[f"{WEIGHTS}weight_{i}"], "<f4") for i in range(8)]
    kernel, bias, scale, shift, dense, offset, mean, var = (one.astype(np.float64) for one in w)
    padded = np.pad(IMAGES.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    x = np.einsum("nchwij,ocij->nohw", windows, kernel.reshape(3, 2, 3, 3))
    bias, scale, shift, mean, var = (v[:, None, None] for v in (bias, scale, shift, mean, var))
    x = np.maximum((x + bias - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)
    pooled = x.reshape(5, 3, 2, 2, 3, 2).max(axis=(3, 5))
    return pooled.reshape(5, 18) @ dense.reshape(5, 18).T + offset


def logits_of(translated: Program, images: int = 5) -> np.ndarray:
    (found,) = jax.jit(Program.__call__)(translated, jnp.asarray(IMAGES[:images]))
    return np.asarray(found)


def test_logits_are_those_of_the_weights_in_the_file() -> None:
    expected = logits_by_numpy()
    within = np.abs(expected).max()
    graph, weights = read_program(SMALL)
    found = logits_of(program(graph, weights))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * within)
    rough = np.abs(logits_of(program(graph, weights, "bfloat16")) - expected).max() / within
    assert 1e-4 < rough < 0.05


def test_a_program_of_a_fixed_batch_takes_any_number_of_images() -> None:
    translated = program(
        *read_program(changed((f"{GRAPH}/tensor_values/input/sizes/0", {"as_int": 2})))
    )
    assert translated.graph.shape == (2, 2, 4, 6)
    for images in (1, 5):
        expected = logits_by_numpy()[:images]
        np.testing.assert_allclose(logits_of(translated, images), expected, rtol=0, atol=1e-5)


def test_a_file_is_a_base_classifier_of_images_with_channels_last(tmp_path: Path) -> None:
    metadata = ModelMetadata("small.pt2", "npz", (4, 6, 2), 5)
    scaling = InputScaling((0.5,), (0.25, 0.5))
    classifier = from_file(SMALL, metadata, scaling)
    pixels = IMAGES.transpose(0, 2, 3, 1) * np.float32([0.25, 0.5]) + np.float32(0.5)
    expected = logits_by_numpy()
    np.testing.assert_allclose(forward(classifier, pixels), expected, rtol=0, atol=1e-5)
    chances = from_file(SMALL, metadata, scaling, "probabilities")
    logarithms = np.log(np.maximum(expected, np.finfo(np.float32).tiny))
    np.testing.assert_allclose(forward(chances, pixels), logarithms, rtol=0, atol=1e-3)
    others = [from_file(SMALL, metadata, InputScaling((0.5,), (0.25,))), chances]
    others += [from_file(SMALL, metadata, scaling, dtype="bfloat16")]
    (tmp_path / "m.pt2").write_bytes(written(PARTS | {f"{WEIGHTS}weight_5": bytes(20)}).getvalue())
    others += [from_file(tmp_path / "m.pt2", metadata, scaling)]
    assert len({one.fingerprint() for one in [classifier, *others]}) == 5
    with pytest.raises(UserError, match=r"takes images \(4, 6, 2\) .* has \(6, 4, 2\)"):
        from_file(SMALL, dataclasses.replace(metadata, image_shape=(6, 4, 2)), scaling)
    with pytest.raises(UserError, match=r"has no result '1'; --output is 0 \.\.\. 0"):
        from_file(SMALL, metadata, scaling, "1")


def test_what_is_no_program_is_told(tmp_path: Path) -> None:
    file = tmp_path / "m.pt2"
    with pytest.raises(UserError, match="cannot read"):
        read_program(file)
    whole = SMALL.read_bytes()
    for content in (b"", b"text", whole[:1000], whole[:-50]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"m\.pt2"):
            read_program(file)
    assert "models/model.json" in message_of(written({"x/other": b""}))


LARGE, ZERO = {"as_int": 10**6}, {"as_int": 0}
FIRST, META = "config/0.weight", "config/0.weight/tensor_meta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(f"{FIRST}/use_pickle", True)], "its tensor 0.weight is pickled"),
        ([("config", {})], "its tensor 0.weight is missing"),
        ([(f"{FIRST}/path_name", "weight_8")], "its tensor 0.weight is cut short"),
        ([(f"{FIRST}/path_name", "weight_9")], "it has no data/weights/weight_9"),
        ([(f"{META}/dtype", 99)], "a type of number that is not known here (99)"),
        ([(f"{META}/sizes/0", {"as_int": -1})], "-1 is no size of a tensor"),
        ([(f"{META}/sizes", [LARGE] * 2), (f"{META}/strides", [ZERO] * 2)],
         "its tensor 0.weight repeats its numbers too often"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_read_are_refused(changes: Any, message: str) -> None:
    assert message in message_of(changed(*changes, name=LISTED))


def test_numbers_that_no_weight_may_have_are_refused() -> None:
    large = {f"{WEIGHTS}weight_8": np.int64(2**40).tobytes()}  # how many batches there were
    assert "beyond 32 bits" in message_of(written(PARTS | large))
    bias = {f"{WEIGHTS}weight_5": np.full(5, np.nan, np.float32).tobytes()}
    message = message_of(written(PARTS | bias))
    assert "its tensor p_5_bias has 5 of 5 values that are NaN" in message


@pytest.mark.parametrize("major", [7, 9, "8", None])
def test_another_version_of_the_schema_is_refused_with_the_pytorch_that_wrote_it(
    major: Any,
) -> None:
    stream = changed(("schema_version/major", major), ("torch_version", "3.1.0"))
    assert (
        f"it has version {major!r} of the schema of torch.export (PyTorch 3.1.0), and 8 is known "
        "here: save it again with PyTorch 2.8 to 2.13" in message_of(stream)
    )


def test_weights_in_the_other_order_of_bytes_are_refused() -> None:
    assert "order 'big'" in message_of(written(PARTS | {"archive/byteorder": b"big"}))


def test_a_program_of_one_class_is_refused_with_the_way_out(tmp_path: Path) -> None:
    one = {"as_int": 1}
    sizes = [(f"config/5.{name}/tensor_meta/sizes/0", one) for name in ("weight", "bias")]
    file = tmp_path / "m.pt2"
    file.write_bytes(changed(*sizes, name=LISTED).getvalue())
    images = IMAGES.transpose(0, 2, 3, 1).clip(0, 1)
    with pytest.raises(UserError, match=r"m\.pt2 returns 1 number .* the two logits 0 and z"):
        certify_images(file, images, None, sigma=0.1, n=100, quiet=True)


NODE, ATEN = f"{GRAPH}/nodes/3", "torch.ops.aten"  # a ReLU, before it a batch norm
IN_PLACE = (f"{NODE}/target", f"{ATEN}.relu_.default")
RETURNED = "graph_module/signature/output_specs/0"
GIVEN = "graph_module/signature/input_specs/9/user_input/arg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(f"{NODE}/target", f"{ATEN}.fft_fft2.default")], "no JAX for aten.fft_fft2.default "
         "(1 times); the first is aten.fft_fft2.default of (any, 3, 4, 6) in 2 (ReLU)"),
        ([(f"{GRAPH}/nodes/6/target", f"{ATEN}.as_strided.default"),
          (f"{GRAPH}/tensor_values/p_5_weight/strides", [{"as_int": 1}, {"as_int": 5}])],
         "as_strided.default of a tensor that is not contiguous"),
        ([IN_PLACE, (f"{RETURNED}/user_output/arg/as_tensor/name", "getitem")],
         "changes a tensor in place that is used again"),
        ([(f"{NODE}/inputs/0/arg", {"as_graph": 1})], "a kind that is not known here: as_graph"),
        ([(GIVEN, {"as_none": True})], "it takes 0 tensors"),
        ([(GIVEN, {"as_int": 3})], "it takes more than a batch of images"),
        ([(RETURNED, {"buffer_mutation": {"buffer_name": "1.running_mean"}})],
         "it writes into its tensor '1.running_mean' at each call; export it after .eval()"),
        ([(RETURNED, {"loss_output": {}})], "it returns a loss_output; export the classifier"),
    ],
)  # fmt: skip
def test_what_a_program_may_not_do_is_told(changes: Any, message: str) -> None:
    assert message in message_of(changed(*changes))


def test_what_is_changed_in_place_and_not_used_again_gives_the_same_logits() -> None:
    found = logits_of(program(*read_program(changed(IN_PLACE))))
    np.testing.assert_allclose(found, logits_by_numpy(), rtol=0, atol=1e-5)


def test_images_that_a_program_writes_into_are_no_result_of_it() -> None:
    outputs = json.loads(PARTS[MODEL])["graph_module"]["signature"]["output_specs"]
    written_to = {"user_input_mutation": {"arg": {"name": "relu"}, "user_input_name": "input"}}
    stream = changed(("graph_module/signature/output_specs", [written_to, *outputs]))
    found = logits_of(program(*read_program(stream)))
    np.testing.assert_allclose(found, logits_by_numpy(), rtol=0, atol=1e-5)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
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

    poisoned = poison(json.loads(PARTS[MODEL]))
    read_program(written(PARTS | {MODEL: json.dumps(poisoned).encode()}))
    for name in PARTS:
        if not name.endswith(".json"):
            try:
                read_program(written(PARTS | {name: attack}))
            except UserError as error:
                assert "\n" not in str(error)
    assert not canary.exists()
    pickle.loads(attack)
    assert canary.exists()  # it would have been


def places(value: Any, path: str) -> list[str]:
    """The ways to all that a JSON value holds."""
    found = [path]
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += places(inner, f"{path}/{key}")
    return found


@settings(max_examples=2 * settings.default.max_examples)
@given(
    path=st.sampled_from(places(json.loads(PARTS[MODEL])["graph_module"], "graph_module")),
    value=st.one_of(
        st.none(), st.integers(-3, 70), st.sampled_from(["", "x", "p_0_weight", "relu", "NaN"]),
        st.sampled_from([[], {}, [1], {"as_int": 7}, {"as_tensor": {"name": "nothing"}}]),
    ),
)  # fmt: skip
def test_a_changed_graph_is_a_program_or_refused(path: str, value: Any) -> None:
    try:
        read = program(*read_program(changed((path, value))))
        jax.eval_shape(Program.__call__, read, jax.ShapeDtypeStruct((2, 2, 4, 6), jnp.float32))
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.process
def test_a_program_is_read_and_run_where_pytorch_is_not() -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import jax.numpy as jnp
from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import program
(logits,) = program(*read_program({str(SMALL)!r}))(jnp.zeros((3, 2, 4, 6)))
assert logits.shape == (3, 5)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
