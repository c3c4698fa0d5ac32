"""What a run remarks: a model that knows none of the images, and images that are there twice."""

import io

import numpy as np
import pytest
from rich.console import Console

from dsrs_jax import data, models
from dsrs_jax.data import LazyDataset, UnreadableImage
from dsrs_jax.noise import gaussian
from dsrs_jax.run.remarks import look_first, tell_copies

LAW = gaussian(64, 0.5)


def test_copies_are_counted_where_pixels_and_label_are_the_same() -> None:
    images = ["a", "b", "a", None, "c", "a", None]
    records = [
        {"index": 10 + i, "image": image} if image else {"index": 10 + i, "unreadable": "damaged"}
        for i, image in enumerate(images)
    ]
    written = io.StringIO()
    tell_copies(records, Console(file=written))
    assert "with the same label: 2 (first: index 12 is index 10 again)" in written.getvalue()


def test_a_model_that_does_not_know_the_noise_is_told_before_it_is_drawn(model: str) -> None:
    digits, written = data.load("digits"), io.StringIO()
    classifier, console = models.load_model(model), Console(file=written, width=300)
    look_first(classifier, gaussian(64, 20.0), data.read_ahead(digits, range(50)), console)
    assert "under noise of sigma 20: was the model trained without it?" in written.getvalue()


@pytest.mark.parametrize(("shift", "remarked"), [(0, False), (5, True)])
def test_the_look_reads_no_image_twice_and_gives_all_back_in_order(
    shift: int, remarked: bool, model: str
) -> None:
    digits, reads = data.load("digits"), list[int]()

    def read(index: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        reads.append(index)
        if index == 2:
            raise UnreadableImage("image 2 is damaged")
        image, label = digits[index]
        return np.rint(image * 255).astype(np.uint8), (label + shift) % 10

    lazy = LazyDataset("digits", "test", 150, read, 10, digits.image_shape)
    written = io.StringIO()
    indices = [*range(1, 150)]
    classifier, console = models.load_model(model), Console(file=written, width=200)
    given = look_first(classifier, LAW, data.read_ahead(lazy, indices), console)
    # One of 100 cannot be read; of a good model nothing is said, nor of fewer than 10 images.
    assert ("of the first 99 images are right without noise" in written.getvalue()) == remarked
    assert [example.index for example in given] == indices
    assert sorted(reads) == indices
    few = data.read_ahead(lazy, indices[2:11])
    assert len(list(look_first(classifier, LAW, few, Console(file=(silent := io.StringIO()))))) == 9
    assert not silent.getvalue()
