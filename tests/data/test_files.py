"""Image files: preprocessing against an independent Pillow, order, layouts, damage."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images

from dsrs_jax import data
from dsrs_jax.data import files
from dsrs_jax.data.views import imagenet_preprocess
from dsrs_jax.system.errors import UserError

PHOTOGRAPHS = {
    "china": lambda: load_sample_images().images[0],
    "flower": lambda: load_sample_images().images[1],
    "astronaut": photographs.astronaut,
    "coffee": photographs.coffee,
    "cat": photographs.chelsea,
    "rocket": photographs.rocket,
    "camera": photographs.camera,  # grey
}


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
        fixed = weights / weights.sum() * (1 << 22)
        fixed = np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int64)
        total = (values[:, first:last].astype(np.int64) * fixed[None, :, None]).sum(axis=1)
        out[:, place] = np.clip((total + (1 << 21)) >> 22, 0, 255)
    return out


def _in_floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_imagenet_preprocessing_is_pillows_to_the_bit(name: str) -> None:
    photograph = PHOTOGRAPHS[name]()
    found = _in_floats(imagenet_preprocess(Image.fromarray(photograph)))
    if photograph.ndim == 2:
        photograph = np.repeat(photograph[..., None], 3, axis=2)
    height, width = photograph.shape[:2]
    shorter = min(height, width)
    new_height, new_width = 256 * height // shorter, 256 * width // shorter
    # Pillow resamples the rows first, then the columns.
    wide = _pillow_bilinear(photograph, new_width)
    both = _pillow_bilinear(wide.transpose(1, 0, 2), new_height).transpose(1, 0, 2)
    top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
    crop = both[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(found, crop.astype(np.float32) / np.float32(255))


def _save(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def _noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_imagenet_is_read_by_folders_of_classes_in_order(tmp_path: Path) -> None:
    names = [
        ("n02979186", "ILSVRC2012_val_00000003"),
        ("n02102040", "ILSVRC2012_val_00000009"),
        ("n02979186", "ILSVRC2012_val_00000001"),
        ("n02102040", "ILSVRC2012_val_00000002"),
    ]
    for number, (folder, name) in enumerate(names):
        _save(tmp_path / "val" / folder / f"{name}.JPEG", _noise(number, (260, 300, 3)))
    imagenet = data.load("imagenet", "test", tmp_path)
    assert (len(imagenet), imagenet.image_shape, imagenet.classes) == (4, (224, 224, 3), 1000)
    assert [imagenet[i][1] for i in range(4)] == [217, 217, 482, 482]
    with Image.open(tmp_path / "val" / "n02102040" / f"{names[3][1]}.JPEG") as first:
        wanted = _in_floats(imagenet_preprocess(first))
    np.testing.assert_array_equal(imagenet[0][0], wanted)
    assert imagenet[0][0].dtype == np.float32 and imagenet.order == "original"
    with pytest.raises(IndexError):
        imagenet[4]


def test_tinyimagenet_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for name in ("n07", "n03"):
        _save(tmp_path / "train" / name / "images" / f"{name}_0.JPEG", _noise(1, (64, 64, 3)))
    pictures = {i: _noise(i, (64, 64, 3)) for i in (0, 2, 10)}
    classes = {0: "n07", 2: "n03", 10: "n07"}
    for i, picture in pictures.items():
        # Lossless, under the name that the annotations give.
        _save(tmp_path / "val" / "images" / f"val_{i}.png", picture)
    lines = [f"val_{i}.png\t{classes[i]}\t0\t0\t62\t62" for i in (10, 0, 2)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    tiny = data.load("tinyimagenet", "test", tmp_path)
    assert (len(tiny), tiny.image_shape, tiny.classes) == (3, (56, 56, 3), 200)
    assert [tiny[i][1] for i in range(3)] == [1, 0, 1]
    for place, number in enumerate((0, 2, 10)):
        crop = pictures[number][4:60, 4:60].astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(tiny[place][0], crop)
    train = data.load("tinyimagenet", "train", tmp_path)
    assert [train[i][1] for i in range(2)] == [0, 1]
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.png\tn99\n")
    with pytest.raises(UserError, match="line 1 names no known class"):
        data.load("tinyimagenet", "test", tmp_path)


def test_any_folder_of_images(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        for i in range(2):
            _save(tmp_path / name / f"{i}.png", _noise(10 * label + i, (9, 7)))
    found = data.load("folder", "test", tmp_path)
    assert (len(found), found.image_shape, found.classes) == (4, (9, 7, 1), 2)
    examples = list(data.read_ahead(found, [3, 0, 2]))
    assert [(e.index, e.label) for e in examples] == [(3, 1), (0, 0), (2, 1)]
    for example, seed in zip(examples, (11, 0, 10), strict=True):
        np.testing.assert_array_equal(
            example.image, _noise(seed, (9, 7))[..., None].astype(np.float32) / np.float32(255)
        )
    # One image of another shape, one that is none: each is told alone.
    _save(tmp_path / "cats" / "2.png", _noise(0, (5, 5)))
    (tmp_path / "dogs" / "9.jpg").write_bytes(b"no picture")
    found = data.load("folder", "test", tmp_path)
    problems = [example.problem for example in data.read_ahead(found, range(6))]
    assert [bool(problem) for problem in problems] == [False, False, True, False, False, True]
    assert "2.png: it has 5 x 5 pixels; resize or crop it to 7 x 9" in problems[2]
    assert "9.jpg" in problems[5]
    with pytest.raises(UserError, match="take it out or fix it"):
        data.in_memory(found)


def test_hidden_files_and_folders_are_neither_classes_nor_images(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        _save(tmp_path / name / "0.png", _noise(label, (4, 4)))
        (tmp_path / name / "._0.png").write_bytes(b"a resource fork")
        _save(tmp_path / name / ".ipynb_checkpoints" / "0-checkpoint.png", _noise(5, (4, 4)))
    for name in (".ipynb_checkpoints", ".DS_Store", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / "__MACOSX" / "cats").mkdir()
    (tmp_path / "__MACOSX" / "cats" / "._0.png").write_bytes(b"a resource fork")
    found = data.load("folder", "test", tmp_path)
    assert (len(found), found.classes) == (2, 2)
    for label in range(2):
        image, said = found[label]
        assert said == label
        np.testing.assert_array_equal(
            image[..., 0], _noise(label, (4, 4)).astype(np.float32) / np.float32(255)
        )


GREY = _noise(3, (4, 6))
COLOUR = _noise(4, (4, 6, 3))
PALETTE = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], np.uint8)


def _palette_image() -> Image.Image:
    image = Image.fromarray(GREY % 3)
    image.putpalette(PALETTE.tobytes())
    return image


def _alpha(opacity: int) -> Image.Image:
    image = Image.fromarray(COLOUR)
    image.putalpha(Image.new("L", image.size, opacity))
    return image


_MODES = {
    "16.png": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "16.tif": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "16.pgm": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "bits.png": (Image.fromarray(GREY > 99), 255 * (GREY > 99).astype(np.uint8)),
    "grey with alpha.png": (Image.fromarray(GREY).convert("LA"), GREY),
    "colour.png": (Image.fromarray(COLOUR), COLOUR),
    "palette.png": (_palette_image(), PALETTE[GREY % 3]),
    "palette.gif": (_palette_image(), PALETTE[GREY % 3]),
    "cmyk.tif": (Image.fromarray(np.dstack([255 - COLOUR, 0 * GREY]), "CMYK"), COLOUR),
    "opaque.png": (_alpha(255), COLOUR),
}


@pytest.mark.parametrize("name", _MODES)
def test_every_kind_of_image_has_its_values(name: str, tmp_path: Path) -> None:
    image, values = _MODES[name]
    (tmp_path / "one").mkdir()
    image.save(tmp_path / "one" / name)
    found = data.load("folder", "test", tmp_path)[0][0]
    wanted = values.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(found, wanted.reshape(found.shape))


def test_an_image_that_exif_turns_is_upright_in_a_folder_as_it_is_in_imagenet(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn clockwise
    (tmp_path / "n01440764").mkdir()
    photograph = _noise(0, (224, 256, 3))
    Image.fromarray(photograph).save(tmp_path / "n01440764" / "0.png", exif=exif)
    found = data.load("folder", "test", tmp_path)[0][0]
    np.testing.assert_array_equal(np.rint(found * 255), np.rot90(photograph, -1))
    published = data.load("imagenet", "test", tmp_path)[0][0]
    wanted = _in_floats(imagenet_preprocess(Image.fromarray(photograph)))
    np.testing.assert_array_equal(published, wanted)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_an_image_whose_values_nobody_says_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "n01440764"
    _save(folder / "0.png", COLOUR)
    _save(folder / "1 float.tif", GREY.astype(np.float32))
    _save(folder / "2 int.tif", GREY.astype(np.int32))
    Image.new("LAB", (6, 4)).save(folder / "3 lab.tif")
    _alpha(99).save(folder / "4 transparent.png")
    frames = [Image.fromarray(_noise(seed, (4, 6, 3))) for seed in range(3)]
    frames[0].save(folder / "5 animated.gif", save_all=True, append_images=frames[1:])
    whole = (folder / "0.png").read_bytes()
    (folder / "6 truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "7 empty.jpg").write_bytes(b"")
    examples = list(data.read_ahead(data.load(name, "test", tmp_path), range(8)))
    assert examples[0].image is not None
    for example, word in zip(
        examples[1:],
        ["mode F", "mode I", "mode LAB", "transparent", "3 frames", "truncated", "identify"],
        strict=True,
    ):
        assert example.image is None and str(folder) in example.problem
        assert word in example.problem and "\n" not in example.problem
    if name == "folder":  # its first image says the others' shape
        (folder / "0.png").unlink()
        with pytest.raises(UserError, match=r"1 float\.tif.*mode F"):
            data.load("folder", "test", tmp_path)


def test_colour_is_not_made_grey_in_silence(tmp_path: Path) -> None:
    _save(tmp_path / "one" / "0.png", GREY)
    _save(tmp_path / "one" / "1.png", np.repeat(GREY[..., None], 3, axis=2))
    _save(tmp_path / "one" / "2.png", COLOUR)
    found = data.load("folder", "test", tmp_path)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    with pytest.raises(data.UnreadableImage, match=r"2\.png: it is in colour"):
        found[2]


def _labels(name: str, folder: Path, class_file: Path | None = None) -> list[int]:
    found = data.load(name, "test", folder, class_file)
    return [found[i][1] for i in range(len(found))]


def test_the_wordnet_ids_are_a_thousand_in_order() -> None:
    names = Path(files.__file__).with_name("imagenet_wnids.txt").read_text().split()
    assert len(names) == 1000 and names == sorted(set(names))
    # Their places in the labels of the published networks.
    for name, label in {
        "n01440764": 0,
        "n02102040": 217,
        "n03000684": 491,
        "n15075141": 999,
    }.items():
        assert names[label] == name


def test_imagenet_with_folders_of_other_names_needs_the_names(tmp_path: Path) -> None:
    _save(tmp_path / "set" / "tench" / "0.png", COLOUR)
    with pytest.raises(UserError, match=r"tench is no WordNet id .* --classes FILE"):
        data.load("imagenet", "test", tmp_path / "set")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(999)) + "tench\n")
    assert _labels("imagenet", tmp_path / "set", names) == [999]
    names.write_text("goldfish\ntench\n")
    with pytest.raises(UserError, match="names 2 classes, imagenet has 1000"):
        data.load("imagenet", "test", tmp_path / "set", names)


def test_where_labels_come_from(tmp_path: Path) -> None:
    for name in ("10", "2", "003"):
        _save(tmp_path / "numbers" / name / "0.png", GREY)
    assert _labels("folder", tmp_path / "numbers") == [3, 10, 2]  # in the order of the names
    found = data.load("folder", "test", tmp_path / "numbers")
    assert found.classes == 11 and found.class_labels == {"003": 3, "10": 10, "2": 2}
    _save(tmp_path / "numbers" / "3" / "0.png", GREY)
    with pytest.raises(UserError, match="two class folders are one number"):
        data.load("folder", "test", tmp_path / "numbers")
    # The training folder knows a class that the test folder lacks.
    for name in ("train/ant", "train/bee", "train/cat", "test/cat", "test/bee"):
        _save(tmp_path / "both" / name / "0.png", GREY)
    assert _labels("folder", tmp_path / "both") == [1, 2]
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbee\n\n")
    assert _labels("folder", tmp_path / "both", names) == [2, 0]
    names.write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"bee is none of the 2 known classes"):
        data.load("folder", "test", tmp_path / "both", names)
    (tmp_path / "both" / "test" / "wasp").mkdir()
    with pytest.raises(UserError, match=r"wasp is none of the 3 known classes"):
        data.load("folder", "test", tmp_path / "both")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "line 3 has 'a' again"),
        (b"\xff\xfe", "cannot read"),
    ],
)
def test_a_file_of_class_names_that_is_none(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_class_names(tmp_path / "names")
    with pytest.raises(UserError, match="--classes names class folders"):
        data.load("digits", "test", None, tmp_path / "names")


def test_a_set_in_memory_has_the_same_images(tmp_path: Path) -> None:
    for i in range(5):
        _save(tmp_path / "one" / f"{i}.png", _noise(i, (6, 6, 3)))
    lazy = data.load("folder", "test", tmp_path)
    array = data.in_memory(lazy)
    for i in range(5):
        np.testing.assert_array_equal(array[i][0], lazy[i][0])
    assert array.image_shape == lazy.image_shape and array.classes == lazy.classes


@pytest.mark.parametrize("name", ["imagenet", "tinyimagenet", "folder", "cifar10", "npz"])
def test_missing_data_says_where_from_and_which_layout(name: str, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as caught:
            data.load(name, "test", folder)
        message = str(caught.value)
        assert ("\n" not in message and name in message) or str(tmp_path) in message
        expected = {"imagenet": "image-net.org", "tinyimagenet": "tiny-imagenet-200",
                    "folder": "one folder a class", "cifar10": "cs.toronto.edu",
                    "npz": "`images` (N, H, W, C)"}  # fmt: skip
        assert expected[name] in message
