"""Which files of a folder are images: those that Pillow reads, by their ending or their content."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.output import complain

# What systems leave beside the data, apart from names with a dot in front.
_LEFT_BY_SYSTEMS = {"__MACOSX", "@eaDir", "lost+found"}
_LEFT_BY_SYSTEMS |= {
    "Thumbs.db",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Desktop.ini",
    "Icon\r",
}
# What sets have beside their images: TinyImageNet's boxes, annotations, read-me files.
_TEXTS = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log"}
_MOST_NAMED = 5


class Listing(NamedTuple):
    """The files of a folder, by names relative to it.

    Attributes:
        images: sorted, folder by folder.
        others: what is neither an image nor known to be none, and links to folders that they lie
            in; `name_left_out` is for them.
    """

    images: list[str]
    others: list[str]


def listing(folder: Path, *, deep: bool) -> Listing:
    """The files in a folder, or also below it; links are followed, hidden files are left out.

    A file is an image by an ending that Pillow reads, damaged or not; without such an ending where
    Pillow knows its content.

    Raises:
        UserError: a folder cannot be read.
    """
    found = Listing([], [])
    try:
        above = [_identity(parent) for parent in folder.resolve().parents]
        _list(str(folder), "", deep, above, found)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    for names in found:
        names.sort(key=lambda name: name.split("/"))
    return found


def images_in(folder: Path, *, deep: bool) -> list[Path]:
    """The image files in a folder, or also below it, sorted; what is left out of them is named."""
    found = listing(folder, deep=deep)
    if found.images:
        name_left_out(folder, found.others)
    return [folder / name for name in found.images]


def name_left_out(folder: Path, names: Sequence[str], why: str = "no images") -> None:
    """Names in one line the files of a folder that are left out, if there are any."""
    if names:
        complain(f"left out of {folder}, {why}: {some(names)}")


def some(names: Sequence[str]) -> str:
    """The first of some files' names, and how many there are more."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(repr(name) for name in names[:_MOST_NAMED]) + more


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: .ipynb_checkpoints, ._x.png, Thumbs.db."""
    return name.startswith(".") or name in _LEFT_BY_SYSTEMS


def _list(
    folder: str, inside: str, deep: bool, above: list[tuple[int, int]], found: Listing
) -> None:
    """Adds the files of a folder, whose names begin with `inside`, to what is found."""
    identity = _identity(folder)
    if identity in above:  # a link to a folder that it lies in: it would have no end
        found.others.append(inside.rstrip("/"))
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = inside + entry.name
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                if deep:
                    _list(entry.path, f"{name}/", deep, [*above, identity], found)
                continue
            ending = os.path.splitext(entry.name)[1].lower()
            # A broken link is an image that cannot be read; a pipe would be waited for.
            if ending in _endings() and (entry.is_file() or not os.path.exists(entry.path)):
                found.images.append(name)
            elif ending not in _TEXTS:
                of_image = entry.is_file() and _has_content_of_image(entry.path)
                (found.images if of_image else found.others).append(name)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


@functools.cache
def _formats() -> tuple[str, ...]:
    """Formats that Pillow reads: of some it knows the name alone."""
    Image.init()
    stubs = [
        name
        for name, (kind, _) in Image.OPEN.items()
        if isinstance(kind, type) and issubclass(kind, ImageFile.StubImageFile)
    ]
    return tuple(name for name in Image.OPEN if name not in (*stubs, "MPEG"))


@functools.cache
def _endings() -> frozenset[str]:
    """Of the files in these formats, in lower case."""
    readable = _formats()
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in known if kind in readable)


def _has_content_of_image(file: str) -> bool:
    try:
        with Image.open(file, formats=_formats()):
            return True
    except Exception:  # for what is no image Pillow raises nearly anything
        return False
