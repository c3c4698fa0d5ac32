"""Random views of pictures: where their parts lie, and what is seen of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision_without_kernels import make_importable

from dsrs_jax.data import views


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 10**6))
def test_a_random_part_lies_inside_the_picture(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = views.crop_box(width, height, _generator(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    area, ratio = (right - left) * (bottom - top), (right - left) / (bottom - top)
    if min(width, height) >= 100 and 3 / 4 <= width / height <= 4 / 3:
        assert 0.07 * width * height <= area and 0.73 <= ratio <= 1.37  # whole pixels


def _measures(boxes: list[tuple[int, int, int, int]]) -> list[np.ndarray]:
    left, top, right, bottom = np.array(boxes).T
    return [(right - left) * (bottom - top), (right - left) / (bottom - top), left, bottom]


@pytest.mark.others
@pytest.mark.parametrize("size", [(500, 375), (300, 500), (640, 100)])
def test_random_parts_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    make_importable()
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    generator, picture, ours, theirs = _generator(0), Image.new("L", size), [], []
    for _ in range(2000):
        ours.append(views.crop_box(*size, generator))
        drawn = RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])
        top, left, height, width = drawn
        theirs.append((left, top, left + width, top + height))
    for one, other in zip(_measures(ours), _measures(theirs), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4


def test_a_view_of_imagenet_is_that_part_resized_and_mirrored_in_half_of_the_cases() -> None:
    # Red says the column, green the row; both are linear, so a view's are too.
    columns, rows = np.meshgrid(np.arange(250), np.arange(200))
    picture = Image.fromarray(np.dstack([columns, rows, 0 * rows]).astype(np.uint8))
    mirrored = 0
    for seed in range(200):
        left, top, right, bottom = views.crop_box(250, 200, _generator(seed))
        view = np.asarray(views.resized_crop(picture, _generator(seed))).astype(float)
        assert view.shape == (224, 224, 3)
        red, green = view[112, :, 0], view[:, 112, 1]
        if red[0] > red[-1]:
            mirrored, red = mirrored + 1, red[::-1]
        place = ((np.arange(224) + 0.5) / 224)[8:-8]  # nearer the edge the filter is cut off
        np.testing.assert_allclose(red[8:-8], left + (right - left) * place - 0.5, atol=1.1)
        np.testing.assert_allclose(green[8:-8], top + (bottom - top) * place - 0.5, atol=1.1)
    assert stats.binomtest(mirrored, 200).pvalue > 1e-4


def test_a_view_of_tinyimagenet_is_any_part_of_56_pixels() -> None:
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    pixels = np.dstack([rows, columns, 0 * rows])
    picture, seen = Image.fromarray(pixels), set()
    for seed in range(2000):
        view = np.asarray(views.small_crop(picture, _generator(seed)))
        flip = bool(view[0, 0, 1] > view[0, 1, 1])
        straight = view[:, ::-1] if flip else view
        top, left = int(straight[0, 0, 0]), int(straight[0, 0, 1])
        np.testing.assert_array_equal(straight, pixels[top : top + 56, left : left + 56])
        seen.add((top, left, flip))
    assert len(seen) == 9 * 9 * 2
    with pytest.raises(ValueError, match="it has 60 x 50 pixels"):
        views.small_crop(Image.new("RGB", (60, 50)), _generator(0))
