"""What a network sees of a decoded picture: the view that is tested, or a random one for training.

Pictures are cropped and resized by Pillow, as for the published models, which were trained and
tested with torchvision's transforms of Pillow images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

_IMAGENET_RESIZE, IMAGENET_SIZE = 256, 224
TINYIMAGENET_SIZE = 56
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10

# Pillow's modes that have grey or colour with a known range of values.
_GREY, _COLOUR = {"1", "L", "LA"}, {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"}


class Views(NamedTuple):
    """The views of a data set's pictures; each function raises ValueError for what is no picture
    of such a set.

    Attributes:
        tested: the one that is tested and certified.
        random: one of many for training, which the generator chooses; None: training sees what
            is tested.
    """

    tested: Callable[[Image.Image], Image.Image]
    random: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None

    def __call__(
        self, image: Image.Image, generator: np.random.Generator | None = None
    ) -> UInt8[np.ndarray, "height width channels"]:
        """Pixels of a random view where there is a generator, else of the tested one."""
        if generator is None or self.random is None:
            return _pixels(self.tested(image))
        return _pixels(self.random(image, generator))


def imagenet_preprocess(image: Image.Image) -> Image.Image:
    """Shorter side to 256 (bilinear, antialiased), then the central 224 x 224, in colour.

    A rotation that EXIF asks for is left undone, as it was for the published models.
    Raises ValueError as `eight_bit` does.
    """
    return center_crop(resize_shorter_side(_in_colour(image), _IMAGENET_RESIZE), IMAGENET_SIZE)


def tinyimagenet_preprocess(image: Image.Image) -> Image.Image:
    """The central 56 x 56 of 64 x 64, in colour. Raises ValueError as `eight_bit` does."""
    return center_crop(_in_colour(image), TINYIMAGENET_SIZE)


def resized_crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """ImageNet's view in training: `crop_box` resized to 224 x 224, mirrored in half of the cases.

    Raises ValueError as `eight_bit` does.
    """
    colour = _in_colour(image)
    box = crop_box(*colour.size, generator)
    size = (IMAGENET_SIZE, IMAGENET_SIZE)
    view = colour.resize(size, Image.Resampling.BILINEAR, box=box)
    return _mirrored_in_half(view, generator)


def small_crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """TinyImageNet's view in training: any 56 x 56 of 64 x 64, mirrored in half of the cases.

    Raises ValueError for a smaller picture, and as `eight_bit` does.
    """
    colour = _in_colour(image)
    size, (width, height) = TINYIMAGENET_SIZE, colour.size
    if min(width, height) < size:
        raise ValueError(f"it has {width} x {height} pixels, a view {size} x {size}")
    left, top = (_below(room - size + 1, generator) for room in (width, height))
    return _mirrored_in_half(colour.crop((left, top, left + size, top + size)), generator)


def crop_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random part of a picture, in whole pixels.

    Its area is uniform in 8% to 100% of the picture's and the logarithm of its sides' ratio
    (width to height) uniform in that of 3/4 to 4/3, up to ten times, until it fits; its place is
    uniform. Where none fits it is the largest central part of such a ratio. That is torchvision's
    RandomResizedCrop.
    """
    logarithms = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(_TRIES):
        area = width * height * _between(*_AREA, generator)
        ratio = math.exp(_between(*logarithms, generator))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = _below(width - wide + 1, generator), _below(height - high + 1, generator)
            return left, top, left + wide, top + high
    wide = max(1, min(width, round(height * _RATIO[1])))
    high = max(1, min(height, round(width / _RATIO[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _between(low: float, high: float, generator: np.random.Generator) -> float:
    return low + (high - low) * generator.random()


def _below(count: int, generator: np.random.Generator) -> int:
    """One of the numbers 0 ... count - 1. NumPy may change how its `integers` draws them."""
    return int(generator.random() * count)


def _mirrored_in_half(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    if generator.random() < 0.5:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def as_it_is(channels: int) -> Views:
    """The picture upright, in grey (it must be, for one channel) or in colour."""
    return Views(partial(_as_it_is, channels))


def _as_it_is(channels: int, image: Image.Image) -> Image.Image:
    found = upright(image)
    return _as_grey(found) if channels == 1 else found.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is shown: turned as EXIF says, with 8 bits."""
    ImageOps.exif_transpose(image, in_place=True)
    return eight_bit(image)


def _as_grey(image: Image.Image) -> Image.Image:
    bands = image.split()
    if any(band.tobytes() != bands[0].tobytes() for band in bands):
        raise ValueError("it is in colour, the others are grey")
    return bands[0]


def _in_colour(image: Image.Image) -> Image.Image:
    return eight_bit(image).convert("RGB")


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of any of Pillow's modes as grey ("L") or colour ("RGB") of 8 bits.

    16 bits are rounded to 8, not clipped as Pillow's own conversion does. A channel of opacity
    is dropped where all is opaque.

    Raises:
        ValueError: what the pixels mean is not said: a range of values that no format defines,
            something transparent, or several frames.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # cameras' JPEG: the picture, then its previews
        raise ValueError(f"it has {frames} frames; save the one that is meant")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        if image.has_transparency_data:
            raise ValueError("it has transparent pixels; save it without")
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode not in _GREY | _COLOUR:
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}; save it with 8 or 16 bits")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError("it has transparent pixels; save it without")
    return image.convert("L" if image.mode in _GREY else "RGB")


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """The image with its shorter side `size` pixels long, the longer one in proportion, cut off."""
    width, height = image.size
    if width <= height:
        return image.resize((size, int(size * height / width)), Image.Resampling.BILINEAR)
    return image.resize((int(size * width / height), size), Image.Resampling.BILINEAR)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square; half a pixel goes to the even side, as Python's `round` does."""
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


VIEWS = {
    "imagenet": Views(imagenet_preprocess, resized_crop),
    "tinyimagenet": Views(tinyimagenet_preprocess, small_crop),
}
