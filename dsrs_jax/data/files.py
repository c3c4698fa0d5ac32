"""Image files in folders: ImageNet, TinyImageNet, and any set with one folder a class.

Images are decoded and resized by Pillow, as the preprocessing that the published models were
trained and tested with does (torchvision's Resize and CenterCrop on Pillow images).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageOps

from dsrs_jax.data.dataset import UNLABELLED, Dataset, LazyDataset, UnreadableImage
from dsrs_jax.system.errors import UserError, first_line

_SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_IMAGENET_RESIZE, IMAGENET_SIZE, IMAGENET_CLASSES = 256, 224, 1000
TINYIMAGENET_SIZE, TINYIMAGENET_CLASSES = 56, 200

_IMAGENET_LAYOUT = (
    "val/nXXXXXXXX/*.JPEG (and train/), one folder a class, as made from the ILSVRC2012 archives "
    "of https://image-net.org/download"
)
_TINYIMAGENET_LAYOUT = (
    "train/nXXXXXXXX/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt, as in "
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
)
_FOLDER_LAYOUT = "one folder a class with its image files in it"
# What systems leave beside the data, apart from names with a dot in front.
_LEFT_BY_SYSTEMS = {"__MACOSX", "@eaDir", "lost+found"}

# Pillow's modes that have grey or colour with a known range of values.
_GREY, _COLOUR = {"1", "L", "LA"}, {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"}

Preprocess = Callable[[Image.Image], Image.Image]


def imagenet_preprocess(image: Image.Image) -> Image.Image:
    """Shorter side to 256 (bilinear, antialiased), then the central 224 x 224, in colour.

    A rotation that EXIF asks for is left undone, as it was for the published models.
    Raises ValueError as `eight_bit` does.
    """
    return center_crop(
        resize_shorter_side(eight_bit(image).convert("RGB"), _IMAGENET_RESIZE), IMAGENET_SIZE
    )


def tinyimagenet_preprocess(image: Image.Image) -> Image.Image:
    """The central 56 x 56 of 64 x 64, in colour. Raises ValueError as `eight_bit` does."""
    return center_crop(eight_bit(image).convert("RGB"), TINYIMAGENET_SIZE)


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


def pixels(image: Image.Image) -> Float32[np.ndarray, "height width channels"]:
    """8-bit values/255, with an axis of channels."""
    values = np.asarray(image)
    return (values if values.ndim == 3 else values[..., None]).astype(np.float32) / np.float32(255)


def load_imagenet(split: str, data_dir: Path | None, names: Sequence[str] | None = None) -> Dataset:
    """ImageNet's validation set as "test" (50,000 images), or "train", from folders by class.

    The order is that of the published results: folders by name, in each the files by name. A
    class is the place of its folder's name among `names`, or else among the thousand WordNet ids,
    so that some of the folders have the labels that they have among all.

    Raises:
        UserError: a folder's name is none of these, nor of a whole train/, nor a number.
    """
    folder = _existing("imagenet", data_dir, _IMAGENET_LAYOUT)
    inside = folder / ("val" if split == "test" else "train")
    # A folder of classes itself is taken, too.
    inside = inside if inside.is_dir() else folder
    if names is not None:
        known = _places(names)
    else:
        wordnet = _places(Path(__file__).with_name("imagenet_wnids.txt").read_text().split())
        found, train = _class_names(inside), _class_names(folder / "train")
        if set(found) <= set(wordnet):
            known = wordnet
        elif len(train) == IMAGENET_CLASSES or _are_numbers(found):
            known = _labels_of(train if len(train) == IMAGENET_CLASSES else found)
        else:
            strange = min(set(found) - set(wordnet))
            raise UserError(
                f"{inside / strange} is no WordNet id of ImageNet, so its label is not known; give "
                "--classes FILE, the names of all 1000 folders in the model's order"
            )
    if names is not None and len(names) != IMAGENET_CLASSES:
        raise UserError(f"--classes names {len(names)} classes, imagenet has {IMAGENET_CLASSES}")
    files, labels = _by_class(inside, _IMAGENET_LAYOUT, known)
    _require_classes(folder, known, IMAGENET_CLASSES, "ImageNet")
    shape, many = (IMAGENET_SIZE, IMAGENET_SIZE, 3), IMAGENET_CLASSES
    return _of_files("imagenet", split, files, labels, known, many, imagenet_preprocess, shape)


def load_tinyimagenet(
    split: str, data_dir: Path | None, names: Sequence[str] | None = None
) -> Dataset:
    """TinyImageNet's validation set as "test" (10,000 images, in the order of their numbers).

    Labels are places among `names`, or else in the sorted list of wnids.txt, or else of the class
    folders of train/.
    """
    folder = _existing("tinyimagenet", data_dir, _TINYIMAGENET_LAYOUT)
    annotations, listed = folder / "val" / "val_annotations.txt", folder / "wnids.txt"
    if names is not None:
        known = _places(names)
    elif listed.is_file():
        known = _labels_of(listed.read_text().split())
    elif (folder / "train").is_dir():
        known = _labels_of(_class_names(folder / "train"))
    elif annotations.is_file():
        raise UserError(f"{folder} has neither train/ nor wnids.txt, which say the classes' order")
    else:
        known = _labels_of(_class_names(folder / "val"))
    if names is not None and len(names) != TINYIMAGENET_CLASSES:
        raise UserError(
            f"--classes names {len(names)} classes, tinyimagenet has {TINYIMAGENET_CLASSES}"
        )
    if split == "train":
        files, labels = _by_class(folder / "train", _TINYIMAGENET_LAYOUT, known)
    elif annotations.is_file():
        files, labels = _by_annotations(annotations, known)
    else:  # validation images that somebody sorted into folders by class
        files, labels = _by_class(folder / "val", _TINYIMAGENET_LAYOUT, known)
        order = sorted(range(len(files)), key=lambda i: _number(files[i]))
        files, labels = [files[i] for i in order], [labels[i] for i in order]
    _require_classes(folder, known, TINYIMAGENET_CLASSES, "TinyImageNet")
    preprocess, many = tinyimagenet_preprocess, TINYIMAGENET_CLASSES
    shape = (TINYIMAGENET_SIZE, TINYIMAGENET_SIZE, 3)
    return _of_files("tinyimagenet", split, files, labels, known, many, preprocess, shape)


def load_folder(split: str, data_dir: Path | None, names: Sequence[str] | None = None) -> Dataset:
    """Any images with one folder a class, in folder and file order, as they are.

    Where DATA_DIR/test (or train) exists it is that split's. A label is the place of the folder's
    name among `names`, or else among those of DATA_DIR/train where both splits have a folder, or
    else among the folders; folders that are numbers are their labels. Images that lie in no class
    folder, where there is none, have no labels. All images have the shape of the first one, as EXIF
    rotates it; they are grey if that is.
    """
    folder = _existing("folder", data_dir, _FOLDER_LAYOUT)
    inside = folder / split if (folder / split).is_dir() else folder
    train = folder / "train"
    if names is not None:
        known = _places(names)
    else:
        known = _labels_of(_class_names(train if inside != folder and train.is_dir() else inside))
    if not _class_names(inside) and (own := images_in(inside, "*")):
        return files_of(own, split)
    files, labels = _by_class(inside, _FOLDER_LAYOUT, known)
    classes, shape = max(known.values()) + 1, _shape_of(files[0])
    return _of_files("folder", split, files, labels, known, classes, _as_it_is(shape[-1]), shape)


def files_of(
    files: Sequence[Path], split: str = "test", image_shape: tuple[int, int, int] | None = None
) -> Dataset:
    """Image files as `load_folder` reads them, without labels, all of one shape: the first's by
    itself.

    Raises:
        UserError: the first one would say the shape, and cannot be read.
    """
    shape = _shape_of(files[0]) if image_shape is None else image_shape
    labels = [UNLABELLED] * len(files)
    return _of_files("folder", split, files, labels, {}, 0, _as_it_is(shape[-1]), shape)


LOADERS = {
    "tinyimagenet": load_tinyimagenet,
    "imagenet": load_imagenet,
    "folder": load_folder,
}


def read_class_names(file: Path) -> list[str]:
    """The names of a model's classes, in the order of their labels: one a line, UTF-8.

    Raises:
        UserError: the file cannot be read, a line is empty, or a name is there twice.
    """
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read --classes {file}: {first_line(error)}") from error
    if not names:
        raise UserError(f"--classes {file} is empty; give one class name a line")
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            what = f"has {name!r} again" if name else "is empty"
            raise UserError(f"--classes {file}: line {number} {what}; give each class's name once")
    return names


def _shape_of(file: Path) -> tuple[int, int, int]:
    """(H, W, C) of an image file that says those of the others."""
    try:
        with Image.open(file) as image:
            first = _upright(image)
    except Exception as error:  # for damaged files Pillow raises nearly anything
        raise UserError(f"cannot read {file}, the first image: {first_line(error)}") from error
    return first.height, first.width, 1 if first.mode == "L" else 3


def _as_it_is(channels: int) -> Preprocess:
    """The image upright, in grey (it must be) or in colour."""

    def preprocess(image: Image.Image) -> Image.Image:
        found = _upright(image)
        return _as_grey(found) if channels == 1 else found.convert("RGB")

    return preprocess


def _upright(image: Image.Image) -> Image.Image:
    """The image as it is shown: turned as EXIF says, with 8 bits."""
    ImageOps.exif_transpose(image, in_place=True)
    return eight_bit(image)


def _as_grey(image: Image.Image) -> Image.Image:
    bands = image.split()
    if any(band.tobytes() != bands[0].tobytes() for band in bands):
        raise ValueError("it is in colour, the others are grey")
    return bands[0]


def _existing(name: str, data_dir: Path | None, layout: str) -> Path:
    if data_dir is None:
        raise UserError(f"{name} needs --data-dir, a folder with {layout}")
    if not data_dir.is_dir():
        raise UserError(f"no such folder: {data_dir}; {name} needs {layout}")
    return data_dir


def _by_class(folder: Path, layout: str, known: Mapping[str, int]) -> tuple[list[Path], list[int]]:
    """Files and labels of a folder of class folders, whose labels are known by name."""
    files: list[Path] = []
    labels: list[int] = []
    for name in _class_names(folder):
        if name not in known:
            raise UserError(
                f"{folder / name} is none of the {len(known)} known classes; rename it, or give "
                "--classes FILE, the names of all classes in the model's order"
            )
        found = images_in(folder / name, "**/*")
        files += found
        labels += [known[name]] * len(found)
    if not files:
        raise UserError(f"no images in {folder}; expected {layout}")
    return files, labels


def images_in(folder: Path, pattern: str) -> list[Path]:
    """The image files among those that a pattern names, sorted, hidden ones left out."""
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.suffix.lower() in _SUFFIXES
        and not any(_hidden(part) for part in file.relative_to(folder).parts)
    )


def _by_annotations(file: Path, known: Mapping[str, int]) -> tuple[list[Path], list[int]]:
    """TinyImageNet's val/, whose file val_annotations.txt says each image's class."""
    rows = [line.split("\t") for line in file.read_text().splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or row[1] not in known:
            raise UserError(f"{file}: line {number} names no known class")
    rows.sort(key=lambda row: _number(Path(row[0])))
    return [file.parent / "images" / row[0] for row in rows], [known[row[1]] for row in rows]


def _class_names(folder: Path) -> list[str]:
    """Names of the class folders, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path.name)
    )


def _hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: .ipynb_checkpoints, ._x.png, __MACOSX."""
    return name.startswith(".") or name in _LEFT_BY_SYSTEMS


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _labels_of(names: Sequence[str]) -> dict[str, int]:
    """The labels that class names say by themselves: numbers, or places in sorted order."""
    if not _are_numbers(names):
        return _places(sorted(names))
    labels = {name: int(name) for name in names}
    if len(set(labels.values())) < len(labels):
        raise UserError(f"two class folders are one number: {', '.join(names)}")
    return labels


def _require_classes(folder: Path, known: Mapping[str, int], classes: int, whose: str) -> None:
    """UserError for labels that a set of `classes` classes has not."""
    if max(known.values(), default=0) >= classes:
        most = max(known.values()) + 1
        raise UserError(f"{folder} has labels of {most} classes, {whose} has {classes}")


def _number(file: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", file.stem)
    return (int(digits[-1]) if digits else -1, file.name)


def _of_files(
    name: str,
    split: str,
    files: Sequence[Path],
    labels: Sequence[int],
    known: Mapping[str, int],
    classes: int,
    preprocess: Preprocess,
    shape: tuple[int, int, int],
) -> Dataset:
    def read(index: int) -> tuple[np.ndarray, int]:
        try:
            with Image.open(files[index]) as image:
                found = pixels(preprocess(image))
            if found.shape != shape:
                height, width, _ = found.shape
                size = f"{shape[1]} x {shape[0]}"
                raise ValueError(f"it has {width} x {height} pixels; resize or crop it to {size}")
            return found, labels[index]
        except Exception as error:  # for damaged files Pillow raises nearly anything
            raise UnreadableImage(f"image {index}, {files[index]}: {first_line(error)}") from error

    here = set(labels)
    class_labels = {name: known[name] for name in sorted(known) if known[name] in here}
    return LazyDataset(name, split, len(files), read, classes, shape, class_labels=class_labels)
