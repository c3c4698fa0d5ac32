"""What a run remarks: a model that knows none of the images, and images that are there twice."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dsrs_jax import data, models
from dsrs_jax.data import LazyDataset, UnreadableImage
from dsrs_jax.run.main import main
from dsrs_jax.run.remarks import look_first

RUN = ["--n", "500", "--q-inside", "0.5"]


def test_a_model_that_knows_none_of_the_images_is_told_of_and_so_are_copies(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, file = data.in_memory(data.load("digits")), tmp_path / "images.npz"
    order = np.arange(24)
    order[[15, 20]] = 3, 15  # 15 is 3 again, and 20 is not: its label is another one
    order[22] = 3
    labels = (digits.labels[order] + 1) % 10
    labels[20] = (labels[20] + 1) % 10
    np.savez(file, images=digits.images[order], labels=labels)
    command = ["certify", "--dataset", "npz", "--data-dir", str(file), "--model", model, *RUN]
    command += ["--out", str(tmp_path / "run")]
    # Of nine nothing is said, of those that are left later it is.
    assert main([*command, "--stop", "9"]) == 0
    said = capsys.readouterr().out
    assert "without noise" not in said and "Copies" not in said
    assert main(command) == 0
    said = capsys.readouterr().out
    told = "Only 0 of the first 15 images are right without noise: check the labels"
    assert said.count(told) == 1 and said.index(told) < said.index("Neyman-Pearson ")
    copies = "with the same label: 2 (first: index 15 is index 3 again)"
    assert said.count(copies) == 1
    # All is recorded: nothing is drawn, so nothing is to be said before it.
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "without noise" not in said and said.count(copies) == 1


def test_of_a_good_model_nothing_is_said_and_files_may_be_copies(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, folder = data.load("digits"), tmp_path / "images"
    for index in range(20):
        image, label = digits[index]
        pixels = Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8))
        for name in (f"{index:03d}.png", *(["copy.png"] if index == 7 else [])):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            pixels.save(folder / str(label) / name)
    command = ["certify", "--dataset", "folder", "--data-dir", str(folder), "--model", model]
    assert main([*command, *RUN, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "without noise" not in said
    assert "with the same label: 1 (first: " in said


def test_the_look_reads_no_image_twice_and_gives_all_back_in_order(model: str) -> None:
    digits, reads = data.load("digits"), list[int]()

    def read(index: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        reads.append(index)
        if index == 2:
            raise UnreadableImage("image 2 is damaged")
        image, label = digits[index]
        return np.rint(image * 255).astype(np.uint8), (label + 5) % 10

    lazy = LazyDataset("digits", "test", 150, read, 10, digits.image_shape)
    written = io.StringIO()
    indices = [*range(1, 150)]
    given = look_first(
        models.load_model(model), data.read_ahead(lazy, indices), Console(file=written)
    )
    assert "of the first 99 images" in written.getvalue()  # one of 100 cannot be read
    assert [example.index for example in given] == indices
    assert sorted(reads) == indices
