"""Input scalings by name and by numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax import models
from dsrs_jax.system.errors import UserError

IMAGENET = "mean:0.485,0.456,0.406;std:0.229,0.224,0.225"
IMAGES = np.random.default_rng(0).normal(0.5, 1, (2, 4, 4, 3)).astype(np.float32)
CIFAR10 = (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize(
    ("dataset", "kind", "mean", "deviation"),
    [
        ("mnist", IMAGENET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("imagenet", " std : 0.2, 0.3 ,4e-1; mean:0.5", (0.5,), (0.2, 0.3, 0.4)),
        ("folder", "mean:0.5", (0.5,), (1.0,)),
        ("npz", "mean:-1,0,1", (-1.0, 0.0, 1.0), (1.0,)),
        ("mnist", "std:0.25", (0.0,), (0.25,)),
        ("npz", "none", (0.0,), (1.0,)),
        ("cifar10", "standardize", CIFAR10, (0.2023, 0.1994, 0.2010)),
        ("cifar10", "center", CIFAR10, (1.0, 1.0, 1.0)),
        # Of published checkpoints: what models.default_scaling says.
        ("mnist", None, (0.5,), (0.5,)),
        ("tinyimagenet", None, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
        ("imagenet", None, (0.485, 0.456, 0.406), (1.0, 1.0, 1.0)),
    ],
)
def test_a_scaling_by_name_or_by_numbers(dataset, kind, mean, deviation):
    if kind is not None:
        models.check_scaling(kind)
    scaling = models.input_scaling(dataset, kind or models.default_scaling(dataset))
    assert (scaling.mean, scaling.deviation) == (mean, deviation)
    assert scaling.channels == max(len(mean), len(deviation))
    expected = (IMAGES.astype(np.float64) - mean) / np.array(deviation)
    np.testing.assert_allclose(scaling(jnp.asarray(IMAGES)), expected, rtol=1e-5, atol=1e-6)
    if kind == "none":
        np.testing.assert_array_equal(scaling(jnp.asarray(IMAGES)), IMAGES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        *((text, "") for text in (
            "standardise", "", "mean", "mean:", "mean:0.5;", "mean:0.5;mean:0.5", "mean:0.5,x",
            "var:0.5", "mean:0.5\nstd:0.5",
        )),
        ("mean:nan", " (its numbers must be finite)"),
        ("std:1e39", " (its numbers must be finite)"),
        ("std:0.5,0,0.5", " (its deviations must be greater than 0)"),
        ("std:-1", " (its deviations must be greater than 0)"),
        ("std:1e-40", " (its deviations must be greater than 0)"),
        ("mean:0,0;std:1,1,1", " (it has 2 means and 3 deviations)"),
    ],
)  # fmt: skip
def test_a_bad_text_says_what_is_expected(text, fault):
    for check in (models.check_scaling, lambda text: models.input_scaling("mnist", text)):
        with pytest.raises(UserError) as caught:
            check(text)
        assert str(caught.value) == (
            f"unknown input scaling {text!r}{fault}; known: standardize, center, none, or numbers "
            f"as in {IMAGENET!r}"
        )


@pytest.mark.parametrize(
    ("built_in", "other"),
    [("standardize", IMAGENET), ("center", "center"), ("none", "standardize"),
     ("mean:0.1,0.2,0.3;std:3", "std:0.5")],
)  # fmt: skip
def test_another_scaling_can_be_tried_on_one_that_is_built_in(built_in, other):
    ours, theirs = (models.input_scaling("cifar10", kind) for kind in (built_in, other))
    images = jnp.asarray(IMAGES)
    mapped = ours(ours.pixels_for(theirs)(images))
    np.testing.assert_allclose(mapped, theirs(images), rtol=0, atol=2e-5)
    if built_in == other:
        np.testing.assert_array_equal(ours.pixels_for(theirs)(images), images)


def test_a_model_takes_one_number_for_all_channels_or_one_for_each():
    images = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 1), np.float32))
    standard, same, other = (
        models.build("digits_cnn", 0, scaling=kind)(images)
        for kind in ("standardize", "mean:0.5;std:0.5", "none")
    )
    np.testing.assert_array_equal(standard, same)
    assert np.abs(np.asarray(standard - other)).max() > 0.01
    with pytest.raises(UserError, match=r"takes images of 1 channels, .* has 3"):
        models.build("digits_cnn", 0, scaling=IMAGENET)
    assert models.build("digits_cnn", 0, dataset="npz", scaling="none").scaling.mean == (0.0,)
    with pytest.raises(UserError, match="no input scaling of 'folder'; known: digits, mnist"):
        models.input_scaling("folder", "center")
