"""One self-contained page of runs: it opens from disk, without a network."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from dsrs_jax.bounds import interval
from dsrs_jax.report.accuracy import Radii, percent, rounded_down, share_or_accuracy
from dsrs_jax.report.figure import Curve, curve

MEANING = (
    "For an image with radius r the smoothed classifier gives this label to every image within "
    "ℓ2 distance r of it (pixels in [0, 1]), with probability 1 − α over the draws, for each image "
    "by itself and not for all of them at once. It is about the smoothed classifier, which votes "
    "under the noise, and not about the network by itself. A radius is a lower bound of the true "
    "one: beyond it nothing is claimed."
)
_SIDE, _ACROSS = 32, 100  # of thumbnails, in pixels and in a row of the sheet


@dataclasses.dataclass(frozen=True)
class PageRun:
    """A run as the page shows it.

    Attributes:
        name: of the run.
        radii: by method.
        images: a dictionary for each image, by the names of columns: "index", "label", "votes",
            "n", "lower bound", radii by method, "gain", "status", "proof"; what is not known is
            left out.
        thumbnails: pictures by index (`thumbnail`); none where the images cannot be read.
        settings: what is known of the run.
        command: that made it.
    """

    name: str
    radii: Mapping[str, Radii]
    images: Sequence[Mapping[str, Any]]
    thumbnails: Mapping[int, np.ndarray]
    settings: Mapping[str, Any]
    command: str


def page(
    title: str,
    banners: Sequence[str],
    sentences: Sequence[str],
    runs: Sequence[PageRun],
    attacked: Mapping[str, Curve] = types.MappingProxyType({}),
) -> str:
    """The page's content.

    Args:
        title: of the page.
        banners: what a reader must not miss.
        sentences: what a reader has to know first.
        runs: all of them.
        attacked: accuracies under attack, in percent, by their names; known at these radii alone.
    """
    from plotly.offline import get_plotlyjs  # takes a third of a second

    labelled = all(one.labelled for run in runs for one in run.radii.values())
    curves, sizes, largest = [], set(), 0.0
    for run in runs:
        for method, found in run.radii.items():
            x, y = _thinned(*curve(found.radius, found.slack))
            curves.append(
                {
                    "run": run.name,
                    "method": method,
                    "radii": found.radius.tolist(),
                    "x": [0.0, *x, *x[-1:]],
                    "y": [*y[:1], *y, 0.0][: len(x) + 2 if x else 1],
                    "mean": rounded_down(found.mean),
                }
            )
            sizes.add(len(found.radius))
            largest = max(largest, float(found.radius.max(initial=0.0)))
    sheets = [_sheet(run) for run in runs]
    data = {
        "curves": curves,
        "attacked": [
            {"name": name, "x": x.tolist(), "y": y.tolist()} for name, (x, y) in attacked.items()
        ],
        "intervals": {size: _intervals(size) for size in sorted(sizes)},
        "largest": math.ceil(largest * 100) / 100,
        "runs": [
            {
                "name": run.name,
                "columns": list(run.images[0]),
                "images": _placed(run),
                "bounds": _bounds(run),
                "sheet": None if sheet is None else {"side": _SIDE, "across": sheet[0]},
            }
            for run, sheet in zip(runs, sheets, strict=True)
        ],
    }
    said = [f'<p class="banner" role="status">{html.escape(one)}</p>\n' for one in banners]
    said += [f"<p>{html.escape(one)}</p>\n" for one in sentences]
    settings = "".join(_settings(run) for run in runs)
    # "</" would end the script.
    parts = {
        "title": html.escape(title),
        "sentences": "".join(said),
        "meaning": html.escape(MEANING),
        "accuracy": share_or_accuracy(labelled).capitalize(),
        "settings": settings,
        "sheets": "".join(
            f".sheet-{number} {{ background-image: url({sheet[1]}); }}\n"
            for number, sheet in enumerate(sheets)
            if sheet is not None
        ),
        "data": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        "script": _file("page.js"),
    }
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], _file("page.html"))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small picture, uint8 (32, 32, 3), of an image (H, W, C) in [0, 1] with 1 or 3 channels."""
    pixels = np.round(255 * image).astype(np.uint8)
    made = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    how = Image.Resampling.NEAREST if made.width < _SIDE else Image.Resampling.BOX
    return np.asarray(made.resize((_SIDE, _SIDE), how))


def _file(name: str) -> str:
    return (resources.files("dsrs_jax.report") / name).read_text(encoding="utf-8")


def _thinned(x: np.ndarray, y: np.ndarray, most: int = 2000) -> tuple[list[float], list[float]]:
    """A curve of so many points at most, none of them above the whole one."""
    kept = np.unique(np.linspace(0, len(x) - 1, most).astype(int)) if len(x) > most else None
    return (x.tolist(), y.tolist()) if kept is None else (x[kept].tolist(), y[kept].tolist())


def _intervals(size: int) -> list[tuple[str, str]]:
    """For each count of certified images the ends of the interval of the share, in percent."""
    low, high = interval(np.arange(size + 1), size, 0.05)
    return [(percent(a), percent(b)) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _placed(run: PageRun) -> list[dict[str, Any]]:
    """The images, each with its place in the sheet of thumbnails; -1 where it has none."""
    places = {index: place for place, index in enumerate(sorted(run.thumbnails))}
    return [{**image, "place": places.get(image["index"], -1)} for image in run.images]


def _bounds(run: PageRun) -> tuple[list[float], list[float]] | None:
    """The share of images, in percent, whose lower bound is at each value or above it."""
    if "lower bound" not in run.images[0]:
        return None
    bounds = np.sort([image["lower bound"] for image in run.images])
    return _thinned(bounds, 100.0 * np.arange(len(bounds), 0, -1) / len(bounds))


def _sheet(run: PageRun) -> tuple[int, str] | None:
    """All thumbnails in one picture: how many stand in a row, and the picture's address."""
    if not run.thumbnails:
        return None
    rows = -(-len(run.thumbnails) // _ACROSS)
    across = min(_ACROSS, len(run.thumbnails))
    sheet = Image.new("RGB", (across * _SIDE, rows * _SIDE))
    for place, index in enumerate(sorted(run.thumbnails)):
        corner = place % across * _SIDE, place // across * _SIDE
        sheet.paste(Image.fromarray(run.thumbnails[index]), corner)
    stream = io.BytesIO()
    sheet.save(stream, "webp", quality=60)
    text = base64.b64encode(stream.getvalue()).decode()
    return across, f"data:image/webp;base64,{text}"


def _settings(run: PageRun) -> str:
    command = f"<pre>{html.escape(run.command)}</pre>" if run.command else ""
    settings = html.escape(json.dumps(dict(run.settings), indent=2))
    return (
        f"<details><summary>{html.escape(run.name)}</summary>{command}"
        f"<pre>{settings}</pre></details>\n"
    )
