"""A run as reports read it: finished or half finished, a file of certificates, or a log."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from dsrs_jax import data, noise
from dsrs_jax.certify import certify_table
from dsrs_jax.proof import rows as proof_rows
from dsrs_jax.proof import schema
from dsrs_jax.report import Radii, thumbnail
from dsrs_jax.run import certify, ending, pilot, smoothing_log
from dsrs_jax.run.spending import rule
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import parse
from dsrs_jax.votes import RecordFolder, SamplingPlan, problem_of, table_of
from dsrs_jax.votes.records import CONFIG_FILE, VOTES_FOLDER, earlier_settings

NEYMAN_PEARSON, DSRS, LOGGED = "Neyman-Pearson", "DSRS", "as logged"


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run says, image by image.

    Attributes:
        name: of its folder or file.
        settings: of config.json; empty where there is none.
        command: that made it; "" where nobody knows.
        planned: images that it was to certify; None where nobody knows.
        columns: of certificates.csv, as text, a row an image; of a log, what it says.
        index: (images,) places in the data set.
        radii: by method.
        remarks: sentences on what is missing or was left out.
        folder: of the run; None of a single file.
    """

    name: str
    settings: dict[str, Any]
    command: str
    planned: int | None
    columns: dict[str, list[str]]
    index: Int64[np.ndarray, " images"]
    radii: dict[str, Radii]
    remarks: tuple[str, ...]
    folder: Path | None = None

    @property
    def half(self) -> str:
        """A sentence where fewer images are done than were planned, else ""."""
        if self.planned is None or len(self.index) >= self.planned:
            return ""
        return f"Half finished: {len(self.index):,} of {self.planned:,} images."

    @property
    def dataset(self) -> str:
        """Name and split, or "" where nobody says."""
        said = [self.settings.get(key) for key in ("dataset", "split")]
        return " ".join(str(word) for word in said if word is not None)

    def images(self) -> list[dict[str, Any]]:
        """What a page shows of each image, by column; numbers as numbers."""
        shown: dict[str, list[Any]] = {
            name: [int(float(cell)) for cell in self.columns[name]]
            for name in ("index", "label", "true_label", "predict", "votes", "n")
            if name in self.columns
        }
        if "lower_np" in self.columns:
            shown["lower bound"] = self.numbers("lower_np").tolist()
        shown |= {method: found.radius.tolist() for method, found in self.radii.items()}
        if DSRS in self.radii:
            gain = self.radii[DSRS].radius - self.radii[NEYMAN_PEARSON].radius
            shown["gain"] = gain.tolist()
        for name, column in (("status", "status"), ("proof", "proof_dsrs")):
            if column in self.columns:
                shown[name] = self.columns[column]
        return [dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)]

    def thumbnails(self) -> dict[int, np.ndarray]:
        """Small pictures (`report.thumbnail`) by index, where the command names a set that is here.

        Raises:
            UserError: it names none, or it is not here.
        """
        if not self.command:
            raise UserError("nobody says where its images are")
        try:
            dataset = _options_of(self.command).data.load(labels=False)
        except (ValueError, SystemExit):
            raise UserError("its command is of another version") from None
        found = {}
        for index in self.index.tolist():
            with contextlib.suppress(data.UnreadableImage, IndexError):
                found[index] = thumbnail(dataset[index][0])
        return found

    def digests(self) -> dict[int, str]:
        """Of pixels and label (`votes.digest`) by index, of the records that are here."""
        if self.folder is None or not (self.folder / VOTES_FOLDER).is_dir():
            return {}
        folder = RecordFolder(self.folder, self.settings)
        folder.refresh()
        records = folder.records.items()
        return {index: record["image"] for index, record in records if "image" in record}

    def same_images(self, other: Finished) -> bool:
        """Whether both are of the same images; a log does not name its data set."""
        known = self.dataset == other.dataset or "" in (self.dataset, other.dataset)
        return known and np.array_equal(self.index, other.index)

    def numbers(self, column: str) -> np.ndarray:
        """(images,) a column as float64; nan where it is empty.

        Raises:
            UserError: it has something else.
        """
        try:
            found = [schema.as_number(cell) if cell else math.nan for cell in self.columns[column]]
        except ValueError as error:
            raise UserError(f"{self.name}: {column} is {error}") from None
        return np.array(found)


def read_run(path: Path) -> Finished:
    """Reads a run's folder, a certificates.csv, or a log (`smoothing_log`).

    Of a folder without certificates, or with fewer than were planned, the votes that are there are
    certified.

    Raises:
        UserError: there is no such thing, or nothing in it that could be shown.
    """
    if path.is_dir():
        return dataclasses.replace(_folder(path), folder=path)
    if not path.exists():
        raise UserError(f"no {path}; give the folder of a run, a certificates.csv, or a log")
    if smoothing_log.is_log(path):
        return _log(path)
    return _certificates(path, path.name, {}, {})


def _folder(path: Path) -> Finished:
    settings, made = earlier_settings(path), _made(path)
    file, name = path / ending.CERTIFICATES_FILE, path.name or str(path)
    tables = sorted(path.glob("certificates*.csv"))
    if file.exists():
        found = _certificates(file, name, settings, made)
        if not found.half:
            return found
    elif tables:
        raise UserError(f"{path} has several tables; give one of them: {tables[0]}")
    if not any((path / VOTES_FOLDER).glob("*.jsonl")):
        what = "no votes yet" if (path / CONFIG_FILE).exists() else "no run"
        raise UserError(f"{path}: {what}, so there is nothing to show")
    return _half_finished(path, name, settings, made)


def _made(path: Path) -> dict[str, Any]:
    """What `certify` wrote of its command (`certify.COMMAND_FILE`)."""
    try:
        found = json.loads((path / certify.COMMAND_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _options_of(command: str) -> certify.Settings:
    """What a command of `certify` says; SystemExit or ValueError where it is of another version."""
    words = shlex.split(command)[2:]
    return parse(certify.Settings, words, program="dsrs-jax certify", description="")


def _certificates(
    file: Path, name: str, settings: dict[str, Any], made: dict[str, Any]
) -> Finished:
    try:
        rows, _ = proof_rows.rows_of(file)
    except proof_rows.NoCertificates as error:
        raise UserError(str(error)) from None
    whole = [row.fields for row in rows if row.wrong is None]
    remarks = [f"{file}, {row.place}: {row.wrong}; it is left out." for row in rows if row.wrong]
    if not whole:
        why = f" ({rows[0].place}: {rows[0].wrong})" if rows else ""
        raise UserError(f"{file} has no image that can be read{why}, so there is nothing to show")
    columns = {column: [row[column] for row in whole] for column in whole[0]}
    return _of_columns(columns, name, settings, made, remarks)


def _of_columns(
    columns: dict[str, list[str]],
    name: str,
    settings: dict[str, Any],
    made: dict[str, Any],
    remarks: list[str],
) -> Finished:
    # What is read here was checked with the rows (`proof.plan.fields`).
    index = np.array([schema.as_whole(cell) for cell in columns["index"]], dtype=np.int64)
    radius = {
        method: np.array([schema.as_radius(cell) for cell in columns[f"radius_{method}"]])
        for method in schema.Method
    }
    sigma, k = (schema.as_number(columns[one][0]) for one in ("sigma", "k"))
    if unreadable := columns["status"].count("unreadable"):
        remarks.append(f"{unreadable} images could not be read: they count as not certified.")
    dataset = " ".join(str(settings[key]) for key in ("dataset",) if key in settings)

    another, labelled = _of_another_class(columns)
    if columns["label_from"][0] == schema.PREDICTED:
        remarks.append(_what_is_counted(columns["n0"][0], labelled))

    def radii(method: str, found: np.ndarray) -> Radii:
        training = str(settings.get("arch", ""))
        right, wrong = np.where(another, 0.0, found), int(np.sum(another & (found > 0.0)))
        return Radii(method, name, dataset, training, sigma, k, index, right,
                     wrong=wrong, labelled=labelled)  # fmt: skip

    found = {NEYMAN_PEARSON: radii(NEYMAN_PEARSON, radius[schema.Method.NEYMAN_PEARSON])}
    if proof_rows.law_names(columns):  # else there is no second law
        found[DSRS] = radii(DSRS, radius[schema.Method.DSRS])
    command = str(made.get("command", ""))
    planned = made.get("images")
    return Finished(name, settings, command, planned, columns, index, found, tuple(remarks))


def _of_another_class(columns: dict[str, list[str]]) -> tuple[np.ndarray, bool]:
    """(images,) whose certificate is known to be of a class that is not the label; and whether
    labels are known where classes were predicted."""
    if columns["label_from"][0] != schema.PREDICTED:
        return np.zeros(len(columns["index"]), dtype=bool), True
    label, true_label = (
        np.array([schema.as_whole(cell) for cell in columns[name]])
        for name in ("label", "true_label")
    )
    known = true_label >= 0
    return known & (label != true_label), bool(np.any(known))


def _what_is_counted(draws: str, labelled: bool) -> str:
    said = f"The class of each certificate is the one that {draws} draws of its own chose"
    if labelled:
        return f"{said}; an image counts where that is its label."
    return f"{said}; no labels are known, so shares are of certified images, right or wrong."


def _half_finished(path: Path, name: str, config: dict[str, Any], made: dict[str, Any]) -> Finished:
    """The votes that are there, certified as the run itself would do it."""
    try:
        shape = tuple(int(side) for side in made["image_shape"])
        settings = _options_of(made["command"])
        sigma, k, eta = (float(config[key]) for key in ("sigma", "k", "eta"))
        grid = config["grid"]
    except (KeyError, TypeError, ValueError, SystemExit) as error:
        raise UserError(
            f"{path} is half finished and does not say how it was made ({type(error).__name__}); "
            "finish it: the same certify command goes on"
        ) from None
    law = noise.generalized_gaussian(math.prod(shape), sigma, k, eta)
    spending, protocol = settings.spending, settings.protocol.protocol()
    chosen = pilot.recorded(config) or pilot.given(settings.extra, settings.protocol.n)
    protocol, n = dataclasses.replace(protocol, base_share=chosen.base_share), chosen.n
    plan = SamplingPlan(
        law, chosen.second, n, spending.looks(n), spending.times, settings.choice.draws
    )
    remarks: list[str] = []

    def problem(record: dict[str, Any]) -> str | None:
        return problem_of(plan, record)

    folder = RecordFolder(path, config, problem_of=problem, on_damaged=remarks.append)
    folder.refresh()
    records = [folder.records[index] for index in sorted(folder.records)]
    if not records:
        raise UserError(f"{path}: no votes that can be read, so there is nothing to show")
    goes_on = rule(spending, plan, protocol, grid, len(records), 1)
    radius_of = None if goes_on is None else goes_on.radius
    table = certify_table(table_of(plan, protocol, records, grid, radius_of), protocol)
    text = schema.text(schema.columns(table))
    rows, _ = proof_rows.parse(text, str(path))
    columns = {column: [row.fields[column] for row in rows] for column in rows[0].fields}
    return _of_columns(columns, name, config, made, remarks)


def _log(path: Path) -> Finished:
    lines, wrong = smoothing_log.read_log(path)
    index = np.array([line.index for line in lines], dtype=np.int64)
    radius = np.array([line.certified for line in lines])
    predicted = [line for line in lines if line.predict != smoothing_log.ABSTAINED]
    another = sum(not line.correct and line.radius > 0.0 for line in predicted)
    labelled = any(line.label >= 0 for line in lines)
    radii = Radii(LOGGED, path.name, "", "", math.nan, math.nan, index, radius,
                  wrong=another, labelled=labelled)  # fmt: skip
    columns = {
        "index": [str(line.index) for line in lines],
        "label": [str(line.label) for line in lines],
        "predict": [str(line.predict) for line in lines],
        "radius": [line.written for line in lines],
    }
    return Finished(path.name, {}, "", None, columns, index, {LOGGED: radii}, tuple(wrong))
