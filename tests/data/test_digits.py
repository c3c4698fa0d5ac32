import numpy as np
import pytest
from sklearn.datasets import load_digits

from dsrs_jax import data
from dsrs_jax.system.errors import UserError


def test_the_two_splits_are_the_whole_set_in_its_order():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    whole = load_digits()
    images = np.empty((1797, 8, 8))
    labels = np.empty(1797, int)
    position = np.arange(1797)
    images[position % 5 == 0], images[position % 5 != 0] = test.images[..., 0], train.images[..., 0]
    labels[position % 5 == 0], labels[position % 5 != 0] = test.labels, train.labels
    np.testing.assert_array_equal(images * 16, whole.images)
    np.testing.assert_array_equal(labels, whole.target)


@pytest.mark.parametrize("split", data.SPLITS)
def test_images_are_float32_in_unit_range_and_every_class_occurs(split):
    digits = data.load("digits", split)
    assert digits.images.dtype == np.float32 and digits.labels.dtype == np.int32
    assert digits.images.min() == 0 and digits.images.max() == 1
    assert set(digits.labels) == set(range(digits.classes))
    assert digits.image_shape == (8, 8, 1)


def test_an_index_gives_its_image_and_label():
    digits = data.load("digits")
    image, label = digits[359]
    np.testing.assert_array_equal(image, digits.images[359])
    assert label == digits.labels[359]
    with pytest.raises(IndexError):
        digits[360]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"unknown dataset 'mnits'; known: digits, mnist"):
        data.load("mnits")
    with pytest.raises(UserError, match=r"unknown split 'dev'; known: train, test"):
        data.load("digits", "dev")
