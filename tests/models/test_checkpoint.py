import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import python
from flax import nnx

from dsrs_jax import models
from dsrs_jax.system.errors import UserError

METADATA = models.ModelMetadata(
    arch="digits_cnn", dataset="digits", image_shape=(8, 8, 1), classes=10, sigma=0.5, k=24.0,
    eta=2.0, method="noise augmentation", epochs=3, batch=128, learning_rate=0.05, seed=7,
)  # fmt: skip
IMAGES = np.random.default_rng(0).normal(0.5, 0.5, (4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return models.build("digits_cnn", 7)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "model"
    models.save_model(path, model, METADATA)
    return path


@pytest.fixture
def checkpoint(written, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "model")


def message_of(path):
    with pytest.raises(UserError) as caught:
        models.load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(path, change):
    content = json.loads((path / "metadata.json").read_text())
    change(content)
    (path / "metadata.json").write_text(json.dumps(content))


@pytest.mark.parametrize("x64", [False, True])
def test_the_round_trip_is_exact(x64, model, written):
    with jax.enable_x64(x64):
        classifier = models.load_model(written)
    assert classifier.metadata == METADATA == models.metadata_of(written)
    for before, after in zip(
        jax.tree.leaves(nnx.state(model)), jax.tree.leaves(classifier.state), strict=True
    ):
        assert after.dtype == before.dtype == jnp.float32
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model(jnp.asarray(IMAGES)), classifier(jnp.asarray(IMAGES)))
    rough = models.forward(models.load_model(written, "bfloat16"), IMAGES)
    assert 1e-5 < np.abs(rough - models.forward(classifier, IMAGES)).max() < 0.1
    with pytest.raises(UserError, match="unknown dtype 'float16'; known: float32, bfloat16"):
        models.load_model(written, "float16")


def test_a_classifier_is_an_argument_of_a_jitted_function_and_does_not_follow_later_training(
    written,
):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(images.shape)
        return classifier(images)

    model = models.build("digits_cnn", 8)
    first, second = models.load_model(written), models.Classifier.from_model(model, METADATA)
    expected = model(jnp.asarray(IMAGES))
    model.dense2.bias[...] = model.dense2.bias[...] + 1
    np.testing.assert_allclose(logits(second, IMAGES), expected, atol=1e-5)
    assert np.abs(logits(first, IMAGES) - expected).max() > 1e-3
    assert traces == [(4, 8, 8, 1)]


def test_the_fingerprint_is_that_of_the_parameters_and_a_second_save_replaces_the_first(
    model, written, tmp_path
):
    loaded, path = models.load_model(written), tmp_path / "runs" / "model"
    models.save_model(path, models.build("digits_cnn", 1), METADATA)
    models.save_model(path, loaded, dataclasses.replace(METADATA, seed=8, sigma=1.0))
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]
    assert models.load_model(path).fingerprint() == loaded.fingerprint()
    assert loaded.fingerprint() == models.Classifier.from_model(model, METADATA).fingerprint()
    one_bit = jax.tree.map(lambda leaf: leaf, loaded.state)
    one_bit["dense2"]["bias"][...] = jnp.nextafter(one_bit["dense2"]["bias"][...], jnp.float32(1))
    assert dataclasses.replace(loaded, state=one_bit).fingerprint() != loaded.fingerprint()


def test_what_is_in_the_way_is_not_replaced(model, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a checkpoint"):
        models.save_model(tmp_path, model, METADATA)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        models.save_model(tmp_path / "thesis.tex" / "model", model, METADATA)
    with pytest.raises(UserError, match="is full: 8,000,000,000,000"):
        models.check_space(tmp_path, 8 * 10**18)


@pytest.mark.process
def test_a_checkpoint_of_two_devices_loads_on_one(written, tmp_path):
    program = """
import jax, sys
from jax.sharding import NamedSharding, PartitionSpec
from flax import nnx
from dsrs_jax import models
mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
everywhere = NamedSharding(mesh, PartitionSpec())
loaded = models.load_model(sys.argv[1])
state = jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), loaded.state)
assert len(jax.tree.leaves(state)[0].sharding.device_set) == 2
model = nnx.merge(loaded.graphdef, state)
models.save_model(sys.argv[2], model, loaded.metadata)
"""
    ended = python("-c", program, str(written), str(tmp_path / "model"), devices=2)
    assert ended.returncode == 0, ended.stderr
    here = models.load_model(tmp_path / "model")
    assert here.fingerprint() == models.load_model(written).fingerprint()


def test_what_is_no_checkpoint_is_told(checkpoint, tmp_path):
    assert "no such checkpoint" in message_of(tmp_path / "nowhere")
    assert "is not a checkpoint" in message_of(tmp_path)
    (tmp_path / "model.pth.tar").write_bytes(b"PK")
    assert "is not a checkpoint" in message_of(tmp_path / "model.pth.tar")
    for text in ["", "{", "[]", "{}", '{"format": 2}', "\x00\xff", "[" * 100_000]:
        (checkpoint / "metadata.json").write_text(text, encoding="latin-1")
        assert "metadata.json" in message_of(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].pop("image_shape"), "lacks the field 'image_shape'"),
        (lambda content: content["model"].pop("arch"), "arch"),
        (lambda content: content["model"].pop("classes"), "classes"),
        (lambda content: content.pop("model"), "metadata.json"),
        (lambda content: content["model"].update(arch="vit"),
         "unknown architecture 'vit'; known: digits_cnn, mnist_43"),
        (lambda content: content["model"].update(image_shape=[28, 28, 1]),
         "takes images (8, 8, 1)"),
        (lambda content: content["model"].update(arch="mnist_43", image_shape=[28, 28, 1]),
         "does not hold a mnist_43: missing conv2.bias"),
        (lambda content: content["parameters"].update({"dense1.bias": [64]}),
         "dense1.bias has shape [64], digits_cnn needs [128]"),
        (lambda content: content.update(fingerprint="0" * 64), "the recorded fingerprint"),
    ],
)  # fmt: skip
def test_metadata_of_something_else_is_told(change, message, checkpoint):
    edit(checkpoint, change)
    assert message in message_of(checkpoint)


@pytest.mark.process
def test_metadata_of_other_types(written, tmp_path):
    """In a process of its own: here, types in annotations are checked, for users they are not."""
    wrong = {
        "arch": (["digits_cnn"], "arch must be str, got ['digits_cnn']"),
        "scaling": ({}, "scaling must be str | None, got {}"),
        "sigma": ("0.5", "sigma must be float | None, got '0.5'"),
        "image_shape": ([[8], 8, 1], "takes images (8, 8, 1)"),
        "epochs": (2.5, "epochs must be int | None, got 2.5"),
        "k": (1, "accepted"),  # JSON of others may say 1 for 1.0
    }
    program = """
import sys
from dsrs_jax import models
for path in sys.argv[1:]:
    try:
        models.load_model(path)
        print("accepted")
    except models.checkpoint.UserError as error:
        print(error)
"""
    paths = [str(shutil.copytree(written, tmp_path / field)) for field in wrong]
    for field, (value, _) in wrong.items():
        edit(tmp_path / field, lambda content, f=field, v=value: content["model"].update({f: v}))
    lines = python("-c", program, *paths).stdout.splitlines()
    for (_, expected), line in zip(wrong.values(), lines, strict=True):
        assert expected in line


def test_a_model_is_described_once_for_all_loads(checkpoint, monkeypatch):
    """Tracing a deep network takes longer than reading its parameters."""
    built = []
    known = models.REGISTRY["digits_cnn"]

    def module(**settings):
        built.append(settings)
        return known.module(**settings)

    own = dataclasses.replace(known, module=module)
    monkeypatch.setitem(models.REGISTRY, "of_this_test", own)
    edit(checkpoint, lambda content: content["model"].update(arch="of_this_test"))
    for _ in range(2):
        models.load_model(checkpoint)
    assert len(built) == 1


def test_parameters_that_are_not_finite_are_neither_saved_nor_loaded(checkpoint, tmp_path):
    classifier, fault = models.load_model(checkpoint), "has 2 of 128 values that are not finite"
    bias = classifier.state["dense1"]["bias"]
    bias[...] = bias[...].at[:2].set([np.nan, -np.inf])
    with pytest.raises(UserError, match=f"not written: the parameter dense1.bias {fault}"):
        models.save_model(tmp_path / "new", classifier, METADATA)
    assert not (tmp_path / "new").exists()
    # As an earlier version wrote it.
    parameters = dict(nnx.to_flat_state(classifier.state))
    arrays = {".".join(path): np.asarray(leaf[...]) for path, leaf in parameters.items()}
    shutil.rmtree(checkpoint / "parameters")
    models.write_arrays(checkpoint / "parameters", arrays)
    fingerprint = classifier.fingerprint()
    edit(checkpoint, lambda content: content.update(fingerprint=fingerprint))
    assert f"{checkpoint}: the parameter dense1.bias {fault}" in message_of(checkpoint)


def test_a_variance_may_not_be_negative():
    assert models.fault_of("bn1.mean", np.float32([1, -1])) is None
    fault = models.fault_of("bn1.var", np.float32([1, -1]))
    assert fault == "is a variance and has 1 negative values"


def test_any_file_of_the_parameters_cut_short_or_gone(checkpoint, written):
    """Whatever file is hurt, the answer is one clear line or the exact model, never another."""
    expected = models.load_model(written).fingerprint()
    complaints = 0
    files = [path for path in (checkpoint / "parameters").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for damaged in (None, content[: len(content) // 2], content[:-4] + b"\xff\xff\xff\xff"):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            try:
                assert models.load_model(checkpoint).fingerprint() == expected
            except UserError as error:
                assert "\n" not in str(error) and "is damaged" in str(error)
                complaints += 1
            path.write_bytes(content)
    assert complaints >= 3
    shutil.rmtree(checkpoint / "parameters")
    assert "is damaged or cut short" in message_of(checkpoint)
