"""Image files: preprocessing against an independent Pillow, order, layouts, labels, damage."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dsrs_jax import data
from dsrs_jax.data import files
from dsrs_jax.data.views import imagenet_preprocess
from dsrs_jax.system.errors import UserError

# Parts of scikit-learn's two photographs of 427 x 640: their number and what is taken of them.
PARTS = {
    "landscape": (0, np.s_[:]),
    "portrait of odd sides": (1, np.s_[30:421, 100:401]),
    "enlarged": (1, np.s_[40:241, 60:359]),
    "grey square": (0, np.s_[5:405, 128:528, 1]),
}
_photographs = functools.cache(load_sample_images)


def _pillow_bilinear(values: np.ndarray, size: int) -> np.ndarray:
    """Pillow's antialiased bilinear resampling of the last axis but one, in its 8-bit arithmetic.

    A triangle as wide as the reduction, weights in fixed point with 22 binary digits, rounded.
    """
    old = values.shape[1]
    scale = old / size
    support = max(scale, 1.0)
    out = np.empty((values.shape[0], size, values.shape[2]), np.uint8)
    for place in range(size):
        center = (place + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), old)
        weights = np.maximum(1.0 - np.abs((np.arange(first, last) - center + 0.5) / support), 0.0)
        fixed = np.trunc(weights / weights.sum() * (1 << 22) + 0.5).astype(np.int64)
        total = (values[:, first:last].astype(np.int64) * fixed[None, :, None]).sum(axis=1)
        out[:, place] = np.clip((total + (1 << 21)) >> 22, 0, 255)
    return out


@pytest.mark.parametrize("name", PARTS)
def test_imagenet_preprocessing_is_pillows_to_the_bit(name: str) -> None:
    number, part = PARTS[name]
    photograph = np.ascontiguousarray(_photographs().images[number][part])
    found = np.asarray(imagenet_preprocess(Image.fromarray(photograph)))
    if photograph.ndim == 2:
        photograph = np.repeat(photograph[..., None], 3, axis=2)
    height, width = photograph.shape[:2]
    new_height, new_width = (256 * side // min(height, width) for side in (height, width))
    # Pillow resamples the rows first, then the columns.
    wide = _pillow_bilinear(photograph, new_width)
    both = _pillow_bilinear(wide.transpose(1, 0, 2), new_height).transpose(1, 0, 2)
    top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
    np.testing.assert_array_equal(found, both[top : top + 224, left : left + 224])


def _floats(values: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.float32) / np.float32(255)


def _noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _save(folder: Path, names: str, *values: np.ndarray, shape: tuple[int, ...] = (4, 6)) -> None:
    """Images under these names, of these values or of noise whose seed is the name's place."""
    for seed, name in enumerate(names.split()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = values[seed] if values else _noise(seed, shape)
        Image.fromarray(image).save(folder / name)


def _refused(message: str, *given: Any) -> None:
    with pytest.raises(UserError, match=message):
        data.load(*given)


def _labels(*given: Any) -> list[int]:
    dataset = data.load(*given)
    return [dataset[i][1] for i in range(len(dataset))]


def test_imagenet_is_read_by_folders_of_classes_in_order(tmp_path: Path) -> None:
    names = "n02979186/3.png n02102040/9.png n02979186/1.png n02102040/2.png"
    _save(tmp_path / "val", names, shape=(260, 300, 3))
    imagenet = data.load("imagenet", "test", tmp_path)
    assert (len(imagenet), imagenet.image_shape, imagenet.classes) == (4, (224, 224, 3), 1000)
    assert imagenet.order == "original"
    for place, (seed, label) in enumerate(((3, 217), (1, 217), (2, 482), (0, 482))):
        wanted = _floats(imagenet_preprocess(Image.fromarray(_noise(seed, (260, 300, 3)))))
        np.testing.assert_array_equal(imagenet[place][0], wanted, strict=True)
        assert imagenet[place][1] == label
    with pytest.raises(IndexError):
        imagenet[4]


def test_tinyimagenet_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    _save(tmp_path / "train", "n07/images/0.png n03/images/0.png", shape=(64, 64, 3))
    # Lossless, under the name that the annotations give.
    _save(tmp_path / "val/images", "val_10.png val_0.png val_2.png", shape=(64, 64, 3))
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_10.png\tn07\t0\t0\t62\t62\nval_0.png\tn07\t0\nval_2.png\tn03\t0\n")
    tiny = data.load("tinyimagenet", "test", tmp_path)
    assert (len(tiny), tiny.image_shape, tiny.classes) == (3, (56, 56, 3), 200)
    for place, (seed, label) in enumerate(((1, 1), (2, 0), (0, 1))):
        crop = _floats(_noise(seed, (64, 64, 3))[4:60, 4:60])
        np.testing.assert_array_equal(tiny[place][0], crop, strict=True)
        assert tiny[place][1] == label
    assert _labels("tinyimagenet", "train", tmp_path) == [0, 1]
    annotations.write_text("val_0.png\tn99\n")
    _refused("line 1 names no known class", "tinyimagenet", "test", tmp_path)


def test_any_folder_of_images_without_what_systems_hide_in_it(tmp_path: Path) -> None:
    _save(tmp_path, "cats/0.png cats/1.png dogs/0.png dogs/1.png")
    _save(tmp_path, "cats/.ipynb_checkpoints/2.png .ipynb_checkpoints/0.png __MACOSX/cats/0.png")
    (tmp_path / "dogs" / "._0.png").write_bytes(b"a resource fork")
    found = data.load("folder", "test", tmp_path)
    assert (len(found), found.image_shape, found.classes) == (4, (4, 6, 1), 2)
    whole = data.in_memory(found)
    assert (whole.image_shape, whole.classes) == (found.image_shape, found.classes)
    for example, place in zip(data.read_ahead(found, [3, 0, 2]), [3, 0, 2], strict=True):
        assert (example.index, example.label) == (place, place // 2) == (place, whole[place][1])
        for image in (example.image, whole[place][0]):
            np.testing.assert_array_equal(image, _floats(_noise(place, (4, 6)))[..., None])
    # One image of another shape: it is named alone.
    _save(tmp_path, "cats/2.png", shape=(5, 5))
    found = data.load("folder", "test", tmp_path)
    problems = [example.problem for example in data.read_ahead(found, range(5))]
    assert [bool(problem) for problem in problems] == [False, False, True, False, False]
    assert "2.png: it has 5 x 5 pixels; resize or crop it to 6 x 4" in problems[2]
    with pytest.raises(UserError, match=r"2\.png: it has .*; take it out or fix it"):
        data.in_memory(found)


GREY, COLOUR = _noise(3, (4, 6)), _noise(4, (4, 6, 3))
PALETTE = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], np.uint8)
DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)


def _palette() -> Image.Image:
    image = Image.fromarray(GREY % 3)
    image.putpalette(PALETTE.tobytes())
    return image


def _alpha(opacity: int) -> Image.Image:
    image = Image.fromarray(COLOUR)
    image.putalpha(Image.new("L", image.size, opacity))
    return image


MODES = [
    ("16.png", DEEP, GREY),
    ("16.tif", DEEP, GREY),
    ("16.pgm", DEEP, GREY),
    ("bits.png", Image.fromarray(GREY > 99), 255 * (GREY > 99)),
    ("grey with alpha.png", Image.fromarray(GREY).convert("LA"), GREY),
    ("colour.png", Image.fromarray(COLOUR), COLOUR),
    ("palette.png", _palette(), PALETTE[GREY % 3]),
    ("palette.gif", _palette(), PALETTE[GREY % 3]),
    ("cmyk.tif", Image.fromarray(np.dstack([255 - COLOUR, 0 * GREY]), "CMYK"), COLOUR),
    ("opaque.png", _alpha(255), COLOUR),
]


@pytest.mark.parametrize(("name", "image", "values"), MODES)
def test_every_kind_of_image_has_its_values(name, image, values, tmp_path) -> None:
    (tmp_path / "one").mkdir()
    image.save(tmp_path / "one" / name)
    found = data.load("folder", "test", tmp_path)[0][0]
    np.testing.assert_array_equal(found, _floats(values).reshape(found.shape))


def test_exif_turns_an_image_of_a_folder_but_none_of_imagenet(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn clockwise
    (tmp_path / "n01440764").mkdir()
    photograph = _noise(0, (224, 256, 3))
    Image.fromarray(photograph).save(tmp_path / "n01440764" / "0.png", exif=exif)
    found = data.load("folder", "test", tmp_path)[0][0]
    np.testing.assert_array_equal(found, _floats(np.rot90(photograph, -1)))
    published = data.load("imagenet", "test", tmp_path)[0][0]
    wanted = _floats(imagenet_preprocess(Image.fromarray(photograph)))
    np.testing.assert_array_equal(published, wanted)


# Each kind that Pillow writes without loss, under the endings that it has for it, and under none.
LOSSLESS = {
    "PNG": ".png .PNG .apng", "JPEG2000": ".jp2 .j2k .jpx", "TGA": ".tga .icb", "ICO": ".ico",
    "BMP": ".bmp .dib", "GIF": ".gif", "TIFF": ".tif .tiff", "WEBP": ".webp", "PCX": ".pcx",
    "PPM": ".ppm .pgm .pnm", "SGI": ".sgi .bw",
}  # fmt: skip
LOSSY = {"JPEG": ".jpg .jpeg .jfif .jpe", "AVIF": ".avif"}


def test_every_image_that_pillow_reads_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, shown = _palette().convert("RGB"), PALETTE[GREY % 3]
    (tmp_path / "one").mkdir()
    options = {"ICO": {"sizes": [image.size]}, "WEBP": {"lossless": True}}
    names, lossless = [], []
    Image.init()
    for kind, endings in (LOSSLESS | LOSSY).items():
        if kind not in Image.SAVE:  # AVIF came to Pillow late
            continue
        for name in [f"{kind}{ending}" for ending in (*endings.split(), "", "-0.copy")]:
            image.save(tmp_path / "one" / name, kind, **options.get(kind, {}))
            names.append(name)
            lossless.append(kind in LOSSLESS)
    found = data.load("folder", "test", tmp_path)
    assert len(found) == len(names) > 40
    order = sorted(range(len(names)), key=names.__getitem__)
    for example, place in zip(data.read_ahead(found, range(len(found))), order, strict=True):
        assert not example.problem and example.image is not None
        if lossless[place]:
            np.testing.assert_array_equal(example.image, _floats(shown), names[place])
    assert capsys.readouterr().err == ""


def test_a_file_of_a_class_folder_that_is_no_image_is_known_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(tmp_path, "cats/0.png dogs/0.png stray.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "boxes.txt", "marks.xml"):
        (tmp_path / "dogs" / name).write_bytes(b"known")
    assert len(data.load("folder", "test", tmp_path)) == 2
    assert capsys.readouterr().err == (f"left out of {tmp_path}, in no class folder: 'stray.png'\n")
    (tmp_path / "stray.png").unlink()
    for name in ("b.zip", "a", "c.h5"):
        (tmp_path / "cats" / name).write_bytes(b"\x89HDF\r\n\x1a\n" * 9)
    os.mkfifo(tmp_path / "dogs" / "d.png")
    for number in range(3):
        (tmp_path / "dogs" / f"e{number}.npy").write_bytes(b"")
    (tmp_path / "dogs" / "1.png").symlink_to("nowhere")
    found = data.load("folder", "test", tmp_path)
    assert capsys.readouterr().err == (
        f"left out of {tmp_path}, no images: 'cats/a', 'cats/b.zip', 'cats/c.h5', 'dogs/d.png', "
        "'dogs/e0.npy' and 2 more\n"
    )
    problems = [example.problem for example in data.read_ahead(found, range(3))]
    assert [bool(problem) for problem in problems] == [False, False, True]  # the broken link
    assert "dogs/1.png" in problems[2]
    for name in ("cats/0.png", "dogs/0.png", "dogs/1.png"):
        (tmp_path / name).unlink()
    capsys.readouterr()
    _refused("no images in .*, only 'cats/a', .* and 2 more; expected", "folder", "test", tmp_path)
    assert capsys.readouterr().err == ""


def test_links_to_folders_are_followed_but_for_those_that_have_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(tmp_path / "set", "cats/m/1.png cats/z.png dogs/0.png")
    _save(tmp_path / "elsewhere", "b/0.png a.png")
    for link, target in (
        ("set/cats/k", "elsewhere"),
        ("set/birds", "elsewhere/b"),
        ("elsewhere/b/back", "elsewhere"),
        ("set/cats/m/up", "set/cats"),
        ("set/cats/whole", "set"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = data.images_in(tmp_path / "set" / "cats", deep=True)
    names = [str(file.relative_to(tmp_path / "set" / "cats")) for file in found]
    assert names == ["k/a.png", "k/b/0.png", "m/1.png", "z.png"]
    ends = "left out of {}, no images: 'k/b/back', 'm/up', 'whole'\n"
    assert capsys.readouterr().err == ends.format(tmp_path / "set" / "cats")
    assert _labels("folder", "test", tmp_path / "set") == [0, 1, 1, 1, 1, 2]
    (tmp_path / "set" / "dogs" / "itself").symlink_to("itself")
    _refused("cannot read .*itself: Too many levels", "folder", "test", tmp_path / "set")


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_an_image_without_defined_values_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "n01440764"
    _save(folder, "0.png 1.tif 2.tif", COLOUR, GREY.astype(np.float32), GREY.astype(np.int32))
    Image.new("LAB", (6, 4)).save(folder / "3.tif")
    _alpha(99).save(folder / "4.png")
    frames = [Image.fromarray(_noise(seed, (4, 6, 3))) for seed in range(3)]
    frames[0].save(folder / "5.gif", save_all=True, append_images=frames[1:])
    (folder / "6.png").write_bytes((folder / "0.png").read_bytes()[:70])
    (folder / "7.jpg").write_bytes(b"")
    words = ["mode F", "mode I", "mode LAB", "transparent", "3 frames", "truncated", "identify"]
    first, *examples = data.read_ahead(data.load(name, "test", tmp_path), range(8))
    assert first.image is not None
    for number, (example, word) in enumerate(zip(examples, words, strict=True), start=1):
        assert example.image is None and f"{folder}/{number}." in example.problem
        assert word in example.problem and "\n" not in example.problem
    if name == "folder":  # its first image says the others' shape
        (folder / "0.png").unlink()
        _refused(r"1\.tif.*mode F", "folder", "test", tmp_path)


def test_colour_is_not_made_grey_in_silence(tmp_path: Path) -> None:
    _save(tmp_path, "one/0.png one/1.png one/2.png", GREY, np.dstack([GREY] * 3), COLOUR)
    found = data.load("folder", "test", tmp_path)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    with pytest.raises(data.UnreadableImage, match=r"2\.png: it is in colour"):
        found[2]


def test_the_labels_of_imagenet_are_places_among_its_thousand_names(tmp_path: Path) -> None:
    names = Path(files.__file__).with_name("imagenet_wnids.txt").read_text().split()
    assert len(names) == 1000 and names == sorted(set(names))
    # Their places in the labels of the published networks.
    published = {"n01440764": 0, "n02102040": 217, "n03000684": 491, "n15075141": 999}
    assert {name: names.index(name) for name in published} == published
    _save(tmp_path / "set", "tench/0.png")
    file, imagenet = tmp_path / "names.txt", ("imagenet", "test", tmp_path / "set")
    _refused(r"tench is no WordNet id .* --classes FILE", *imagenet)
    file.write_text("".join(f"class {i}\n" for i in range(999)) + "tench\n")
    assert _labels(*imagenet, file) == [999]
    file.write_text("goldfish\ntench\n")
    _refused("names 2 classes, imagenet has 1000", *imagenet, file)


def test_the_labels_of_a_folder_are_places_among_its_names_or_numbers(tmp_path: Path) -> None:
    numbers, both = (("folder", "test", tmp_path / name) for name in ("numbers", "both"))
    _save(tmp_path / "numbers", "10/0.png 2/0.png 003/0.png")
    assert _labels(*numbers) == [3, 10, 2]  # in the order of the names
    found = data.load(*numbers)
    assert found.classes == 11 and found.class_labels == {"003": 3, "10": 10, "2": 2}
    _save(tmp_path / "numbers", "3/0.png")
    _refused("two class folders are one number", *numbers)
    # The training folder knows a class that the test folder lacks.
    _save(tmp_path / "both/train", "ant/0.png bee/0.png cat/0.png")
    _save(tmp_path / "both/test", "cat/0.png bee/0.png")
    assert _labels(*both) == [1, 2]
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbee\n\n")
    assert _labels(*both, names) == [2, 0]
    for content, message in (
        (b"cat\ndog\n", "bee is none of the 2 known classes"),
        (b"", "is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "line 3 has 'a' again"),
        (b"\xff\xfe", "cannot read"),
    ):
        names.write_bytes(content)
        _refused(message, *both, names)
    (tmp_path / "both" / "test" / "wasp").mkdir()
    _refused("wasp is none of the 3 known classes", *both)
    _refused("--classes names class folders", "digits", "test", None, names)


SOURCES = {
    "imagenet": "image-net.org",
    "tinyimagenet": "tiny-imagenet-200",
    "folder": "one folder a class",
    "cifar10": "cs.toronto.edu",
    "mnist": "t10k-images-idx3-ubyte.*https://",
    "fashionmnist": "zalandoresearch",
    "npz": r"`images` \(N, H, W, C\)",
}


@pytest.mark.parametrize("name", SOURCES)
def test_missing_data_says_where_from_and_which_layout(name: str, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "nowhere", tmp_path):
        what = str(folder or f"{name} needs --data-dir")
        _refused(f"{what}.*{SOURCES[name]}", name, "test", folder)
