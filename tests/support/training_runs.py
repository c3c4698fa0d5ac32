"""Runs of `dsrs-jax train`: digits as image files to train on, and what a run leaves."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dsrs_jax import data, models

_SPEED = ("images_per_second", "input_wait")


def rows(out: Path) -> list[dict[str, str]]:
    """metrics.csv, but for how fast it was."""
    with open(out / "metrics.csv") as stream:
        records = list(csv.DictReader(stream))
    return [{name: v for name, v in row.items() if name not in _SPEED} for row in records]


def outcome(out: Path) -> tuple[str, list[dict[str, str]]]:
    """(fingerprint of the model, rows): equal of two runs, they trained alike, bit for bit."""
    return models.load_model(out / "model").fingerprint(), rows(out)


def steps(out: Path) -> int:
    """How many steps the newest state has behind it; 0 without one."""
    return max((int(path.name[6:]) for path in out.glob("state-*")), default=0)


def digits_in_folders(place: Path, training: int = 300, test: int = 30) -> Path:
    """The digits as PNG files, train/CLASS/INDEX.png and test/CLASS/INDEX.png."""
    for split, count in (("train", training), ("test", test)):
        digits = data.load("digits", split)
        for index in range(count):
            image, label = digits[index]
            file = place / split / str(label) / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file)
    return place
