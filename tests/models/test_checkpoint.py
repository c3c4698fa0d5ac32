import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsrs_jax import models
from dsrs_jax.system.errors import UserError

METADATA = models.ModelMetadata(
    arch="digits_cnn",
    dataset="digits",
    image_shape=(8, 8, 1),
    classes=10,
    sigma=0.5,
    k=24.0,
    eta=2.0,
    method="noise augmentation",
    epochs=3,
    batch=128,
    learning_rate=0.05,
    seed=7,
)
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


def test_the_round_trip_is_exact(model, written):
    classifier = models.load_model(written)
    assert classifier.metadata == METADATA
    for before, after in zip(
        jax.tree.leaves(nnx.state(model)), jax.tree.leaves(classifier.state), strict=True
    ):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model(jnp.asarray(IMAGES)), classifier(jnp.asarray(IMAGES)))


def test_the_round_trip_in_64_bit_mode_stays_float32(written):
    with jax.enable_x64(True):
        classifier = models.load_model(written)
        assert {leaf.dtype for leaf in jax.tree.leaves(classifier.state)} == {np.dtype("float32")}


def test_a_classifier_is_an_argument_of_a_jitted_function(model, written):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(images.shape)
        return classifier(images)

    first = models.load_model(written)
    second = models.Classifier.from_model(models.build("digits_cnn", 8), METADATA)
    a, b = logits(first, IMAGES), logits(second, IMAGES)
    np.testing.assert_allclose(a, model(jnp.asarray(IMAGES)), atol=1e-5)
    assert np.abs(a - b).max() > 1e-3
    assert traces == [(4, 8, 8, 1)]


def test_a_classifier_does_not_follow_later_training():
    model = models.build("digits_cnn", 1)
    classifier = models.Classifier.from_model(model, METADATA)
    before = np.asarray(classifier(jnp.asarray(IMAGES)))
    model.dense2.bias[...] = model.dense2.bias[...] + 1
    np.testing.assert_array_equal(classifier(jnp.asarray(IMAGES)), before)


def test_the_fingerprint_is_that_of_the_parameters(model, written, tmp_path):
    loaded = models.load_model(written)
    other_settings = dataclasses.replace(METADATA, seed=8, sigma=1.0)
    models.save_model(tmp_path / "again", loaded, other_settings)
    again = models.load_model(tmp_path / "again")
    assert again.fingerprint() == loaded.fingerprint()
    assert loaded.fingerprint() == models.Classifier.from_model(model, METADATA).fingerprint()
    one_bit = jax.tree.map(lambda leaf: leaf, loaded.state)
    one_bit["dense2"]["bias"][...] = jnp.nextafter(one_bit["dense2"]["bias"][...], jnp.float32(1))
    assert dataclasses.replace(loaded, state=one_bit).fingerprint() != loaded.fingerprint()


def test_a_second_save_replaces_the_first_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "runs" / "model"
    for seed in (1, 2):
        models.save_model(path, models.build("digits_cnn", seed), METADATA)
    expected = models.Classifier.from_model(models.build("digits_cnn", 2), METADATA)
    assert models.load_model(path).fingerprint() == expected.fingerprint()
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_a_folder_of_the_user_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a checkpoint"):
        models.save_model(tmp_path, model, METADATA)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        models.save_model(tmp_path / "file" / "model", model, METADATA)


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
    subprocess.run(
        [sys.executable, "-c", program, str(written), str(tmp_path / "model")],
        check=True,
        env={
            "PATH": "",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    here = models.load_model(tmp_path / "model")
    assert here.fingerprint() == models.load_model(written).fingerprint()


def test_no_such_path(tmp_path):
    assert "no such checkpoint" in message_of(tmp_path / "nowhere")


def test_something_else(tmp_path):
    assert "is not a checkpoint" in message_of(tmp_path)
    (tmp_path / "model.pth.tar").write_bytes(b"PK")
    assert "is not a checkpoint" in message_of(tmp_path / "model.pth.tar")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2}', "\x00\xff", "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_damaged_metadata(checkpoint, text):
    (checkpoint / "metadata.json").write_text(text, encoding="latin-1")
    assert "metadata.json" in message_of(checkpoint)


@pytest.mark.parametrize("field", ["arch", "dataset", "image_shape", "classes"])
def test_metadata_lacking_a_field(checkpoint, field):
    edit(checkpoint, lambda content: content["model"].pop(field))
    assert field in message_of(checkpoint)


def test_metadata_of_other_types(written, tmp_path):
    """In a process of its own: here, types in annotations are checked, for users they are not."""
    wrong = {
        "arch": (["digits_cnn"], "arch must be str, got ['digits_cnn']"),
        "dataset": (["digits"], "dataset must be str, got ['digits']"),
        "scaling": ({}, "scaling must be str | None, got {}"),
        "sigma": ("0.5", "sigma must be float | None, got '0.5'"),
        "image_shape": ([[8], 8, 1], "takes images (8, 8, 1)"),
        "epochs": (2.5, "epochs must be int | None, got 2.5"),
    }
    for field, (value, _) in wrong.items():
        path = shutil.copytree(written, tmp_path / field)
        edit(path, lambda content, f=field, v=value: content["model"].update({f: v}))
    whole = shutil.copytree(written, tmp_path / "whole")
    edit(whole, lambda content: content["model"].update(sigma=1))
    program = """
import sys
from dsrs_jax import models
from dsrs_jax.system.errors import UserError
for path in sys.argv[1:]:
    try:
        print(models.load_model(path).metadata.sigma)
    except UserError as error:
        print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *(str(tmp_path / name) for name in [*wrong, "whole"])],
        check=True,
        capture_output=True,
        text=True,
    )
    *messages, sigma = ended.stdout.splitlines()
    for (_, expected), message in zip(wrong.values(), messages, strict=True):
        assert expected in message
    assert sigma == "1"


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


def test_metadata_without_a_model(checkpoint):
    edit(checkpoint, lambda content: content.pop("model"))
    assert "metadata.json" in message_of(checkpoint)


def test_an_unknown_architecture(checkpoint):
    edit(checkpoint, lambda content: content["model"].update(arch="vit"))
    assert "unknown architecture 'vit'; known: digits_cnn, mnist_43" in message_of(checkpoint)


def test_images_of_another_architecture(checkpoint):
    edit(checkpoint, lambda content: content["model"].update(image_shape=[28, 28, 1]))
    assert "takes images (8, 8, 1)" in message_of(checkpoint)


def test_parameters_of_another_architecture(checkpoint):
    edit(
        checkpoint,
        lambda content: content["model"].update(arch="mnist_43", image_shape=[28, 28, 1]),
    )
    message = message_of(checkpoint)
    assert "missing conv2.bias" in message and "mnist_43" in message


def test_a_tensor_of_another_shape(checkpoint):
    edit(checkpoint, lambda content: content["parameters"].update({"dense1.bias": [64]}))
    assert "dense1.bias has shape [64], digits_cnn needs [128]" in message_of(checkpoint)


def test_another_model_behind_the_same_metadata(checkpoint, tmp_path):
    models.save_model(tmp_path / "other", models.build("digits_cnn", 99), METADATA)
    shutil.rmtree(checkpoint / "parameters")
    shutil.copytree(tmp_path / "other" / "parameters", checkpoint / "parameters")
    assert "fingerprint" in message_of(checkpoint)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("dense1.bias", np.nan, "has 2 of 128 values that are not finite"),
        ("conv1.bias", -np.inf, "has 2 of 32 values that are not finite"),
    ],
)
def test_parameters_that_are_not_finite_are_neither_saved_nor_loaded(
    name, value, fault, checkpoint, tmp_path
):
    classifier = models.load_model(checkpoint)
    layer, leaf = name.split(".")
    classifier.state[layer][leaf][...] = classifier.state[layer][leaf][...].at[:2].set(value)
    with pytest.raises(UserError, match=f"was not written: the parameter {name} {fault}"):
        models.save_model(tmp_path / "new", classifier, METADATA)
    assert not (tmp_path / "new").exists()
    # As an earlier version wrote it.
    parameters = dict(nnx.to_flat_state(classifier.state))
    arrays = {".".join(path): np.asarray(leaf[...]) for path, leaf in parameters.items()}
    shutil.rmtree(checkpoint / "parameters")
    models.write_arrays(checkpoint / "parameters", arrays)
    fingerprint = classifier.fingerprint()
    edit(checkpoint, lambda content: content.update(fingerprint=fingerprint))
    assert f"{checkpoint}: the parameter {name} {fault}" in message_of(checkpoint)


def test_a_negative_variance_is_not_saved(tmp_path):
    metadata = dataclasses.replace(
        METADATA, arch="fashion_22full", dataset="mnist", image_shape=(28, 28, 1)
    )
    model = models.build("fashion_22full", 0)
    model.bn1.var[...] = model.bn1.var[...].at[3].set(-1e-3)
    with pytest.raises(UserError, match=r"bn1\.var is a variance and has 1 negative values"):
        models.save_model(tmp_path / "new", model, metadata)


def test_parameters_gone(checkpoint):
    shutil.rmtree(checkpoint / "parameters")
    assert "is damaged or cut short" in message_of(checkpoint)


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
