"""Image files in folders: ImageNet, TinyImageNet, and any set with one folder a class."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from dsrs_jax.data.dataset import UNLABELLED, Dataset, LazyDataset, UnreadableImage
from dsrs_jax.data.listing import images_in, is_hidden, listing, name_left_out, some
from dsrs_jax.data.views import (
    IMAGENET_SIZE,
    TINYIMAGENET_SIZE,
    VIEWS,
    Views,
    as_it_is,
    upright,
)
from dsrs_jax.system.errors import UserError, first_line

IMAGENET_CLASSES, TINYIMAGENET_CLASSES = 1000, 200

_IMAGENET_LAYOUT = (
    "val/nXXXXXXXX/*.JPEG (and train/), one folder a class, as made from the ILSVRC2012 archives "
    "of https://image-net.org/download"
)
_TINYIMAGENET_LAYOUT = (
    "train/nXXXXXXXX/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt, as in "
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
)
_FOLDER_LAYOUT = "one folder a class with its image files in it"


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
    files = _by_class(inside, _IMAGENET_LAYOUT, known, split)
    _require_classes(folder, known, IMAGENET_CLASSES, "ImageNet")
    shape = (IMAGENET_SIZE, IMAGENET_SIZE, 3)
    return _of_files("imagenet", split, files, known, IMAGENET_CLASSES, VIEWS["imagenet"], shape)


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
        files = _by_class(folder / "train", _TINYIMAGENET_LAYOUT, known, split)
    elif annotations.is_file():
        files = _by_annotations(annotations, known)
    else:  # validation images that somebody sorted into folders by class
        files = _by_class(folder / "val", _TINYIMAGENET_LAYOUT, known, split)
        order = sorted(range(len(files.names)), key=lambda index: _number(files.path(index)))
        files = files._replace(names=files.names[order], labels=files.labels[order])
    _require_classes(folder, known, TINYIMAGENET_CLASSES, "TinyImageNet")
    views, many = VIEWS["tinyimagenet"], TINYIMAGENET_CLASSES
    shape = (TINYIMAGENET_SIZE, TINYIMAGENET_SIZE, 3)
    return _of_files("tinyimagenet", split, files, known, many, views, shape)


def load_folder(split: str, data_dir: Path | None, names: Sequence[str] | None = None) -> Dataset:
    """Any images with one folder a class, in folder and file order, as they are.

    Where DATA_DIR/test, or val (or train), exists it is that split's. A label is the place of the
    folder's name among `names`, or else among those of DATA_DIR/train where both splits have a
    folder, or else among the folders; folders that are numbers are their labels. Images that lie
    in no class folder, where there is none, have no labels. All images have the shape of the first
    one, as EXIF rotates it; they are grey if that is.
    """
    folder = _existing("folder", data_dir, _FOLDER_LAYOUT)
    beside = [folder / name for name in ((split,) if split == "train" else (split, "val"))]
    inside = next((one for one in beside if one.is_dir()), folder)
    train = folder / "train"
    if names is not None:
        known = _places(names)
    else:
        known = _labels_of(_class_names(train if inside != folder and train.is_dir() else inside))
    if not _class_names(inside) and (own := images_in(inside, deep=False)):
        return files_of(own, split)
    files = _by_class(inside, _FOLDER_LAYOUT, known, split)
    classes, shape = max(known.values()) + 1, _shape_of(files.path(0))
    return _of_files("folder", split, files, known, classes, as_it_is(shape[-1]), shape)


def files_of(
    files: Sequence[Path], split: str = "test", image_shape: tuple[int, int, int] | None = None
) -> Dataset:
    """Image files as `load_folder` reads them, without labels, all of one shape: the first's by
    itself.

    Raises:
        UserError: the first one would say the shape, and cannot be read.
    """
    shape = _shape_of(files[0]) if image_shape is None else image_shape
    listed = _listed("", [os.fspath(file) for file in files], [UNLABELLED] * len(files))
    return _of_files("folder", split, listed, {}, 0, as_it_is(shape[-1]), shape)


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
            first = upright(image)
    except Exception as error:  # for damaged files Pillow raises nearly anything
        raise UserError(f"cannot read {file}, the first image: {first_line(error)}") from error
    return first.height, first.width, 1 if first.mode == "L" else 3


def _existing(name: str, data_dir: Path | None, layout: str) -> Path:
    if data_dir is None:
        raise UserError(f"{name} needs --data-dir, a folder with {layout}")
    if not data_dir.is_dir():
        raise UserError(f"no such folder: {data_dir}; {name} needs {layout}")
    return data_dir


class _Files(NamedTuple):
    """Image files: a million names are an array of some 40 MB, and would be a gigabyte of `Path`s.

    Attributes:
        folder: in which they are.
        names: as the file system has them, relative to it; each takes as much as the longest.
        labels: of each.
    """

    folder: str
    names: np.ndarray
    labels: Int32[np.ndarray, " files"]

    def path(self, index: int) -> Path:
        return Path(self.folder, os.fsdecode(bytes(self.names[index])))


def _listed(folder: str, names: Sequence[str], labels: Sequence[int]) -> _Files:
    encoded = np.array([os.fsencode(name) for name in names], np.bytes_)
    return _Files(folder, encoded, np.array(labels, np.int32))


def _by_class(folder: Path, layout: str, known: Mapping[str, int], split: str) -> _Files:
    """The files of a folder of class folders, whose labels are known by name."""
    found: list[_Files] = []
    left_out: list[str] = []
    for name in _class_names(folder):
        if name not in known:
            raise UserError(
                f"{folder / name} is none of the {len(known)} known classes; rename it, or give "
                "--classes FILE, the names of all classes in the model's order"
            )
        images, others = listing(folder / name, deep=True)
        names = [f"{name}/{image}" for image in images]
        left_out += [f"{name}/{other}" for other in others]
        if names:
            found.append(_listed(str(folder), names, [known[name]] * len(names)))
        elif split == "train":
            raise UserError(
                f"the class folder {folder / name} has no images; put them there, or take it away"
            )
    if not found:
        only = f", only {some(left_out)}" if left_out else ""
        raise UserError(f"no images in {folder}{only}; expected {layout}")
    name_left_out(folder, left_out)
    name_left_out(folder, listing(folder, deep=False).images, "in no class folder")
    all_names = np.concatenate([files.names for files in found])
    return _Files(str(folder), all_names, np.concatenate([files.labels for files in found]))


def _by_annotations(file: Path, known: Mapping[str, int]) -> _Files:
    """TinyImageNet's val/, whose file val_annotations.txt says each image's class."""
    rows = [line.split("\t") for line in file.read_text().splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or row[1] not in known:
            raise UserError(f"{file}: line {number} names no known class")
    rows.sort(key=lambda row: _number(Path(row[0])))
    labels = [known[row[1]] for row in rows]
    if (folder := file.parent / "images").is_dir():
        listed = {row[0] for row in rows}
        unlisted = [name for name in listing(folder, deep=False).images if name not in listed]
        name_left_out(folder, unlisted, f"not in {file.name}")
    return _listed(str(file.parent / "images"), [row[0] for row in rows], labels)


def _class_names(folder: Path) -> list[str]:
    """Names of the class folders, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
    )


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
    files: _Files,
    known: Mapping[str, int],
    classes: int,
    views: Views,
    shape: tuple[int, int, int],
) -> Dataset:
    here = set(np.unique(files.labels).tolist())
    class_labels = {name: known[name] for name in sorted(known) if known[name] in here}
    read = _Reader(files, views, shape)
    return LazyDataset(
        name, split, len(files.names), read, classes, shape, class_labels=class_labels
    )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one of the files: an index, and a generator for a random view -> (pixels, label)."""

    files: _Files
    views: Views
    shape: tuple[int, int, int]

    def __call__(
        self, index: int, generator: np.random.Generator | None = None
    ) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
        file = self.files.path(index)
        try:
            with Image.open(file) as image:
                found = self.views(image, generator)
            if found.shape != self.shape:
                height, width, _ = found.shape
                size = f"{self.shape[1]} x {self.shape[0]}"
                raise ValueError(f"it has {width} x {height} pixels; resize or crop it to {size}")
        except Exception as error:  # for damaged files Pillow raises nearly anything
            raise UnreadableImage(f"image {index}, {file}: {first_line(error)}") from error
        return found, int(self.files.labels[index])
