"""The small architectures against plain NumPy and SciPy in float64, layer by layer.

The published ones are compared with PyTorch in tests/convert.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from dsrs_jax import models
from dsrs_jax.system.errors import UserError

# (convolutions as (stride, kernel side), dense layers); weights come from the model itself.
LAYERS = {
    "digits_cnn": ([(2, 4)], 2),
    "mnist_43": ([(1, 3), (2, 4), (1, 3), (2, 4)], 3),
}
# Published sizes of the residual networks and of the transformer; the others counted by hand from
# their layers. Those that take long to make are counted in tests/convert/test_layouts.py.
PARAMETERS = {
    "digits_cnn": 67_498,
    "mnist_43": 1_974_762,
    "lenet": 431_080,
    "fashion_22full": 16_841_802,
    "cifar_resnet20": 272_474,
    "cifar_resnet56": 855_770,
    "cifar_resnet110": 1_730_714,
    "cifar_resnet20_a": 269_722,
    "cifar_resnet56_a": 853_018,
    "cifar_wrn_28_10": 36_479_194,
    "cifar_wrn_34_10": 46_160_474,
    "wide_resnet_imagenet64": 7_944_520,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vit_base_patch16_224": 86_567_656,
}
SMALL = ("digits_cnn", "mnist_43", "lenet")


def shifted_biases(name, seed=0):
    """A model whose biases are not the zeros of the initialiser."""
    model = models.build(name, seed)
    draw = np.random.default_rng(3)
    graphdef, state = nnx.split(model)
    moved = jax.tree.map(
        lambda leaf: (
            jnp.asarray(leaf + 0.1 * draw.normal(size=leaf.shape), jnp.float32)
            if leaf.ndim == 1
            else leaf
        ),
        state,
    )
    return nnx.merge(graphdef, moved)


def reference(model, images, convolutions, dense_layers):
    """Convolutions channel by channel with scipy.signal, padding 1 on each side."""
    features = (np.asarray(images, np.float64) - 0.5) / 0.5
    for number, (stride, side) in enumerate(convolutions, start=1):
        layer = getattr(model, f"conv{number}")
        kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...])
        assert kernel.shape[:2] == (side, side)
        padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        result = []
        for image in padded:
            maps = [
                sum(
                    signal.correlate2d(image[:, :, i], kernel[:, :, i, o], mode="valid")
                    for i in range(kernel.shape[2])
                )[::stride, ::stride]
                + bias[o]
                for o in range(kernel.shape[3])
            ]
            result.append(np.stack(maps, axis=-1))
        features = np.maximum(np.stack(result), 0)
    features = features.reshape(len(features), -1)
    for number in range(1, dense_layers + 1):
        layer = getattr(model, f"dense{number}")
        kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...])
        features = features @ kernel + bias
        if number < dense_layers:
            features = np.maximum(features, 0)
    return features


@pytest.mark.parametrize("name", LAYERS)
def test_logits_agree_with_scipy(name):
    model = shifted_biases(name)
    shape = models.architecture(name).image_shape
    images = np.random.default_rng(1).normal(0.4, 0.6, (2, *shape)).astype(np.float32)
    logits = model(jnp.asarray(images))
    expected = reference(model, images, *LAYERS[name])
    assert logits.dtype == jnp.float32 and logits.shape == (2, 10)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    model = nnx.eval_shape(lambda: models.build(name, 0))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name", ["cifar_resnet20_a", "cifar_wrn_28_10", "resnet18", "vit_base_patch16_224"]
)
def test_logits_are_float32_whatever_the_arithmetic(name):
    """Types and shapes alone."""
    found = models.architecture(name)

    def logits_of(images):
        return models.build(name, 0, dtype=jnp.bfloat16)(images)

    images = jax.ShapeDtypeStruct((2, *found.image_shape), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # Flax's normalisation needs it
        logits = nnx.eval_shape(logits_of, images)
    assert (logits.shape, logits.dtype) == ((2, found.classes), jnp.float32)


@pytest.mark.parametrize("name", ["digits_cnn", "lenet"])
def test_64_bit_mode_changes_nothing(name):
    shape = models.architecture(name).image_shape
    images = np.random.default_rng(2).random((2, *shape), np.float32)
    expected = np.asarray(models.build(name, 5)(jnp.asarray(images)))
    with jax.enable_x64(True):
        model = models.build(name, 5)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {np.dtype("float32")}
        for dtype in (np.float32, np.float64):
            logits = model(jnp.asarray(images, dtype))
            assert logits.dtype == jnp.float32
            np.testing.assert_array_equal(logits, expected)


def test_64_bit_mode_changes_nothing_in_a_network_with_batch_norm():
    """Its weights are drawn here: initialising them costs a compilation for each shape."""
    shapes = nnx.eval_shape(lambda: models.build("cifar_resnet20", 5))
    graph, state = nnx.split(nnx.view(shapes, use_running_average=True))
    rng = np.random.default_rng(2)
    drawn = jax.tree.map(lambda leaf: rng.uniform(0.01, 0.2, leaf.shape).astype(leaf.dtype), state)
    images = rng.random((2, 32, 32, 3), np.float32)
    expected = np.asarray(nnx.merge(graph, jax.tree.map(jnp.asarray, drawn))(jnp.asarray(images)))
    assert np.ptp(expected) > 0 and np.all(np.isfinite(expected))
    with jax.enable_x64(True):
        again = nnx.eval_shape(lambda: models.build("cifar_resnet20", 5))
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(again))} == {np.dtype("float32")}
        model = nnx.merge(graph, jax.tree.map(jnp.asarray, drawn))
        for dtype in (np.float32, np.float64):
            logits = model(jnp.asarray(images, dtype))
            assert logits.dtype == jnp.float32
            np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("name", [*SMALL, "cifar_resnet20"])
def test_another_shape_is_refused(name):
    model = nnx.eval_shape(lambda: models.build(name, 0))
    height, width, channels = models.architecture(name).image_shape
    expected = rf"expected images \(N, {height}, {width}, {channels}\), got "
    for wrong in [(height, width), (2, height, width), (2, channels, height, width + 1)]:
        with pytest.raises(ValueError, match=expected):
            model(jnp.zeros(wrong, jnp.float32))


def test_the_seed_decides_the_weights():
    first, again, other = (
        jax.tree.leaves(nnx.state(models.build("digits_cnn", seed))) for seed in (1, 1, 2)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(UserError, match="'resnet'; known: digits_cnn, mnist_43"):
        models.build("resnet", 0)


def test_initial_weights_do_not_depend_on_the_default_generator():
    def weights():
        return jax.tree.leaves(nnx.state(models.build("digits_cnn", 3)))

    plain = weights()
    with jax.default_prng_impl("rbg"):
        other = weights()
    with jax.threefry_partitionable(False):
        older = weights()
    for a, b, c in zip(plain, other, older, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
