"""The small architectures against plain NumPy in float64, layer by layer.

The published ones are compared with PyTorch in tests/convert.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsrs_jax import models
from dsrs_jax.system.errors import UserError

# (convolutions as (stride, kernel side), dense layers); weights come from the model itself.
LAYERS = {
    "digits_cnn": ([(2, 4)], 2),
    "mnist_43": ([(1, 3), (2, 4), (1, 3), (2, 4)], 3),
}
# Published sizes of the residual networks and of the transformer; the others counted by hand from
# their layers.
PARAMETERS = {
    "digits_cnn": 67_498, "mnist_43": 1_974_762, "lenet": 431_080, "fashion_22full": 16_841_802,
    "cifar_resnet20": 272_474, "cifar_resnet20_a": 269_722, "wide_resnet_imagenet64": 7_944_520,
}  # fmt: skip
OF_LARGE_ONES = {
    "cifar_resnet56": 855_770, "cifar_resnet110": 1_730_714, "cifar_resnet56_a": 853_018,
    "cifar_resnet110_a": 1_727_962, "cifar_wrn_28_10": 36_479_194, "cifar_wrn_34_10": 46_160_474,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "vit_base_patch16_224": 86_567_656,
}  # fmt: skip


def reference(model, images, convolutions, dense_layers):
    """In float64, each convolution as sums over its windows, padding 1 on each side."""
    features = (np.asarray(images, np.float64) - 0.5) / 0.5
    for number, (stride, side) in enumerate(convolutions, start=1):
        layer = getattr(model, f"conv{number}")
        padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...])
        sums = np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel, optimize=True)
        features = np.maximum(sums + bias, 0)
    features = features.reshape(len(features), -1)
    for number in range(1, dense_layers + 1):
        layer = getattr(model, f"dense{number}")
        kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...])
        features = features @ kernel + bias
        if number < dense_layers:
            features = np.maximum(features, 0)
    return features


def randomised(name, dtype=jnp.float32):
    """A model in inference mode whose biases and averages, too, are not those of the initialiser.

    Its weights are drawn here: initialising them costs a compilation for each shape.
    """
    shapes = nnx.eval_shape(lambda: models.build(name, 5, dtype=dtype))
    view = nnx.view(shapes, raise_if_not_found=False, use_running_average=True)
    graph, state = nnx.split(view)
    draw = np.random.default_rng(3)
    arrays = jax.tree.map(
        lambda leaf: jnp.asarray(
            draw.uniform(0.01, 0.2, leaf.shape)
            if leaf.ndim == 1
            else draw.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape),
            leaf.dtype,
        ),
        state,
    )
    return nnx.merge(graph, arrays)


@pytest.mark.parametrize("name", LAYERS)
def test_logits_agree_with_numpy(name):
    model = randomised(name)
    shape = models.architecture(name).image_shape
    images = np.random.default_rng(1).normal(0.4, 0.6, (2, *shape)).astype(np.float32)
    logits = jax.jit(lambda images: model(images))(jnp.asarray(images))
    expected = reference(model, images, *LAYERS[name])
    assert logits.dtype == jnp.float32 and logits.shape == (2, 10)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", [*PARAMETERS, *(pytest.param(name, marks=pytest.mark.slow) for name in OF_LARGE_ONES)]
)
def test_number_of_parameters_and_type_and_shape_of_logits(name):
    """Nothing is computed; logits are float32 whatever the arithmetic is."""
    found = models.architecture(name)
    model = nnx.eval_shape(lambda: models.build(name, 0, dtype=jnp.bfloat16))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == (PARAMETERS | OF_LARGE_ONES)[name]
    with jax.numpy_dtype_promotion("standard"):  # Flax's normalisation needs it
        images = jax.ShapeDtypeStruct((2, *found.image_shape), jnp.float32)
        logits = nnx.eval_shape(lambda model, images: model(images), model, images)
    assert (logits.shape, logits.dtype) == ((2, found.classes), jnp.float32)
    height, width, channels = found.image_shape
    expected = rf"expected images \(N, {height}, {width}, {channels}\), got "
    for wrong in [(height, width), (2, height, width), (2, channels, height, width + 1)]:
        with pytest.raises(ValueError, match=expected):
            model(jnp.zeros(wrong, jnp.float32))


@pytest.mark.parametrize("name", ["digits_cnn", "cifar_resnet20"])
def test_64_bit_mode_changes_nothing(name):
    shape = models.architecture(name).image_shape
    images = np.random.default_rng(2).random((2, *shape), np.float32)
    logits_of = jax.jit(lambda model, images: model(images))
    expected = np.asarray(logits_of(randomised(name), jnp.asarray(images)))
    assert np.ptp(expected) > 0 and np.all(np.isfinite(expected))
    with jax.enable_x64(True):
        model = randomised(name)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {np.dtype("float32")}
        for dtype in (np.float32, np.float64):
            logits = logits_of(model, jnp.asarray(images, dtype))
            assert logits.dtype == jnp.float32
            np.testing.assert_array_equal(logits, expected)


def weights(seed):
    return jax.tree.leaves(nnx.state(models.build("digits_cnn", seed)))


def test_the_seed_alone_decides_the_weights():
    """Not the generator that the process has set, nor 64-bit mode."""
    first, other = weights(1), weights(2)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    for settings in (
        jax.default_prng_impl("rbg"), jax.threefry_partitionable(False), jax.enable_x64(True)
    ):  # fmt: skip
        with settings:
            again = weights(1)
        for a, b in zip(first, again, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(UserError, match="'resnet'; known: digits_cnn, mnist_43"):
        models.build("resnet", 0)
    assert {*PARAMETERS, *OF_LARGE_ONES} == set(models.ARCHITECTURES)
    assert models.scaled_as("lenet", "npz") == "mnist" != models.scaled_as("lenet", "digits")
